"""What oneDNN computes wrongly is computed rightly by the layers, whatever the processor."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from pyconv import PyConv1d, PyConv2d, PyConv3d, onednn
from pyconv.onednn import Geometry
from pyconv.replaceable import FASTER

BFLOAT16, SINGLE = torch.bfloat16, torch.float32


@pytest.fixture(params=["as it is", "plain"], autouse=True)
def with_speed_and_without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        for name in list(FASTER):
            monkeypatch.delitem(FASTER, name)


def error(value: Tensor, target: Tensor) -> float:
    value, target = value.detach().double(), target.detach().double()
    return float((value - target).norm() / target.norm().clamp_min(1e-30))


def is_right(
    layer: nn.Module, x: Tensor, dtype: torch.dtype, autocast: bool = False, learns: bool = True
) -> None:
    """The map and both gradients, in a dtype of their own or under autocast."""
    exact = copy.deepcopy(layer).to(dtype).double()
    inner = SINGLE if autocast else dtype
    layer, x = layer.to(inner), x.to(dtype).to(inner).requires_grad_()
    for parameter, source in zip(layer.parameters(), exact.parameters(), strict=True):
        parameter.data.copy_(source.data)
    wide = x.detach().double().requires_grad_()
    expected = exact(wide)
    with torch.autocast("cpu", BFLOAT16, enabled=autocast):
        out = layer(x)
    assert out.dtype == dtype
    found, truth = [out], [expected]
    if learns:
        grad = torch.randn(out.shape).to(dtype)
        found += torch.autograd.grad(out, [x, *layer.parameters()], grad)
        truth += torch.autograd.grad(expected, [wide, *exact.parameters()], grad.double())
    for value, target in zip(found, truth, strict=True):
        assert error(value, target) < (0.006 if dtype == BFLOAT16 else 1e-5)


@pytest.mark.parametrize(
    ("kind", "channels", "kernels", "stride", "size", "wrong"),
    [
        (PyConv2d, 16, (3, 5), 2, (9, 2), {BFLOAT16}),  # one step across the map
        (PyConv1d, 4, (5, 3), 2, (1,), {BFLOAT16}),
        (PyConv2d, 4, (1, 3), 3, (4, 1), {BFLOAT16}),
        (PyConv2d, 16, (1, 3), 2, (9, 1), {BFLOAT16}),
        (PyConv2d, 16, (3, 5), 2, (2, 9), set()),
        (PyConv2d, 16, (3, 5), 1, (9, 1), set()),
        (PyConv3d, 4, (7, 3), (1, 2, 1), (4, 5, 5), {BFLOAT16}),  # smaller than the kernel
        (PyConv3d, 4, (3, 1), (1, 3, 1), (5, 1, 8), {BFLOAT16}),
        (PyConv3d, 8, (5, 3), (3, 2, 1), (5, 6, 8), {BFLOAT16, SINGLE}),
        (PyConv3d, 4, (7, 3), (2, 1, 1), (5, 6, 6), {BFLOAT16, SINGLE}),
    ],
)
@pytest.mark.parametrize("dtype", [BFLOAT16, SINGLE])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_pyramid_avoids_it(
    kind: type[PyConv2d],
    channels: int,
    kernels: tuple[int, ...],
    stride: int,
    size: tuple[int, ...],
    wrong: set[torch.dtype],
    dtype: torch.dtype,
    autocast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a processor without the error it is a detour."""
    monkeypatch.setattr(onednn, "CPU_LACKS", ())
    monkeypatch.setattr(onednn, "HAS_AMX", True)
    layer = kind(channels, 16, kernels, (1, 2), stride=stride)
    level = layer.levels[0]
    assert isinstance(level, onednn.CONVS)
    geometry, shape = onednn.geometry_of(level), level.weight.shape
    told = onednn.miscomputed(size, shape, geometry, dtype, "cpu", learns=False)
    assert told == (dtype in wrong)
    if dtype == BFLOAT16 or not autocast:
        learns = onednn.miscomputed(size, shape, geometry, dtype, "cpu", learns=True)
        is_right(layer, torch.randn(2, channels, *size), dtype, autocast, learns or not wrong)


@pytest.mark.parametrize(
    ("channels", "kernel", "size", "wrong"),
    [
        (128, 5, (1, 4), True),
        (128, 9, (3, 4), True),
        (128, 5, (2, 4), False),
        (64, 5, (1, 4), False),
    ],
)
def test_many_inputs_learn_on_maps_of_few_rows(
    channels: int, kernel: int, size: tuple[int, int], wrong: bool
) -> None:
    """What oneDNN leaves unwritten is not zero in memory that was used before."""
    layer = PyConv2d(channels, 32, (kernel, 3), (1, 1))
    level = layer.levels[0]
    assert isinstance(level, onednn.CONVS)
    told = (size, level.weight.shape, onednn.geometry_of(level), BFLOAT16, "cpu")
    assert onednn.miscomputed(*told, learns=True) == wrong
    assert not onednn.miscomputed(*told, learns=False)
    for _ in range(3):
        used = [torch.full((1 << bits,), 1e12) for bits in range(10, 20)]
        del used
        is_right(layer, torch.randn(1, channels, *size), BFLOAT16)


@pytest.mark.parametrize(
    ("channels", "kernel", "wrong"),
    [
        (8, (7, 8), True),
        (12, (1, 8), True),
        (8, (8, 7), False),
        (8, (8, 4), False),
        (16, (8, 8), False),
    ],
)
def test_tiles_of_even_width_meet_it_with_amx(
    channels: int, kernel: tuple[int, int], wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 8 inputs of 8 pixels, two whole runs of 32; levels are odd, but tiles of them may not."""
    monkeypatch.setattr(onednn, "HAS_AMX", True)
    geometry = Geometry(1, (1, 1), (kernel[0] // 2, kernel[1] // 2), (1, 1))
    shape = (16, channels, *kernel)
    assert onednn.miscomputed((9, 9), shape, geometry, BFLOAT16, "cpu", False) == wrong
    assert not onednn.miscomputed((9, 9), shape, geometry, SINGLE, "cpu", False)


LEARNS_POINTWISE = """
import torch
from torch import nn
from pyconv import PyConv2d
torch.manual_seed(0)
layer = PyConv2d(4, 16, (1, 3), (1, 1), stride=2)
x = torch.randn(8, 4, 28, 28).contiguous(memory_format=torch.channels_last)
for _ in range(200):
    layer(x).square().mean().backward()
"""


def test_a_strided_1x1_level_of_few_inputs_learns_within_its_memory() -> None:
    """On AVX2 alone oneDNN writes outside of it, and the process dies."""
    done = subprocess.run(
        [sys.executable, "-c", LEARNS_POINTWISE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("processor", "channels", "kernel", "stride", "wrong"),
    [
        ("AVX2", 4, 1, 2, True),
        ("AVX2", 8, 1, 2, False),
        ("AVX2", 1, 1, 2, False),
        ("AVX2", 4, 1, 1, False),
        ("AVX2", 4, 3, 2, False),
        ("AVX512", 4, 1, 2, False),
    ],
)
def test_few_inputs_are_computed_wider_only_where_it_must_be(
    processor: str,
    channels: int,
    kernel: int,
    stride: int,
    wrong: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onednn, "PROCESSOR", processor)
    geometry = Geometry(1, (stride, stride), (kernel // 2, kernel // 2), (1, 1))
    shape = (16, channels, kernel, kernel)
    for learns in (True, False):
        told = onednn.miscomputed((8, 8), shape, geometry, SINGLE, "cpu", learns)
        assert told == (wrong and learns)


def test_an_ordinary_volume_takes_no_detour() -> None:
    geometry = Geometry(1, (2, 2, 2), (1, 1, 1), (1, 1, 1))
    for dtype in (BFLOAT16, SINGLE):
        shape = (16, 4, 3, 3, 3)
        assert not onednn.miscomputed((4, 6, 6), shape, geometry, dtype, "cpu", learns=True)


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
@pytest.mark.parametrize("amx", [onednn.HAS_AMX, False])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_dilated_groups_learn_from_wide_maps(
    dilation: tuple[int, int], amx: bool, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "HAS_AMX", amx)
    x = torch.randn(2, 32, 9, 33).contiguous(memory_format=torch.channels_last)
    layer = PyConv2d(32, 32, (3, 5), (4, 4), dilation=dilation, padding_mode=padding)  # type: ignore[arg-type]
    is_right(layer, x, BFLOAT16)


@pytest.mark.parametrize("amx", [True, False])
def test_dilated_depthwise_levels_learn_from_wide_maps(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "HAS_AMX", amx)
    x = torch.randn(2, 64, 29, 31).contiguous(memory_format=torch.channels_last)
    is_right(PyConv2d(64, 128, (3, 5), (64, 64), dilation=2), x, BFLOAT16)
    shape, geometry = (64, 1, 3, 3), Geometry(64, (1, 1), (2, 2), (2, 2))
    for learns in (True, False):
        told = onednn.miscomputed((29, 31), shape, geometry, BFLOAT16, "cpu", learns)
        assert told == learns
    groups = geometry._replace(groups=16)
    assert onednn.miscomputed((29, 31), (64, 4, 3, 3), groups, BFLOAT16, "cpu", True) == (not amx)


def test_a_weight_that_is_made_at_each_call_is_made_once() -> None:
    """spectral_norm goes on with its iteration each time."""
    layer = PyConv2d(8, 8, (3, 5), (1, 4), bias=True).train()
    for level in layer.levels:
        level.bias.requires_grad_(False)
        nn.utils.parametrizations.spectral_norm(level)
    twins, x = copy.deepcopy(layer.levels), torch.randn(2, 8, 9, 9)
    for _ in range(2):
        assert torch.equal(layer(x), torch.cat([twin(x) for twin in twins], 1))
    assert all(onednn._kept_weight(level).requires_grad for level in layer.levels)


def test_a_weight_need_not_be_a_parameter() -> None:
    layer, x = PyConv2d(8, 8, (3, 5), (1, 4)), torch.randn(2, 8, 9, 9)
    out = layer(x)
    for level in layer.levels:
        weight = level.weight.detach()
        del level.weight
        level.register_buffer("weight", weight)
        level.register_forward_hook(lambda *_: None)
    assert torch.equal(layer(x), out)


def test_what_a_level_was_given_is_kept_on_the_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks run, padding and biases count, and an input without a batch is one."""
    monkeypatch.setattr(onednn, "CPU_LACKS", (BFLOAT16,))
    layer = PyConv2d(16, 16, (3, 5), (1, 4), bias=True, padding_mode="reflect")
    x = torch.randn(2, 16, 9, 8)
    expected = layer.double()(x.to(BFLOAT16).double())
    layer.levels[1].register_forward_hook(lambda module, args, out: out * 2)
    out = layer.to(BFLOAT16)(x.to(BFLOAT16))
    assert error(out[:, :8], expected[:, :8]) < 0.006 and out.dtype == BFLOAT16
    assert error(out[:, 8:], 2 * expected[:, 8:]) < 0.006
    assert error(layer(x[0].to(BFLOAT16)), out[0]) < 0.006


def test_a_compiled_pyramid_avoids_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "CPU_LACKS", (BFLOAT16,))
    layer, x = PyConv2d(16, 16, (3, 5), (1, 4)).to(BFLOAT16), torch.randn(2, 16, 9, 8).to(BFLOAT16)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert error(compiled(x), layer(x)) < 1e-6
