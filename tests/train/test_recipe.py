from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconv.system import commands
from pyconv.train.recipe import (
    AUGMENT,
    FINETUNE,
    PAPER,
    Recipe,
    differences,
    larger_part,
    learning_rate,
    part_size,
    rate_advice,
    smaller_part,
)

STEPS = 5004  # of an ImageNet epoch at batch 256


def test_the_papers_recipe() -> None:
    assert (PAPER.epochs, PAPER.batch_size, PAPER.lr) == (90, 256, 0.1)
    assert (PAPER.momentum, PAPER.weight_decay, PAPER.nesterov) == (0.9, 1e-4, False)
    assert (PAPER.schedule, PAPER.milestones, PAPER.decay) == ("step", (30, 60, 80), 0.1)
    assert (PAPER.cutmix, PAPER.precision, PAPER.ema) == (0, "float32", 0)


def test_the_recipe_of_the_best_weights() -> None:
    assert (AUGMENT.epochs, AUGMENT.batch_size, AUGMENT.lr) == (300, 1024, 0.4)
    assert AUGMENT.schedule == "cosine"
    assert AUGMENT.cutmix > 0
    assert AUGMENT.precision != "float32"


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 0.001), (79, 0.001), (80, 1e-4), (89, 1e-4)],
)
@pytest.mark.parametrize("step", [0, 1, STEPS - 1])
def test_the_paper_decays_at_the_first_step_of_epochs_30_60_and_80(
    epoch: int, step: int, expected: float
) -> None:
    assert learning_rate(PAPER, epoch, step, STEPS) == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_by_equal_amounts_and_meets_the_cosine() -> None:
    recipe, steps = dataclasses.replace(AUGMENT, warmup=2.0, epochs=10), 4
    rates = [learning_rate(recipe, e, s, steps) for e in range(10) for s in range(steps)]
    assert rates[:8] == pytest.approx([0.4 * (n + 1) / 8 for n in range(8)])
    assert rates[8] == pytest.approx(0.4)
    assert sorted(rates[8:], reverse=True) == rates[8:]
    middle = 8 + 32 // 2
    assert rates[middle] == pytest.approx(0.2)
    assert 0 < rates[-1] < 0.002


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("lr", float("nan")),
        ("schedule", "linear"),
        ("milestones", (60, 30)),
        ("precision", "float8"),
        ("mix_probability", 1.5),
        ("min_scale", 0.0),
        ("randaugment", 31),
        ("warmup", 91.0),
        ("val_fraction", 1.0),
    ],
)
def test_a_value_out_of_range_is_named_by_its_flag(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} "):
        dataclasses.replace(PAPER, **{field: value})


def test_every_field_is_a_flag_and_only_flags_given_change_the_recipe() -> None:
    parser = commands.parser("test", "", "")
    commands.add_fields(parser, Recipe, "recipe")
    assert commands.read_fields(parser.parse_args([]), AUGMENT) == AUGMENT
    line = (
        "--epochs 7 --batch-size 8 --lr 0.5 --schedule cosine --milestones 2,5 --decay 0.2 "
        "--warmup 1.5 --momentum 0.8 --nesterov --weight-decay 0.01 --no-decay-norms "
        "--label-smoothing 0.1 --clip 2 --ema 0.99 --precision float16 --sync-bn --cutmix 0.3 "
        "--mixup 0.2 --mix-probability 0.5 --randaugment 9 --erase 0.25 --flip 0 --min-scale 0.3 "
        "--crop 96 --resize 110 --mean 0.1,0.2,0.3 --std 1,2,3 --val-fraction 0.25 --seed 5"
    )
    recipe = commands.read_fields(parser.parse_args(line.split()), AUGMENT)
    changed = {f.name for f in dataclasses.fields(Recipe)}
    assert {n for n in changed if getattr(recipe, n) != getattr(PAPER, n)} == changed
    assert recipe.milestones == (2, 5)
    assert recipe.std == (1.0, 2.0, 3.0)
    assert commands.read_fields(parser.parse_args(["--milestones", ""]), PAPER).milestones == ()


def test_a_batch_that_cannot_be_shared_equally_is_refused_with_one_that_can() -> None:
    assert part_size(AUGMENT, processes=4, accumulate=8) == 32
    with pytest.raises(ValueError, match=r"batch of 256 .* 3 processes .* --batch-size 255"):
        part_size(PAPER, processes=3, accumulate=1)


@given(batch=st.integers(1, 5000), processes=st.integers(1, 64), accumulate=st.integers(1, 64))
def test_parts_make_up_the_batch_or_the_proposed_one_would(
    batch: int, processes: int, accumulate: int
) -> None:
    recipe = dataclasses.replace(PAPER, batch_size=batch)
    try:
        assert part_size(recipe, processes, accumulate) * processes * accumulate == batch
    except ValueError as error:
        proposed = int(str(error).partition("--batch-size ")[2].partition(",")[0])
        part_size(dataclasses.replace(PAPER, batch_size=proposed), processes, accumulate)


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        (dataclasses.replace(PAPER, batch_size=16), "0.0063"),
        (dataclasses.replace(PAPER, batch_size=64), "0.025"),
        (dataclasses.replace(PAPER, batch_size=4096), "1.6"),
        (dataclasses.replace(AUGMENT, batch_size=64), "0.025"),
        (dataclasses.replace(PAPER, batch_size=128), None),
        (dataclasses.replace(PAPER, batch_size=16, lr=0.05), None),  # someone's own choice
        (dataclasses.replace(FINETUNE, batch_size=64), "0.04"),
        (dataclasses.replace(PAPER, batch_size=64, lr=0.01), None),  # docs/training.md measures it
        (dataclasses.replace(AUGMENT, batch_size=128, lr=0.01), None),  # nor of finetune
        (PAPER, None),
        (AUGMENT, None),
        (FINETUNE, None),
    ],
)
def test_a_published_rate_for_batches_of_another_size_is_pointed_out(
    recipe: Recipe, rate: str | None
) -> None:
    said = rate_advice(recipe)
    assert (said is None) == (rate is None)
    if said is not None:
        assert f"--batch-size is {recipe.batch_size}" in said
        assert said.endswith(f"in proportion, it would be --lr {rate}.")


def test_a_larger_part_is_had_by_flags_that_work() -> None:
    four = dataclasses.replace(PAPER, batch_size=4)
    assert larger_part(four, 4, images=100) == "--batch-size 8 or --accumulate 2"
    assert larger_part(four, 1, images=100) == "--batch-size 8"
    assert larger_part(four, 4, images=7) == "--accumulate 2"
    assert larger_part(dataclasses.replace(PAPER, batch_size=9), 9, 9) == "--accumulate 3"
    assert larger_part(four, 1, images=7) == "a larger --crop"


def test_a_smaller_part_is_had_by_a_flag_that_works() -> None:
    assert "--accumulate 2 goes on" in smaller_part(PAPER, 1, 1)
    assert "--accumulate 32 goes on" in smaller_part(PAPER, 4, 16)
    assert "--accumulate 9 goes on" in smaller_part(dataclasses.replace(PAPER, batch_size=9), 1, 3)
    assert "smaller --crop" in smaller_part(dataclasses.replace(PAPER, batch_size=9), 1, 9)


def test_differences_are_spelled_out() -> None:
    here = dataclasses.replace(PAPER, lr=0.2, weight_decay=0.0)
    said = differences(PAPER.as_dict(), here.as_dict())
    assert said == "lr 0.1 there and 0.2 here, weight-decay 0.0001 there and 0.0 here"
    assert differences(PAPER.as_dict(), Recipe().as_dict()) == ""
