"""The kernels of our own: the numbers of the plain convolutions, however they are compiled."""

from __future__ import annotations

import functools
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from equality import compiled, error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, library

from pyconv.onednn import Geometry
from pyconv.onednn import conv as native
from pyconv.speed import kernels
from pyconv.speed.direct import direct, fits, grad_inputs, grad_weights


class Levels(NamedTuple):
    """Several convolutions of one input."""

    x: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    geometries: list[Geometry]

    def to(self, dtype: torch.dtype) -> Levels:
        biases = [None if bias is None else bias.to(dtype) for bias in self.biases]
        return Levels(self.x.to(dtype), [w.to(dtype) for w in self.weights], biases, self[3])

    def apart(self) -> list[Levels]:
        rows = zip(self.weights, self.biases, self.geometries, strict=True)
        return [Levels(self.x, *([each] for each in row)) for row in rows]

    def plain(self) -> Tensor:
        levels = zip(self.weights, self.biases, self.geometries, strict=True)
        return torch.cat([native(self.x, *level) for level in levels], 1)


def levels(
    channels: int,
    rows: list[tuple[int, int, int]],  # outputs, kernel, groups
    size: tuple[int, int] = (14, 14),
    stride: int = 1,
    dilation: int = 1,
    images: int = 2,
    bias: bool = True,
) -> Levels:
    x = torch.randn(images, channels, *size).contiguous(memory_format=torch.channels_last)
    weights = [torch.randn(out, channels // g, k, k) / k for out, k, g in rows]
    biases: list[Tensor | None] = [torch.randn(out) if bias else None for out, _, _ in rows]
    geometries = [
        Geometry(g, (stride,) * 2, (dilation * (k // 2),) * 2, (dilation,) * 2) for _, k, g in rows
    ]
    return Levels(x, weights, biases, geometries)


@st.composite
def problems(draw: st.DrawFn) -> Levels:
    channels = draw(st.sampled_from([8, 16, 32, 64, 96, 128]))
    groups = st.sampled_from([g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0])
    row = st.tuples(st.sampled_from([16, 32, 48, 64]), st.sampled_from([1, 3, 5, 7, 9]), groups)
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return levels(
        channels,
        [(math.lcm(out, g), k, g) for out, k, g in draw(st.lists(row, min_size=1, max_size=4))],
        size=(draw(st.integers(1, 30)), draw(st.integers(1, 30))),
        stride=draw(st.integers(1, 3)),
        dilation=draw(st.integers(1, 2)),
        images=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
    )


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@given(problems())
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_levels_together_are_equal_to_the_plain_ones(threads: int, single: Levels) -> None:
    for bound, some in ((1e-5, single), (0.004, single.to(torch.bfloat16))):
        assert error(direct(*some), some.to(torch.float64).plain()) < bound


def assert_gradients(some: Levels, bound: float) -> None:
    """Those of all levels together, and on the input those of one after the other."""
    x, *weights = (t.double().requires_grad_() for t in (some.x, *some.weights))
    out = Levels(x, weights, [None] * len(weights), some.geometries).plain()
    grad = torch.randn_like(out).to(some.x.dtype)
    truths = torch.autograd.grad(out, (x, *weights), grad.double())
    starts = [0, *accumulate(weight.shape[0] for weight in weights[:-1])]
    rows = some.weights, some.geometries, starts
    found = [grad_inputs(grad, some.x, *rows), *grad_weights(grad, some.x, *rows)]
    for value, truth, of in zip(found, truths, (some.x, *some.weights), strict=True):
        assert value.dtype == of.dtype and value.shape == of.shape
        assert error(value, truth) < bound
    alone = [
        grad_inputs(grad.narrow(1, start, weight.shape[0]), some.x, [weight], [geometry])
        for weight, geometry, start in zip(*rows, strict=True)
    ]
    assert error(sum(part.double() for part in alone), truths[0]) < bound  # type: ignore[arg-type]


@compiled
@given(problems())
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_gradients_are_equal_to_the_plain_ones(threads: int, single: Levels) -> None:
    # Where the kernels do not fit, the gradients of four levels are rounded, and then their sum.
    for bound, some in ((1e-5, single), (0.006, single.to(torch.bfloat16))):
        for part in (some, *some.apart()):
            assert_gradients(part, bound)


@compiled
def test_gradients_on_weights_repeat_bit_by_bit() -> None:
    some = levels(64, PUBLISHED["pyconvresnet, stage 1"][1], size=(56, 56), images=3)
    for x, weights, _, geometries in some.apart():
        grad = torch.randn_like(native(x, weights[0], None, geometries[0]))
        assert fits(x, weights, geometries, "grad_weight")
        first, second = (grad_weights(grad, x, weights, geometries)[0] for _ in range(2))
        assert torch.equal(first, second)


PUBLISHED = {
    "pyconvresnet, stage 1": (64, [(16, 3, 1), (16, 5, 4), (16, 7, 8), (16, 9, 16)]),
    "pyconvresnet, stage 2": (128, [(32, 3, 1), (32, 5, 4), (64, 7, 8)]),
    "pyconvresnet, stage 3": (256, [(128, 3, 1), (128, 5, 4)]),
    "pyconvhgresnet, stage 1": (128, [(32, 3, 32), (32, 5, 32), (32, 7, 32), (32, 9, 32)]),
    "pyconvhgresnet, stage 2": (256, [(64, 3, 32), (64, 5, 64), (128, 7, 64)]),
    "pyconvhgresnet, stage 3": (512, [(256, 3, 32), (256, 5, 64)]),
}


OTHERS = [
    pytest.param(f"-march={name}", marks=pytest.mark.slow)
    for name in ("x86-64-v4", "x86-64-v3", "x86-64")
]


@compiled
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("flags", ["", *OTHERS])
def test_the_published_pyramids_are_computed_with_any_vectors(
    flags: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags and platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86-64")
    if flags.endswith("v4") and not torch.cpu._is_avx512_supported():
        pytest.skip("this processor has no AVX-512")
    if flags:
        built = functools.cache(lambda dtype: kernels.build(dtype, flags))
        monkeypatch.setattr(kernels, "_compiled", built)
    for channels, rows in PUBLISHED.values():
        single = levels(channels, rows, size=(17, 15), stride=stride)
        truth = single.to(torch.float64).plain()
        for one, bound in ((single, 1e-5), (single.to(torch.bfloat16), 5e-3)):
            assert fits(one.x, one.weights, one.geometries)
            assert error(direct(*one), truth) < bound
            for part in one.apart():
                for mode in ("grad_weight", "grad_input"):
                    assert fits(part.x, part.weights, part.geometries, mode)
                assert_gradients(part, bound)


@compiled
def test_the_kernels_are_there_where_there_is_a_compiler() -> None:
    assert all(map(kernels.available, kernels.DTYPES))


@compiled
def test_what_the_kernels_cannot_compute_is_computed_as_usual() -> None:
    odd = levels(12, [(6, 3, 6), (9, 5, 3)])
    double = levels(16, [(16, 3, 16)]).to(torch.float64)
    cube = Geometry(16, (1,) * 3, (1,) * 3, (1,) * 3)
    volume = Levels(torch.randn(1, 16, 3, 4, 5), [torch.randn(16, 1, 3, 3, 3)], [None], [cube])
    for some, bound in ((odd, 1e-6), (double, 1e-12), (volume, 1e-6)):
        assert not fits(some.x, some.weights, some.geometries)
        assert error(direct(*some), some.plain()) < bound


def test_without_a_compiler_all_is_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"PYCONV_HOME": str(tmp_path), "PATH": "", "CXX": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kernels._compiled.cache_clear()
    try:
        some = levels(64, PUBLISHED["pyconvresnet, stage 1"][1])
        assert not fits(some.x, some.weights, some.geometries)
        assert error(direct(*some), some.plain()) < 1e-6
        assert direct(*some).is_contiguous(memory_format=torch.channels_last)
        assert not any(map(kernels.available, kernels.DTYPES))
        assert caplog.text.count("is slower: there is no C++ compiler") == 1
    finally:
        kernels._compiled.cache_clear()


def test_training_loads_nothing_from_the_cache_of_pytorch(tmp_path: Path) -> None:
    """It lies under a name that other users can guess and take first."""
    code = (
        "import sys, torch, pyconv; x = torch.randn(2, 64, 56, 56)\n"
        "pyconv.PyConv2d(64, 64)(x.to(memory_format=torch.channels_last)).sum().backward()\n"
        "pyconv.speed.kernels.available()\n"
        "assert 'torch._inductor' not in sys.modules"
    )
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "planted")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "planted").exists()


def test_the_operator_keeps_to_the_rules_of_operators() -> None:
    x, weights, biases, geometries = levels(64, PUBLISHED["pyconvresnet, stage 1"][1])
    numbers = [n for g in geometries for n in (g.groups, *g.stride, *g.padding, *g.dilation)]
    for image in (x, x.contiguous()):
        arguments = (image, weights, biases, numbers)
        rules = ("test_schema", "test_faketensor")
        library.opcheck(torch.ops.pyconv.direct.default, arguments, test_utils=rules)


@compiled
def test_what_was_not_a_number_is_gone_with_its_image() -> None:
    rows = [(16, 5, 4), (16, 7, 8), (16, 9, 16)]
    for size in (13, 14, 17):
        clean = levels(64, rows, size=(size, size)).to(torch.bfloat16)
        for bad in (torch.nan, torch.inf):
            poison = levels(64, rows, size=(40, 40)).to(torch.bfloat16)
            direct(*poison._replace(x=torch.full_like(poison.x, bad)))
            assert direct(*clean).isfinite().all()


@compiled
def test_mismatched_inputs_are_refused_as_pytorch_does() -> None:
    some = levels(64, [(16, 5, 4), (16, 7, 8)])
    with pytest.raises(RuntimeError, match="expected input"):
        direct(*levels(32, [(16, 5, 4)])._replace(weights=some.weights[:1]))
    with pytest.raises(RuntimeError, match="type"):
        direct(*some._replace(x=some.x.bfloat16()))
    spread = [torch.randn(32)[::2] for _ in some.weights]
    odd = some._replace(biases=spread)  # type: ignore[arg-type]
    assert error(direct(*odd), odd.plain()) < 1e-5
    pads = [g._replace(stride=(3, 3), padding=(0, 0)) for g in some.geometries]
    with pytest.raises(RuntimeError, match="Kernel size"):
        direct(*some._replace(x=some.x[..., :2, :2], geometries=pads))
