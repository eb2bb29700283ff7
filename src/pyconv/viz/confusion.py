"""The confusion matrix of an evaluation, and the pairs of classes confused most."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.folders import ImageList
from ..data.imagenet import word
from ..system.files import expanded
from .canvas import INK, Listable, listed, new_figure, place
from .tables import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Labels = Sequence[int] | Sequence[str] | Listable

__all__ = ["Confused", "Evaluated", "confusion_counts", "confusion_matrix", "most_confused"]
__all__ += ["coarse", "outcomes", "percentages"]

NUMBERS = 12  # classes, up to which every cell has its number
WORDS = 40  # classes, up to which every row has its word
PAIRS = 12  # that are told where there are more
NO_IMAGES = "#D0D4D8"
CELLS = 250  # of a side, up to which each is drawn


class Evaluated(Protocol):
    """What :func:`pyconv.evaluate.evaluate` returns, with ``predictions=True``."""

    @property
    def predictions(self) -> Sequence[tuple[int, Sequence[int]]]:
        """The position of each image, and the classes found most likely for it."""


class Confused(NamedTuple):
    """Images of one class that were taken for another."""

    truth: str
    predicted: str
    images: int
    of: int  # all images of the class

    @property
    def text(self) -> str:
        """The pair in a line."""
        return f"{self.truth} → {self.predicted}"


def outcomes(
    result: str | Path | Evaluated | Labels,
    predicted: Labels | None = None,
    images: ImageList | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[list[int], list[int], list[str]]:
    """True classes, classes found, and the words of all; arguments as of `confusion_matrix`.

    Raises:
        ValueError: if a file is none of predictions, or labels and classes do not fit.
    """
    truths: Sequence[int | str]
    found: Sequence[int | str]
    if isinstance(result, str | Path):
        wanted = "the file that pyconv-eval --predictions FILE writes"
        rows = read_table(expanded(result), ("path", "label", "top1"), wanted)
        truths, found = [row["label"] for row in rows], [row["top1"] for row in rows]
    elif hasattr(result, "predictions"):
        if images is None or not result.predictions:
            raise ValueError(
                "Of the result of evaluate(), the matrix needs predictions=True there, and the "
                "labels of the images here: images=."
            )
        truths = [images.samples[index][1] for index, _ in result.predictions]
        found = [best[0] for _, best in result.predictions]
        classes = images.classes if classes is None else classes
    else:
        if predicted is None:
            raise ValueError("Give the predicted classes as well: predicted=.")
        truths, found = listed(result), listed(predicted)
    if not truths or len(truths) != len(found):
        raise ValueError(f"There are {len(truths)} true classes and {len(found)} predicted ones.")
    return _numbered(truths, found, classes)


def _numbered(
    truths: Sequence[int | str], found: Sequence[int | str], classes: Sequence[str] | None
) -> tuple[list[int], list[int], list[str]]:
    """Words as positions among all classes; by default those that occur, in sorted order."""
    seen = {*truths, *found}
    if all(isinstance(label, Integral) for label in seen):
        numbers = [int(label) for label in seen]
        words = [str(n) for n in range(max(numbers) + 1)] if classes is None else list(classes)
        if min(numbers) < 0 or max(numbers) >= len(words):
            wrong = min(numbers) if min(numbers) < 0 else max(numbers)
            raise ValueError(f"The class {wrong} is none of 0 to {len(words) - 1}.")
        return [int(t) for t in truths], [int(f) for f in found], words
    words = sorted(map(str, seen)) if classes is None else list(classes)
    positions = {word: position for position, word in enumerate(words)}
    if strange := sorted({str(label) for label in seen} - positions.keys()):
        raise ValueError(f"{strange[0]!r} is none of the {len(words)} classes.")
    return [positions[str(t)] for t in truths], [positions[str(f)] for f in found], words


def confusion_counts(truths: Sequence[int], found: Sequence[int], classes: int) -> Tensor:
    """How many images of each class (row) were taken for each class (column)."""
    cells = torch.tensor(truths) * classes + torch.tensor(found)
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def percentages(counts: Tensor) -> Tensor:
    """The counts in percent of their row; not a number in a row without images."""
    return 100 * counts / counts.sum(1, keepdim=True)


def coarse(percent: Tensor) -> Tensor:
    """At most 250 rows and columns, which a screen has the pixels for: the largest of a block."""
    block = -(-len(percent) // CELLS)
    filled = percent.nan_to_num(-1)[None]
    largest = F.max_pool2d(filled, block, ceil_mode=True)[0]
    return largest.masked_fill(largest < 0, torch.nan)


def most_confused(counts: Tensor, words: Sequence[str], most: int = PAIRS) -> list[Confused]:
    """The pairs of different classes that are confused most, by the share of the true class."""
    totals = counts.sum(1)
    wrong = counts.clone().fill_diagonal_(0)
    pairs = [
        Confused(words[row], words[column], int(wrong[row, column]), int(totals[row]))
        for row, column in wrong.nonzero().tolist()
    ]
    return sorted(pairs, key=lambda pair: (-pair.images / pair.of, -pair.images))[:most]


def confusion_matrix(
    result: str | Path | Evaluated | Labels,
    predicted: Labels | None = None,
    *,
    images: ImageList | None = None,
    classes: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw which classes were taken for which: true ones as rows, each with the sum 100 %.

    Up to 12 classes every cell has its number, up to 40 every row its word; with more, the pairs
    that are confused most stand beside the matrix, and beyond 250 a cell is the largest of several.
    A row without images is grey.

    Args:
        result: The file that ``pyconv-eval --predictions`` wrote; or the metrics of
            ``evaluate(..., predictions=True)``, with ``images``; or the true classes, as positions
            or words, with ``predicted``.
        predicted: The classes that were found.
        images: The images of the evaluation, as of :func:`pyconv.data.find_images`.
        classes: The words of all classes in order; default those of ``images``, else those that
            occur, sorted. ImageNet's synsets are drawn as words.
        title: Above the picture.
        ax: Where to draw the matrix alone; default a new figure, which is returned.

    Raises:
        ValueError: if the file holds no predictions, or labels and classes do not fit.
        OSError: if the system does not read the file.
        ImportError: if matplotlib is not installed.
    """
    truths, found, names = outcomes(result, predicted, images, classes)
    words = [word(name) for name in names]
    counts = confusion_counts(truths, found, len(words))
    count = len(words)
    beside = None
    if ax is None and count > WORDS:
        figure = new_figure(11, 5.2)
        axes, beside = figure.subplots(1, 2, width_ratios=[1, 1])
    else:
        side = max(0.55 * min(count, NUMBERS), 0.25 * count, 3.2)
        figure, axes = place(ax, side + 1.6, side + 1.0)
    _draw(axes, counts, words)
    if beside is not None:
        _draw_pairs(beside, most_confused(counts, words))
    right = int(counts.diagonal().sum())
    told = f"{right:,} of {len(truths):,} images right"
    axes.set_title(f"{title}\n{told}" if title else told, color=INK, fontsize=11)
    return figure


def _draw(axes: Axes, counts: Tensor, words: Sequence[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    count = len(words)
    percent = percentages(counts)
    reach = (-0.5, count - 0.5, count - 0.5, -0.5)
    picture = axes.imshow(
        coarse(percent).numpy(),
        cmap=colormaps["Blues"].with_extremes(bad=NO_IMAGES),
        norm=PowerNorm(0.5, 0, 100),  # so that a few percent are seen
        interpolation="nearest",
        extent=reach,
    )
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    if count <= WORDS:
        size = 10 if count <= NUMBERS else 8
        slanted: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(range(count), words, fontsize=size, **slanted)
        axes.set_yticks(range(count), words, fontsize=size)
    if count <= NUMBERS:
        for row, column in counts.nonzero().tolist():
            share = float(percent[row, column])
            colour = "white" if share > 35 else INK
            text = f"{share:.0f}" if share >= 1 else "<1"
            axes.text(column, row, text, color=colour, fontsize=9, ha="center", va="center")
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.7, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of the images of the class", color=INK)


def _draw_pairs(axes: Axes, pairs: Sequence[Confused]) -> None:
    """The pairs as bars, the one confused most on top."""
    shares = [100 * pair.images / pair.of for pair in pairs]
    axes.barh(range(len(pairs)), shares, color="#9ecae1", height=0.75)
    for y, pair in enumerate(pairs):
        words = f"{pair.text}  {pair.images} of {pair.of}"
        axes.text(0.01 * max(shares), y, words, color=INK, fontsize=9, va="center")
    axes.invert_yaxis()
    axes.set(yticks=[])
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("% of the images of the class", color=INK)
    axes.set_title("confused most", color=INK, fontsize=11)
