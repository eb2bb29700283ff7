"""A training run under way: its epochs, validations and saves, to the summary at its end.

:func:`pyconv.train.prepare.prepare` makes a :class:`Run`, in which nothing is left to decide.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..evaluate.evaluation import Metrics, evaluate
from ..system import commands, devices
from ..system.files import write_json
from ..system.processes import World
from ..system.signals import SIGNALS, Stop
from ..weights import checkpoint
from .folder import RunFolder
from .loading import Batches, StepSampler
from .logs import RunLogs
from .meter import LossMeter
from .progress import Progress
from .recipe import Recipe, TrainOptions, learning_rate
from .state import FORMAT
from .step import TrainStep

__all__ = ["DivergedError", "Run", "Summary"]


class DivergedError(ArithmeticError):
    """The loss or the weights are no longer finite; the last save still is."""


@dataclass(frozen=True)
class Summary:
    """How a run ended; accuracies are in percent, on all validation images."""

    epochs: int  # that are complete
    best_top1: float | None  # None before the first validation
    last_top1: float | None
    seconds: float  # of all processes that worked on the run, one after the other
    images_per_second: float | None  # of the last epoch's training
    exit_code: int  # 0, or why it stopped early: 124 time limit, 130 SIGINT, 143 SIGTERM

    @property
    def finished(self) -> bool:
        return self.exit_code == commands.DONE


@dataclass
class Run:
    """A training run, as one of its processes sees it."""

    world: World
    stop: Stop
    folder: RunFolder
    recipe: Recipe
    options: TrainOptions
    identity: dict[str, Any]  # with the recipe: what must be the same for the run to go on
    classes: tuple[str, ...]
    left_out: tuple[str, ...]  # files among the images, in sentences
    train_step: TrainStep
    sampler: StepSampler
    loader: Batches  # of training, in the order of the sampler
    val_loader: Batches  # this process's share of the validation images
    logs: RunLogs
    meter: LossMeter
    progress: Progress
    began: float  # when this process began, by time.monotonic()

    def go(self) -> Summary:
        """Train to the end, or to where the processes agree to stop.

        Raises:
            DivergedError: if the loss or the weights are no longer finite.
        """
        code = commands.DONE
        while self.progress.epoch < self.recipe.epochs and code == commands.DONE:
            code = self._train_epoch() or self._end_epoch()
        self.stop.settle()
        if code != commands.DONE:
            self._save()
        return self._summarise(code)

    def _train_epoch(self) -> int:
        """Train what is left of the epoch; the exit code if it is left early."""
        self.train_step.train()
        now, steps = self.progress, self.sampler.steps
        began, before = time.monotonic(), now.seconds
        save_every, watch_every = self.options.save_every, self.options.watch_every
        self.sampler.start(now.epoch, now.step)
        parts = iter(self.loader)
        code = commands.DONE
        with tqdm(
            desc=f"epoch {now.epoch + 1}/{self.recipe.epochs}",
            total=steps,
            initial=now.step,
            unit="step",
            leave=False,
            disable=None if self.world.first and sys.stderr else True,
        ) as bar:
            while now.step < steps and code == commands.DONE:
                self._step(parts)
                now.seconds = before + time.monotonic() - began
                bar.update()
                code = self.stop.agreed()
                saves = save_every > 0 and now.step % save_every == 0 and now.step < steps
                if now.step % watch_every == 0 or saves or code or now.step == steps:
                    self._read_losses()
                    bar.set_postfix_str(f"loss {now.loss / now.step:.4f}")
                if saves and code == commands.DONE:
                    self._save()
        return code

    def _step(self, parts: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One step of the optimizer, on one batch shared by all processes."""
        now = self.progress
        rate = learning_rate(self.recipe, now.epoch, now.step, self.sampler.steps)
        self.train_step(parts, now.epoch, now.step, rate, *self.meter.next(rate))
        now.step += 1

    def _read_losses(self) -> None:
        """Log the losses since the last read; only here training waits for them.

        Raises:
            DivergedError: if one is not finite.
        """
        steps, correct, waiting = self.meter.read(self.world, self.train_step.waited)
        self.train_step.waited = 0.0
        self.world.on_first(lambda: self._log_steps(steps))
        self.progress.loss += sum(loss for _, loss in steps)
        self.progress.correct += correct
        self.progress.waiting += waiting

    def _log_steps(self, steps: list[tuple[float, float]]) -> None:
        first = self.progress.step - len(steps) + 1
        for step, (rate, loss) in enumerate(steps, first):
            if not math.isfinite(loss):
                raise self._diverged(f"The loss is {loss}", step, rate)
        epoch = self.progress.epoch + 1
        self.logs.steps([(epoch, step, *row) for step, row in enumerate(steps, first)])

    def _end_epoch(self) -> int:
        """Validate, save, log; the exit code if a signal cut the validation short."""
        own, noted = self._validate(), self.stop.noted
        if code := max(self.world.gather(SIGNALS[noted[0]] if own.partial else commands.DONE)):
            return code  # the save is behind the last step, and the validation begins anew
        counts = [own.images, own.correct1, own.correct5, own.loss * own.images]
        images, correct1, correct5, loss = self.world.total(torch.tensor(counts)).tolist()
        self.world.on_first(lambda: self._require_finite(loss))
        now, steps = self.progress, self.sampler.steps
        validation = {
            "val_loss": loss / images,
            "val_top1": 100 * correct1 / images,
            "val_top5": 100 * correct5 / images,
        }
        rate = learning_rate(self.recipe, now.epoch, 0, steps)
        # The images may have become fewer in the middle of the epoch.
        done = max(now.step, 1)
        better = now.end_epoch(now.row(rate, done, self.recipe.batch_size, validation))
        self._save(better)
        self.world.on_first(lambda: self.logs.epoch(now))
        return commands.DONE

    def _validate(self) -> Metrics:
        """What the network to use gets right of this process's share of the images."""
        network = self.train_step.averaged
        # The norms of each process have seen other images: all validate with the first one's.
        self.world.spread(network.buffers())
        with self.train_step.autocast():
            return evaluate(
                network,
                self.val_loader,
                normalise=self.train_step.preprocess.normalise,
                device=self.train_step.device,
                stop=lambda: bool(self.stop.noted),
            )

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            what = "The validation loss is not finite"
            raise self._diverged(what, self.sampler.steps, self.train_step.rate)

    def _diverged(self, what: str, step: int, rate: float) -> DivergedError:
        """The error to raise; ``step`` counts from 1."""
        last = self.folder.last
        cure = "Try a smaller --lr, a longer --warmup, --clip 1 or --precision float32"
        kept = (
            f"{last} holds the last good state. {cure}, with another --output and --weights {last}."
            if last.exists()
            else f"Nothing was saved yet. {cure}."
        )
        where = f"step {step} of epoch {self.progress.epoch + 1} (learning rate {rate:g})"
        return DivergedError(f"{what} at {where}. {kept}")

    def _save(self, best: bool = False) -> None:
        """Save the state, and the weights as the best ones too, in the first process alone."""
        self.world.on_first(lambda: self._write(best))

    def _write(self, best: bool) -> None:
        training = self.train_step.state_dict()
        try:
            checkpoint.check_values(training["model"], "The network")
        except checkpoint.CheckpointError as error:
            step, rate = max(self.progress.step, 1), self.train_step.rate
            raise self._diverged("The weights are not finite", step, rate) from error
        images = self.train_step.preprocess
        weights = {
            "format": FORMAT,
            "state_dict": self.train_step.averaged.state_dict(),
            "classes": list(self.classes),
            "images": {
                "crop": images.crop,
                "resize": images.resize,
                "mean": list(images.mean),
                "std": list(images.std),
            },
            "run": {"identity": self.identity, "recipe": self.recipe.as_dict()},
            "history": self.progress.history,
        }
        rest = self.progress.state(self._seconds()) | {
            "compared_from": self.progress.compared_from,
            "processes": {"size": self.world.size, "accumulate": self.options.accumulate},
            "training": training,  # tensors that are in both are written once
        }
        self.folder.save(weights, rest, best)

    def _seconds(self) -> float:
        """The time of the run so far, over all its processes."""
        return self.progress.before + time.monotonic() - self.began

    def _summarise(self, code: int) -> Summary:
        last = self.progress.last_row
        summary = Summary(
            epochs=self.progress.epoch,
            best_top1=self.progress.best_top1,
            last_top1=last.get("val_top1"),
            seconds=self._seconds(),
            images_per_second=last.get("images_per_second"),
            exit_code=code,
        )
        path = self.folder.path / "summary.json"
        self.world.on_first(lambda: write_json(path, self._summary_content(summary)))
        return summary

    def _summary_content(self, summary: Summary) -> dict[str, Any]:
        return {
            "finished": summary.finished,
            "epochs": summary.epochs,
            "best_top1": summary.best_top1,
            "best_from_epoch": self.progress.compared_from + 1,  # on the validation images of now
            "last_top1": summary.last_top1,
            "seconds": summary.seconds,
            "images_per_second": summary.images_per_second,
            "waiting_percent": self.progress.last_row.get("waiting_percent"),
            **self.identity,
            "left_out": list(self.left_out),
            "parameters": sum(p.numel() for p in self.train_step.network.parameters()),
            "processes": self.world.size,
            "accumulate": self.options.accumulate,
            "recipe": self.recipe.as_dict(),
            "versions": devices.versions() | {"device": devices.describe(self.train_step.device)},
        }
