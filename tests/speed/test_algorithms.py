"""Lowerings: every one gives the numbers of the plain grouped convolution, wherever it runs."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pyconv
from pyconv import PyConv1d, PyConv2d, PyConv3d, get_pyconv, onednn, pyconvresnet_tiny
from pyconv.layers import GroupedConv, pin
from pyconv.onednn import Geometry
from pyconv.speed import algorithms
from pyconv.speed.algorithms import Lowering, native
from pyconv.speed.gradients import Ways, convolve
from pyconv.speed.problem import Problem, candidates


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a busy machine wait for each other, and these maps are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([2, 3, 4, 8]))
    dilation = draw(st.integers(1, 2))
    size = st.integers(3, 11 if dims < 3 else 6)
    kernels = [draw(st.sampled_from([1, 3, 5, 7 if dims < 3 else 3])) for _ in range(dims)]
    return Problem(
        in_channels=groups * draw(st.integers(1, 4)),
        out_channels=groups * draw(st.integers(1, 4)),
        kernel=tuple(kernels),
        geometry=Geometry(
            groups,
            tuple(draw(st.integers(1, 3)) for _ in range(dims)),
            tuple(dilation * (k // 2) for k in kernels),
            (dilation,) * dims,
        ),
        size=tuple(draw(size) for _ in range(dims)),
        dtype=torch.float64,
        channels_last=dims == 2 and draw(st.booleans()),
        device="cpu",
        mode="forward",
    )


def inputs(problem: Problem, dtype: torch.dtype, bias: bool) -> list[Tensor | None]:
    x = torch.randn(2, problem.in_channels, *problem.size, dtype=dtype)
    if problem.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(problem.out_channels, problem.inputs, *problem.kernel, dtype=dtype)
    tensors = [x, weight, torch.randn(problem.out_channels, dtype=dtype) if bias else None]
    return [None if t is None else t.requires_grad_() for t in tensors]


def run(problem: Problem, way: Lowering, tensors: list[Tensor | None]) -> list[Tensor]:
    """The output, and the gradients of a function of it on all that has one."""
    x, weight, bias = tensors
    assert x is not None and weight is not None
    out = convolve(x, weight, bias, problem.geometry, Ways(way, way, way))
    leaves = [t for t in tensors if t is not None]
    return [out, *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)]


def error(value: Tensor, target: Tensor) -> float:
    value, target = value.detach().double(), target.detach().double()
    return float((value - target).norm() / target.norm().clamp_min(1e-30))


@given(problems(), st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_all_ways_are_equal_forward_and_backward(problem: Problem, bias: bool, random) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(random.randrange(2**32))
    tensors = inputs(problem, torch.float64, bias)
    single = [None if t is None else t.detach().float().requires_grad_() for t in tensors]
    expected = run(problem, Lowering(), tensors)
    for way in {*candidates(problem), *candidates(problem._replace(device="cuda"))}:
        for value, target in zip(run(problem, way, tensors), expected, strict=True):
            assert value.shape == target.shape
            assert error(value, target) < 1e-9, way
        for value, target in zip(run(problem, way, single), expected, strict=True):
            assert error(value, target) < 1e-5, way


@given(problems())
@settings(deadline=None, max_examples=30)
def test_bfloat16_is_as_near_the_truth_as_native(problem: Problem) -> None:
    problem = problem._replace(dtype=torch.bfloat16)
    tensors = inputs(problem, torch.bfloat16, bias=False)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    truth = run(problem, Lowering(), exact)[0]
    native = error(run(problem, Lowering(), tensors)[0], truth)
    for way in candidates(problem):
        assert error(run(problem, way, tensors)[0], truth) <= 1.1 * native + 1e-4, way


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("kind", "size", "way"),
    [
        (PyConv1d, (17,), "tiled:4:merge=2"),
        (PyConv2d, (9, 7), "tiled:4x2"),
        (PyConv2d, (9, 7), "depthwise"),
        (PyConv2d, (9, 7), "direct"),
        (PyConv3d, (5, 6, 7), "blocked:merge=4"),
        (PyConv3d, (5, 6, 7), "tiled:1x2x2"),
    ],
)
def test_a_pinned_pyramid_gives_the_same(
    kind: type[PyConv2d], size: tuple[int, ...], way: str, mode: str
) -> None:
    layer = kind(
        32,
        32,
        pyconv_groups=(4, 4, 8, 8),
        bias=True,
        padding_mode=mode,  # type: ignore[arg-type]
        dtype=torch.float64,
    )
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    pin(layer, "native")
    expected = layer(x)
    pin(layer, way)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-12)


def test_each_way_is_a_function() -> None:
    x, weight = torch.randn(2, 8, 9, 9).double(), torch.randn(8, 2, 3, 3).double()
    geometry = Geometry(4, (1, 1), (1, 1), (1, 1))
    expected = native(x, weight, None, geometry)
    for found in (
        algorithms.blocked(x, weight, None, geometry, 2),
        algorithms.tiled(x, weight, None, geometry, (2, 2)),
        algorithms.depthwise(x, weight, None, geometry),
    ):
        assert error(found, expected) < 1e-9


@given(problems())
def test_lowerings_are_written_as_they_are_read(problem: Problem) -> None:
    for way in candidates(problem):
        assert Lowering.parse(str(way)) == way


@pytest.mark.parametrize(
    "text", ["", "fast", "tiled", "blocked", "blocked:4", "tiled:axb", "native:2x2", "tiled:0x2"]
)
def test_a_lowering_that_does_not_exist_is_named_with_those_that_do(text: str) -> None:
    with pytest.raises(ValueError, match=r"no lowering\. Use 'native'"):
        pin(PyConv2d(64, 64), text)


@pytest.mark.parametrize(
    ("way", "options"),
    [("blocked:merge=3", {}), ("tiled:2", {}), ("tiled:2x2", {"dilation": 2})],
)
def test_pinning_what_cannot_be_pins_nothing(way: str, options: dict[str, int]) -> None:
    layer = PyConv2d(64, 64, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pyconv_levels\.1 .* cannot be computed as"):
        pin(layer, way)
    assert all(m.lowering is None for m in layer.modules() if isinstance(m, GroupedConv))


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return pyconvresnet_tiny().eval()


def test_levels_are_convolutions_of_torch() -> None:
    level = get_pyconv(32, 32, (3,), pyconv_groups=(8,))
    assert isinstance(level, nn.Conv2d) and list(level.state_dict()) == ["weight"]
    assert type(get_pyconv(32, 32, (3,))) is nn.Conv2d


def test_shapes_alone() -> None:
    layer = PyConv2d(64, 64, device="meta")
    assert layer(torch.empty(2, 64, 56, 56, device="meta")).shape == (2, 64, 56, 56)


def test_copies_and_pickles_keep_what_is_pinned(tiny: nn.Module) -> None:
    pin(tiny, "blocked:merge=2")
    x = torch.randn(2, 1, 28, 28)
    for twin in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert str(twin.layer1[0].conv1.levels[1].lowering) == "blocked:merge=2"
        assert torch.equal(twin(x), tiny(x))


@pytest.mark.parametrize("way", [None, "tiled:2x2", "depthwise"])
def test_symbolic_tracing(tiny: nn.Module, way: str | None) -> None:
    pin(tiny, way)
    traced, x = torch.fx.symbolic_trace(tiny), torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(traced(x), tiny(x))


@pytest.mark.parametrize("way", [None, "tiled:2x2"])
def test_export_with_any_batch(tiny: nn.Module, way: str | None, tmp_path: Path) -> None:
    pin(tiny, way)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(tiny, (torch.randn(3, 1, 28, 28),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "tiny.pt2")
    x = torch.randn(5, 1, 28, 28)
    loaded = torch.export.load(tmp_path / "tiny.pt2").module()
    torch.testing.assert_close(loaded(x), tiny(x), rtol=1e-4, atol=1e-5)


def test_export_with_any_size_of_image(tiny: nn.Module) -> None:
    height, width = (torch.export.Dim(name, min=16, max=64) for name in ("height", "width"))
    program = torch.export.export(
        tiny, (torch.randn(2, 1, 28, 28),), dynamic_shapes=({2: height, 3: width},)
    )
    x = torch.randn(2, 1, 33, 40)
    torch.testing.assert_close(program.module()(x), tiny(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("autotuned", [False, True])
def test_compiles_as_one_graph_and_trains(autotuned: bool) -> None:
    torch.manual_seed(0)
    layer = PyConv2d(32, 32, pyconv_groups=(1, 4, 8, 8))
    pin(layer, None)
    x = torch.randn(2, 32, 12, 12)
    (layer(x) ** 2).sum().backward()
    expected = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    with pyconv.autotune(autotuned):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        (compiled(x) ** 2).sum().backward()
    for parameter, target in zip(layer.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [None, "tiled:2x2", "depthwise", "blocked:merge=4"])
def test_autocast_computes_and_returns_bfloat16(way: str | None) -> None:
    torch.manual_seed(0)
    layer, x = PyConv2d(64, 64), torch.randn(2, 64, 14, 14)
    expected = layer(x)
    pin(layer, way)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
    assert error(out, expected) < 0.02
    for parameter in layer.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32


def test_data_parallel_training_steps_as_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone = PyConv2d(32, 32, pyconv_groups=(1, 4, 8, 8))
    pin(alone, "tiled:2x2")
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped, x = DistributedDataParallel(copy.deepcopy(alone)), torch.randn(2, 32, 9, 9)
        for model in (alone, wrapped):
            (model(x) ** 2).sum().backward()
        for a, b in zip(alone.parameters(), wrapped.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        group.destroy_process_group()


def test_vmap_and_second_derivatives() -> None:
    layer = PyConv2d(4, 4, (3, 3), (2, 2), dtype=torch.float64)
    pin(layer, "tiled:2x2")
    x = torch.randn(3, 2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(layer)(x), torch.stack([layer(part) for part in x]))
    small = x[0, :1, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(layer, small)


def test_gradients_per_sample_and_along_a_direction() -> None:
    torch.manual_seed(0)
    layer = PyConv2d(64, 64)
    x, moves = (
        torch.randn(2, 64, 28, 28).contiguous(memory_format=torch.channels_last) for _ in "ab"
    )

    def energy(image: Tensor) -> Tensor:
        return layer(image[None]).square().mean()

    def found() -> list[Tensor]:
        per_sample = torch.func.vmap(torch.func.grad(energy))(x)
        along = torch.func.jvp(torch.func.grad(energy), (x[0],), (moves[0],))
        return [per_sample, *along]

    ours = found()
    pin(layer, "native")
    for value, target in zip(ours, found(), strict=True):
        assert error(value, target) < 1e-4


def test_forward_mode_derivatives() -> None:
    layer = PyConv2d(4, 4, (3, 3), (2, 2), dtype=torch.float64)
    x, moves = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64).unbind()
    pin(layer, "native")
    expected = torch.func.jvp(layer, (x,), (moves,))
    pin(layer, "tiled:2x2")
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (moves,)), expected)


BFLOAT16, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "size", "wrong"),
    [
        (8, (7, 8), (1, 1), (9, 9), {BFLOAT16}),  # 8 inputs x 8 pixels: two whole runs of 32
        (12, (1, 8), (1, 1), (9, 9), {BFLOAT16}),
        (8, (8, 7), (1, 1), (9, 9), set()),
        (16, (8, 8), (1, 1), (9, 9), set()),
        (4, (8, 8), (1, 1), (9, 9), set()),  # one run
        (16, (3, 3), (2, 2), (9, 2), {BFLOAT16}),  # one step across the map
        (4, (5,), (2,), (1,), {BFLOAT16}),
        (1, (1, 3), (1, 3), (4, 1), {BFLOAT16}),
        (3, (5, 1), (2, 3), (2, 1), {BFLOAT16}),
        (16, (1, 1), (2, 2), (9, 1), {BFLOAT16}),
        (16, (3, 3), (2, 2), (2, 9), set()),
        (16, (3, 3), (1, 1), (9, 1), set()),
        (4, (7, 1, 1), (1, 2, 1), (4, 5, 5), {BFLOAT16}),  # a volume smaller than the kernel
        (3, (1, 3, 1), (1, 3, 1), (5, 1, 8), {BFLOAT16}),
        (8, (5, 5, 5), (3, 2, 1), (5, 6, 8), {BFLOAT16, SINGLE}),
        (4, (7, 3, 3), (2, 1, 1), (5, 6, 6), {BFLOAT16, SINGLE}),
    ],
)
@pytest.mark.parametrize("dtype", [BFLOAT16, SINGLE])
def test_what_onednn_gets_wrong_is_computed_another_way(
    channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    size: tuple[int, ...],
    wrong: set[torch.dtype],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the processor: on one without the error it is a detour."""
    monkeypatch.setattr(onednn, "HAS_AMX", True)
    geometry = Geometry(1, stride, tuple(k // 2 for k in kernel), (1,) * len(kernel))
    told = onednn.miscomputed(size, (16, channels, *kernel), geometry, dtype, "cpu", learns=False)
    assert told == (dtype in wrong)
    x, weight = torch.randn(2, channels, *size), torch.randn(16, channels, *kernel)
    if told:
        is_right(x, weight, geometry, dtype)
    else:
        x, weight = x.to(dtype), weight.to(dtype)
        maps_are_right(x, weight, geometry, native(x.double(), weight.double(), None, geometry))


def maps_are_right(x: Tensor, weight: Tensor, geometry: Geometry, expected: Tensor) -> None:
    """As they are and under autocast."""
    out = native(x, weight, None, geometry)
    assert out.dtype == x.dtype
    assert error(out, expected) < (0.004 if x.dtype == BFLOAT16 else 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = native(x.float(), weight.float(), None, geometry)
    assert out.dtype == torch.bfloat16 and error(out, expected) < 0.004


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


def is_right(x: Tensor, weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> None:
    """The map and both gradients, in either way to ask for them."""
    x, weight = (t.to(dtype).requires_grad_() for t in (x, weight))
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = native(*exact, None, geometry)
    grad = torch.randn_like(expected).to(dtype)
    truth = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    out = native(x, weight, None, geometry)
    through_autograd = [out, *torch.autograd.grad(out, (x, weight), grad)]
    at_once = [out, *onednn.conv_gradients(grad, x, weight, geometry)]
    bound = 0.004 if dtype == BFLOAT16 else 1e-5
    for found in (through_autograd, at_once):
        for value, target in zip(found, truth, strict=True):
            assert value.dtype == dtype and error(value, target) < bound
    maps_are_right(x, weight, geometry, expected)


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
@pytest.mark.parametrize("tiles", [onednn.HAS_AMX, False])
def test_dilated_groups_learn_from_wide_maps(
    dilation: tuple[int, int], tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "HAS_AMX", tiles)
    x = torch.randn(2, 32, 9, 33).contiguous(memory_format=torch.channels_last)
    is_right(x, torch.randn(16, 8, 3, 3), Geometry(4, (1, 1), dilation, dilation), BFLOAT16)
