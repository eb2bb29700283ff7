"""What the command was asked to do, decided: network, weights, classes, and how to compute."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbone import image_channels
from ..data import ade20k
from ..models.factories import get_model
from ..models.registry import find_model, list_models, resolve_weights
from ..system import devices
from ..system.files import expanded
from ..weights.rows import WeightsEnum
from .labels import LabelledPhotos, find_labelled_photos, read_names
from .prediction import PUBLISHED_SCALES

__all__ = ["Job", "decide"]


@dataclass(frozen=True)
class Job:
    """What is done, and how: all of it is written into the result."""

    model: nn.Module
    name: str
    weights: WeightsEnum | Path  # a published set, or the checkpoint
    names: tuple[str, ...]  # of the classes
    data: LabelledPhotos | None  # what is evaluated
    options: dict[str, Any]  # of predict()
    device: torch.device
    dtype: torch.dtype
    optimize: bool
    channels: int  # of the images


def decide(args: argparse.Namespace) -> Job:
    """Decide all of it, what can be told at once before what takes time.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        OSError: if the system does not read something.
    """
    network = find_model(args.model)
    if network.row is not None:
        few = ", ".join(
            name
            for name in list_models("*50", task="segmentation")
            if find_model(name).weights is not None
        )
        raise ValueError(
            f"{args.model} gives a class to each image, not to each pixel: that is for "
            f"{'pyconv-predict' if args.data is None else 'pyconv-eval'}. Or give one such as "
            f"{few}."
        )
    chosen = _weights(args)
    names = None if args.names is None else read_names(args.names)
    data = None if args.data is None else find_labelled_photos(args.data, names)
    device = devices.choose_device(args.device, shared=True)
    model = get_model(args.model, weights=chosen)
    channels = image_channels(model)
    if channels not in (1, 3):
        raise ValueError(f"{chosen} takes {channels} channels, and image files give 1 or 3.")
    classes = getattr(model, "num_classes", None)
    return Job(
        model,
        args.model,
        chosen,
        _named(names, classes, str(chosen), data is not None),
        data,
        {
            "scales": PUBLISHED_SCALES if args.published else args.scales or (1.0,),
            "mirror": args.mirror,
            "window": args.window,
            "batch_size": args.batch_size,
        },
        device,
        devices.DTYPES[args.dtype],
        args.optimize,
        channels,
    )


def _weights(args: argparse.Namespace) -> WeightsEnum | Path:
    """The weights that were asked for; by default the paper's."""
    if args.checkpoint is not None:
        return expanded(args.checkpoint)
    chosen = resolve_weights(args.model, args.weights is None, args.weights)
    assert chosen is not None
    return chosen


def _named(
    names: tuple[str, ...] | None, classes: int | None, weights: str, labelled: bool
) -> tuple[str, ...]:
    """The names of the classes: those given, ADE20K's where there are as many, else numbers."""
    ade = ade20k.class_names()
    have = names or ade
    if classes is None or classes == len(have):
        return have
    if names is None and not labelled:
        return tuple(f"class {n}" for n in range(classes))
    what = f"--names has {len(have)}" if names else f"ADE20K has {len(have)}"
    cure = "Give a file of as many names." if names else "Give the names of its own: --names FILE."
    raise ValueError(f"{weights} is for {classes} classes, and {what}. {cure}")
