"""Which network a state dict is of, of the zoo's classifiers and segmentation networks."""

from __future__ import annotations

from functools import cache

import torch

from ...architectures import ARCHITECTURES
from ...pyconvsegnet import SEGNETS, PyConvSegNet
from ...resnet import ResNet
from .adapt import BATCHES, Shapes

__all__ = ["whose"]

STEMS = ("conv1.weight", "layer0.0.weight")
ENDS = ("fc.", "cls.1.", "aux.")


def whose(state: Shapes) -> str | None:
    """The name of the network that a state dict fits, whatever its classes and channels."""
    outline = _outline(state)
    blocks = {(stage, block) for stage, block, *_ in (f"{key}.".split(".") for key in outline)}
    depths = [sum(stage == f"layer{n}" for stage, _ in blocks) for n in range(1, 5)]
    found = (
        name
        for name, row in [*ARCHITECTURES.items(), *SEGNETS.items()]
        if [stage.blocks for stage in row.stages] == depths and outline == _rows(name)
    )
    return next(found, None)


@cache
def _rows(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # how it dilates changes no shape
        network = ResNet(ARCHITECTURES[name]) if name in ARCHITECTURES else None
        return _outline((network or PyConvSegNet(ResNet(SEGNETS[name]))).state_dict())


def _outline(state: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes that classes, channels, counters and an auxiliary head do not change."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    shapes |= {k: (v[0], *v[2:]) for k, v in shapes.items() if k in STEMS and len(v) == 4}
    return {k: v for k, v in shapes.items() if not (k.startswith(ENDS) or k.endswith(BATCHES))}
