"""How far a training run is: plain numbers, saved and read with the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Progress"]


@dataclass
class Progress:
    """How far a run is. ``epoch`` and ``step`` count from 0 and name what comes next."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # these four: sums over the steps of the epoch so far
    correct: float = 0.0  # training images
    waiting: float = 0.0  # seconds, for images
    seconds: float = 0.0
    before: float = 0.0  # seconds of the earlier processes of the run
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each complete epoch
    compared_from: int = 0  # the first epoch that was validated on the images of now

    @classmethod
    def of(cls, state: dict[str, Any] | None) -> Progress:
        """The progress in a saved state; that of a new run for None."""
        if state is None:
            return cls()
        return cls(
            **state["position"],
            **state["totals"],
            history=state["history"],
            compared_from=state.get("compared_from", 0),
        )

    def state(self, seconds: float) -> dict[str, Any]:
        """What :meth:`of` reads besides ``history`` and ``compared_from``.

        ``seconds`` is the time of the run so far.
        """
        return {
            "position": {"epoch": self.epoch, "step": self.step},
            "totals": {
                "loss": self.loss,
                "correct": self.correct,
                "waiting": self.waiting,
                "seconds": self.seconds,
                "before": seconds,
            },
        }

    def row(
        self, lr: float, steps: int, batch_size: int, validation: dict[str, float]
    ) -> dict[str, Any]:
        """The row of the epoch, whose steps are all done.

        Args:
            lr: The learning rate at its beginning.
            steps: The steps of an epoch.
            batch_size: The images of a step.
            validation: The columns of the validation.
        """
        images, seconds = steps * batch_size, max(self.seconds, 1e-9)
        return {
            "epoch": self.epoch + 1,
            "lr": lr,
            "train_loss": self.loss / steps,
            "train_top1": 100 * self.correct / images,
            **validation,
            "images_per_second": images / seconds,
            "waiting_percent": 100 * self.waiting / seconds,
            "seconds": seconds,
        }

    def end_epoch(self, row: dict[str, Any]) -> bool:
        """Add the row of an epoch and begin the next; whether it is the best epoch so far."""
        better = self.best_top1 is None or row["val_top1"] > self.best_top1
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss = self.correct = self.waiting = self.seconds = 0.0
        return better

    @property
    def best_top1(self) -> float | None:
        """The best accuracy on the validation images of now, in percent; None before the first."""
        return max((row["val_top1"] for row in self.history[self.compared_from :]), default=None)

    @property
    def last_row(self) -> dict[str, Any]:
        """The row of the last epoch, on the validation images of now; empty before the first."""
        return self.history[-1] if len(self.history) > self.compared_from else {}
