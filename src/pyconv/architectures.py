"""Every network of the zoo as one row of data (paper, sections 4 and 5.1; figures of the original).

A row says what a network is; :class:`pyconv.resnet.ResNet` is the one class that reads it. A new
network is a new row here, and a line in ``models.py`` for editors and type checkers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["ARCHITECTURES", "Architecture", "Stage", "Stem"]

Pyramid = tuple[tuple[int, ...], ...]  # one tuple of levels for each of the stages


@dataclass(frozen=True)
class Stem:
    """The first convolution, and whether a 3x3/2 max-pool follows it."""

    width: int = 64
    kernel: int = 7
    stride: int = 2
    pool: bool = True


@dataclass(frozen=True)
class Stage:
    """A run of equal blocks; the first one strides and changes the number of channels."""

    blocks: int
    planes: int  # channels inside the block; the block returns planes * expansion
    stride: int
    kernels: tuple[int, ...]  # one kernel size per pyramid level
    groups: tuple[int, ...]  # groups of the convolution at each level


@dataclass(frozen=True)
class Architecture:
    """A residual network: stem, stages, the kind of block, and how its shortcuts shrink the map."""

    title: str
    block: Literal["bottleneck", "basic1", "basic2"]  # see BLOCKS in resnet.py
    expansion: int  # a block returns so many times its planes; basic blocks 1
    stages: tuple[Stage, ...]
    stem: Stem
    pool_shortcut: bool  # 3x3 max-pool, then an unstrided 1x1; else a strided 1x1
    in_channels: int = 3
    num_classes: int = 1000


class Sampling(NamedTuple):
    """How a stage samples the map that it reads."""

    stride: int  # of its first block
    first: int  # dilation of its first block
    pool: int  # dilation of the pool in the shortcut of that block
    dilation: int
    reduction: int  # input pixels per feature of its map


def sample_stages(
    row: Architecture, output_stride: Any, dilate: Any, dilate_first_block: bool
) -> list[Sampling]:
    """Decide which stages dilate instead of striding.

    Args:
        row: The network.
        output_stride: 32, 16 or 8: the most that the last map may shrink.
        dilate: Instead, whether to dilate, for each stage but the first; None to leave it.
        dilate_first_block: Whether the first block dilates as the others, and its pool does not;
            else both look as far as the stage before.

    Raises:
        ValueError: if that cannot be.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride={output_stride!r} must be 32, 16 or 8.")
    later = len(row.stages) - 1
    flags = dilate if dilate is None or isinstance(dilate, Sequence) else ()
    if flags is not None and (len(flags) != later or output_stride != 32):
        raise ValueError(
            f"replace_stride_with_dilation={dilate!r} must be {later} times True or False, for the "
            f"stages from the second on, and output_stride={output_stride!r} stay 32."
        )
    stride, dilation, samplings = row.stem.stride * (2 if row.stem.pool else 1), 1, []
    for number, stage in enumerate(row.stages):
        before, own = dilation, stage.stride
        beyond = stride * own > output_stride if flags is None else number and flags[number - 1]
        if beyond:
            dilation, own = dilation * own, 1
        stride *= own
        first, pool = (dilation, 1) if dilate_first_block else (before, before)
        samplings.append(Sampling(own, first, pool, dilation, stride))
    return samplings


DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
PLANES = (64, 128, 256, 512)
FLAT: Pyramid = ((3,), (3,), (3,), (3,))
ONE_GROUP: Pyramid = ((1,), (1,), (1,), (1,))
PYRAMID: Pyramid = ((3, 5, 7, 9), (3, 5, 7), (3, 5), (3,))
GROUPS: Pyramid = ((1, 4, 8, 16), (1, 4, 8), (1, 4), (1,))
HG_GROUPS: Pyramid = ((32, 32, 32, 32), (32, 64, 64), (32, 64), (32,))
TINY_GROUPS: Pyramid = ((1, 4, 8, 8), (1, 4, 8), (1, 4), (1,))


def _stages(
    depths: tuple[int, ...],
    planes: tuple[int, ...],
    strides: tuple[int, ...],
    kernels: Pyramid,
    groups: Pyramid,
) -> tuple[Stage, ...]:
    rows = zip(depths, planes, strides, kernels, groups, strict=True)
    return tuple(Stage(*row) for row in rows)


def _resnet(depth: int) -> Architecture:
    bottleneck = depth >= 50
    return Architecture(
        title=f"ResNet-{depth}",
        block="bottleneck" if bottleneck else "basic1",
        expansion=4 if bottleneck else 1,
        stages=_stages(DEPTHS[depth], PLANES, (1, 2, 2, 2), FLAT, ONE_GROUP),
        stem=Stem(pool=True),
        pool_shortcut=False,
    )


def _pyconvresnet(depth: int) -> Architecture:
    bottleneck = depth >= 50
    return Architecture(
        title=f"PyConvResNet-{depth}",
        block="bottleneck" if bottleneck else "basic2",
        expansion=4 if bottleneck else 1,
        stages=_stages(DEPTHS[depth], PLANES, (2, 2, 2, 2), PYRAMID, GROUPS),
        stem=Stem(pool=False),
        pool_shortcut=True,
    )


def _pyconvhgresnet(depth: int) -> Architecture:
    wide = tuple(2 * planes for planes in PLANES)
    return Architecture(
        title=f"PyConvHGResNet-{depth}",
        block="bottleneck",
        expansion=2,
        stages=_stages(DEPTHS[depth], wide, (2, 2, 2, 2), PYRAMID, HG_GROUPS),
        stem=Stem(pool=False),
        pool_shortcut=True,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "resnet152": _resnet(152),
    "pyconvresnet18": _pyconvresnet(18),
    "pyconvresnet34": _pyconvresnet(34),
    "pyconvresnet50": _pyconvresnet(50),
    "pyconvresnet101": _pyconvresnet(101),
    "pyconvresnet152": _pyconvresnet(152),
    "pyconvhgresnet50": _pyconvhgresnet(50),
    "pyconvhgresnet101": _pyconvhgresnet(101),
    "pyconvhgresnet152": _pyconvhgresnet(152),
    # Ours, not the paper's: the same construction for 28x28 grey images (see pyconv/sample).
    "pyconvresnet_tiny": Architecture(
        title="PyConvResNet-tiny",
        block="basic2",
        expansion=1,
        stages=_stages((2, 2, 1, 1), (32, 64, 96, 128), (1, 2, 1, 2), PYRAMID, TINY_GROUPS),
        stem=Stem(width=32, kernel=5, stride=2, pool=False),
        pool_shortcut=True,
        in_channels=1,
        num_classes=10,
    ),
}
