"""On a GPU the commands count and learn the same.

The machines of the continuous integration have none; run this file where there is one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from train_fixtures import assert_same_weights, make_tree

import pyconv
from pyconv import PyConvResNetTiny_Weights, pyconvresnet_tiny
from pyconv.data import find_images, make_loader
from pyconv.evaluate import evaluate
from pyconv.train import TrainOptions, train
from pyconv.train.recipe import PAPER
from pyconv.weights.rows import sample_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sample_counts_as_on_record(dtype: torch.dtype) -> None:
    weights = PyConvResNetTiny_Weights.DEFAULT
    record = json.loads(sample_file("record.json").read_text("utf-8"))
    pixels = weights.transforms()
    loader = make_loader(find_images(sample_file("images")), pixels, 64, 0, pin_memory=True)
    model = pyconvresnet_tiny(weights=weights).cuda().eval()
    optimize = getattr(pyconv, "optimize", None)  # which the plain library is without
    fast = (
        optimize(model, torch.zeros(64, 1, 28, 28, device="cuda"), dtype=dtype)
        if optimize
        else model
    )
    for one in (model, fast):
        found = evaluate(
            one.to(dtype), loader, normalise=pixels.normalise, device="cuda", dtype=dtype
        )
        assert found.images == 1000
        assert abs(found.correct1 - record["correct1"]) <= (1 if dtype == torch.float32 else 5)


def test_a_run_stopped_after_every_step_ends_with_the_same_bits(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    recipe = dataclasses.replace(PAPER, epochs=2, batch_size=16, lr=0.02, milestones=(1,))
    recipe = dataclasses.replace(recipe, precision="bfloat16")
    options = TrainOptions(workers=0, device="cuda", deterministic=True)

    def go(output: str, **limit: float) -> int:
        step = dataclasses.replace(options, **limit)  # type: ignore[arg-type]
        place, model = tmp_path / output, "pyconvresnet_tiny"
        return train(tree, place, model=model, recipe=recipe, options=step).exit_code

    assert go("whole") == 0
    codes = [go("parts", time_limit=1e-9)]
    while codes[-1]:
        codes.append(go("parts", time_limit=1e-9))
        assert len(codes) < 20
    assert len(codes) > 4
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")
