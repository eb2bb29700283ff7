"""What the figures have in common."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#264653", "#2a9d8f", "#e9a03b", "#d1495b")
INK, PAPER, IDLE = "#333333", "#f4f1ea", "#dcd8cf"
HERE = Path(__file__).parent

plt.rcParams.update(
    {"text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "svg.hashsalt": "pyconv"}
)


def save(figure: Figure, name: str) -> None:
    """Write a figure that is the same, bit for bit, whenever it is drawn by the same matplotlib."""
    figure.savefig(
        HERE / f"{name}.png", bbox_inches="tight", pad_inches=0.1, metadata={"Software": None}
    )
    plt.close(figure)
