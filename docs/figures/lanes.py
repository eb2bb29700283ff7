"""Draw figures/lanes.png and figures/tiles.png: why a grouped level is slow, and what helps.

python docs/figures/lanes.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from _style import COLOURS, IDLE, INK, PAPER, save
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

LANES = 16  # float32 numbers in a register of AVX-512
DARK, GREEN, AMBER, RED = COLOURS


def register(axes: Axes, left: float, bottom: float, lanes: dict[int, str]) -> None:
    """Sixteen lanes; those at work in their colour."""
    for lane in range(LANES):
        colour = lanes.get(lane, IDLE)
        axes.add_patch(Rectangle((left + lane * 0.5, bottom), 0.44, 0.6, facecolor=colour, lw=0))


def lanes() -> None:
    """The lanes that compute something useful, for each algorithm."""
    rows = [
        ("plain convolution", "16 output channels of one pixel", dict.fromkeys(range(16), DARK)),
        ("native, one output channel per group", "15 of 16 lanes idle", {0: RED}),
        ("tiled:4x2", "8 pixels of one channel at once", dict.fromkeys(range(8), GREEN)),
        (
            "tiled:4x2:merge=2",
            "8 pixels of two channels, half of the products zero",
            {n: (GREEN if n < 8 else AMBER) for n in range(16)},
        ),
        ("direct", "16 neighbouring groups at once, no zeros", dict.fromkeys(range(16), DARK)),
    ]
    figure, axes = plt.subplots(figsize=(8.4, 3.6), dpi=160)
    axes.set(xlim=(0, 16.6), ylim=(-0.2, 6.2), aspect="equal")
    axes.axis("off")
    for index, (name, text, busy) in enumerate(rows):
        bottom = 5.4 - 1.35 * index
        register(axes, 8.4, bottom, busy)
        axes.text(0, bottom + 0.32, name, va="bottom", fontsize=10, weight="bold")
        axes.text(0, bottom + 0.22, text, va="top", fontsize=8.5)
    save(figure, "lanes")


def grid(axes: Axes, left: float, bottom: float, size: int, step: float = 0.4) -> None:
    for x in range(size):
        for y in range(size):
            cell = (left + x * step, bottom + y * step)
            axes.add_patch(Rectangle(cell, step * 0.9, step * 0.9, facecolor=PAPER, lw=0))


def window(axes: Axes, corner: tuple[float, float], size: tuple[int, int], colour: str) -> None:
    axes.add_patch(
        Rectangle(corner, size[0] * 0.4, size[1] * 0.4, fill=False, edgecolor=colour, lw=1.6)
    )


def tiles() -> None:
    """Two neighbouring pixels see almost the same input; one larger kernel computes both."""
    figure, axes = plt.subplots(figsize=(8.4, 2.9), dpi=160)
    axes.set(xlim=(-0.2, 17), ylim=(-0.9, 4.5), aspect="equal")
    axes.axis("off")
    for left, title in ((0, "two pixels, two 5x5 windows"), (6, "one 6x5 window for both")):
        grid(axes, left, 0, 9)
        axes.text(left + 1.8, 4.0, title, ha="center", fontsize=9.5, weight="bold")
    window(axes, (0.8, 0.8), (5, 5), RED)
    window(axes, (1.2, 0.86), (5, 5), GREEN)
    window(axes, (6.8, 0.8), (6, 5), DARK)
    for left in (0, 6):
        for x, colour in ((left + 1.6, RED), (left + 2.0, GREEN)):
            axes.add_patch(Rectangle((x, 1.6), 0.36, 0.36, facecolor=colour, lw=0))
    axes.text(11.2, 4.0, "the kernels of the two pixels", fontsize=9.5, weight="bold")
    for row, (shift, colour) in enumerate(((0, RED), (1, GREEN))):
        bottom = 2.1 - 2.2 * row
        for x in range(6):
            for y in range(5):
                used = shift <= x < shift + 5
                axes.add_patch(
                    Rectangle(
                        (11.4 + 0.32 * x, bottom + 0.32 * y), 0.29, 0.29,
                        facecolor=colour if used else IDLE, lw=0,
                    )
                )  # fmt: skip
        text = "the same 5x5 weights,\nand a column of zeros"
        axes.text(13.7, bottom + 0.8, text, va="center", fontsize=8.5)
    text = "30 products per input channel instead of 25, and two lanes at work instead of one"
    axes.text(0, -0.55, text, fontsize=9, color=INK)
    save(figure, "tiles")


if __name__ == "__main__":
    lanes()
    tiles()
