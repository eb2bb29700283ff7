"""``train()``: a training run from its beginning, or from where it was left, to its end."""

from __future__ import annotations

from pathlib import Path

from ..system.devices import choose_device
from ..system.failures import explain
from ..system.processes import joined
from ..system.signals import SIGNALS, Stop, noting
from ..weights.rows import WeightsEnum
from .folder import RunFolder
from .prepare import prepare
from .recipe import PAPER, Recipe, TrainOptions
from .run import Summary

__all__ = ["CURE", "train"]

CURE = "Run the same command again to go on from the last save."


def train(
    data: str | Path,
    output: str | Path,
    *,
    model: str,
    recipe: Recipe = PAPER,
    options: TrainOptions | None = None,
    weights: WeightsEnum | str | Path | None = None,
    freeze: int = 0,
    resume: str | Path | None = None,
) -> Summary:
    """Train a network, or go on with the training run in ``output``.

    Writes ``last.pt`` (all that is needed to go on), ``best.pt`` (the weights of the best epoch),
    ``log.csv``, ``steps.csv``, ``curves.png`` and ``summary.json``. In a process that torchrun
    started, it trains together with the others; else alone.

    Args:
        data: Folder with train/ and val/, each with one folder per class.
        output: Folder of the run; made if it does not exist.
        model: A name of ``pyconv.list_models()``, or ``"module:function"`` for a function of your
            own, which is called with ``num_classes`` and returns a module.
        recipe: What the network learns; default the paper's recipe.
        options: How it is computed; default ``TrainOptions()``.
        weights: Published weights or a checkpoint to start from. With another number of classes,
            the classifier starts anew.
        freeze: Number of stages that keep their weights, and the stem with them; 0 for none.
        resume: A ``last.pt`` in another folder to go on from; default the one in ``output``, if
            there is one.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        CheckpointError: if a checkpoint is damaged or of another network.
        DivergedError: if the loss is no longer finite; what was saved before is kept.
        OSError: if a file cannot be written, memory runs out, or a process is lost.
    """
    options = options or TrainOptions()
    device = choose_device(options.device)
    with joined(device) as world, noting(*SIGNALS) as noted:
        stop = Stop(world, noted, options.time_limit)
        folder = RunFolder(Path(output).expanduser())
        try:
            run = prepare(
                world,
                device,
                stop,
                folder,
                data=data,
                model=model,
                recipe=recipe,
                options=options,
                weights=weights,
                freeze=freeze,
                resume=resume,
            )
            return run.go()
        except RuntimeError as error:
            cure = (
                "Compute the batch in smaller parts: the same command with --accumulate "
                f"{2 * options.accumulate} goes on from the last save."
            )
            if (reason := explain(error, cure, CURE)) is None:
                raise
            raise OSError(reason) from error
        finally:
            folder.release()
