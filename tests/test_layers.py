"""Pyramids: the shapes they give, the original's numbers, and what they say when they cannot be."""

from __future__ import annotations

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch
from golden import load, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyconv import (
    PyConv1d,
    PyConv2d,
    PyConv3d,
    get_pyconv,
    pyconvhgresnet50,
    pyconvresnet18,
)
from pyconv.levels import fitting_groups, plan_levels, share_channels

GOLDENS = load("layer_goldens")


@pytest.mark.parametrize("index", range(len(GOLDENS)))
def test_outputs_and_gradients_are_the_originals(index: int) -> None:
    golden, case = GOLDENS[index], f"case{index}"
    layer = PyConv2d(**golden["arguments"]).double()
    assert list(layer.state_dict()) == golden["state_dict_keys"]
    state = layer.state_dict()
    layer.load_state_dict({k: 0.1 * normal(f"{case}:{k}", t.shape) for k, t in state.items()})
    x = normal(f"{case}:input", golden["input_shape"]).requires_grad_()
    out = layer(x)
    (out**2).sum().backward()

    def close(value: torch.Tensor, expected: object) -> None:
        target = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(value, target, rtol=1e-9, atol=1e-12)

    assert list(out.shape) == golden["output_shape"]
    close(out.norm(), golden["output_norm"])
    close(out.flatten()[:8], golden["output_first8"])
    close(out.mean(), golden["output_mean"])
    assert x.grad is not None
    close(x.grad.norm(), golden["input_grad_norm"])
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad.norm(), golden["weight_grad_norms"][key])


@st.composite
def pyramids(draw: st.DrawFn) -> dict[str, object]:
    levels = draw(st.integers(1, 6))
    kernel = st.integers(0, 5).map(lambda n: 2 * n + 1)
    return {
        "in_channels": 4 * draw(st.integers(1, 3)),
        "out_channels": draw(
            st.lists(st.integers(1, 3).map(lambda n: 4 * n), min_size=levels, max_size=levels)
        ),
        "pyconv_kernels": draw(st.lists(kernel, min_size=levels, max_size=levels)),
        "pyconv_groups": draw(
            st.one_of(
                st.none(),
                st.lists(st.sampled_from([1, 2, 4]), min_size=levels, max_size=levels),
            )
        ),
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
    }


@settings(max_examples=40, deadline=None)
@given(pyramids(), st.integers(5, 12), st.integers(5, 12))
def test_any_pyramid_gives_one_map(arguments: dict[str, object], height: int, width: int) -> None:
    layer = PyConv2d(**arguments)  # type: ignore[arg-type]
    stride = arguments["stride"]
    assert isinstance(stride, int)
    out = layer(torch.randn(2, layer.in_channels, height, width))
    assert out.shape == (2, layer.out_channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize(
    ("kind", "size"), [(PyConv1d, (17,)), (PyConv2d, (9, 7)), (PyConv3d, (5, 6, 7))]
)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_one_implementation_for_every_dimension(
    kind: type[PyConv2d], size: tuple[int, ...], mode: str
) -> None:
    layer = kind(8, 16, (3, 5, 7), None, padding_mode=mode)  # type: ignore[arg-type]
    x = torch.randn(2, 8, *size)
    out = layer(x)
    assert out.shape == (2, 16, *size)
    first = 0
    for level in layer.levels:  # each level sees the whole input and comes out in its place
        expected = level(x)
        got = out[:, first : first + expected.shape[1]]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        first += expected.shape[1]
    assert first == 16


def test_tools_see_plain_convolutions() -> None:
    """Counters of multiply-adds, pruners and quantisers look for the very classes of PyTorch."""
    for kind, conv in ((PyConv1d, nn.Conv1d), (PyConv2d, nn.Conv2d), (PyConv3d, nn.Conv3d)):
        assert {type(level) for level in kind(8, 16, (3, 5, 7), (1, 4, 8)).levels} == {conv}
    for model in (pyconvresnet18(), pyconvhgresnet50()):
        convs = [module for module in model.modules() if hasattr(module, "kernel_size")]
        assert {type(module) for module in convs} == {nn.Conv2d, nn.MaxPool2d}


def test_a_counter_of_operations_counts_those_of_the_levels() -> None:
    layer = PyConv2d(64, 64).to(memory_format=torch.channels_last)
    x = torch.randn(4, 64, 28, 28).contiguous(memory_format=torch.channels_last)

    def count(module: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            module(x.requires_grad_()).sum().backward()
        return counter.get_total_flops()

    assert count(layer) == sum(map(count, layer.levels)) > 0


def test_channels_are_shared_as_in_the_papers_table() -> None:
    assert share_channels(64, 4) == (16, 16, 16, 16)
    assert share_channels(128, 3) == (32, 32, 64)
    assert share_channels(256, 2) == (128, 128)
    assert share_channels(512, 1) == (512,)
    assert share_channels(64, 5) == (8, 8, 16, 16, 16)


def test_groups_are_the_papers_where_they_divide() -> None:
    assert fitting_groups(64, (16, 16, 16, 16)) == (1, 4, 8, 16)
    assert fitting_groups(48, (10, 12, 12, 12)) == (1, 4, 6, 12)
    assert fitting_groups(7, (5, 5)) == (1, 1)


@pytest.mark.parametrize("kind", [PyConv1d, PyConv2d, PyConv3d])
def test_the_default_groups_divide_whatever_the_channels(kind: type[PyConv2d]) -> None:
    def rows(*arguments: object) -> list[tuple[int, int, int]]:
        layer = kind(*arguments)  # type: ignore[arg-type]
        return [(m.out_channels, m.kernel_size[0], m.groups) for m in layer.levels]  # type: ignore[misc,index]

    assert rows(64, 64) == rows(64, 64, (3, 5, 7, 9), (1, 4, 8, 16))
    assert rows(64, 64, 3) == [(64, 3, 1)]
    assert rows(64, 64, (3, 5)) == [(32, 3, 1), (32, 5, 4)]
    assert rows(3, 64) == [(16, 3, 1), (16, 5, 1), (16, 7, 1), (16, 9, 1)]
    assert rows(58, 58) == [(16, 3, 1), (14, 5, 2), (14, 7, 2), (14, 9, 2)]
    assert rows(27, 27, (3, 5, 7)) == [(12, 3, 1), (6, 5, 3), (9, 7, 9)]


channels = st.integers(1, 200)


@given(channels, channels, st.integers(1, 6))
def test_every_number_of_channels_that_is_enough_has_levels(inputs: int, outs: int, n: int) -> None:
    kernels, paper = (3, 5, 7, 9, 11, 13)[:n], (1, 4, 8, 16, 32, 64)[:n]
    shares = 1 << (n - 1).bit_length()
    if outs < shares:
        with pytest.raises(ValueError, match=f"Use {shares}, give one number"):
            plan_levels(inputs, outs, kernels, None)
        return
    levels = plan_levels(inputs, outs, kernels, None)
    assert sum(level.out_channels for level in levels) == outs
    assert all(inputs % g == c % g == 0 and k in kernels for c, k, g in levels)
    with contextlib.suppress(ValueError):  # where the paper's groups divide, they are taken
        assert levels == plan_levels(inputs, outs, kernels, paper)


def test_one_level_is_a_plain_convolution() -> None:
    level = get_pyconv(8, 16, (5,), stride=2, pyconv_groups=(4,))
    assert isinstance(level, nn.Conv2d)
    assert list(level.state_dict()) == ["weight"]
    assert level(torch.zeros(1, 8, 9, 9)).shape == (1, 16, 5, 5)


def test_a_networks_pyramid_bears_the_published_names() -> None:
    layer = get_pyconv(16, 16, (3, 5), pyconv_groups=(1, 4))
    assert list(layer.state_dict()) == ["conv2_1.weight", "conv2_2.weight"]


def test_options_reach_the_convolutions() -> None:
    layer = PyConv2d(8, 8, (3, 5), (1, 2), bias=True, dtype=torch.float64)
    assert list(layer.state_dict()) == [
        f"pyconv_levels.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")
    ]
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert PyConv2d(8, 8, (3, 5), (1, 2), device="meta").levels[0].weight.is_meta


def test_stride_and_dilation_may_differ_between_dimensions() -> None:
    layer = PyConv2d(8, 8, (3, 5), (1, 4), stride=(1, 2), dilation=(2, 1))
    assert layer(torch.randn(1, 8, 11, 12)).shape == (1, 8, 11, 6)


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    layer = PyConv2d(np.int64(16), np.array([8, 8]), (np.int32(3), 5), np.array((1, 4)))  # type: ignore[arg-type]
    assert [level.kernel_size for level in layer.levels] == [(3, 3), (5, 5)]
    assert type(layer.in_channels) is int and layer.out_channels == 16


@pytest.mark.parametrize(
    ("kind", "size"), [(PyConv1d, (9,)), (PyConv2d, (9, 7)), (PyConv3d, (5, 6, 7))]
)
def test_an_input_without_a_batch_gives_an_output_without_one(
    kind: type[PyConv2d], size: tuple[int, ...]
) -> None:
    layer, x = kind(16, 16, (3, 5), (1, 4)), torch.randn(2, 16, *size)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


def test_levels_are_plain_convolutions_of_torch() -> None:
    """So tools that go by the type of a module find them."""
    for layer in (PyConv2d(64, 64), get_pyconv(64, 64, (3, 5), pyconv_groups=(1, 4))):
        assert {type(level) for level in layer.levels} == {nn.Conv2d}
    assert type(get_pyconv(32, 32, (3,), pyconv_groups=(8,))) is nn.Conv2d
    assert {type(level) for level in PyConv3d(8, 8, (3, 5), (1, 2)).levels} == {nn.Conv3d}


def test_copies_and_pickles_compute_the_same() -> None:
    layer, x = PyConv2d(16, 16, pyconv_groups=None), torch.randn(1, 16, 8, 8)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pyconv_kernels": (3, 4, 7, 9)}, "level 2: kernel size 4 is not an odd"),
        ({"pyconv_kernels": (3, 5, 7, 0)}, "level 4: kernel size 0"),
        ({"pyconv_kernels": (3, 5.0, 7, 9)}, "level 2: kernel size 5.0"),
        ({"pyconv_kernels": ()}, "pyconv_kernels is empty"),
        ({"pyconv_groups": (1, 4)}, "pyconv_groups has 2 entries and pyconv_kernels has 4"),
        ({"pyconv_groups": 2, "pyconv_kernels": 3}, "as in the order of nn.Conv2d, write stride=2"),
        ({"out_channels": [16, 16]}, "out_channels has 2 entries and pyconv_kernels has 4"),
        ({"out_channels": 66, "pyconv_groups": (1,) * 4}, "66 cannot.*64.* leave pyconv_groups"),
        ({"out_channels": 1}, r"must be a multiple of 4. Use 4"),
        ({"out_channels": [16, 16, 0, 16]}, "level 3: out_channels 0 must be a positive"),
        ({"pyconv_groups": (1, 4, 8, 3)}, r"level 4: 3 groups do not divide in_channels=64 and "),
        ({"pyconv_groups": (1, 4, 0, 1)}, "level 3: 0 groups"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 64.0}, "out_channels has 1 entries"),
        ({"pyconv_kernels": None}, "level 1: kernel size None"),
        ({"stride": 0}, "stride=0 must be a positive whole number, or 2 of them"),
        ({"stride": (1, 2, 3)}, r"stride=\(1, 2, 3\) must be"),
        ({"dilation": 1.5}, "dilation=1.5 must be"),
        (
            {"in_channels": 6, "pyconv_groups": (1, 4, 8, 16)},
            r"level 2: 4 groups do not divide.*Groups that do: 1, 2; or pyconv",
        ),
    ],
)
def test_what_cannot_work_says_why_and_what_would(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PyConv2d(**({"in_channels": 64, "out_channels": 64} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 3}, r"kernel_size=: .* pyconv_kernels=\(3, 5, 7, 9\)"),
        ({"groups": 4}, r"groups=: .* pyconv_groups=\(1, 4, 8, 16\)"),
        ({"padding": 1}, "padding=: it follows from the kernels"),
    ],
)
def test_the_arguments_of_a_plain_convolution_lead_to_those_of_a_pyramid(
    arguments: dict[str, int], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        PyConv2d(64, 64, **arguments)  # type: ignore[arg-type]
