"""A pyramid, a product and a fork in training: the numbers of the modules, and their manners."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyconv import PyConv2d
from pyconv.layers import pin
from pyconv.onednn import Geometry
from pyconv.speed import choice, kernels, pointwise, table
from pyconv.speed.algorithms import DIRECT, NATIVE
from pyconv.speed.direct import HEADERS
from pyconv.speed.fork import fork

compiled = pytest.mark.skipif(
    kernels.load(*HEADERS) is None, reason="no compiler here that torch.compile and the kernels use"
)
PYRAMIDS: dict[str, dict[str, Any]] = {
    "stage 1": {"in_channels": 64, "out_channels": 64},
    "stage 1, strided": {"in_channels": 64, "out_channels": 64, "stride": 2},
    "dilated, with biases": {"in_channels": 64, "out_channels": 64, "dilation": 2, "bias": True},
    "stage 2": {
        "in_channels": 128,
        "out_channels": 128,
        "pyconv_kernels": (3, 5, 7),
        "pyconv_groups": (1, 4, 8),
    },
    "HG": {"in_channels": 128, "out_channels": 128, "pyconv_groups": (32,) * 4},
    "HG, strided": {
        "in_channels": 256,
        "out_channels": 256,
        "pyconv_kernels": (3, 5, 7),
        "pyconv_groups": (32, 64, 64),
        "stride": 2,
    },
    "odd": {"in_channels": 60, "out_channels": (20, 12), "pyconv_kernels": (3, 5),
            "pyconv_groups": (5, 4)},
}  # fmt: skip


def last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def answers(layer: nn.Module, x: Tensor, half: bool = False) -> dict[str, Tensor]:
    """The map, and the gradients of a function of it."""
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = layer(x)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out.dtype))
    found = {"out": out, "on x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}
    return {name: t.detach().double() for name, t in found.items() if t is not None}


def name_of(out: Tensor) -> str:
    return type(out.grad_fn).__name__


@compiled
@pytest.mark.parametrize("way", [None, "direct"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("options", PYRAMIDS.values(), ids=PYRAMIDS)
def test_a_pyramid_learns_as_its_levels_do(
    options: dict[str, Any], half: bool, way: str | None
) -> None:
    torch.manual_seed(0)
    layer = PyConv2d(**options)
    pin(layer, way)
    x = last(4, options["in_channels"], 29, 31)
    assert name_of(layer(x)) == "_PyramidBackward"
    found, truth = answers(layer, x, half), answers(copy.deepcopy(layer).double(), x.double())
    pin(layer, "native")
    with kernels.disabled():
        assert name_of(layer(x)) == "CatBackward0"
        plain = answers(layer, x, half)
    for name, target in truth.items():
        error, usual = (float((t[name] - target).norm() / target.norm()) for t in (found, plain))
        assert error < (max(1.2 * usual, 4e-3) if half else 1e-5), name


@compiled
def test_pinned_levels_stay_pinned() -> None:
    layer, x = PyConv2d(64, 64), last(4, 64, 29, 31)
    expected = answers(layer, x)
    for way in ("native", "direct", "blocked:merge=2", "depthwise"):
        pin(layer, way)
        assert name_of(layer(x)) == "_PyramidBackward"
        for name, value in answers(layer, x).items():
            assert (value - expected[name]).norm() < 1e-5 * expected[name].norm(), (way, name)


@compiled
def test_gradients_of_gradients_of_a_pyramid() -> None:
    layer = PyConv2d(64, 64, pyconv_kernels=(3, 5), pyconv_groups=(1, 4), bias=True)
    start = last(4, 64, 29, 31)

    def penalty() -> list[Tensor]:
        x = start.clone().requires_grad_()
        one, other = fork(x)
        (slope,) = torch.autograd.grad(
            (layer(one) ** 2).sum() + (other**3).sum(), x, create_graph=True
        )
        return list(torch.autograd.grad((slope**2).sum(), [x, layer.levels[1].weight]))

    found = penalty()
    with kernels.disabled():
        for one, other in zip(found, penalty(), strict=True):
            assert (one - other).norm() < 1e-4 * other.norm()


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@compiled
def test_levels_that_are_not_plain_are_called() -> None:
    x = last(4, 64, 29, 31)
    hooked = PyConv2d(64, 64)
    hooked.levels[1].register_forward_hook(lambda module, args, out: 2 * out)
    assert name_of(hooked(x)) == "CatBackward0"
    other = PyConv2d(64, 64)
    other.pyconv_levels[0] = Doubled(64, 16, 3, padding=1)
    assert name_of(other(x)) == "CatBackward0"
    frozen = PyConv2d(64, 64)
    frozen.levels[2].weight.requires_grad_(False)
    assert name_of(frozen(x)) == "CatBackward0"
    assert name_of(PyConv2d(64, 64)(x.contiguous())) == "CatBackward0"
    assert name_of(PyConv2d(64, 64, padding_mode="reflect")(x)) == "CatBackward0"
    same = PyConv2d(64, 64, (3, 5), (4, 4))
    for level in same.levels:
        level.padding = "same"
    assert name_of(same(x)) == "CatBackward0"
    with torch.no_grad():
        assert PyConv2d(64, 64)(x).grad_fn is None


@compiled
@pytest.mark.parametrize("stride", [1, 4])
def test_levels_of_other_dilations_are_computed_apart(stride: int) -> None:
    """As a segmenter makes them of a pyramid, with the kernels or without."""
    layer = PyConv2d(64, 64, (3, 5, 7, 9), (4, 4, 8, 16), stride=stride).double()
    for level, dilation in zip(layer.levels, (2, 2, 1, 1), strict=True):
        assert isinstance(level, nn.Conv2d)
        level.dilation = (dilation, dilation)
        level.padding = (dilation * (level.kernel_size[0] // 2),) * 2
    for size in (42, 43):
        x = last(4, 64, size, size)
        found, truth = answers(copy.deepcopy(layer).float(), x), answers(layer, x.double())
        for name, target in truth.items():
            assert (found[name] - target).norm() < 1e-5 * target.norm(), name


@pytest.mark.parametrize("last_channels", [True, False])
def test_autocast_and_empty_batches_without_gradients(last_channels: bool) -> None:
    for layer in (PyConv2d(64, 64), PyConv2d(256, 64, 7, 64)):
        x = torch.randn(2, layer.in_channels, 56, 56)
        x = x.contiguous(memory_format=torch.channels_last) if last_channels else x
        with torch.no_grad():
            assert layer(x[:0]).shape == (0, 64, 56, 56)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
        empty = layer(x[:0].requires_grad_())
        empty.sum().backward()


@compiled
def test_a_fork_of_a_single_image_lies_as_it_did() -> None:
    x = last(1, 64, 56, 56).requires_grad_()
    assert [one.stride() for one in fork(x)] == [x.stride()] * 2


@compiled
def test_a_fork_adds_up_what_comes_back() -> None:
    x = last(4, 64, 29, 31).requires_grad_()
    one, other = fork(x)
    assert name_of(one) == "_ForkBackward"
    (2 * one + 3 * other).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full_like(x, 5))
    x.grad = None
    one, other = fork(x)
    (2 * other).sum().backward()  # one of them goes nowhere
    assert torch.equal(x.grad, torch.full_like(x, 2))
    assert fork(x.detach())[0] is not None and fork(x.detach())[0].grad_fn is None


def test_a_product_is_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor: where it does not multiply matrices it is only no faster."""
    monkeypatch.setattr(pointwise, "HAS_AMX", True)

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(64, 96, 1)

        def forward(self, x: Tensor) -> Tensor:
            return pointwise.pointwise(x, self.conv)

    torch.manual_seed(0)
    layer, x = Product(), last(4, 64, 29, 31)
    found, truth = answers(layer, x, half=True), answers(copy.deepcopy(layer).double(), x.double())
    for name, target in truth.items():
        assert (found[name] - target).norm() < 6e-3 * target.norm(), name
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert name_of(out) == "PermuteBackward0"
        with kernels.disabled():
            assert name_of(layer(x)) == "ConvolutionBackward0"
        assert name_of(layer(x.contiguous())) == "ConvolutionBackward0"
        layer.conv.register_forward_hook(lambda module, args, out: out)
        assert name_of(layer(x)) == "ConvolutionBackward0"
    assert name_of(Product()(x)) == "ConvolutionBackward0"  # in float32


@compiled
def test_grouped_levels_of_few_inputs_go_forwards_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a dense level, as in PyConvResNet; where the kernels are known to pay."""
    known = [table.Measured.of([8, 2, 7, 1, 56, "direct", "native"])]
    monkeypatch.setitem(table.RULES, "cpu", {(torch.float32, True, "grad_weight"): {1: known}})
    choice._ruled.cache_clear()
    try:
        layer, x = PyConv2d(64, 64), last(4, 64, 56, 56)
        weights = [level.weight for level in layer.levels]
        geometries = [
            Geometry(g, (1, 1), (k // 2, k // 2), (1, 1))
            for g, k in ((1, 3), (4, 5), (8, 7), (16, 9))
        ]
        ways = choice.choose_all(x, weights, geometries, [NATIVE, None, None, None])
        assert [way.forward for way in ways] == [NATIVE, DIRECT, DIRECT, DIRECT]
        pinned = [NATIVE, NATIVE, None, None]
        ways = choice.choose_all(x, weights, geometries, pinned)
        assert [way.forward for way in ways] == [NATIVE, NATIVE, DIRECT, DIRECT]
    finally:
        choice._ruled.cache_clear()
