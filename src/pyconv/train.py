"""Train a network of the zoo, or one's own, on labelled images: ``train()`` and pyconv-train.

    pyconv-train /data/imagenet --model pyconvresnet50 --output runs/first --nproc-per-node gpu

A run can be killed at any moment: the same command goes on where the last save was, and ends with
the weights that the undisturbed run would have ended with.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from . import batches, checkpoint, cli, machine, watch
from .batches import Splits, derive_seed
from .data import Preprocess
from .distributed import SIGNALS, Stop, World, is_started, joined, launch, noting
from .evaluate import evaluate
from .files import write_json
from .models import WEIGHTS, get_model
from .recipe import PAPER, RECIPES, Recipe, differences, flag, learning_rate, part_size
from .resnet import ResNet
from .state import FORMAT, read_state, write_state
from .weights import Images, WeightsEnum

__all__ = ["DivergedError", "Engine", "Recipe", "Summary", "main", "train"]

GREY = Images(mean=(0.449,), std=(0.226,))  # ImageNet's statistics over all three channels
LOCK_WAIT = 20  # seconds: the loaders of a killed run live a little longer, and hold its lock


class DivergedError(ArithmeticError):
    """The loss or the weights are no longer finite; the last save still is."""


def seconds(text: str) -> float:
    """A duration such as ``90s``, ``30m`` or ``8h`` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 30m or 8h")
    return value


@dataclass(frozen=True)
class Engine:
    """How a recipe is computed: nothing here changes what a step means.

    Rounding, the images that a batch norm sees together and the partners that CutMix draws do
    follow from the number of processes and ``accumulate``.
    """

    accumulate: int = flag(1, "parts that a process computes its share of a batch in")
    workers: int | None = flag(None, "loader processes of each process; default: its cores, to 8")
    device: str | None = flag(None, "cpu, cuda, ...; default: the accelerator there is")
    channels_last: bool = flag(True, "memory format of images and weights")
    compile: bool = flag(False, "through torch.compile")
    deterministic: bool = flag(False, "the same bits on a GPU too, at some cost in speed")
    save_every: int = flag(1000, "steps between saves within an epoch; 0 for none")
    watch_every: int = flag(20, "steps between looks at the loss")
    time_limit: float | None = flag(None, "save and leave after this time, such as 90s, 30m, 8h")
    tensorboard: bool = flag(False, "event files for TensorBoard")

    def __post_init__(self) -> None:
        for name, value, least in (
            ("accumulate", self.accumulate, 1),
            ("workers", self.workers or 0, 0),
            ("save_every", self.save_every, 0),
            ("watch_every", self.watch_every, 1),
        ):
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}.")


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
        return self.exit_code == cli.DONE


def train(
    data: str | Path,
    output: str | Path,
    *,
    model: str,
    recipe: Recipe = PAPER,
    engine: Engine | None = None,
    weights: WeightsEnum | str | Path | None = None,
    freeze: int = 0,
    resume: str | Path | None = None,
) -> Summary:
    """Train a network, or go on with the training that lies in ``output``.

    Writes ``last.pt`` (all that it takes to go on), ``best.pt`` (the weights of the best epoch),
    ``log.csv``, ``steps.csv``, ``curves.png`` and ``summary.json``. In a process that torchrun
    started, it trains together with the others; else alone.

    Args:
        data: Folder with train/ and val/, each with one folder per class.
        output: Folder to write; made if it is not there.
        model: A name of ``pyconv.list_models()``, or ``"module:factory"``: a function of one's
            own that is called with ``num_classes`` and returns a module.
        recipe: What is learned.
        engine: How it is computed; default ``Engine()``.
        weights: Published weights or a checkpoint to start from; another number of classes is
            welcome.
        freeze: Number of stages that keep their weights, the stem with them; 0 for none.
        resume: A ``last.pt`` elsewhere to go on from; default the one in ``output``, if any.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        CheckpointError: if a checkpoint is damaged or of another network.
        DivergedError: if the loss is no longer finite; what was saved before is kept.
        OSError: if something cannot be written, or another process is lost.
    """
    engine = engine or Engine()
    device = machine.choose_device(engine.device)
    with joined(device) as world, noting(*SIGNALS) as noted:
        stop = Stop(world, noted, engine.time_limit)
        run = _Run(world, device, stop, Path(output).expanduser(), recipe, engine)
        try:
            run.prepare(data, model, weights, freeze, resume)
            return run.go()
        finally:
            run.close()


class _Run:
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
        self.lock = FileLock(output / ".lock")
        self.began = time.monotonic()
        self.epoch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self.board: watch.Board | None = None
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
        network = networks[0] if networks else build_network(model, len(splits.classes))
        self.frozen = freeze_stages(network, freeze)
        self.preprocess = preprocess_of(model, network, recipe)
        self.identity = {
            "model": model,
            "weights": None if weights is None else str(weights),
            "freeze": freeze,
            "classes": len(splits.classes),
            "images": len(splits.train),
        }
        state = world.on_first(lambda: self._claim(resume))
        self._build(network, part)
        if state is not None:
            self._restore(state)
        world.on_first(self._open_logs)

    def _open_logs(self) -> None:
        self.steps_log = watch.StepLog(self.output / "steps.csv", self.epoch, self.step)
        if self.engine.tensorboard:
            self.board = watch.Board(self.output / "tensorboard", self.epoch)

    def _look(self, data: str | Path) -> tuple[Splits, int]:
        splits = batches.find_splits(data)
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
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=LOCK_WAIT)
        except Timeout:
            raise ValueError(
                f"Another run is writing into {self.output}. Wait for it, or give another --output."
            ) from None
        own = self.output / "last.pt"
        source = own if resume is None else Path(resume).expanduser()
        if resume is None and not own.exists():
            return None
        if own.exists() and source.resolve() != own.resolve():
            raise ValueError(
                f"{self.output} holds a run of its own and --resume names another. Leave --resume "
                "out, or give another --output."
            )
        state = read_state(source)
        there = state["run"]
        wrong = differences(there["identity"] | there["recipe"], self.identity | self._recipe())
        if not wrong and state["classes"] != list(self.splits.classes):
            wrong = "the names of the classes"
        if wrong:
            raise ValueError(
                f"{source} is of another run: {wrong}. Ask for the same, or give another --output "
                f"(with --weights {source} to start from its weights)."
            )
        return state

    def _recipe(self) -> dict[str, Any]:
        return self.recipe.as_dict()

    def _build(self, network: nn.Module, part: int) -> None:
        """Everything that has a state or moves data."""
        recipe, engine, world = self.recipe, self.engine, self.world
        if engine.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not engine.deterministic
        self.layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        network = network.to(self.device).to(memory_format=self.layout)
        if recipe.sync_bn and world.several:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network
        parallel = (
            DistributedDataParallel(
                network, device_ids=[self.device] if self.device.type == "cuda" else None
            )
            if world.several
            else None
        )
        self.forward: Callable[[Tensor], Tensor] = parallel or network
        self.unsynced: Callable[[], contextlib.AbstractContextManager[None]] = (
            parallel.no_sync if parallel is not None else contextlib.nullcontext
        )
        if engine.compile:
            self.forward = torch.compile(self.forward)
        self.ema = (
            AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
            if recipe.ema
            else None
        )
        self.optimizer = make_optimizer(network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.mixer = batches.make_mixer(recipe, len(self.splits.classes))

        cores = machine.usable_cores() // machine.local_processes()
        workers = min(8, max(1, cores)) if engine.workers is None else engine.workers
        train = self.splits.train
        self.order = batches.Order(
            len(train), recipe.batch_size, recipe.seed, world.rank, world.size, engine.accumulate
        )
        channels = len(self.preprocess.mean)
        change = batches.augmentation(recipe, self.preprocess.crop)
        self.loader = batches.train_loader(
            batches.Photos(train, change, channels, recipe.seed),
            self.order,
            workers,
            pin=self.device.type == "cuda",
        )
        own = self.splits.val[world.rank :: world.size]
        self.val_loader = batches.val_loader(own, self.preprocess, part, workers)

        # Of each step since the last look the loss, and behind them how many images were right.
        self.seen = torch.zeros(engine.watch_every + 1, device=self.device)
        self.rates: list[float] = []
        self.waited = 0.0

    def autocast(self) -> torch.autocast:
        dtype = machine.DTYPES[self.recipe.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def go(self) -> Summary:
        """Train to the end, or to where the processes agree to stop."""
        code = cli.DONE
        while self.epoch < self.recipe.epochs and code == cli.DONE:
            code = self._train_epoch()
            if code == cli.DONE:
                self._end_epoch()
        if code == cli.DONE:
            self.stop.settle()
        else:
            self._save()
        return self._summarise(code)

    def _train_epoch(self) -> int:
        """Train what is left of the epoch; the exit code if it is left early."""
        self.network.train()
        for part in self.frozen:
            part.eval()
        began, before = time.monotonic(), self.totals["seconds"]
        save_every, watch_every = self.engine.save_every, self.engine.watch_every
        self.order.start(self.epoch, self.step)
        parts = iter(self.loader)
        code, steps = cli.DONE, self.order.steps
        with tqdm(
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
            total=steps,
            initial=self.step,
            unit="step",
            leave=False,
            disable=None if self.world.first else True,
        ) as bar:
            while self.step < steps and code == cli.DONE:
                self._train_step(parts)
                self.step += 1
                self.totals["seconds"] = before + time.monotonic() - began
                bar.update()
                code = self.stop.agreed()
                saves = save_every > 0 and self.step % save_every == 0 and self.step < steps
                if self.step % watch_every == 0 or saves or code or self.step == steps:
                    self._look_at_losses()
                    bar.set_postfix_str(f"loss {self.totals['loss'] / self.step:.4f}")
                if saves and code == cli.DONE:
                    self._save()
        return code

    def _train_step(self, parts: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One step of the optimizer, on one batch shared by all processes."""
        recipe, accumulate = self.recipe, self.engine.accumulate
        rate = learning_rate(recipe, self.epoch, self.step, self.order.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        place = len(self.rates)
        self.seen[place] = 0
        for number in range(accumulate):
            began = time.perf_counter()
            pixels, labels = next(parts)
            self.waited += time.perf_counter() - began
            # From here on chance is a function of the place, so that none of it has to be saved.
            torch.manual_seed(
                derive_seed(recipe.seed, self.epoch, self.step, self.world.rank, number)
            )
            labels = labels.to(self.device, non_blocking=True)
            images = self.preprocess.normalise(pixels.to(self.device, non_blocking=True))
            images = images.contiguous(memory_format=self.layout)
            if self.mixer is not None:
                images, labels = self.mixer(images, labels)
            with self.unsynced() if number + 1 < accumulate else contextlib.nullcontext():
                with self.autocast():
                    logits = self.forward(images)
                loss = self.criterion(logits.float(), labels) / accumulate
                self.scaler.scale(loss).backward()
            best = labels if labels.ndim == 1 else labels.argmax(1)
            self.seen[place] += loss.detach()
            self.seen[-1] += (logits.detach().argmax(1) == best).sum()
        if recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.network)
        self.rates.append(rate)

    def _look_at_losses(self) -> None:
        """Sum the losses since the last look over all processes: the one place that waits for them.

        Raises:
            DivergedError: if one is not finite.
        """
        count = len(self.rates)
        here = torch.cat([self.seen.cpu(), torch.tensor([self.waited])])
        values = self.world.total(here).tolist()
        losses = [value / self.world.size for value in values[:count]]
        first = self.step - count
        for step, (rate, loss) in enumerate(zip(self.rates, losses, strict=True), first):
            if not math.isfinite(loss):
                raise DivergedError(self._divergence(f"The loss is {loss}", step, rate))
        if self.world.first:
            rows = zip(range(first + 1, self.step + 1), self.rates, losses, strict=True)
            self.steps_log.write([(self.epoch + 1, *row) for row in rows])
        self.totals["loss"] += sum(losses)
        self.totals["correct"] += values[-2]
        self.totals["waiting"] += values[-1] / self.world.size
        self.rates.clear()
        self.seen.zero_()
        self.waited = 0.0

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

    def _end_epoch(self) -> None:
        """Validate, write the tables, save."""
        network = self.network if self.ema is None else self.ema.module
        # The norms of each process have seen other images: all validate with the first one's.
        self.world.spread(network.buffers())
        with self.autocast():
            own = evaluate(
                network, self.val_loader, normalise=self.preprocess.normalise, device=self.device
            )
        counts = [own.images, own.correct1, own.correct5, own.loss * own.images]
        images, right1, right5, loss = self.world.total(torch.tensor(counts)).tolist()
        if not math.isfinite(loss):
            steps = self.order.steps
            rate = learning_rate(self.recipe, self.epoch, steps - 1, steps)
            raise DivergedError(
                self._divergence("The validation loss is not finite", steps - 1, rate)
            )
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
        if self.world.first:
            self._show(row)

    def _save(self, best: bool = False) -> None:
        """Write ``last.pt``, and ``best.pt`` before it, in the first process alone."""
        self.world.on_first(lambda: self._write(best))

    def _write(self, best: bool) -> None:
        network = self.network if self.ema is None else self.ema.module
        weights, live = network.state_dict(), self.network.state_dict()
        try:
            checkpoint.check_values(live, "The network")
        except checkpoint.CheckpointError as error:
            rate = self.optimizer.param_groups[0]["lr"]
            what = "The weights are not finite"
            raise DivergedError(self._divergence(what, max(self.step, 1) - 1, rate)) from error
        images = self.preprocess
        about = {
            "format": FORMAT,
            "state_dict": weights,
            "classes": list(self.splits.classes),
            "images": {
                "crop": images.crop,
                "resize": images.resize,
                "mean": list(images.mean),
                "std": list(images.std),
            },
            "run": {"identity": self.identity, "recipe": self._recipe()},
            "history": self.history,
        }
        if best:
            write_state(self.output / "best.pt", about)
        training = {
            "model": live,  # the same tensors as above are written once
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        rest = {
            "position": {"epoch": self.epoch, "step": self.step},
            "totals": self.totals | {"before": self._seconds()},
            "processes": {"size": self.world.size, "accumulate": self.engine.accumulate},
            "training": training,
        }
        write_state(self.output / "last.pt", about | rest)

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, wherever in an epoch it was saved."""
        training = state["training"]
        checkpoint.check_structure(training["model"], self.network.state_dict())
        self.network.load_state_dict(training["model"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.scaler.load_state_dict(training["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(training["ema"])
        self.epoch, self.step = state["position"]["epoch"], state["position"]["step"]
        self.history, self.totals = state["history"], state["totals"]
        if self.world.first:
            done = self.epoch >= self.recipe.epochs
            place = f"step {self.step + 1} of epoch {self.epoch + 1}"
            _tell("The run is complete." if done else f"Going on with {place}.")
            now = {"size": self.world.size, "accumulate": self.engine.accumulate}
            if changed := differences(state["processes"], now):
                _tell(f"Not bit for bit what the run would have been: processes {changed}.")

    def _seconds(self) -> float:
        return self.totals["before"] + time.monotonic() - self.began

    def _show(self, row: dict[str, Any]) -> None:
        best = max(earlier["val_top1"] for earlier in self.history)
        _tell(
            f"epoch {row['epoch']}/{self.recipe.epochs}: loss {row['train_loss']:.4f}, validation "
            f"top-1 {row['val_top1']:.2f} % (best {best:.2f}), "
            f"{row['images_per_second']:,.0f} images/s"
        )
        watch.write_table(self.output / "log.csv", self.history)
        title = f"{self.identity['model']} on {len(self.splits.train):,} images"
        drawn = watch.draw_curves(self.output / "curves.png", title, self.history)
        if not drawn and row["epoch"] == 1:
            _tell("curves.png is left out: it needs matplotlib (pip install matplotlib).")
        if self.board is not None:
            self.board.write(row)

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
        if self.world.first:
            self._write_summary(summary)
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
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "processes": self.world.size,
            "accumulate": self.engine.accumulate,
            "recipe": self._recipe(),
            "versions": machine.versions() | {"device": machine.describe(self.device)},
        }
        write_json(self.output / "summary.json", content)

    def close(self) -> None:
        self.lock.release()


def _tell(text: str) -> None:
    """Progress, on stderr and past the bar."""
    tqdm.write(text, file=sys.stderr)


def build_network(
    name: str, classes: int, weights: WeightsEnum | str | Path | None = None
) -> nn.Module:
    """A network of the zoo by its name, or of one's own by ``module:factory``.

    Raises:
        ValueError: if there is no such network.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return get_model(name, weights=weights, num_classes=classes)
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--model {name}: {error}. Write module:function, and put the folder of the module on "
            "PYTHONPATH."
        ) from error
    network: nn.Module = factory(num_classes=classes)
    if weights is not None:
        checkpoint.load(network, checkpoint.read(str(weights)), str(weights))
    return network


def freeze_stages(network: nn.Module, stages: int) -> list[nn.Module]:
    """Stop the stem and the first stages from learning; what must stay in eval mode.

    Raises:
        ValueError: if the network has no such stages.
    """
    if stages == 0:
        return []
    if not isinstance(network, ResNet) or not 0 < stages <= len(network.stages):
        have = f"1 to {len(network.stages)}" if isinstance(network, ResNet) else "none to name"
        raise ValueError(f"--freeze {stages}: the network has stages {have}.")
    parts = [network.conv1, network.bn1, *network.stages[:stages]]
    for part in parts:
        part.requires_grad_(False)
    return parts


def preprocess_of(name: str, network: nn.Module, recipe: Recipe) -> Preprocess:
    """What images pass through: the recipe's sizes, and else what the network is published with."""
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    channels = next((conv.in_channels for conv in convolutions), 3)
    images = WEIGHTS[name]["DEFAULT"].value.images if name in WEIGHTS else Images()
    if channels == 1 and len(images.mean) != 1:
        images = replace(images, mean=GREY.mean, std=GREY.std)
    if recipe.mean or recipe.std:
        images = replace(images, mean=recipe.mean, std=recipe.std)
    if not len(images.mean) == len(images.std) == channels or channels not in (1, 3):
        raise ValueError(
            f"{name} takes images of {channels} channels; --mean and --std have "
            f"{len(images.mean)} and {len(images.std)}. Image files give 1 or 3."
        )
    return Preprocess.of(images, recipe.crop, recipe.resize)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over what learns, with the recipe's weight decay."""
    learns = [p for p in network.parameters() if p.requires_grad]
    decays = [p for p in learns if recipe.decay_norms or p.ndim > 1]
    rest = [p for p in learns if not (recipe.decay_norms or p.ndim > 1)]
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": recipe.weight_decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


EXAMPLES = """\
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/paper --nproc-per-node gpu
      the paper's recipe on all GPUs of this machine
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/augment --recipe augment \\
      --accumulate 8
      the recipe of the best published weights, its batch of 1024 in parts of 128
  pyconv-train /data/flowers --model pyconvresnet50 --output runs/flowers --weights DEFAULT \\
      --freeze 2 --epochs 20 --milestones 15 --batch-size 64 --lr 0.01
      fine-tune the published weights to other classes
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m pyconv.train /data/imagenet --model pyconvresnet50 --output runs/two-hosts
      on two machines: the same command on each
exit codes: 0 done, 1 failed, 2 wrong usage or bad input; saved and left early: 124 time limit,
130 interrupted, 143 terminated. The same command goes on where a run was left.
"""

CURE = "Run the same command again to go on from the last save."


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("pyconv-train", "Train a network on labelled images.", EXAMPLES)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--model", required=True, help="of pyconv.list_models(), or module:factory")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="paper", help="default: paper; see its flags below"
    )
    parser.add_argument("--weights", help="published weights or a checkpoint to start from")
    parser.add_argument(
        "--freeze", type=int, default=0, metavar="N", help="keep the stem and stages 1 to N"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="default: last.pt in --output, if it is there"
    )
    parser.add_argument("--nproc-per-node", metavar="N", help="processes here: a number, or gpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="copy summary.json there")
    cli.add_fields(parser, Engine, "how it is computed", {"time_limit": seconds})
    cli.add_fields(parser, Recipe, "what is learned (defaults of --recipe paper)")
    return parser


def _command(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    recipe = cli.read_fields(args, RECIPES[args.recipe])
    engine = cli.read_fields(args, Engine())
    count = _processes(args.nproc_per_node, engine.device)
    if count > 1:
        return launch(main, argv, count, CURE)
    try:
        summary = train(
            args.data,
            args.output,
            model=args.model,
            recipe=recipe,
            engine=engine,
            weights=args.weights,
            freeze=args.freeze,
            resume=args.resume,
        )
    except DivergedError as error:
        raise OSError(error) from error
    if os.environ.get("RANK", "0") == "0":
        cli.say(_report(args.output, summary))
        if args.json is not None:
            args.json.write_bytes((args.output / "summary.json").read_bytes())
    return summary.exit_code


def _processes(wanted: str | None, device: str | None) -> int:
    """How many processes to start, 1 for none but this one."""
    if wanted is None or is_started():
        return 1
    gpus = torch.cuda.device_count()
    if wanted == "gpu":
        if not gpus:
            raise ValueError("--nproc-per-node gpu: PyTorch sees no GPU. Give a number instead.")
        return gpus
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"--nproc-per-node {wanted!r} must be a number or gpu.")
    if machine.choose_device(device).type == "cuda" and int(wanted) > gpus:
        raise ValueError(
            f"--nproc-per-node {wanted}: there are {gpus} GPUs. Start one process per GPU."
        )
    return int(wanted)


def _report(output: Path, summary: Summary) -> str:
    """The table on stdout."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f} %"

    reasons = {0: "finished", 124: "time limit", 130: "interrupted", 143: "terminated"}
    rows = (
        ("run", f"{output} ({reasons[summary.exit_code]})"),
        ("epochs", f"{summary.epochs}"),
        ("best top-1", percent(summary.best_top1)),
        ("last top-1", percent(summary.last_top1)),
        ("time", f"{summary.seconds:,.0f} s"),
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-train``."""
    return cli.run("pyconv-train", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
