"""The kernels of our own: the numbers of the plain convolutions, wherever and however compiled."""

from __future__ import annotations

import copy
import ctypes
import importlib
import io
import math
import pickle
import platform
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, library, nn

from pyconv import PyConv2d, optimize
from pyconv.onednn import Geometry
from pyconv.speed import kernels
from pyconv.speed.algorithms import native
from pyconv.speed.direct import HEADERS, direct, fits, grad_input, grad_inputs, grad_weight, pack
from pyconv.speed.prepared import DirectPyramid, WinogradConv2d

compiled = pytest.mark.skipif(
    kernels.load(*HEADERS) is None,
    reason="no compiler here that torch.compile and the kernels can use",
)


def error(value: Tensor, target: Tensor) -> float:
    value, target = value.detach().double(), target.detach().double()
    return float((value - target).norm() / target.norm())


class Levels(NamedTuple):
    """Several convolutions of one input."""

    x: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    geometries: list[Geometry]

    def to(self, dtype: torch.dtype) -> Levels:
        biases = [None if bias is None else bias.to(dtype) for bias in self.biases]
        return Levels(self.x.to(dtype), [w.to(dtype) for w in self.weights], biases, self[3])

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
    pads = [(dilation * (k // 2),) * 2 for _, k, _ in rows]
    geometries = [
        Geometry(g, (stride,) * 2, pad, (dilation,) * 2)
        for (_, _, g), pad in zip(rows, pads, strict=True)
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


@pytest.fixture
def kernels_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says, optimize() takes what it races first: all levels in one pass."""
    optimizer = importlib.import_module("pyconv.speed.optimize")
    monkeypatch.setattr(optimizer, "race", lambda runs: {key: n for n, key in enumerate(runs)})


@given(problems())
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_levels_together_are_equal_to_the_plain_ones(threads: int, single: Levels) -> None:
    truth = single.to(torch.float64).plain()
    assert error(direct(*single), truth) < 1e-5
    torch.testing.assert_close(direct(*single, True), direct(*single).relu())
    half = single.to(torch.bfloat16)
    truth = half.to(torch.float64).plain()
    assert error(direct(*half), truth) < 0.004  # of rounding the sums once
    for some in (single, half):
        packed = pack(some.weights, some.geometries)
        if some is half or not any(map(is_square, some.weights, some.geometries)):
            assert direct(*some, True, packed).equal(direct(*some, True))
        assert direct(*some, True, packed.new_empty(0)).equal(direct(*some, True))


def is_square(weight: Tensor, geometry: Geometry) -> bool:
    """Whether the packed level is computed by Winograd, which rounds otherwise."""
    plain = geometry.stride == geometry.dilation == (1, 1)
    return plain and weight.shape[1] >= 64 and weight.shape[2:] == (3, 3)


@st.composite
def squares(draw: st.DrawFn) -> Levels:
    groups, inputs = draw(st.sampled_from([1, 2])), draw(st.sampled_from([64, 96, 128, 192]))
    square = (groups * draw(st.sampled_from([32, 64, 96])), 3, groups)
    others = st.sampled_from([(32, 5, 2), (16, 7, 1), (48, 1, 1), (32, 3, 2)])
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return levels(
        groups * inputs,
        draw(st.permutations([square, *draw(st.lists(others, max_size=2))])),
        size=(draw(st.integers(1, 21)), draw(st.integers(1, 21))),
        images=draw(st.integers(1, 5)),
        bias=draw(st.booleans()),
    )


@compiled
@given(squares(), st.integers(0, 3))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_squares_are_equal_to_the_plain_ones(threads: int, single: Levels, pad: int) -> None:
    # Each level with its own padding and one more, so that the maps still have one size.
    more = [g._replace(padding=tuple(p + pad for p in g.padding)) for g in single.geometries]
    single = single._replace(geometries=more)
    packed = pack(single.weights, single.geometries)
    assert packed.numel() > 4 * sum(weight.numel() for weight in single.weights)
    truth = single.to(torch.float64).plain()
    ours = direct(*single, packed=packed)
    assert error(ours, truth) < 1e-5
    sizes = [weight.shape[0] for weight in single.weights]
    for weight, one, other in zip(
        single.weights, ours.split(sizes, 1), truth.split(sizes, 1), strict=True
    ):
        if weight.shape[2:] == (3, 3):
            assert error(one, other) < 1e-6
    assert direct(*single, True, packed).equal(ours.relu())


@compiled
@given(problems())
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_gradients_on_weights_are_equal_to_the_plain_ones(threads: int, single: Levels) -> None:
    for bound, some in ((1e-5, single), (0.004, single.to(torch.bfloat16))):
        for weight, geometry in zip(some.weights, some.geometries, strict=True):
            wide = weight.double().requires_grad_()
            out = native(some.x.double(), wide, None, geometry)
            grad = torch.randn_like(out).to(some.x.dtype)
            (truth,) = torch.autograd.grad(out, wide, grad.double())
            found = grad_weight(grad, some.x, weight, geometry)
            assert found.dtype == weight.dtype and found.shape == weight.shape
            assert error(found, truth) < bound


@compiled
@given(problems())
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_the_gradient_on_the_input_is_equal_to_the_plain_one(threads: int, single: Levels) -> None:
    for bound, some in ((1e-5, single), (0.004, single.to(torch.bfloat16))):
        wide = some.x.double().requires_grad_()
        out = some.to(torch.float64)._replace(x=wide, biases=[None] * len(some.weights)).plain()
        grad = torch.randn_like(out).to(some.x.dtype)
        (truth,) = torch.autograd.grad(out, wide, grad.double())
        starts = [0, *accumulate(weight.shape[0] for weight in some.weights[:-1])]
        found = grad_inputs(grad, some.x, some.weights, some.geometries, starts)
        assert found.dtype == some.x.dtype and found.shape == some.x.shape
        assert error(found, truth) < bound
        alone = [
            grad_input(grad.narrow(1, start, weight.shape[0]), some.x, weight, geometry)
            for start, weight, geometry in zip(starts, some.weights, some.geometries, strict=True)
        ]
        assert error(sum(part.double() for part in alone), truth) < bound  # type: ignore[arg-type]


@compiled
def test_gradients_on_weights_repeat_bit_by_bit() -> None:
    some = levels(64, PUBLISHED["pyconvresnet, stage 1"][1], size=(56, 56), images=3)
    for weight, geometry in zip(some.weights, some.geometries, strict=True):
        grad = torch.randn_like(native(some.x, weight, None, geometry))
        assert fits(some.x, [weight], [geometry], "grad_weight")
        first, second = (grad_weight(grad, some.x, weight, geometry) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("relu", [False, True])
def test_the_operator_has_the_gradients_of_the_plain_levels(relu: bool) -> None:
    some = levels(64, PUBLISHED["pyconvresnet, stage 1"][1])
    leaves = [t.requires_grad_() for t in (some.x, *some.weights, *some.biases) if t is not None]
    plain = some.plain().relu() if relu else some.plain()
    grad = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, leaves, grad)
    for one, other in zip(
        torch.autograd.grad(direct(*some, relu), leaves, grad), expected, strict=True
    ):
        assert error(one, other) < 1e-5


PUBLISHED = {
    "pyconvresnet, stage 1": (64, [(16, 3, 1), (16, 5, 4), (16, 7, 8), (16, 9, 16)]),
    "pyconvresnet, stage 2": (128, [(32, 3, 1), (32, 5, 4), (64, 7, 8)]),
    "pyconvresnet, stage 3": (256, [(128, 3, 1), (128, 5, 4)]),
    "pyconvhgresnet, stage 1": (128, [(32, 3, 32), (32, 5, 32), (32, 7, 32), (32, 9, 32)]),
    "pyconvhgresnet, stage 2": (256, [(64, 3, 32), (64, 5, 64), (128, 7, 64)]),
    "pyconvhgresnet, stage 3": (512, [(256, 3, 32), (256, 5, 64)]),
}


def instructions(flags: str) -> ctypes.CDLL:
    if platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86-64")
    if flags.endswith("v4") and not torch.cpu._is_avx512_supported():
        pytest.skip("this processor has no AVX-512")
    return kernels.build(HEADERS, flags)


@compiled
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("flags", ["", "-march=x86-64-v4", "-march=x86-64-v3", "-march=x86-64"])
def test_the_published_pyramids_are_computed_with_any_vectors(
    flags: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags:
        compiled_so = instructions(flags)
        monkeypatch.setattr(kernels, "load", lambda *headers: compiled_so)
    for channels, rows in PUBLISHED.values():
        single = levels(channels, rows, size=(17, 15), stride=stride)
        truth = single.to(torch.float64).plain()
        for one, bound in ((single, 1e-5), (single.to(torch.bfloat16), 5e-3)):
            assert fits(one.x, one.weights, one.geometries)
            assert error(direct(*one), truth) < bound
            packed = pack(one.weights, one.geometries)
            assert error(direct(*one, packed=packed), truth) < bound
            for weight, geometry in zip(one.weights, one.geometries, strict=True):
                wide = weight.double().requires_grad_()
                out = native(one.x.double(), wide, None, geometry)
                grad = torch.randn_like(out).to(one.x.dtype)
                (slope,) = torch.autograd.grad(out, wide, grad.double())
                assert fits(one.x, [weight], [geometry], "grad_weight")
                assert error(grad_weight(grad, one.x, weight, geometry), slope) < bound
                wide = one.x.double().requires_grad_()
                out = native(wide, weight.double(), None, geometry)
                (slope,) = torch.autograd.grad(out, wide, grad.double())
                assert fits(one.x, [weight], [geometry], "grad_input")
                assert error(grad_input(grad, one.x, weight, geometry), slope) < bound


@compiled
def test_what_the_kernels_cannot_compute_is_computed_as_usual() -> None:
    odd = levels(12, [(6, 3, 6), (9, 5, 3)])
    three = levels(16, [(16, 3, 16)])
    cube = [torch.randn(16, 1, 3, 3, 3)]
    flat = Geometry(16, (1,) * 3, (1,) * 3, (1,) * 3)
    assert not fits(odd.x, odd.weights, odd.geometries)
    assert error(direct(*odd), odd.plain()) < 1e-6
    double = three.to(torch.float64)
    assert not fits(double.x, double.weights, double.geometries)
    assert error(direct(*double), double.plain()) < 1e-12
    volume = torch.randn(1, 16, 3, 4, 5)
    expected = native(volume, cube[0], None, flat)
    assert error(direct(volume, cube, [None], [flat]), expected) < 1e-6


def test_without_a_compiler_all_is_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "build", lambda headers: (_ for _ in ()).throw(OSError("no g++")))
    kernels._compiled.cache_clear()
    try:
        some = levels(64, PUBLISHED["pyconvresnet, stage 1"][1])
        assert kernels.load(*HEADERS) is None and not fits(some.x, some.weights, some.geometries)
        assert error(direct(*some), some.plain()) < 1e-6
        assert direct(*some).is_contiguous(memory_format=torch.channels_last)
    finally:
        kernels._compiled.cache_clear()


def test_the_operator_keeps_to_the_rules_of_operators() -> None:
    x, weights, biases, geometries = levels(64, PUBLISHED["pyconvresnet, stage 1"][1])
    padding = [size for geometry in geometries for size in geometry.padding]
    numbers = ([1, 1], padding, [1, 1], [geometry.groups for geometry in geometries], True)
    rules = ("test_schema", "test_faketensor")
    pack, shapes = torch.ops.pyconv.direct_pack, (weights, *numbers[:-1], kernels.version())
    library.opcheck(pack.default, shapes, test_utils=rules)
    for image, packed in ((x, None), (x.contiguous(), pack(*shapes))):
        arguments = (image, weights, biases, *numbers, packed)
        library.opcheck(torch.ops.pyconv.direct.default, arguments, test_utils=rules)


@compiled
@pytest.mark.slow
@pytest.mark.usefixtures("kernels_win")
def test_a_joined_pyramid_is_saved_copied_exported_compiled_and_has_a_gradient(
    tmp_path: Path,
) -> None:
    pyramid = nn.Sequential(PyConv2d(64, 64), nn.BatchNorm2d(64), nn.ReLU()).eval()
    x = torch.randn(2, 64, 14, 14)
    with torch.no_grad():
        expected = pyramid(x)
    fast = optimize(pyramid, x)
    assert isinstance(fast[0], DirectPyramid) and len(fast[0].weights) == 4  # type: ignore[index]
    assert fast[0].relu and isinstance(fast[2], nn.Identity)  # type: ignore[index]
    buffer, path = io.BytesIO(), tmp_path / "pyramid.pt2"
    torch.save(fast, buffer)
    buffer.seek(0)
    torch.export.save(torch.export.export(fast, (x,)), path)
    for twin in (
        fast,
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        torch.load(buffer, weights_only=False),
        torch.export.load(path).module(),
        torch.compile(fast, fullgraph=True),
        optimize(pyramid, x, compile=True),
    ):
        assert error(twin(x), expected) < 1e-5
    assert "direct" not in path.read_bytes().decode("latin1")  # others can read what is exported
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast(ours).sum().backward()
    pyramid(theirs).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert error(ours.grad, theirs.grad) < 1e-5


def test_the_faster_of_all_joined_some_joined_and_apart_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = importlib.import_module("pyconv.speed.optimize")
    monkeypatch.setattr(optimizer, "fits", lambda *_: True)
    pyramid, x = nn.Sequential(PyConv2d(64, 64), nn.ReLU()).eval(), torch.randn(1, 64, 9, 9)
    for apart in (0, 1, 4):
        monkeypatch.setattr(optimizer, "race", lambda runs, n=apart: {k: abs(k - n) for k in runs})
        fast = optimize(pyramid, x)
        joined = [len(m.apart) for m in fast.modules() if isinstance(m, DirectPyramid)]
        assert joined == ([apart] if apart < 4 else [])
        with torch.no_grad():
            assert error(fast(x), pyramid(x)) < 1e-5


class Plain(nn.Module):
    """Plain convolutions: one by Winograd, others that must compute as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.relu = nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
        self.small = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.watched = nn.Conv2d(64, 64, 3, padding=1)
        self.watched.register_forward_hook(doubled)
        self.patched = nn.Conv2d(64, 64, 3, padding=1)
        self.patched._conv_forward = twice  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.square(input=x.to(self.square.weight.dtype)))
        for conv in (self.small, self.watched, self.patched):
            out = conv(out)
            if isinstance(conv, nn.Conv2d):
                out = out.tanh()
        return out


def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out * 2


def twice(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return 2 * nn.functional.conv2d(x, weight, bias, padding=1)


@compiled
@pytest.mark.slow
@pytest.mark.usefixtures("kernels_win")
def test_plain_convolutions_of_a_compiled_model_run_by_winograd() -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), torch.randn(2, 64, 14, 13)
    with torch.no_grad():
        truth = copy.deepcopy(model).double()(x.double())
    fast = optimize(model, x, compile=True)
    names = [name for name, m in fast.named_modules() if isinstance(m, WinogradConv2d)]
    assert names == ["module.square"] and fast.square.relu
    loaded = pickle.loads(pickle.dumps(fast))
    for twin in (fast, loaded, fast.module):  # the last one runs eagerly
        assert error(twin(x), truth) < 1e-6
    with torch.no_grad():
        assert error(fast(x[0]), truth[0]) < 1e-6  # without a batch
    fast.load_state_dict(copy.deepcopy(fast).state_dict())
    fast.module.load_state_dict(model.state_dict())  # whose names are as they were
    for other in (optimize(model, x), optimize(model, x[..., :4, :4], compile=True)):
        assert not any(isinstance(m, WinogradConv2d) for m in other.modules())


@compiled
@pytest.mark.slow
@pytest.mark.usefixtures("kernels_win")
def test_a_compiled_program_is_not_found_again_for_other_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, x = PyConv2d(64, 64).eval(), torch.randn(2, 64, 14, 14)
    fast = optimize(model, x)
    fast.frozen = True
    with torch.no_grad():
        expected, module = model(x), importlib.import_module("pyconv.speed.direct")
        with monkeypatch.context() as before:  # kernels whose weights took more room
            size = module._packed_bytes
            before.setattr(module, "_packed_bytes", lambda *arguments: size(*arguments) + 64)
            before.setattr(kernels, "_version", "of another time")
            assert error(torch.compile(fast)(x), expected) < 1e-5
        torch.compiler.reset()
        assert error(torch.compile(fast)(x), expected) < 1e-5


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


class Twice(PyConv2d):
    """A user's subclass: not only a concatenation of levels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Skipped(nn.Module):
    """Takes the ReLU on one path only; symbolic tracing sees the other."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid, self.relu = PyConv2d(64, 64), nn.ReLU()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is None:
            return self.pyramid(x)  # type: ignore[no-any-return]
        return self.relu(self.pyramid(x)) + skip  # type: ignore[no-any-return]


def hooked() -> nn.Module:
    model = nn.Sequential(PyConv2d(64, 64), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, out: out - 1)
    return model


def watched_level() -> nn.Module:
    model = nn.Sequential(PyConv2d(64, 64), nn.ReLU())
    model[0].pyconv_levels[1].register_forward_hook(doubled)  # type: ignore[union-attr, index]
    return model


def with_levels(**options: Any) -> nn.Module:
    model = PyConv2d(64, 64)
    model.pyconv_levels[0] = nn.Conv2d(64, 16, 3, **options)
    return model


def unequal() -> nn.Module:
    model = nn.Sequential(PyConv2d(64, 64), PyConv2d(64, 64))
    model[1].pyconv_levels[1].dilation = (2, 2)  # type: ignore[union-attr, index]
    model[1].pyconv_levels[1].padding = (4, 4)  # type: ignore[union-attr, index]
    return model


def sequence() -> nn.Module:
    model = PyConv2d(64, 64)
    model.pyconv_levels[0] = nn.Sequential(nn.Conv2d(64, 16, 3, padding=1), nn.Tanh())
    return model


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: Twice(64, 64),
        Skipped,
        hooked,
        watched_level,
        unequal,
        sequence,
        lambda: with_levels(padding="same"),
        lambda: with_levels(padding=1, padding_mode="reflect"),
    ],
)
@pytest.mark.usefixtures("kernels_win")
def test_what_users_made_of_a_pyramid_is_kept(build_it: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build_it().eval(), torch.randn(2, 64, 14, 14)
    with torch.no_grad():
        fast = optimize(model, x)
        assert error(fast(x), model(x)) < 1e-5


@compiled
@pytest.mark.usefixtures("kernels_win")
def test_a_joined_pyramid_follows_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), PyConv2d(64, 64)).eval()
    x = torch.randn(2, 3, 14, 14)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = optimize(model, x)(x)
    assert out.dtype == torch.bfloat16
    with torch.no_grad():
        assert error(out, model(x)) < 0.01
