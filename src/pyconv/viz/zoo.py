"""The published networks: accuracy against cost."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architectures import ARCHITECTURES
from ..weights.rows import ENUMS
from .canvas import BLUE, GREY, INK, RED, TIMES, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "accuracy_against_cost", "published_points"]


class Point(NamedTuple):
    """A published set of weights in the picture."""

    family: str  # of the network, such as PyConvResNet
    recipe: str  # the name of the set, such as IMAGENET1K_V1
    depth: str
    gmacs: float  # 1e9 multiply-adds for one image
    top1: float  # percent, as its authors claim

    @property
    def line(self) -> str:
        """What joins points to a line."""
        augmented = self.recipe != "IMAGENET1K_V1"
        return self.family + ", augmented" * augmented


def published_points() -> list[Point]:
    """The published sets at their default crop: by line, then by cost."""
    points = []
    for member in (member for enum in ENUMS for member in enum):
        row, network = member.value, ARCHITECTURES.get(member.value.model)
        if row.dataset == "ImageNet-1K" and network is not None:
            family, _, depth = network.title.rpartition("-")
            points.append(Point(family, member.name, depth, row.gmacs, row.top1[0][1]))
    return sorted(points, key=lambda point: (point.line, point.gmacs))


OTHER = (INK, "^", "-", False)
LINES = {  # colour, marker, style, and whether the words are above the points
    "ResNet": (GREY, "o", "-", False),
    "PyConvResNet": (BLUE, "o", "-", True),
    "PyConvHGResNet": (RED, "s", "-", False),
    "PyConvResNet, augmented": (BLUE, "o", "--", False),
}


def accuracy_against_cost(*, ax: Axes | None = None) -> Figure:
    """Draw the accuracy of the published networks on ImageNet against their multiply-adds.

    For one image of 224x224 pixels. The accuracies are the authors' claims, which this project has
    not measured; the picture says so.

    Args:
        ax: Where to draw; default a new figure, which is returned.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure, axes = place(ax, 7.5, 4.6)
    for name, group in groupby(published_points(), key=lambda point: point.line):
        points = list(group)
        colour, marker, style, above = LINES.get(name, OTHER)
        costs, accuracies = zip(*((point.gmacs, point.top1) for point in points), strict=True)
        fill = colour if style == "-" else "white"
        axes.plot(
            costs, accuracies, color=colour, ls=style, marker=marker, ms=7, mfc=fill, label=name
        )
        words: Any = {"textcoords": "offset points", "color": INK}
        for point in points:
            where, va = ((0, 6), "bottom") if above else ((0, -7), "top")
            xy = point.gmacs, point.top1
            axes.annotate(point.depth, xy, where, fontsize=9, ha="center", va=va, **words)
        where, ha = ((0, 22), "center") if above else ((9, 0), "left")
        xy = points[-1].gmacs, points[-1].top1
        axes.annotate(name, xy, where, fontsize=10, ha=ha, va="center", **words)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.05, y=0.12)
    axes.set_xlim(right=15)
    axes.set_xlabel(f"multiply-adds for one image of 224{TIMES}224 pixels, 1e9", color=INK)
    axes.set_ylabel("ImageNet top-1, %", color=INK)
    axes.set_title("Accuracy as claimed by the authors; not measured here", color=INK, fontsize=11)
    return figure
