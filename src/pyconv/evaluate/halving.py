"""Batches that memory is too small for, computed in parts that fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..system.failures import is_memory
from ..system.streams import message

__all__ = ["Halving"]


class Halving:
    """Calls a model on images, in halves, quarters, ... of the batch once memory has run out."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        fixed: int | None,
        smaller: str = "a smaller --crop",  # what would help if not even one image fits
    ) -> None:
        self.model = model
        self.smaller = smaller
        self.fixed = fixed
        self.limit = fixed  # images at once, if there is one

    def __call__(self, images: Tensor) -> Tensor:
        while True:
            size = min(len(images), self.limit or len(images))
            try:
                return torch.cat([self._part(part) for part in images.split(size)])
            except RuntimeError as error:
                if not is_memory(error):
                    raise
            # Outside of the except block, where the error no longer holds the tensors.
            self._halve(size, images.device)

    def _part(self, images: Tensor) -> Tensor:
        if self.fixed is None:
            return self.model(images)
        missing = (self.limit or self.fixed) - len(images)
        return self.model(F.pad(images, (0, 0) * 3 + (0, missing)))[: len(images)]

    def _halve(self, size: int, device: torch.device) -> None:
        if size == 1:
            raise ValueError(
                f"Not even one image fits into the memory of {device}. Use another --device, "
                f"{self.smaller} or --dtype bfloat16."
            )
        self.limit = size // 2
        message(f"Memory ran out with {size} images at once; going on with {self.limit}.")
        if device.type != "cpu":
            torch.accelerator.empty_cache()
