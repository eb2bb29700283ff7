"""``train()``: a training from beginning to end, or from where it was left."""

from __future__ import annotations

from pathlib import Path

from ..system.devices import choose_device
from ..system.failures import explain
from ..system.processes import SIGNALS, Stop, joined, noting
from ..weights.rows import WeightsEnum
from .recipe import PAPER, Engine, Recipe
from .run import Run, Summary

__all__ = ["train"]


def train(
    data: str | Path,
    output: str | Path,
    *,
    model: str,
    recipe: Recipe = PAPER,
    engine: Engine | None = None,
    weights: WeightsEnum | str | Path | None = None,
    freeze: int = 0,
    resume: str | Path | None = None,
) -> Summary:
    """Train a network, or go on with the training that lies in ``output``.

    Writes ``last.pt`` (all that it takes to go on), ``best.pt`` (the weights of the best epoch),
    ``log.csv``, ``steps.csv``, ``curves.png`` and ``summary.json``. In a process that torchrun
    started, it trains together with the others; else alone.

    Args:
        data: Folder with train/ and val/, each with one folder per class.
        output: Folder to write; made if it is not there.
        model: A name of ``pyconv.list_models()``, or ``"module:factory"``: a function of one's
            own that is called with ``num_classes`` and returns a module.
        recipe: What is learned.
        engine: How it is computed; default ``Engine()``.
        weights: Published weights or a checkpoint to start from; another number of classes is
            welcome.
        freeze: Number of stages that keep their weights, the stem with them; 0 for none.
        resume: A ``last.pt`` elsewhere to go on from; default the one in ``output``, if any.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        CheckpointError: if a checkpoint is damaged or of another network.
        DivergedError: if the loss is no longer finite; what was saved before is kept.
        OSError: if something cannot be written, memory runs out, or a process is lost.
    """
    engine = engine or Engine()
    device = choose_device(engine.device)
    with joined(device) as world, noting(*SIGNALS) as noted:
        stop = Stop(world, noted, engine.time_limit)
        run = Run(world, device, stop, Path(output).expanduser(), recipe, engine)
        try:
            run.prepare(data, model, weights, freeze, resume)
            return run.go()
        except RuntimeError as error:
            cure = (
                "Compute the batch in smaller parts: the same command with --accumulate "
                f"{2 * engine.accumulate} goes on from the last save."
            )
            if (told := explain(error, cure, CURE)) is None:
                raise
            raise OSError(told) from error
        finally:
            run.close()


CURE = "Run the same command again to go on from the last save."
