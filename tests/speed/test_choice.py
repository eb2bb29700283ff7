"""The choice: what was measured is followed, what was not stays native, and timing is done once."""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

import pyconv
from pyconv import PyConv2d
from pyconv.layers import GroupedConv2d
from pyconv.onednn import Geometry
from pyconv.speed import choice, table, timing
from pyconv.speed.algorithms import Lowering
from pyconv.speed.problem import Problem, candidates
from pyconv.speed.table import nearest

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


PROCESSORS = sorted(path.stem for path in (Path(table.__file__).parent / "rules").glob("*.json"))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_some_way_is_worth_its_zeros(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule does not stay native where native leaves most lanes of a vector idle."""
    measured = table.read_rule(processor)
    monkeypatch.setitem(table.RULES, "cpu", measured)
    assert measured
    for dtype, channels_last, mode in measured:
        problem = HG_LEVEL._replace(dtype=dtype, channels_last=channels_last, mode=mode)
        assert nearest(problem) != Lowering(), problem


def test_a_processor_that_was_not_measured_stays_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.RULES, "cpu", table.read_rule("abacus"))
    assert nearest(HG_LEVEL) == Lowering()


@pytest.mark.parametrize(
    "change",
    [
        {"device": "mps"},
        {"dtype": torch.float64},
        {"in_channels": 4096, "out_channels": 4096},
        {"kernel": (9,), "size": (56,), "geometry": Geometry(32, (1,), (4,), (1,))},
    ],
    ids=str,
)
def test_what_was_not_measured_stays_native(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.RULES, "cpu", table.read_rule("AVX512"))
    assert nearest(HG_LEVEL) != Lowering()
    assert nearest(HG_LEVEL._replace(**change)) == Lowering()


def test_the_rule_of_a_gpu_is_for_many_images_and_rounded_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(table.RULES, "cuda", table.read_rule("CUDA_9.0"))
    level = HG_LEVEL._replace(device="cuda", dtype=torch.bfloat16)
    assert nearest(level, images=1) == nearest(level, images=7) == Lowering()
    assert Lowering() != nearest(level, images=64) == nearest(level)
    assert nearest(level._replace(dtype=torch.float16)) == nearest(level)
    few = level._replace(
        in_channels=64, out_channels=16, geometry=Geometry(16, *level.geometry[1:])
    )
    assert nearest(few, images=32) != nearest(level, images=32)  # the groups count as well
    assert nearest(level._replace(dtype=torch.float32)) != Lowering()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert nearest(level._replace(dtype=torch.float32)) == Lowering()
        assert nearest(level) != Lowering()


@pytest.mark.parametrize("measured", ["CUDA_9.0", "CUDA_8.0"])
def test_a_compiler_follows_the_rule_of_a_gpu_in_one_graph(
    measured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of a GPU that is not here do for that."""
    monkeypatch.setitem(table.RULES, "cuda", table.read_rule(measured))
    compiler = CompileCounter()
    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        layer = PyConv2d(64, 64, device="cuda")
        run = torch.compile(layer, backend=compiler, fullgraph=True)
        for size in (56, 48, 40):
            assert run(torch.empty(64, 64, size, size, device="cuda")).shape[2] == size
    assert compiler.frame_count <= 2  # for one size, and for all


def test_a_gpu_that_is_not_here_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table.RULES, "cuda", raising=False)
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with FakeTensorMode():
        layer = PyConv2d(64, 64, device="cuda")
        assert layer(torch.empty(64, 64, 56, 56, device="cuda")).shape == (64, 64, 56, 56)


def test_what_is_slow_once_stays_in_the_race() -> None:
    """On an accelerator what is hopeless is called no more; one bad round does not make it so."""
    rounds = [[0, 2, 0, 7, 0, 90]] + [[0, 2, 0, 1, 0, 90]] + [[0, 2, 0, 1]] * 3
    clock = iter(accumulate(chain(*rounds))).__next__
    seconds = timing.race(dict.fromkeys(("usual", "better", "worst"), list), 5, clock, burst=2)
    assert min(seconds, key=seconds.__getitem__) == "better"
    assert seconds["worst"] == 45


def test_depthwise_is_not_for_compiled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {Lowering(): 3.0, Lowering("depthwise"): 1.0, Lowering.parse("tiled:2x2"): 2.0}
    monkeypatch.setattr(timing, "measure", lambda problem, batch: seconds)
    assert timing.fastest(HG_LEVEL, 8).kind == "depthwise"
    assert timing.fastest(HG_LEVEL, 8, compiled=True).kind == "tiled"


def test_autotune_times_a_shape_once_and_keeps_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "TIMED", {})
    level, x = GroupedConv2d(16, 16, 3, padding=1, groups=8), torch.randn(1, 16, 8, 8)
    state = torch.get_rng_state()
    with pyconv.autotune(), torch.no_grad():
        out = level(x)
        level(x)
        assert pyconv.autotune.enabled
    assert not pyconv.autotune.enabled
    assert torch.equal(torch.get_rng_state(), state)  # nobody's random numbers were used up
    ((problem, batch), way) = next(iter(choice.TIMED.items()))
    assert len(choice.TIMED) == 1 and batch == 1 and way in candidates(problem)
    torch.testing.assert_close(out, nn.Conv2d.forward(level, x), rtol=1e-5, atol=1e-5)


def test_autotune_compiles_for_every_size_in_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "TIMED", {})
    level = GroupedConv2d(16, 16, 3, padding=1, groups=8)
    torch.compiler.reset()
    run = torch.compile(level, backend="eager", fullgraph=True)
    with pyconv.autotune(), torch.no_grad():
        for size in (8, 9, 10):
            x = torch.randn(1, 16, size, size)
            torch.testing.assert_close(run(x), nn.Conv2d.forward(level, x), rtol=1e-5, atol=1e-5)
    assert {problem.size for problem, _ in choice.TIMED} == {(8, 8), (9, 9), (10, 10)}


def test_autotune_times_training_and_inference_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "TIMED", {})
    level, x = GroupedConv2d(16, 16, 3, padding=1, groups=8), torch.randn(1, 16, 8, 8)
    with pyconv.autotune():
        level(x).sum().backward()
        with torch.inference_mode():
            level(x)
    assert {problem.mode for problem, _ in choice.TIMED} == {"forward", "grad_weight"}
    assert level.weight.grad is not None
