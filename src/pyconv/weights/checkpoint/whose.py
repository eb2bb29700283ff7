"""Which network of the zoo a state dict is of."""

from __future__ import annotations

from functools import cache

import torch

from ...architectures import ARCHITECTURES
from ...resnet import ResNet
from .adapt import BATCHES, Shapes

__all__ = ["whose"]


def whose(state: Shapes) -> str | None:
    """The name of the network that a state dict fits, whatever its classes and channels."""
    outline = _outline(state)
    blocks = {(stage, block) for stage, block, *_ in (f"{key}.".split(".") for key in outline)}
    depths = [sum(stage == f"layer{n}" for stage, _ in blocks) for n in range(1, 5)]
    found = (
        name
        for name, row in ARCHITECTURES.items()
        if [stage.blocks for stage in row.stages] == depths and outline == _rows(name)
    )
    return next(found, None)


@cache
def _rows(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return _outline(ResNet(ARCHITECTURES[name]).state_dict())


def _outline(state: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes that classes, channels and counters do not change."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    shapes |= {k: (v[0], *v[2:]) for k, v in shapes.items() if k == "conv1.weight" and len(v) == 4}
    return {k: v for k, v in shapes.items() if not k.startswith("fc.") and not k.endswith(BATCHES)}
