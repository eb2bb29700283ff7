"""``train()``: a training run from its beginning, or from where it was left, to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..system.devices import choose_device
from ..system.failures import explain
from ..system.files import expanded
from ..system.processes import World, joined
from ..system.signals import SIGNALS, Stop, noting
from ..weights.rows import WeightsEnum
from .folder import RunFolder
from .loading import UnreadableImageError
from .prepare import prepare
from .recipe import PAPER, Recipe, TrainOptions, smaller_part
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
    accept_changed_data: bool = False,
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
        accept_changed_data: Whether a run may go on with other images than it was begun with. If
            those of validation have changed, the best epoch is looked for anew.

    Raises:
        ValueError: if something asked for does not exist or does not fit.
        CheckpointError: if a checkpoint is damaged or of another network.
        DivergedError: if the loss is no longer finite; what was saved before is kept.
        OSError: if a file cannot be written, memory runs out, or a process is lost.
    """
    options = options or TrainOptions()
    device = choose_device(options.device)
    with joined(device) as world, noting(*SIGNALS) as noted:
        # In a function of its own: what a run holds must be gone before the processes part.
        return _train(
            world,
            device,
            Stop(world, noted, options.time_limit),
            RunFolder(expanded(output)),
            data=data,
            model=model,
            recipe=recipe,
            options=options,
            weights=weights,
            freeze=freeze,
            resume=resume,
            accept_changed_data=accept_changed_data,
        )


def _train(
    world: World,
    device: torch.device,
    stop: Stop,
    folder: RunFolder,
    *,
    data: str | Path,
    recipe: Recipe,
    options: TrainOptions,
    **asked: Any,
) -> Summary:
    """The run of one process; its arguments are those of :func:`prepare`."""
    cure = smaller_part(recipe, world.size, options.accumulate)
    run = None
    try:
        run = prepare(
            world, device, stop, folder, data=data, recipe=recipe, options=options, **asked
        )
        return run.go()
    except UnreadableImageError as error:
        folder.note_unreadable(Path(error.path).relative_to(Path(data).expanduser()).as_posix())
        raise
    except MemoryError as error:
        raise OSError(f"Memory ran out. {cure}") from error
    except RuntimeError as error:
        if (reason := explain(error, cure, CURE)) is None:
            raise
        raise OSError(reason) from error
    finally:
        if run is not None:
            run.train_step.part()
        folder.release()
