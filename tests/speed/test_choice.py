"""The choice: what was measured is followed, what was not stays native, and timing is done once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import compiled, last, plain
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

from pyconv import PyConv2d, onednn
from pyconv.onednn import Geometry, geometry_of
from pyconv.speed import autotune, choice, table
from pyconv.speed.algorithms import DIRECT, NATIVE, Algorithm
from pyconv.speed.problem import Problem, algorithms_for
from pyconv.speed.table import Row, nearest, read_table

HG_LEVEL = Problem(  # 9x9, first stage of PyConvHGResNet
    in_channels=128,
    out_channels=32,
    kernel=(9, 9),
    geometry=Geometry(32, (1, 1), (4, 4), (1, 1)),
    size=(56, 56),
    dtype=torch.float32,
    channels_last=True,
    device="cpu",
    mode="forward",
)


PROCESSORS = sorted(path.stem for path in (Path(table.__file__).parent / "tables").glob("*.json"))


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Tables are exchanged here."""
    choice._known.cache_clear()
    yield
    choice._known.cache_clear()


@pytest.mark.parametrize("processor", PROCESSORS)
def test_some_algorithm_is_worth_its_zeros(processor: str) -> None:
    """The table does not stay native where native leaves most lanes of a vector idle."""
    measured = read_table(processor)
    assert measured
    for key in measured:
        dtype, layout, mode = key.split()
        problem = HG_LEVEL._replace(
            dtype=getattr(torch, dtype), channels_last=layout == "channels_last", mode=mode
        )
        assert problem.table_key == key
        assert nearest(problem, measured) != NATIVE, problem


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.float64},
        {"in_channels": 4096, "out_channels": 4096},
        {"kernel": (99, 99)},
        {"kernel": (9,), "size": (56,), "geometry": Geometry(32, (1,), (4,), (1,))},
    ],
    ids=str,
)
def test_what_was_not_measured_stays_native(change: dict[str, Any]) -> None:
    measured = read_table("AVX512")
    assert nearest(HG_LEVEL, measured) != NATIVE
    assert nearest(HG_LEVEL._replace(**change), measured) == NATIVE
    assert nearest(HG_LEVEL, read_table("abacus")) == NATIVE


def test_the_table_of_a_gpu_is_for_many_rounded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = read_table("CUDA_9.0")
    monkeypatch.setitem(table.TABLES, "cuda", measured)
    level = HG_LEVEL._replace(device="cuda", dtype=torch.bfloat16)
    assert nearest(level._replace(dtype=torch.float16), measured) == nearest(level, measured)
    exact = level._replace(dtype=torch.float32)
    assert nearest(level, measured) != NATIVE != nearest(exact, measured)

    def chosen(images: int) -> Algorithm:  # by tensors of a GPU that is not here
        with FakeTensorMode(), torch.no_grad():
            x = torch.empty(images, 128, 56, 56, device="cuda")
            weight = torch.empty(32, 4, 9, 9, device="cuda")
            return choice.choose(x, weight, HG_LEVEL.geometry).forward

    assert chosen(64) != NATIVE and chosen(1) == NATIVE
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert nearest(level, measured) != NATIVE
        assert nearest(exact, measured) == chosen(64) == NATIVE


def test_what_onednn_gets_wrong_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, level = Algorithm.parse("tiled:4x4:merge=2"), HG_LEVEL._replace(dtype=torch.bfloat16)
    measured = {level.table_key: [Row(4, 1, 9, 1, 56, None, wrong, wrong)]}
    for amx in (False, True):
        monkeypatch.setattr(onednn, "HAS_AMX", amx)
        assert (wrong in algorithms_for(level)) == (nearest(level, measured) == wrong) != amx


@compiled
def test_levels_of_few_inputs_go_forwards_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a dense level, as in PyConvResNet; where the kernels are known to pay."""
    known = {"float32 channels_last grad_weight": [Row(8, 2, 7, 1, 56, None, DIRECT, NATIVE)]}
    monkeypatch.setitem(table.TABLES, "cpu", known)
    layer, x = PyConv2d(64, 64), last(4, 64, 56, 56)
    weights = [level.weight for level in layer.levels]
    geometries = [geometry_of(level) for level in layer.levels]  # type: ignore[arg-type]
    for pins, forwards in (
        ([NATIVE, None, None, None], [NATIVE, DIRECT, DIRECT, DIRECT]),
        ([NATIVE, NATIVE, None, None], [NATIVE, NATIVE, DIRECT, DIRECT]),
    ):
        chosen = choice.choose_all(x, weights, geometries, pins)  # type: ignore[arg-type]
        assert [each.forward for each in chosen] == forwards


@pytest.mark.parametrize("measured", ["CUDA_9.0", "CUDA_8.0"])
def test_a_compiler_follows_the_table_of_a_gpu_in_one_graph(
    measured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of a GPU that is not here do for that."""
    monkeypatch.setitem(table.TABLES, "cuda", read_table(measured))
    compiler = CompileCounter()
    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        layer = PyConv2d(64, 64, device="cuda")
        run = torch.compile(layer, backend=compiler, fullgraph=True)
        for size in (56, 48, 40):
            assert run(torch.empty(64, 64, size, size, device="cuda")).shape[2] == size
    assert compiler.frame_count <= 2  # for one size, and for all


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU, and this is about none")
def test_a_gpu_that_is_not_here_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table.TABLES, "cuda", raising=False)
    with FakeTensorMode():
        layer = PyConv2d(64, 64, device="cuda")
        assert layer(torch.empty(64, 64, 56, 56, device="cuda")).shape == (64, 64, 56, 56)


def test_what_is_slow_once_stays_in_the_race() -> None:
    """On an accelerator what is hopeless is called no more; one bad round does not make it so."""
    rounds = [[0, 2, 0, 7, 0, 90]] + [[0, 2, 0, 1, 0, 90]] + [[0, 2, 0, 1]] * 3
    clock = iter(accumulate(chain(*rounds))).__next__
    seconds = choice.race(dict.fromkeys(("usual", "better", "worst"), list), 5, clock, burst=2)
    assert min(seconds, key=seconds.__getitem__) == "better"
    assert seconds["worst"] == 45


def test_depthwise_is_not_for_compiled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {Algorithm(): 3.0, Algorithm("depthwise"): 1.0, Algorithm.parse("tiled:2x2"): 2.0}
    monkeypatch.setattr(choice, "measure", lambda problem, batch: seconds)
    assert choice.fastest(HG_LEVEL, 8).name == "depthwise"
    assert choice.fastest(HG_LEVEL, 8, compiled=True).name == "tiled"


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> PyConv2d:
    monkeypatch.setattr(choice, "TIMED", {})
    return PyConv2d(16, 16, 3, (8,))


def test_autotune_times_a_shape_once_and_keeps_its_choice(layer: PyConv2d) -> None:
    x, state = torch.randn(1, 16, 8, 8), torch.get_rng_state()
    with autotune(), torch.no_grad():
        out = layer(x)
        layer(x)
        assert autotune.enabled
    assert not autotune.enabled
    assert torch.equal(torch.get_rng_state(), state)  # nobody's random numbers were used up
    ((problem, batch, _), algorithm) = next(iter(choice.TIMED.items()))
    assert len(choice.TIMED) == 1 and batch == 1 and algorithm in algorithms_for(problem)
    with plain():
        torch.testing.assert_close(out, layer(x), rtol=1e-5, atol=1e-5)


def test_autotune_compiles_for_every_size_in_one_graph(layer: PyConv2d) -> None:
    torch.compiler.reset()
    run = torch.compile(layer, backend="eager", fullgraph=True)
    with autotune(), torch.no_grad():
        for size in (8, 9, 10):
            x = torch.randn(1, 16, size, size)
            out = run(x)
            torch.testing.assert_close(out, layer.levels[0](x), rtol=1e-5, atol=1e-5)
    assert {problem.size for problem, *_ in choice.TIMED} == {(8, 8), (9, 9), (10, 10)}


def test_autotune_times_training_and_inference_apart(layer: PyConv2d) -> None:
    x = torch.randn(1, 16, 8, 8)
    with autotune():
        layer(x).sum().backward()
        with torch.inference_mode():
            layer(x)
    assert {problem.mode for problem, *_ in choice.TIMED} == {"forward", "grad_weight"}
