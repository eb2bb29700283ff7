from __future__ import annotations

import pytest
import torch

from pyconv.system.processes import World
from pyconv.train.meter import LossMeter
from pyconv.train.progress import Progress


def epoch(progress: Progress, top1: float) -> bool:
    """Train an epoch of 4 steps of 8 images in 2 seconds; whether it was the best so far."""
    progress.step = 4
    progress.loss, progress.correct, progress.waiting, progress.seconds = 6.0, 24.0, 0.5, 2.0
    validation = {"val_loss": 1.0, "val_top1": top1, "val_top5": 100.0}
    return progress.end_epoch(progress.row(0.1, 4, 8, validation))


def test_the_row_of_an_epoch() -> None:
    progress = Progress()
    assert epoch(progress, 50.0)
    assert progress.last_row == {
        "epoch": 1, "lr": 0.1, "train_loss": 1.5, "train_top1": 75.0, "val_loss": 1.0,
        "val_top1": 50.0, "val_top5": 100.0, "images_per_second": 16.0, "waiting_percent": 25.0,
        "seconds": 2.0,
    }  # fmt: skip
    assert progress == Progress(epoch=1, history=progress.history)  # the sums begin anew


def test_only_an_epoch_above_all_others_is_the_best() -> None:
    progress = Progress()
    assert progress.best_top1 is None and progress.last_row == {}
    best = [epoch(progress, top1) for top1 in (50.0, 40.0, 50.0, 60.0)]
    assert best == [True, False, False, True]
    assert progress.best_top1 == 60.0
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]


def test_progress_comes_back_from_a_state_as_it_was() -> None:
    assert Progress.of(None) == Progress()
    progress = Progress()
    epoch(progress, 50.0)
    progress.step, progress.loss, progress.correct, progress.seconds = 3, 4.5, 20.0, 1.5
    state = progress.state(seconds=7.0)
    # As runs that were begun before have it on the disk.
    assert state == {
        "position": {"epoch": 1, "step": 3},
        "totals": {"loss": 4.5, "correct": 20.0, "waiting": 0.0, "seconds": 1.5, "before": 7.0},
    }
    progress.before = 7.0
    assert Progress.of(state | {"history": progress.history, "format": 1}) == progress


def test_the_meter_gives_the_loss_of_each_step_and_begins_anew() -> None:
    meter = LossMeter(3, torch.device("cpu"))
    for rates in ((0.1, 0.2), (0.3, 0.4, 0.5)):
        for rate in rates:
            loss, hits = meter.next(rate)
            loss += 10 * rate
            hits += 7
        steps, correct, waiting = meter.read(World(), waited=1.5)
        assert [rate for rate, _ in steps] == list(rates)
        assert [loss for _, loss in steps] == pytest.approx([10 * rate for rate in rates])
        assert (correct, waiting) == (7 * len(rates), 1.5)
