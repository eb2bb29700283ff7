"""The published weights on this machine: which are here, and how far they are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import checkpoint
from .weights import WeightsEnum, sample_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_published"]


def load_published(weights: WeightsEnum, progress: bool = True) -> Mapping[str, Tensor]:
    """The state dict of a published set: from the package, from the cache, or downloaded."""
    return checkpoint.read(sample_file(f"{weights.value.model}.pth"))
