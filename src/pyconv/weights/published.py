"""One row of data for each published set of weights; knows no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.preprocess import IMAGENET, Preprocess

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Published"]


@dataclass(frozen=True)
class Published:
    """One published set of weights: where its file is, and what its authors claim of it."""

    model: str  # the name of the network
    file_id: str | None  # on Google Drive; None for the sample, which comes with the package
    # Bytes; of files on Drive that of a bare state dict, the real file may differ a bit.
    file_size: int
    num_params: int
    gmacs: float  # 1e9 multiply-adds of convolutions and classifier for one image of `crop` pixels
    # (crop, percent), the first one at the default crop; empty for networks of other tasks
    top1: tuple[tuple[int, float], ...]
    recipe: str
    preprocess: Preprocess = IMAGENET
    categories: tuple[str, ...] | None = None  # None: ImageNet's 1000
    dataset: str = "ImageNet-1K"  # that top1 was measured on
    network: Callable[[], nn.Module] | None = None  # that the file must fit; None: the zoo's model
    metrics: tuple[tuple[str, float], ...] = ()  # of other tasks, in percent, by their names
