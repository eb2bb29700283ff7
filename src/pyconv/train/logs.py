"""The logs of a training run: messages, tables, curves, TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.files import naming, replacing
from ..system.streams import message
from ..viz.curves import training_curves
from .progress import Progress

__all__ = [
    "Board",
    "RunLogs",
    "append_steps",
    "draw_curves",
    "start_steps",
    "write_table",
]

Row = Mapping[str, Any]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, whole or not at all; without rows, an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # names need not be UTF-8


def start_steps(path: Path, epoch: int, step: int) -> None:
    """Begin ``steps.csv``, or keep its rows of the steps before (epoch, step), both from 0.

    Its columns are epoch and step (from 1), learning rate and mean loss.
    """
    lines = path.read_text("utf-8", "replace").splitlines()[1:] if path.is_file() else []
    before = [line for line in lines if _is_before(line, epoch, step)]
    with replacing(path) as file:
        file.write("\n".join(["epoch,step,lr,loss", *before, ""]).encode())


def append_steps(path: Path, rows: Sequence[tuple[int, int, float, float]]) -> None:
    """Append the rows of some steps to ``steps.csv``."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.writelines(f"{e},{s},{lr:.6g},{loss:.9g}\n" for e, s, lr, loss in rows)


def _is_before(line: str, epoch: int, step: int) -> bool:
    fields = line.split(",")
    if len(fields) != 4 or not (fields[0].isdecimal() and fields[1].isdecimal()):
        return False  # a line that a kill cut short
    return (int(fields[0]) - 1, int(fields[1]) - 1) < (epoch, step)


def draw_curves(path: Path, title: str, history: Sequence[Row]) -> bool:
    """Draw loss and accuracy over the epochs; False where matplotlib is not installed."""
    try:
        figure = training_curves(history, title=title)
    except ImportError:
        return False
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return True


class Board:
    """TensorBoard's event files in a folder.

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
        # Hides what an earlier process wrote of epochs that are now trained again.
        self.writer: Any = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, row: Row) -> None:
        """Write the figures of an epoch."""
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self.writer.flush()


@dataclass
class RunLogs:
    """All logs of a run, in its folder. Only the first process calls its methods."""

    folder: Path
    title: str  # of the curves
    epochs: int
    board: Board | None

    def start(self, progress: Progress) -> None:
        """Bring the files to where the run is: a kill may have come between a save and them."""
        if progress.history:
            self._write_history(progress.history)
        start_steps(self.folder / "steps.csv", progress.epoch, progress.step)

    def steps(self, rows: Sequence[tuple[int, int, float, float]]) -> None:
        """Log some steps: epoch and step (from 1), learning rate, mean loss."""
        append_steps(self.folder / "steps.csv", rows)

    def epoch(self, progress: Progress) -> None:
        """Log the last epoch."""
        history, row = progress.history, progress.last_row
        message(
            f"epoch {row['epoch']}/{self.epochs}: loss {row['train_loss']:.4f}, validation "
            f"top-1 {row['val_top1']:.2f} % (best {progress.best_top1:.2f}), "
            f"{row['images_per_second']:,.0f} images/s"
        )
        drawn = self._write_history(history)
        if not drawn and row["epoch"] == 1:
            message("curves.png is left out: it needs matplotlib (pip install matplotlib).")
        if self.board is not None:
            self.board.write(row)

    def _write_history(self, history: Sequence[Row]) -> bool:
        """Write the table and the curves of all epochs; False where matplotlib is not installed."""
        write_table(self.folder / "log.csv", history)
        return draw_curves(self.folder / "curves.png", self.title, history)
