"""The original's classes of networks, which take a block and the depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..architectures import ARCHITECTURES
from ..renamed import renamed
from ..resnet import BLOCKS, ResNet

__all__ = ["PyConvHGResNet", "PyConvResNet"]


@renamed(dropout_prob0="dropout")
def PyConvResNet(block: type, layers: Sequence[int], **options: Any) -> ResNet:  # noqa: N802
    """The original's PyConvResNet of any depth: ``PyConvResNet(PyConvBlock, [3, 4, 6, 3])``.

    Args:
        block: ``PyConvBlock``, ``PyConvBasicBlock1`` or ``PyConvBasicBlock2``.
        layers: The number of blocks of each of the four stages.
        options: Those of :class:`ResNet`, such as ``num_classes``.

    Raises:
        ValueError: if there is no such block, or not one number per stage.
    """
    expansion = getattr(block, "expansion", 1)
    return _build("pyconvresnet50", block, expansion, layers, options)


@renamed(dropout_prob0="dropout")
def PyConvHGResNet(block: type, layers: Sequence[int], **options: Any) -> ResNet:  # noqa: N802
    """The original's PyConvHGResNet of any depth; arguments as in :func:`PyConvResNet`."""
    return _build("pyconvhgresnet50", block, 2, layers, options)


def _build(name: str, block: type, expansion: int, layers: Any, options: dict[str, Any]) -> ResNet:
    row = ARCHITECTURES[name]
    kind: Any = next((kind for kind, known in BLOCKS.items() if known is block), None)
    if kind is None or len(layers) != len(row.stages):
        raise ValueError(
            f"{block!r} and {layers!r} must be a block, such as pyconv.PyConvBlock, and the number "
            f"of blocks of each of the {len(row.stages)} stages, such as [3, 4, 6, 3]."
        )
    stages = tuple(replace(s, blocks=n) for s, n in zip(row.stages, layers, strict=True))
    title = f"{row.title} of {list(layers)} blocks"
    row = replace(row, title=title, block=kind, expansion=expansion, stages=stages)
    return ResNet(row, **options)
