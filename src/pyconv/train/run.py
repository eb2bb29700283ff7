"""A training under way: what it claims, its epochs and saves, and what it tells.

:class:`Run` decides everything that can be wrong before the first step, and ends in a summary.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.preprocess import Preprocess
from ..evaluate.evaluation import evaluate
from ..system import commands, devices, processor
from ..system.files import write_json
from ..system.processes import SIGNALS, Stop, World
from ..weights import checkpoint
from ..weights.rows import WeightsEnum
from . import loading, logs
from .folder import Claim, is_best_of
from .loading import Splits, derive_seed
from .recipe import Engine, Recipe, differences, learning_rate, part_size
from .state import FORMAT, write_state
from .step import Learner, build_network, freeze_stages, join_norms, preprocess_of

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


class Run:
    """A training under way. ``epoch`` and ``step`` count from 0 and name what comes next."""

    def __init__(
        self,
        world: World,
        device: torch.device,
        stop: Stop,
        output: Path,
        recipe: Recipe,
        engine: Engine,
    ) -> None:
        self.world, self.device, self.stop = world, device, stop
        self.output, self.recipe, self.engine = output, recipe, engine
        self.claim = Claim(output)
        self.began = time.monotonic()
        self.epoch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self.board: logs.Board | None = None
        self.totals = {"loss": 0.0, "correct": 0.0, "waiting": 0.0, "seconds": 0.0, "before": 0.0}

    def prepare(
        self,
        data: str | Path,
        model: str,
        weights: WeightsEnum | str | Path | None,
        freeze: int,
        resume: str | Path | None,
    ) -> None:
        """Decide everything that can be wrong before the first step."""
        world, recipe = self.world, self.recipe
        # One process looks, so that all see the same and a mistake is told once.
        splits, part = world.on_first(lambda: self._look(data))
        self.splits = splits
        torch.manual_seed(derive_seed(recipe.seed))
        networks: list[nn.Module] = []
        start = None if resume or (self.output / "last.pt").exists() else weights
        world.on_first(lambda: networks.append(build_network(model, len(splits.classes), start)))

        def shape() -> tuple[nn.Module, list[nn.Module], Preprocess]:
            network = networks[0] if networks else build_network(model, len(splits.classes))
            if recipe.sync_bn and world.several:
                network = join_norms(network)
            return network, freeze_stages(network, freeze), preprocess_of(model, network, recipe)

        network, frozen, self.preprocess = world.on_all(shape)
        self.identity = {
            "model": model,
            "weights": None if weights is None else str(weights),
            "freeze": freeze,
            "classes": len(splits.classes),
            "images": len(splits.train),
        }
        state = world.on_first(lambda: self._claim(resume))
        self.learner = Learner(
            network, frozen, recipe, self.engine, world, self.device, self.preprocess,
            len(splits.classes),
        )  # fmt: skip
        self._open_loaders(part)
        if state is not None:
            self._restore(state)
        world.on_first(self._open_logs)

    def _open_logs(self) -> None:
        told = processor.advice(self.device.type, devices.DTYPES[self.recipe.precision])
        if told is not None:
            _tell(told)
        if self.history:  # a kill may have come between a save and the tables
            self._show_history()
        self.steps_log = logs.StepLog(self.output / "steps.csv", self.epoch, self.step)
        if self.engine.tensorboard:
            self.board = logs.Board(self.output / "tensorboard", self.epoch)

    def _look(self, data: str | Path) -> tuple[Splits, int]:
        splits = loading.find_splits(data)
        part = part_size(self.recipe, self.world.size, self.engine.accumulate)
        if len(splits.train) < self.recipe.batch_size:
            raise ValueError(
                f"There are {len(splits.train)} training images, fewer than one batch of "
                f"{self.recipe.batch_size}. Choose a smaller --batch-size."
            )
        if len(splits.val) < self.world.size:
            raise ValueError(f"{self.world.size} processes need as many images in val/.")
        if self.recipe.sync_bn and self.device.type != "cuda":
            raise ValueError("--sync-bn needs GPUs. Leave it out, or train with --device cuda.")
        return splits, part

    def _claim(self, resume: str | Path | None) -> dict[str, Any] | None:
        """Take the output folder for this run alone; the state to go on from, if there is one."""
        self.claim.take()
        return self.claim.go_on(resume, self._identify(), self.splits.classes)

    def _identify(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {"identity": self.identity, "recipe": self._recipe()}

    def _recipe(self) -> dict[str, Any]:
        return self.recipe.as_dict()

    def _open_loaders(self, part: int) -> None:
        recipe, engine, world = self.recipe, self.engine, self.world
        cores = processor.usable_cores() // devices.local_processes()
        workers = min(8, max(1, cores)) if engine.workers is None else engine.workers
        train = self.splits.train
        self.order = loading.Order(
            len(train), recipe.batch_size, recipe.seed, world.rank, world.size, engine.accumulate
        )
        channels = len(self.preprocess.mean)
        change = loading.augmentation(recipe, self.preprocess.crop)
        self.loader = loading.train_loader(
            loading.Photos(train, change, channels, recipe.seed),
            self.order,
            workers,
            pin=self.device.type == "cuda",
        )
        own = self.splits.val[world.rank :: world.size]
        self.val_loader = loading.val_loader(own, self.preprocess, part, workers)

        # Of each step since the last look the loss, and behind them how many images were right.
        self.seen = torch.zeros(engine.watch_every + 1, device=self.device)
        self.rates: list[float] = []

    def go(self) -> Summary:
        """Train to the end, or to where the processes agree to stop."""
        code = commands.DONE
        while self.epoch < self.recipe.epochs and code == commands.DONE:
            code = self._train_epoch() or self._end_epoch()
        self.stop.settle()
        if code != commands.DONE:
            self._save()
        return self._summarise(code)

    def _train_epoch(self) -> int:
        """Train what is left of the epoch; the exit code if it is left early."""
        self.learner.train()
        began, before = time.monotonic(), self.totals["seconds"]
        save_every, watch_every = self.engine.save_every, self.engine.watch_every
        self.order.start(self.epoch, self.step)
        parts = iter(self.loader)
        code, steps = commands.DONE, self.order.steps
        with tqdm(
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
            total=steps,
            initial=self.step,
            unit="step",
            leave=False,
            disable=None if self.world.first else True,
        ) as bar:
            while self.step < steps and code == commands.DONE:
                self._train_step(parts)
                self.step += 1
                self.totals["seconds"] = before + time.monotonic() - began
                bar.update()
                code = self.stop.agreed()
                saves = save_every > 0 and self.step % save_every == 0 and self.step < steps
                if self.step % watch_every == 0 or saves or code or self.step == steps:
                    self._look_at_losses()
                    bar.set_postfix_str(f"loss {self.totals['loss'] / self.step:.4f}")
                if saves and code == commands.DONE:
                    self._save()
        return code

    def _train_step(self, parts: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One step of the optimizer, on one batch shared by all processes."""
        rate = learning_rate(self.recipe, self.epoch, self.step, self.order.steps)
        loss, hits = self.seen[len(self.rates)], self.seen[-1]
        self.learner.step(parts, self.epoch, self.step, rate, loss, hits)
        self.rates.append(rate)

    def _look_at_losses(self) -> None:
        """Sum the losses since the last look over all processes: the one place that waits for them.

        Raises:
            DivergedError: if one is not finite.
        """
        count = len(self.rates)
        here = torch.cat([self.seen.cpu(), torch.tensor([self.learner.waited])])
        values = self.world.total(here).tolist()
        losses = [value / self.world.size for value in values[:count]]
        self.world.on_first(lambda: self._log_steps(losses))
        self.totals["loss"] += sum(losses)
        self.totals["correct"] += values[-2]
        self.totals["waiting"] += values[-1] / self.world.size
        self.rates.clear()
        self.seen.zero_()
        self.learner.waited = 0.0

    def _log_steps(self, losses: list[float]) -> None:
        first = self.step - len(losses)
        rows = list(zip(range(first + 1, self.step + 1), self.rates, losses, strict=True))
        for step, rate, loss in rows:
            if not math.isfinite(loss):
                raise DivergedError(self._divergence(f"The loss is {loss}", step - 1, rate))
        self.steps_log.write([(self.epoch + 1, *row) for row in rows])

    def _divergence(self, what: str, step: int, rate: float) -> str:
        last = self.output / "last.pt"
        cure = "Try a smaller --lr, a longer --warmup, --clip 1 or --precision float32"
        kept = (
            f"{last} holds the last good state. {cure}, with another --output and --weights {last}."
            if last.exists()
            else f"Nothing was saved yet. {cure}."
        )
        where = f"step {step + 1} of epoch {self.epoch + 1} (learning rate {rate:g})"
        return f"{what} at {where}. {kept}"

    def _end_epoch(self) -> int:
        """Validate, save, write the tables; the exit code if a signal cut the validation short."""
        noted = self.stop.noted
        network = self.learner.averaged
        # The norms of each process have seen other images: all validate with the first one's.
        self.world.spread(network.buffers())
        with self.learner.autocast():
            own = evaluate(
                network, self.val_loader, normalise=self.preprocess.normalise, device=self.device,
                stop=lambda: bool(noted),
            )  # fmt: skip
        if code := max(self.world.gather(SIGNALS[noted[0]] if own.partial else commands.DONE)):
            return code  # the save is behind the last step, and the validation begins anew
        counts = [own.images, own.correct1, own.correct5, own.loss * own.images]
        images, right1, right5, loss = self.world.total(torch.tensor(counts)).tolist()
        self.world.on_first(lambda: self._require_finite(loss))
        trained = self.order.steps * self.recipe.batch_size
        spent = max(self.totals["seconds"], 1e-9)
        row = {
            "epoch": self.epoch + 1,
            "lr": learning_rate(self.recipe, self.epoch, 0, self.order.steps),
            "train_loss": self.totals["loss"] / self.order.steps,
            "train_top1": 100 * self.totals["correct"] / trained,
            "val_loss": loss / images,
            "val_top1": 100 * right1 / images,
            "val_top5": 100 * right5 / images,
            "images_per_second": trained / spent,
            "waiting_percent": 100 * self.totals["waiting"] / spent,
            "seconds": spent,
        }
        better = all(row["val_top1"] > earlier["val_top1"] for earlier in self.history)
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.totals |= {"loss": 0.0, "correct": 0.0, "waiting": 0.0, "seconds": 0.0}
        self._save(better)
        self.world.on_first(lambda: self._show(row))
        return commands.DONE

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            what, last = "The validation loss is not finite", self.order.steps - 1
            raise DivergedError(self._divergence(what, last, self.learner.rate))

    def _save(self, best: bool = False) -> None:
        """Write ``last.pt``, and ``best.pt`` before it, in the first process alone."""
        self.world.on_first(lambda: self._write(best))

    def _write(self, best: bool) -> None:
        training = self.learner.state_dict()
        try:
            checkpoint.check_values(training["model"], "The network")
        except checkpoint.CheckpointError as error:
            what, step = "The weights are not finite", max(self.step, 1) - 1
            raise DivergedError(self._divergence(what, step, self.learner.rate)) from error
        images = self.preprocess
        about = {
            "format": FORMAT,
            "state_dict": self.learner.averaged.state_dict(),
            "classes": list(self.splits.classes),
            "images": {
                "crop": images.crop,
                "resize": images.resize,
                "mean": list(images.mean),
                "std": list(images.std),
            },
            "run": self._identify(),
            "history": self.history,
        }
        if best:
            write_state(self.output / "best.pt", about)
        rest = {
            "position": {"epoch": self.epoch, "step": self.step},
            "totals": self.totals | {"before": self._seconds()},
            "processes": {"size": self.world.size, "accumulate": self.engine.accumulate},
            "training": training,  # where it holds the tensors of above, they are written once
        }
        write_state(self.output / "last.pt", about | rest)

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, wherever in an epoch it was saved."""
        self.learner.load_state_dict(state["training"])
        self.epoch, self.step = state["position"]["epoch"], state["position"]["step"]
        self.history, self.totals = state["history"], state["totals"]
        if self.world.first:
            done = self.epoch >= self.recipe.epochs
            place = f"step {self.step + 1} of epoch {self.epoch + 1}"
            _tell("The run is complete." if done else f"Going on with {place}.")
            now = {"size": self.world.size, "accumulate": self.engine.accumulate}
            if changed := differences(state["processes"], now):
                _tell(f"Not bit for bit what the run would have been: processes {changed}.")
            if self.history and not is_best_of(self.output / "best.pt", state):
                _tell("best.pt is missing or damaged: only a better epoch will write it anew.")

    def _seconds(self) -> float:
        return self.totals["before"] + time.monotonic() - self.began

    def _show(self, row: dict[str, Any]) -> None:
        best = max(earlier["val_top1"] for earlier in self.history)
        _tell(
            f"epoch {row['epoch']}/{self.recipe.epochs}: loss {row['train_loss']:.4f}, validation "
            f"top-1 {row['val_top1']:.2f} % (best {best:.2f}), "
            f"{row['images_per_second']:,.0f} images/s"
        )
        drawn = self._show_history()
        if not drawn and row["epoch"] == 1:
            _tell("curves.png is left out: it needs matplotlib (pip install matplotlib).")
        if self.board is not None:
            self.board.write(row)

    def _show_history(self) -> bool:
        """Write the table and the curves of all epochs; False where there are no curves."""
        logs.write_table(self.output / "log.csv", self.history)
        title = f"{self.identity['model']} on {len(self.splits.train):,} images"
        return logs.draw_curves(self.output / "curves.png", title, self.history)

    def _summarise(self, code: int) -> Summary:
        tops = [row["val_top1"] for row in self.history]
        summary = Summary(
            epochs=self.epoch,
            best_top1=max(tops, default=None),
            last_top1=tops[-1] if tops else None,
            seconds=self._seconds(),
            images_per_second=self.history[-1]["images_per_second"] if tops else None,
            exit_code=code,
        )
        self.world.on_first(lambda: self._write_summary(summary))
        return summary

    def _write_summary(self, summary: Summary) -> None:
        content = {
            "finished": summary.finished,
            "epochs": summary.epochs,
            "best_top1": summary.best_top1,
            "last_top1": summary.last_top1,
            "seconds": summary.seconds,
            "images_per_second": summary.images_per_second,
            "waiting_percent": self.history[-1]["waiting_percent"] if self.history else None,
            **self.identity,
            "parameters": sum(p.numel() for p in self.learner.network.parameters()),
            "processes": self.world.size,
            "accumulate": self.engine.accumulate,
            "recipe": self._recipe(),
            "versions": devices.versions() | {"device": devices.describe(self.device)},
        }
        write_json(self.output / "summary.json", content)

    def close(self) -> None:
        self.claim.release()


def _tell(text: str) -> None:
    """Progress, on stderr and past the bar."""
    tqdm.write(text, file=sys.stderr)
