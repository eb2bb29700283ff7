"""Before the first step: everything that can be wrong is decided here, and a run is made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.preprocess import Preprocess
from ..models.registry import published_pixels, resolve_weights
from ..system import devices, processor
from ..system.processes import World
from ..system.signals import Stop
from ..system.streams import message
from ..weights.rows import WeightsEnum
from . import loading
from .changes import record
from .folder import RunFolder, is_best_of
from .loading import Batches, Splits, StepSampler, derive_seed
from .logs import Board, RunLogs, write_table
from .meter import LossMeter
from .progress import Progress
from .recipe import Recipe, TrainOptions, differences, larger_part, part_size, rate_advice
from .run import Run
from .step import (
    TrainStep,
    build_network,
    freeze_stages,
    join_norms,
    preprocess_of,
    require_norms,
)

__all__ = ["prepare"]


def prepare(
    world: World,
    device: torch.device,
    stop: Stop,
    folder: RunFolder,
    *,
    data: str | Path,
    model: str,
    recipe: Recipe,
    options: TrainOptions,
    weights: WeightsEnum | str | Path | None,
    freeze: int,
    resume: str | Path | None,
    accept_changed_data: bool,
) -> Run:
    """A run that is ready for its next step: a new one, or one that goes on.

    Every process of the run calls it with the same arguments. The first process takes the folder,
    and whoever made ``folder`` releases it, after an error too. The arguments from ``data`` on are
    those of :func:`pyconv.train.train`.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        CheckpointError: if a checkpoint is damaged or of another network.
    """
    began = time.monotonic()
    # One process checks, so that a mistake is reported once.
    goes_on = world.on_first(lambda: resume is not None or folder.holds_run())
    weights_now = None if goes_on else weights
    part = world.on_first(lambda: _check(model, weights_now, recipe, options, world, device))
    splits = world.on_first(lambda: _look(data, folder.path, recipe, world))
    network, frozen, preprocess = _make_network(
        world, model, len(splits.classes), weights_now, freeze, recipe
    )
    if part == 1 and not (recipe.sync_bn and world.several):
        cure = larger_part(recipe, options.accumulate, len(splits.train))
        world.on_first(lambda: require_norms(network, frozen, preprocess, cure))
    identity = {
        "model": model,
        "weights": None if weights is None else str(weights),
        "freeze": freeze,
        "classes": len(splits.classes),
        "images": len(splits.train),
    }
    run = {"identity": identity, "recipe": recipe.as_dict()}
    state = world.on_first(lambda: _take(folder, resume, run, splits, accept_changed_data))
    train_step = TrainStep(
        network, frozen, recipe, options, world, device, preprocess, len(splits.classes)
    )
    sampler, loader, val_loader = _make_loaders(
        splits, preprocess, part, recipe, options, world, pin=device.type == "cuda"
    )
    progress = Progress.of(state)
    if state is not None:
        train_step.load_state_dict(state["training"])
        world.on_first(lambda: _report_start(state, progress, recipe, options, world, folder))
    advice = (
        *splits.left_out,
        rate_advice(recipe) if state is None else None,
        processor.advice(device.type, devices.DTYPES[recipe.precision]),
    )
    for line in filter(None, advice if world.first else ()):
        message(line)
    if splits.held_out:
        world.on_first(lambda: _write_held_out(folder, splits))
    logs = RunLogs(
        folder.path,
        title=f"{model} on {len(splits.train):,} images",
        epochs=recipe.epochs,
        board=_open_board(world, folder, progress) if options.tensorboard else None,
    )
    world.on_first(lambda: logs.start(progress))
    return Run(
        world=world,
        stop=stop,
        folder=folder,
        recipe=recipe,
        options=options,
        identity=identity,
        classes=splits.classes,
        left_out=splits.left_out,
        train_step=train_step,
        sampler=sampler,
        loader=loader,
        val_loader=val_loader,
        logs=logs,
        meter=LossMeter(options.watch_every, device),
        progress=progress,
        began=began,
    )


def _check(
    model: str,
    weights: WeightsEnum | str | Path | None,
    recipe: Recipe,
    options: TrainOptions,
    world: World,
    device: torch.device,
) -> int:
    """How many images a process computes at once; what needs no look at a million images.

    Raises:
        ValueError: if there is no such network or no such weights, or the batch does not fit the
            processes.
    """
    resolve_weights(model, False, weights)
    published_pixels(model)  # knows the network
    if recipe.sync_bn and device.type != "cuda":
        raise ValueError("--sync-bn needs GPUs. Leave it out, or train with --device cuda.")
    return part_size(recipe, world.size, options.accumulate)


def _look(data: str | Path, output: Path, recipe: Recipe, world: World) -> Splits:
    """The images.

    Raises:
        ValueError: if there are none, they do not fit the recipe or the processes, or the run
            would be one of their classes.
    """
    splits = loading.find_splits(data, recipe.val_fraction, recipe.seed)
    for place in splits.places.values():
        if output.resolve().is_relative_to(place.resolve()):
            raise ValueError(
                f"--output {output} lies in {place}, where each folder is a class of images. Give "
                "a folder elsewhere."
            )
    if len(splits.classes) < 2:
        raise ValueError(
            f"{splits.places['train']} holds one class, {splits.classes[0]}: there is nothing to "
            "tell it from. Put the images of each class into a folder of its own."
        )
    if len(splits.train) < recipe.batch_size:
        raise ValueError(
            f"There are {len(splits.train)} training images, fewer than one batch of "
            f"{recipe.batch_size}. Choose a smaller --batch-size."
        )
    if len(splits.val) < world.size:
        raise ValueError(f"{world.size} processes need as many images in val/.")
    return splits


def _make_network(
    world: World,
    model: str,
    classes: int,
    weights: WeightsEnum | str | Path | None,
    freeze: int,
    recipe: Recipe,
) -> tuple[nn.Module, list[nn.Module], Preprocess]:
    """The network, its frozen parts, and the preprocessing of its images.

    The first process alone reads the weights; its values are given to the others.
    """
    torch.manual_seed(derive_seed(recipe.seed))
    first = world.only_first(lambda: build_network(model, classes, weights))

    def shape() -> tuple[nn.Module, list[nn.Module], Preprocess]:
        network = build_network(model, classes) if first is None else first
        if recipe.sync_bn and world.several:
            network = join_norms(network)
        return network, freeze_stages(network, freeze), preprocess_of(model, network, recipe)

    return world.on_all(shape)


def _take(
    folder: RunFolder,
    resume: str | Path | None,
    run: dict[str, Any],
    splits: Splits,
    accept: bool,
) -> dict[str, Any] | None:
    """Take the folder for this run alone; the state to go on from, None to begin."""
    folder.take()
    images = {
        "train": record(splits.places["train"], splits.train, splits.classes),
        "val": record(splits.places["val"], splits.val, splits.classes),
    }
    return folder.go_on(resume, run, splits.classes, images, accept)


def _make_loaders(
    splits: Splits,
    preprocess: Preprocess,
    part: int,
    recipe: Recipe,
    options: TrainOptions,
    world: World,
    pin: bool,
) -> tuple[StepSampler, Batches, Batches]:
    """The sampler, and the batches of training and of validation, of this process."""
    cores = processor.usable_cores() // devices.local_processes()
    workers = min(8, max(1, cores)) if options.workers is None else options.workers
    sampler = StepSampler(
        len(splits.train),
        recipe.batch_size,
        recipe.seed,
        world.rank,
        world.size,
        options.accumulate,
    )
    images = loading.TrainImages(
        splits.train,
        loading.augmentation(recipe, preprocess.crop),
        len(preprocess.mean),
        recipe.seed,
    )
    own = splits.val[world.rank :: world.size]
    return (
        sampler,
        loading.train_loader(images, sampler, workers, pin),
        loading.val_loader(own, preprocess, part, workers),
    )


def _report_start(
    state: dict[str, Any],
    progress: Progress,
    recipe: Recipe,
    options: TrainOptions,
    world: World,
    folder: RunFolder,
) -> None:
    """Say where the run goes on, and what will not be as it would have been."""
    done = progress.epoch >= recipe.epochs
    place = f"step {progress.step + 1} of epoch {progress.epoch + 1}"
    message("The run is complete." if done else f"Going on with {place}.")
    if (before := state["run"]["recipe"]["epochs"]) != recipe.epochs:
        message(
            f"It ends after {recipe.epochs} epochs instead of {before}: no rate depends on "
            "that, so it is as if it had been begun so."
        )
    now = {"size": world.size, "accumulate": options.accumulate}
    if changed := differences(state["processes"], now):
        message(f"Not bit for bit what the run would have been: processes {changed}.")
    if progress.history and not is_best_of(folder.best, state):
        message("best.pt is missing or damaged: only a better epoch will write it anew.")


def _write_held_out(folder: RunFolder, splits: Splits) -> None:
    """``val.csv``: the images held out, for ``pyconv-eval DATA --labels val.csv``."""
    rows = [
        {"name": path.relative_to(splits.root).as_posix(), "label": splits.classes[label]}
        for path, label in splits.val
    ]
    write_table(folder.path / "val.csv", rows)
    message(
        f"{len(splits.val):,} of {len(splits.val) + len(splits.train):,} images are held out for "
        f"validation: {folder.path / 'val.csv'} lists them."
    )


def _open_board(world: World, folder: RunFolder, progress: Progress) -> Board | None:
    return world.only_first(lambda: Board(folder.path / "tensorboard", progress.epoch))
