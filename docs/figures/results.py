"""Draw what was measured: inference.png and training.png from the summary in benchmark-tables.md,
and fashion_mnist.png from fashion_mnist.json, which benchmarks/fashion_mnist.py wrote.

python docs/figures/results.py
"""

from __future__ import annotations

import json
import re
from statistics import mean

import matplotlib.pyplot as plt
from _style import COLOURS, HERE, IDLE, save
from matplotlib.axes import Axes

NETWORKS = ("PyConvResNet-50", "PyConvHGResNet-50")
MACHINES = ("AVX2", "AVX-512", "AVX-512 and AMX", "H100")
BARS = {
    "inference": (
        ("`optimize`, float32", COLOURS[1]),
        ("`optimize(compile=True)`, float32", COLOURS[0]),
        ("`optimize(compile=True)`, bfloat16", COLOURS[2]),
    ),
    "training": (
        ("training step, float32", COLOURS[0]),
        ("training step, bfloat16", COLOURS[2]),
    ),
}


def summary() -> dict[str, list[tuple[float, ...]]]:
    """Of each row and machine, the speed-up of both networks; empty where there is none."""
    text = (HERE.parent / "benchmark-tables.md").read_text("utf-8")
    table = text.partition("## Summary")[2].partition("\n## ")[0]
    rows = (line.strip("|\n ").split("|") for line in table.splitlines() if line.startswith("|"))
    return {name.strip(): [figures(cell) for cell in cells] for name, *cells in rows}


def figures(cell: str) -> tuple[float, ...]:
    """``1.64 / 2.21``, ``10.7 to 11.2 / 12.7 to 15.9`` (the mean of a range)."""
    sides = [re.findall(r"\d+\.\d+", side) for side in cell.split("/")]
    return tuple(mean(map(float, side)) for side in sides if side)


def chart(axes: Axes, network: int, rows: tuple[tuple[str, str], ...]) -> None:
    data = summary()
    height = 0.8 / len(rows)
    for place in range(len(MACHINES)):
        for index, (name, colour) in enumerate(rows):
            found = data[name][place]
            y = place + (index - (len(rows) - 1) / 2) * height
            if found:
                axes.barh(y, found[network], height * 0.86, color=colour)
                axes.text(found[network] + 0.15, y, f"{found[network]:.1f}", va="center", size=8.5)
            else:
                axes.text(1.15, y, "no arithmetic for it", va="center", size=7.5, color="#777777")
    axes.axvline(1, color=IDLE, lw=1.2, zorder=0)
    axes.set_yticks(range(len(MACHINES)), MACHINES)
    axes.set_title(NETWORKS[network], fontsize=10.5, loc="left", weight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=9)


def study() -> None:
    """Top-1 after each epoch: of each seed, and the mean of a network."""
    rows = json.loads((HERE.parent / "fashion_mnist.json").read_text("utf-8"))["rows"]
    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=160)
    names = {"pyconvresnet_tiny": "pyramids", "resnet_tiny": "3x3 convolutions"}
    for (name, label), colour in zip(names.items(), COLOURS[1::2], strict=True):
        seeds = rows[name]["epochs_top1"]
        epochs = range(1, len(seeds[0]) + 1)
        for curve in seeds:
            axes.plot(epochs, curve, color=colour, lw=0.8, alpha=0.45)
        means = [mean(each) for each in zip(*seeds, strict=True)]
        axes.plot(epochs, means, color=colour, lw=2, label=f"{label}: {means[-1]:.2f}")
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("top-1, %", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save(figure, "fashion_mnist")


def main() -> None:
    study()
    for name, rows in BARS.items():
        figure, both = plt.subplots(
            1, 2, figsize=(9, 1.0 + 0.42 * len(rows) * 2.4), dpi=160, sharey=True, sharex=True
        )
        for network, axes in enumerate(both):
            chart(axes, network, rows)
        both[0].invert_yaxis()  # and with it the other's
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in rows]
        labels = [text.replace("`", "") for text, _ in rows]
        figure.legend(handles, labels, loc="upper center", ncols=len(rows), frameon=False,
                      fontsize=9, bbox_to_anchor=(0.5, 0.02))  # fmt: skip
        figure.supxlabel("times as fast as the original's computation", fontsize=9, y=0.02)
        figure.tight_layout()
        save(figure, name)


if __name__ == "__main__":
    main()
