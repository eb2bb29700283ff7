"""Loss and accuracy over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.files import expanded
from .canvas import BLUE, GREY, new_figure
from .tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["training_curves"]

SPLITS = (("train", GREY), ("val", BLUE))
PANELS = (("loss", "loss"), ("top1", "top-1 (%)"))
COLUMNS = ("epoch", *(f"{split}_{name}" for split, _ in SPLITS for name, _ in PANELS))


def training_curves(
    log: str | Path | Sequence[Mapping[str, Any]], *, title: str | None = None
) -> Figure:
    """Draw loss and accuracy over the epochs of a training.

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
    figure = new_figure(9, 3.5)
    epochs = [int(row["epoch"]) for row in log]
    for axes, (name, label) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for split, colour in SPLITS:
            values = [float(row[f"{split}_{name}"]) for row in log]
            axes.plot(epochs, values, ".-", color=colour, label=split)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    if title:
        figure.suptitle(title)
    return figure
