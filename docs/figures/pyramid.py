"""Draw figures/pyramid.png: what each level of a pyramid sees, and how many channels it gives.

python docs/figures/pyramid.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from _style import COLOURS, INK, PAPER, save

from pyconv.architectures import ARCHITECTURES
from pyconv.levels import share_channels

SIDE = 11  # pixels drawn of the map


def draw_map(
    axes: Axes, left: float, bottom: float, pixel: float, kernel: int, colour: str
) -> None:
    """A feature map with the window of one kernel on it."""
    size = SIDE * pixel
    axes.add_patch(Rectangle((left, bottom), size, size, facecolor=PAPER, edgecolor="none"))
    start = (SIDE - kernel) / 2 * pixel
    window = (left + start, bottom + start)
    axes.add_patch(
        Rectangle(window, kernel * pixel, kernel * pixel, facecolor=colour, alpha=0.85, lw=0)
    )
    for line in range(SIDE + 1):
        axes.plot([left, left + size], [bottom + line * pixel] * 2, color="white", lw=0.8)
        axes.plot([left + line * pixel] * 2, [bottom, bottom + size], color="white", lw=0.8)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, lw=1.4)
    )


def main() -> None:
    stage = ARCHITECTURES["pyconvresnet50"].stages[0]
    shares = share_channels(stage.planes, len(stage.kernels))
    figure, axes = plt.subplots(figsize=(9, 4.3), dpi=160)
    axes.set(xlim=(0, 16.4), ylim=(0, 8.6), aspect="equal")
    axes.axis("off")

    axes.add_patch(Rectangle((0.4, 2.6), 1.1, 3.4, facecolor="#9aa5a8", lw=0))
    axes.text(0.95, 2.2, f"{stage.planes}", ha="center", va="top", color=INK, fontsize=11)
    axes.text(0.95, 6.3, "input", ha="center", color=INK, fontsize=11)
    rows = list(zip(stage.kernels, stage.groups, shares, COLOURS, strict=True))
    top = 0.0
    for index, (kernel, groups, share, colour) in enumerate(rows):
        middle = 7.4 - 2.1 * index
        arrow(axes, (1.7, 4.3), (4.2, middle), colour)
        draw_map(axes, 4.4, middle - 0.88, 0.16, kernel, colour)
        label = f"{kernel}×{kernel}"
        axes.text(6.6, middle + 0.12, label, color=colour, fontsize=15, weight="bold", va="bottom")
        grouped = "every channel" if groups == 1 else f"{groups} groups"
        axes.text(6.6, middle - 0.08, grouped, color=INK, fontsize=10, va="top")
        height = 3.4 * share / stage.planes
        bottom = 6.0 - top - height
        arrow(axes, (9.4, middle), (13.9, bottom + height / 2), colour)
        axes.add_patch(Rectangle((14.1, bottom), 1.1, height, facecolor=colour, lw=0))
        axes.text(15.4, bottom + height / 2, str(share), color=colour, fontsize=11, va="center")
        top += height
    axes.text(14.65, 6.3, "output", ha="center", color=INK, fontsize=11)
    axes.text(14.65, 2.2, f"{sum(shares)}", ha="center", va="top", color=INK, fontsize=11)
    save(figure, "pyramid")


if __name__ == "__main__":
    main()
