"""The losses of the last steps, kept on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from ..system.processes import World

__all__ = ["LossMeter"]


class LossMeter:
    """Losses and correct images of the steps since the last read.

    A step adds to tensors on the device and waits for nothing. Only :meth:`read` waits.

    Args:
        steps: The most steps between two reads.
        device: The device of the train step.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.rates: list[float] = []
        # A loss for each step, then the correct images.
        self.sums: Tensor = torch.zeros(steps + 1, device=device)

    def next(self, rate: float) -> tuple[Tensor, Tensor]:
        """Scalars for the next step to add its loss and its correct images to.

        Args:
            rate: The learning rate of the step.
        """
        loss = self.sums[len(self.rates)]
        self.rates.append(rate)
        return loss, self.sums[-1]

    def read(self, world: World, waited: float) -> tuple[list[tuple[float, float]], float, float]:
        """Read the sums over all processes and begin anew.

        Args:
            world: The processes; all of them read at the same step.
            waited: The seconds that this process waited for images.

        Returns:
            (learning rate, mean loss) of each step; correct images; mean of the seconds waited.
        """
        here = torch.cat([self.sums.cpu(), torch.tensor([waited])])
        *losses, correct, waiting = world.total(here).tolist()
        steps = [(rate, loss / world.size) for rate, loss in zip(self.rates, losses, strict=False)]
        self.rates.clear()
        self.sums.zero_()
        return steps, correct, waiting / world.size
