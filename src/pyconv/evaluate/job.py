"""What the command was asked to do, decided: network, weights, images, and how to compute."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbone import image_channels
from ..data.folders import ImageList, find_images
from ..data.preprocess import Preprocess, expected_pixels
from ..models.factories import get_model, options_for
from ..models.registry import published_pixels, resolve_weights
from ..system import devices, processor
from ..system.files import expanded
from ..system.processes import World
from ..weights import checkpoint
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
        published, chosen = published_pixels(args.model), _weights(args)
        if not expanded(args.data).exists():  # before weights are downloaded
            raise ValueError(f"There is no folder {args.data}. Give the folder of the images.")
        device = devices.choose_device(args.device, shared=True)
        job = _job(args, chosen, published)
    return job, _options(args, device, len(job.images.samples), world)


def _sample_job() -> Job:
    weights = PyConvResNetTiny_Weights.DEFAULT
    return Job(
        get_model(weights.value.model, weights=weights),
        weights.value.model,
        weights,
        find_images(sample_file("images")),
        weights.transforms(),
        record=json.loads(sample_file("record.json").read_text("utf-8")),
    )


def _weights(args: argparse.Namespace) -> WeightsEnum | Path:
    """The weights that were asked for; by default the paper's."""
    if args.checkpoint is not None:
        return expanded(args.checkpoint)
    chosen = resolve_weights(args.model, args.weights is None, args.weights)
    assert chosen is not None
    return chosen


def _job(args: argparse.Namespace, chosen: WeightsEnum | Path, published: Preprocess) -> Job:
    """Build the model first: a wrong one should not wait for 50,000 images to be listed."""
    notes, options = checkpoint.Notes(), {}
    if isinstance(chosen, WeightsEnum):
        published = chosen.value.preprocess
        published.sized(args.crop, args.resize)  # a wrong size should not wait for a download
    else:
        notes, options = checkpoint.read_notes(chosen), options_for(args.model, chosen)
    model = get_model(args.model, weights=chosen, **options)
    note = None
    if notes.preprocess is not None:
        published = notes.preprocess
        note = f"Preprocessing and classes are those that {chosen} was trained with."
    preprocess = expected_pixels(
        published,
        image_channels(model),
        crop=args.crop,
        resize=args.resize,
        network=str(chosen),
    )
    count, names = getattr(model, "num_classes", options.get("num_classes")), notes.classes or ()
    if count == 0:
        raise ValueError(
            f"{chosen} holds weights without a classifier. Evaluate a checkpoint that has one; "
            "pyconv-train --weights can train one for it."
        )
    classes = names if len(names) == count else count
    images = find_images(args.data, classes, labels=args.labels)
    subset = _subset(images) if args.subset_classes else None
    return Job(model, args.model, chosen, images, preprocess, subset, note=note)


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
