"""Loss and accuracy over the epochs of a training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.files import expanded
from .canvas import BLUE, GREY, new_figure
from .tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["highest", "training_curves"]

SPLITS = (("train", GREY), ("val", BLUE))
WILD = 10.0  # times the usual, as after a first epoch at a large rate: it would flatten all else
PANELS = (("loss", "loss"), ("top1", "top-1 (%)"))
COLUMNS = ("epoch", *(f"{split}_{name}" for split, _ in SPLITS for name, _ in PANELS))


def highest(curves: Iterable[Sequence[float]]) -> float:
    """How high curves are drawn: up to the highest point that is not wild.

    Wild points are far above the usual ones and above all between: a loss that falls from 7 to 0.1
    in small steps has none.
    """
    points = sorted(value for values in curves for value in values if math.isfinite(value))
    if not points:
        return 1.0
    top = statistics.median_high(points) or 1.0
    for value in points:
        if value <= WILD * top:
            top = max(top, value)
    return top


def training_curves(
    log: str | Path | Sequence[Mapping[str, Any]], *, title: str | None = None
) -> Figure:
    """Draw loss and accuracy over the epochs of a training.

    A loss that is far above the others is drawn as a mark at the top, with its value in the legend.

    Args:
        log: The folder of a run of ``pyconv-train``, its ``log.csv``, or the rows of that.
        title: Above the picture.

    Raises:
        ValueError: if it is no such log.
        OSError: if the system does not read the file.
        ImportError: if matplotlib is not installed.
    """
    if isinstance(log, str | Path):
        path = expanded(log)
        path = path / "log.csv" if path.is_dir() else path
        log = read_table(path, COLUMNS, "the folder that pyconv-train --output names")
    elif any(isinstance(row, str | Path) for row in log):
        raise ValueError("Give one run at a time; a list holds the rows of its log.csv.")
    figure = new_figure(9, 3.5)
    epochs = [int(row["epoch"]) for row in log]
    for axes, (name, label) in zip(figure.subplots(1, 2), PANELS, strict=True):
        curves = {split: [float(row[f"{split}_{name}"]) for row in log] for split, _ in SPLITS}
        limit = highest(curves.values()) if name == "loss" else 100.0
        for split, colour in SPLITS:
            points = list(zip(epochs, curves[split], strict=True))
            wild = {epoch: value for epoch, value in points if value > limit}
            far = [f"{value:,.5g} in epoch {epoch}" for epoch, value in wild.items()]
            shown = [math.nan if value > limit else value for _, value in points]
            axes.plot(epochs, shown, ".-", color=colour, label=", ".join([split, *far[:2]]))
            axes.plot([*wild], [limit] * len(wild), "^", color=colour)  # it lies above
            if wild:
                axes.set_ylim(0, 1.05 * limit)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    if title:
        figure.suptitle(title)
    return figure
