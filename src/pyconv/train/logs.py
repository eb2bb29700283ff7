"""What a training run lets its owner see: tables and curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..system.files import naming, replacing

__all__ = ["Board", "StepLog", "draw_curves", "write_table"]

Row = Mapping[str, Any]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, whole or not at all; an empty table is an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


class StepLog:
    """``steps.csv``: epoch (from 1), step (from 1), learning rate and mean loss of every step."""

    def __init__(self, path: Path, epoch: int, step: int) -> None:
        """Keep what an earlier process wrote of the steps before (epoch, step), both from 0."""
        self.path = path
        lines = path.read_text("utf-8").splitlines()[1:] if path.is_file() else []
        before = [line for line in lines if _is_before(line, epoch, step)]
        with replacing(path) as file:
            file.write("\n".join(["epoch,step,lr,loss", *before, ""]).encode())

    def write(self, rows: Sequence[tuple[int, int, float, float]]) -> None:
        """Append the rows of some steps."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{e},{s},{lr:.6g},{loss:.9g}\n" for e, s, lr, loss in rows)


def _is_before(line: str, epoch: int, step: int) -> bool:
    fields = line.split(",")
    if len(fields) != 4 or not (fields[0].isdecimal() and fields[1].isdecimal()):
        return False  # a line that a kill cut short
    return (int(fields[0]) - 1, int(fields[1]) - 1) < (epoch, step)


def draw_curves(path: Path, title: str, history: Sequence[Row]) -> bool:
    """Draw loss and accuracy over the epochs; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, name, label in (
        (losses, "loss", "loss"),
        (accuracies, "top1", "top-1 (%)"),
    ):
        for split, colour in (("train", "tab:gray"), ("val", "tab:blue")):
            values = [row[f"{split}_{name}"] for row in history]
            axes.plot(epochs, values, ".-", color=colour, label=split)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return True


class Board:
    """TensorBoard's event files in ``<output>/tensorboard``.

    Raises:
        ValueError: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "--tensorboard needs TensorBoard: pip install tensorboard, or leave it out."
            ) from None
        # What an earlier process wrote of the epochs now trained again is hidden.
        self.writer: Any = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, row: Row) -> None:
        """Show the figures of an epoch."""
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self.writer.flush()
