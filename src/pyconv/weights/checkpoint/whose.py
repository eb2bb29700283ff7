"""Which network of the zoo a state dict is of."""

from __future__ import annotations

from functools import cache

import torch

from ...architectures import ARCHITECTURES
from ...resnet import ResNet
from .adapt import BATCHES, Shapes, whole_name

__all__ = ["whose"]

Outline = dict[str, tuple[int, ...]]
STEM = "conv1.weight"


def whose(state: Shapes) -> str | None:
    """The name of the network that a state dict fits, whatever its classes and channels.

    The network may be a part of it, below a prefix, as :func:`adapt` takes it.
    """
    shapes: Outline = {}
    for key, tensor in sorted(state.items(), key=lambda item: item[1].numel()):
        shapes[whole_name(key)] = tuple(tensor.shape)  # of a weight kept in two, that of the larger
    prefixes = sorted((key.removesuffix(STEM) for key in shapes if key.endswith(STEM)), key=len)
    parts = ({k.removeprefix(p): v for k, v in shapes.items() if k.startswith(p)} for p in prefixes)
    return next(filter(None, map(_network, parts)), None)


def _network(shapes: Outline) -> str | None:
    outline = _outline(shapes)
    parts = (f"{key}.".split(".") for key in outline)
    blocks = {(stage, block) for stage, block, *_ in parts if block.isdecimal()}
    depths = [sum(stage == f"layer{n}" for stage, _ in blocks) for n in range(1, 5)]
    found = (
        name
        for name, row in ARCHITECTURES.items()
        if [stage.blocks for stage in row.stages] == depths
        and _rows(name).items() <= outline.items()
    )
    return next(found, None)


@cache
def _rows(name: str) -> Outline:
    with torch.device("meta"):
        state = ResNet(ARCHITECTURES[name]).state_dict()
    return _outline({key: tuple(tensor.shape) for key, tensor in state.items()})


def _outline(shapes: Outline) -> Outline:
    """The shapes that classes, channels and counters do not change."""
    stem = shapes.get(STEM, ())
    shapes = shapes | {STEM: (stem[0], *stem[2:]) if len(stem) == 4 else stem}
    return {k: v for k, v in shapes.items() if not k.startswith("fc.") and not k.endswith(BATCHES)}
