"""``evaluate()``: the pixels of labelled photographs, counted class by class."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.loading import Fault
from ..evaluate.evaluation import NAMED
from ..system.failures import is_memory
from ..system.processes import World
from ..system.streams import message
from .labels import LabelledPhotos
from .prediction import predict

__all__ = ["PixelMetrics", "count", "evaluate"]

TINY = 1e-10  # of a pixel, added to each union as for the published figures


@dataclass(frozen=True)
class PixelMetrics:
    """What an evaluation counted; figures are in percent."""

    images: int  # whose pixels were counted
    per_class: tuple[tuple[int, int, int], ...]  # pixels: rightly found, found, labelled
    seconds: float
    unreadable: tuple[str, ...] = ()  # images and label maps that do not count, and why
    system_errors: tuple[str, ...] = ()  # why the system did not read some of them
    partial: bool = False  # whether it was stopped before the last image

    @property
    def iou(self) -> tuple[float, ...]:
        """Intersection over union of each class; 0 for one that is neither found nor labelled."""
        return tuple(
            100 * right / (found + labelled - right + TINY)
            for right, found, labelled in self.per_class
        )

    @property
    def mean_iou(self) -> float:
        """The mean over all classes, as it is published for ADE20K."""
        return sum(self.iou) / len(self.iou)

    @property
    def present(self) -> int:
        """How many classes are labelled somewhere."""
        return sum(labelled > 0 for _, _, labelled in self.per_class)

    @property
    def mean_iou_present(self) -> float:
        """The mean over the classes that are labelled somewhere."""
        pairs = zip(self.iou, self.per_class, strict=True)
        return sum(iou for iou, (_, _, labelled) in pairs if labelled) / max(1, self.present)

    @property
    def pixel_accuracy(self) -> float:
        """The share of the labelled pixels whose class was found."""
        right = sum(right for right, _, _ in self.per_class)
        return 100 * right / max(1, sum(labelled for _, _, labelled in self.per_class))

    def as_dict(self) -> dict[str, Any]:
        """The counts and the figures that follow from them, ready for JSON."""
        return {
            "images": self.images,
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "present_classes": self.present,
            "mean_iou_present": self.mean_iou_present,
            "images_per_second": self.images / self.seconds,
            "unreadable": list(self.unreadable),
            "system_errors": list(self.system_errors),
            "partial": self.partial,
        }


def count(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Pixels of each class ``[classes, 3]``: rightly found, found, and labelled.

    Args:
        predicted: The class found for each pixel.
        labels: The true class of each pixel; negative ones are not counted.
        classes: How many there are.
    """
    counted = labels >= 0
    pairs = labels[counted] * classes + predicted[counted]
    joint = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return torch.stack([joint.diagonal(), joint.sum(0), joint.sum(1)], dim=1)


@dataclass
class Tally:
    """Counts that grow image by image, and that add up over processes."""

    per_class: Tensor
    images: int = 0
    seconds: float = 0.0
    partial: bool = False
    faults: list[Fault] = field(default_factory=list)

    @property
    def running(self) -> str:
        """The pixel accuracy so far, for a progress bar."""
        right, _, labelled = self.per_class.sum(0).tolist()
        return f"pixels {100 * right / labelled:.2f} %" if labelled else ""


def evaluate(
    model: nn.Module,
    photos: LabelledPhotos,
    *,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
    **how: Any,
) -> PixelMetrics:
    """Count what a network finds in labelled photographs, pixel by pixel.

    What cannot be read, or has labels that are no class, is named in the result and not counted.

    Args:
        model: As for :func:`predict`, of the classes of ``photos``.
        photos: What :func:`find_labelled_photos` found.
        progress: Show a bar on stderr.
        stop: Asked after each photograph; True ends the evaluation with a partial result.
        world: The processes that share the photographs; the result is that of all, on each.
        how: Options of :func:`predict`.

    Raises:
        ValueError: if nothing could be read, or the network gives more classes than there are.
        OSError: if nothing could be read because of the system.
    """
    world = world or World()
    classes = len(photos.names)
    mine = range(world.rank, len(photos.samples), world.size)
    tally = Tally(torch.zeros(classes, 3, dtype=torch.long))
    start = time.perf_counter()
    shown = progress and sys.stderr is not None  # None: closed
    with tqdm(total=len(mine), unit="image", disable=not shown) as bar:
        for number, index in enumerate(mine):
            if number and stop():
                tally.partial = True
                break
            read = _read(photos, index)
            if isinstance(read, Fault):
                _note(read, tally)
            else:
                image, labels = read
                found = predict(model, image, **how)
                if int(found.max()) >= classes:
                    raise ValueError(
                        f"The network gives class {int(found.max())}, counted from 0, and there "
                        f"are {classes} names of classes. Give a list of all of them."
                    )
                tally.per_class += count(found, labels, classes)
                tally.images += 1
            bar.set_postfix_str(tally.running, refresh=False)
            bar.update()
    tally.seconds = time.perf_counter() - start
    return _merge(world.gather(tally))


def _read(photos: LabelledPhotos, index: int) -> tuple[Any, Tensor] | Fault:
    """An image and its labels, or what is wrong with one of them."""
    path = photos.samples[index][0]
    try:
        return photos.read(index)
    except ValueError as error:
        return Fault(index, str(path), str(error))
    except (OSError, MemoryError) as error:
        reason = f"Memory ran out with {path}." if is_memory(error) else str(error)
        return Fault(index, str(path), reason, system=True)


def _note(fault: Fault, tally: Tally) -> None:
    if len(tally.faults) < NAMED:
        message(fault.text)
    elif len(tally.faults) == NAMED:
        message("Further ones are named in the result alone (--json).")
    tally.faults.append(fault)


def _merge(tallies: list[Tally]) -> PixelMetrics:
    """The counts of all processes as one result: integers, so the sum is that of one process."""
    faults = sorted(chain.from_iterable(tally.faults for tally in tallies))
    images = sum(tally.images for tally in tallies)
    if not images:
        kind = OSError if faults[0].system else ValueError
        raise kind(f"None of the {len(faults):,} images could be counted; {faults[0].text}")
    per_class = torch.stack([tally.per_class for tally in tallies]).sum(0)
    return PixelMetrics(
        images,
        tuple((right, found, labelled) for right, found, labelled in per_class.tolist()),
        max(tally.seconds for tally in tallies),
        tuple(fault.text for fault in faults),
        tuple(fault.reason for fault in faults if fault.system),
        any(tally.partial for tally in tallies),
    )
