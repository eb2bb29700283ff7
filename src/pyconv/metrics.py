"""What an evaluation counts: batch by batch, summed over processes, read as percentages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .data import Fault

__all__ = ["Metrics", "Tally", "merge"]


@dataclass(frozen=True)
class Metrics:
    """What an evaluation counted; ``top1`` and ``top5`` are in percent."""

    images: int  # that could be read
    correct1: int
    correct5: int  # with fewer than five classes: among all of them
    loss: float  # mean cross entropy
    seconds: float
    unreadable: tuple[str, ...] = ()
    partial: bool = False  # whether it was stopped before the last image
    per_class: tuple[tuple[int, int, int], ...] = ()  # images, correct1, correct5 of each class
    predictions: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (image, its top five), if asked for

    @property
    def top1(self) -> float:
        return 100 * self.correct1 / self.images

    @property
    def top5(self) -> float:
        return 100 * self.correct5 / self.images

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The counts and the figures that follow from them, ready for JSON."""
        return {
            "images": self.images,
            "correct1": self.correct1,
            "correct5": self.correct5,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "images_per_second": self.images_per_second,
            "unreadable": list(self.unreadable),
            "partial": self.partial,
        }


@dataclass
class Tally:
    """Counts that grow batch by batch, and that add up over processes."""

    per_class: Tensor | None = None  # [classes, 3]: images, correct1, correct5
    loss: float = 0.0  # the sum
    seconds: float = 0.0
    partial: bool = False
    faults: list[Fault] = field(default_factory=list)
    predictions: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def count(self, labels: Tensor, top: Tensor, losses: Tensor, classes: int) -> None:
        """Add a batch: labels ``[N]``, the classes found most likely ``[N, 5]``, losses ``[N]``."""
        if self.per_class is None:
            self.per_class = torch.zeros(classes, 3, dtype=torch.long)
        hits = top == labels[:, None]
        one = torch.ones_like(labels)
        counts = torch.stack([one, hits[:, 0].long(), hits.any(1).long()], dim=1)
        self.per_class.index_add_(0, labels, counts)
        self.loss += float(losses.double().sum())

    @property
    def running(self) -> str:
        """The accuracy so far, for a progress bar."""
        if self.per_class is None:
            return ""
        images, correct1, _ = self.per_class.sum(0).tolist()
        return f"top-1 {100 * correct1 / images:.2f} %"


def merge(tallies: Sequence[Tally]) -> Metrics:
    """The counts of all processes as one result: integers, so the sum is that of one process."""
    tables = [tally.per_class for tally in tallies if tally.per_class is not None]
    faults = sorted(chain.from_iterable(tally.faults for tally in tallies))
    if not tables:
        if faults:
            raise ValueError(
                f"None of the {len(faults):,} images could be read; the first is {faults[0].path}: "
                f"{faults[0].reason}"
            )
        raise ValueError("There are no images to evaluate on.")
    per_class = torch.stack(tables).sum(0)
    images, correct1, correct5 = per_class.sum(0).tolist()
    return Metrics(
        images=images,
        correct1=correct1,
        correct5=correct5,
        loss=math.fsum(tally.loss for tally in tallies) / images,
        seconds=max(tally.seconds for tally in tallies),
        unreadable=tuple(fault.path for fault in faults),
        partial=any(tally.partial for tally in tallies),
        per_class=tuple((n, first, five) for n, first, five in per_class.tolist()),
        predictions=tuple(sorted(chain.from_iterable(tally.predictions for tally in tallies))),
    )
