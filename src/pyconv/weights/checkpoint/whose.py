"""Which network a state dict is of, of the zoo's classifiers and segmentation networks."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from ...architectures import ARCHITECTURES
from ...pyconvsegnet import SEGNETS, PyConvSegNet
from ...resnet import ResNet
from .adapt import BATCHES, Shapes, whole_name

__all__ = ["whose"]

Outline = dict[str, tuple[int, ...]]
STEMS = ("conv1.weight", "layer0.0.weight")  # of classifiers, and of segmentation networks
ENDS = ("fc.", "cls.1.", "aux.")


def whose(state: Shapes) -> str | None:
    """The name of the network that a state dict fits, whatever its classes and channels.

    The network may be a part of it, below a prefix, as :func:`adapt` takes it.
    """
    shapes: Outline = {}
    for key, tensor in sorted(state.items(), key=lambda item: item[1].numel()):
        shapes[whole_name(key)] = tuple(tensor.shape)  # of a weight kept in two, that of the larger
    found = {key.removesuffix(stem) for stem in STEMS for key in shapes if key.endswith(stem)}
    prefixes = sorted(found, key=lambda prefix: (len(prefix), prefix))
    parts = ({k.removeprefix(p): v for k, v in shapes.items() if k.startswith(p)} for p in prefixes)
    return next(filter(None, map(_network, parts)), None)


def _network(shapes: Outline) -> str | None:
    outline = _outline(shapes)
    parts = (f"{key}.".split(".") for key in outline)
    blocks = {(stage, block) for stage, block, *_ in parts if block.isdecimal()}
    depths = [sum(stage == f"layer{n}" for stage, _ in blocks) for n in range(1, 5)]
    found = (
        name
        for name, row in (ARCHITECTURES | SEGNETS).items()
        if [stage.blocks for stage in row.stages] == depths
        and _rows(name).items() <= outline.items()
    )
    return next(found, None)


@cache
def _rows(name: str) -> Outline:
    with torch.device("meta"):
        state = _build(name).state_dict()
    return _outline({key: tuple(tensor.shape) for key, tensor in state.items()})


def _build(name: str) -> nn.Module:
    if name in SEGNETS:
        return PyConvSegNet(ResNet(SEGNETS[name]))  # how it dilates changes no shape
    return ResNet(ARCHITECTURES[name])


def _outline(shapes: Outline) -> Outline:
    """The shapes that classes, channels, counters and an auxiliary head do not change."""
    for key in STEMS:
        stem = shapes.get(key, ())
        if len(stem) == 4:
            shapes = shapes | {key: (stem[0], *stem[2:])}
    return {k: v for k, v in shapes.items() if not k.startswith(ENDS) and not k.endswith(BATCHES)}
