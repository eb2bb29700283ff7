"""What the command was asked to do, decided: network, weights, images, and how to compute."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.folders import ImageList, find_images
from ..data.preprocess import Preprocess
from ..models.load import find_source, open_model
from ..models.registry import find_model, resolve_weights
from ..system import devices, processor
from ..system.files import expanded
from ..system.processes import World
from ..weights.rows import PyConvResNetTiny_Weights, WeightsEnum, sample_file

__all__ = ["EvalOptions", "Job", "decide"]


@dataclass(frozen=True)
class Job:
    """What is evaluated."""

    model: nn.Module
    name: str
    weights: WeightsEnum | Path  # a published set, or the checkpoint
    images: ImageList
    preprocess: Preprocess
    subset: tuple[int, ...] | None = None  # the outputs to compare as well, if asked for
    record: dict[str, Any] | None = None  # what is on record for these very files
    note: str | None = None  # what else to tell the user


@dataclass(frozen=True)
class EvalOptions:
    """How to compute: all of it is written into the result."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    optimize: bool
    compile: bool
    batch_size: int
    workers: int


def decide(args: argparse.Namespace, world: World) -> tuple[Job, EvalOptions]:
    """Decide all of it, what can be told at once before what takes time.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        OSError: if the system does not read something.
    """
    if args.sample:
        device, job = devices.choose_device(args.device, shared=True), _sample_job()
    else:
        # A misspelt network before anything else, then weights that nobody published.
        name, chosen = _source(args)
        if not expanded(args.data).exists():  # before weights are downloaded
            raise ValueError(f"There is no folder {args.data}. Give the folder of the images.")
        device = devices.choose_device(args.device, shared=True)
        job = _job(args, name, chosen)
    return job, _options(args, device, len(job.images.samples), world)


def _sample_job() -> Job:
    opened = open_model(PyConvResNetTiny_Weights.DEFAULT)
    return Job(
        opened.model,
        opened.name,
        opened.weights,
        find_images(sample_file("images")),
        opened.pixels,
        record=json.loads(sample_file("record.json").read_text("utf-8")),
    )


def _source(args: argparse.Namespace) -> tuple[str | None, WeightsEnum | Path]:
    """The network, or None where the checkpoint says it, and the weights; default the paper's."""
    if args.model is None:
        return find_source(args.weights if args.checkpoint is None else expanded(args.checkpoint))
    find_model(args.model)
    if args.checkpoint is not None:
        return args.model, expanded(args.checkpoint)
    chosen = resolve_weights(args.model, args.weights is None, args.weights)
    assert chosen is not None
    return args.model, chosen


def _job(args: argparse.Namespace, name: str | None, chosen: WeightsEnum | Path) -> Job:
    """Build the model first: a wrong one should not wait for 50,000 images to be listed."""
    if isinstance(chosen, WeightsEnum):  # a wrong size should not wait for a download
        chosen.value.preprocess.sized(args.crop, args.resize)
    opened = open_model(chosen, name)
    preprocess = opened.transforms(crop=args.crop, resize=args.resize)
    if opened.num_classes == 0:
        raise ValueError(
            f"{chosen} holds weights without a classifier. Evaluate a checkpoint that has one; "
            "pyconv-train --weights can train one for it."
        )
    note = None
    if opened.notes.preprocess is not None:
        note = f"Preprocessing and classes are those that {chosen} was trained with."
    named = opened.notes.classes is not None and opened.classes
    images = find_images(args.data, named or opened.num_classes, labels=args.labels)
    subset = _subset(images) if args.subset_classes else None
    return Job(opened.model, opened.name, chosen, images, preprocess, subset, note=note)


def _subset(images: ImageList) -> tuple[int, ...]:
    """The classes that the images are of."""
    classes = tuple(sorted({label for _, label in images.samples}))
    if len(classes) < 2:
        raise ValueError(
            "--subset-classes compares the outputs of the classes that the images are of, and all "
            "are of one. Leave it out."
        )
    return classes


def _options(
    args: argparse.Namespace, device: torch.device, images: int, world: World
) -> EvalOptions:
    dtype = devices.DTYPES[args.dtype]
    channels_last = args.channels_last
    if channels_last is None:  # where it is known to be faster
        channels_last = device.type == "cpu" or (device.type == "cuda" and dtype.itemsize == 2)
    workers = args.workers
    if workers is None:  # a worker takes a moment to start, which few images do not repay
        cores = processor.usable_cores() // devices.local_processes()
        workers = min(cores, images // world.size // 2000, 16)
    return EvalOptions(
        device, dtype, channels_last, args.optimize, args.compile, args.batch_size, workers
    )
