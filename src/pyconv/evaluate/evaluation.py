"""``evaluate()``: what a model gets right on labelled batches, counted."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.loading import Batch, Fault
from ..system.processes import World
from ..system.streams import message
from .halving import Halving

__all__ = ["Metrics", "Tally", "evaluate", "merge"]

T = TypeVar("T")

NAMED = 10  # unreadable images that each process names on the screen; --json names all


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
    system_errors: tuple[str, ...] = ()  # why the system did not read some of the unreadable ones
    subset: Metrics | None = None  # the same where only some outputs are compared, if asked for

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
            "system_errors": list(self.system_errors),
            "partial": self.partial,
            "subset": None if self.subset is None else self.subset.as_subset(),
        }

    def as_subset(self) -> dict[str, Any]:
        """The figures that compare only some outputs, ready for JSON."""
        return {
            "classes": len(self.per_class),
            "correct1": self.correct1,
            "correct5": self.correct5,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss if math.isfinite(self.loss) else None,
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
    subset: Tally | None = None  # of the outputs that are compared as well

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


class Score(NamedTuple):
    """What a batch adds to a tally; the last tensors are still on the device."""

    tally: Tally
    labels: Tensor  # [N]
    best: Tensor  # [N, 5], the outputs found most likely
    losses: Tensor  # [N]
    classes: int


def merge(tallies: Sequence[Tally]) -> Metrics:
    """The counts of all processes as one result: integers, so the sum is that of one process."""
    tables = [tally.per_class for tally in tallies if tally.per_class is not None]
    faults = sorted(chain.from_iterable(tally.faults for tally in tallies))
    if not tables:
        if faults:
            kind = OSError if faults[0].system else ValueError
            raise kind(f"None of the {len(faults):,} images could be read; {faults[0].text}")
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
        system_errors=tuple(fault.reason for fault in faults if fault.system),
        subset=merge(subsets) if (subsets := [t.subset for t in tallies if t.subset]) else None,
    )


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item once the next has been started, so that a GPU computes while the last is read."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _model_dtype(model: nn.Module) -> torch.dtype:
    tensors = chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]] | Iterable[Batch],
    *,
    normalise: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: bool = False,
    strict: bool = False,
    predictions: bool = False,
    subset: Sequence[int] | None = None,
    fixed_batch: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
) -> Metrics:
    """Evaluate a classifier on batches of images ``[N, C, H, W]`` and labels ``[N]``.

    The model is put on the device and into eval mode, and left there. Where memory runs out, the
    batch is halved and the evaluation goes on.

    Args:
        model: Gives logits ``[N, classes]``.
        loader: The batches, each image once.
        normalise: Applied to every batch on the device, such as :meth:`Preprocess.normalise`
            for a loader of uint8 pixels; None if the loader's images are ready.
        device: Where to compute.
        dtype: What the model takes; default that of its parameters.
        progress: Show a bar with the running accuracy on stderr.
        strict: Stop at an image that cannot be read, instead of naming it in the result.
        predictions: Keep the classes found most likely of every image; needs a loader of
            :func:`make_loader`, which knows the images' positions.
        subset: Positions of classes. In ``metrics.subset`` only these outputs are compared, as is
            published for sets of some of ImageNet's classes; all images must be of them.
        fixed_batch: Fill every batch up to this size, so that a compiled model is compiled once.
        stop: Asked after each batch; True ends the evaluation with a partial result.
        world: The processes that each hold a shard of the images; the result, on every one of
            them, is that of all images.

    Raises:
        ValueError: if there are no images, labels that the model has no output for or that are not
            in ``subset``, with ``strict`` an unreadable image, or if not even one image fits into
            memory.
        OSError: with ``strict``, if the system does not read an image.
    """
    model.to(device).eval()
    dtype = dtype or _model_dtype(model)
    ready = normalise or (lambda x: x)
    run = Halving(lambda x: model(ready(x).to(dtype)).float(), fixed_batch)
    compared = torch.tensor(sorted({*(subset or ())}), dtype=torch.long)
    tally = Tally(subset=None if subset is None else Tally())
    start = time.perf_counter()

    def scored(batches: Iterable[Any]) -> Iterator[tuple[Any, list[Score]]]:
        """Start the work on each batch; nothing waits for the device here."""
        for number, batch in enumerate(batches):
            if number and stop():  # something has been counted, and something is left
                tally.partial = True
                return
            pixels, labels = batch
            if isinstance(batch, Batch):
                _note_faults(batch, tally, strict)
            if len(labels):
                logits = run(pixels.to(device, non_blocking=True))
                _check_labels(labels, logits.shape[1])
                scores = [_score(tally, logits, labels)]
                if tally.subset is not None:
                    few = logits[:, compared.to(logits.device)]
                    scores.append(_score(tally.subset, few, _places(labels, compared)))
                yield batch, scores

    # A bar is drawn anew ten times a second; a log file gets a line now and then.
    shown = progress and sys.stderr is not None  # None: closed
    pace = 0.1 if shown and sys.stderr.isatty() else 30.0
    total = len(loader) if isinstance(loader, Sized) else None
    with tqdm(total=total, unit="batch", disable=not shown, mininterval=pace) as bar:
        for batch, scores in _one_behind(scored(loader)):
            for each, labels, best, losses, classes in scores:
                each.count(labels.cpu(), best.cpu(), losses.cpu(), classes)
            if predictions:
                rows = zip(batch.indices.tolist(), map(tuple, scores[0].best.tolist()), strict=True)
                tally.predictions.extend(rows)
            bar.set_postfix_str(tally.running, refresh=False)
            bar.update()
    tally.seconds = time.perf_counter() - start
    return merge((world or World()).gather(tally))


def _score(tally: Tally, logits: Tensor, labels: Tensor) -> Score:
    """Start the work on what :meth:`Tally.count` takes."""
    losses = F.cross_entropy(logits, labels.to(logits.device), reduction="none")
    classes = logits.shape[1]
    return Score(tally, labels, logits.topk(min(5, classes)).indices, losses, classes)


def _places(labels: Tensor, subset: Tensor) -> Tensor:
    """Where each label stands among those of the subset, which are sorted."""
    labels = labels.cpu()
    places = torch.searchsorted(subset, labels).clamp(max=len(subset) - 1)
    if wrong := labels[subset[places] != labels].tolist():
        raise ValueError(f"There is a label {wrong[0]}, which is not in the subset.")
    return places


def _note_faults(batch: Batch, tally: Tally, strict: bool) -> None:
    for fault in batch.faults:
        if strict:
            raise (OSError if fault.system else ValueError)(fault.text)
        if len(tally.faults) < NAMED:
            message(fault.text)
        elif len(tally.faults) == NAMED:
            message("Further ones are named in the result alone (--json).")
        tally.faults.append(fault)


def _check_labels(labels: Tensor, classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"There is a label {min(lowest, 0) or highest} and the model has {classes} classes, "
            f"0 to {classes - 1}. Evaluate it on images of the classes it was trained on."
        )
