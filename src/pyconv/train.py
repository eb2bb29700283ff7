"""Train a network of the zoo, or one's own, on labelled images: ``train()`` and pyconv-train.

    pyconv-train /data/imagenet --model pyconvresnet50 --output runs/first --nproc-per-node gpu

A run can be killed at any moment: the same command goes on where the last save was, and ends with
the weights that the undisturbed run would have ended with.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .distributed import SIGNALS, Stop, joined, launch, noting, processes
from .files import require_writable, write_result
from .machine import choose_device
from .memory import explain, kept
from .recipe import PAPER, RECIPES, Engine, Recipe
from .run import DivergedError, Run, Summary
from .weights import WeightsEnum

__all__ = ["DivergedError", "Engine", "Recipe", "Summary", "main", "train"]


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


EXAMPLES = """\
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/paper --nproc-per-node gpu
      the paper's recipe on all GPUs of this machine
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/augment --recipe augment \\
      --accumulate 8
      the recipe of the best published weights, its batch of 1024 in parts of 128
  pyconv-train /data/flowers --model pyconvresnet50 --output runs/flowers --weights DEFAULT \\
      --freeze 2 --epochs 20 --milestones 15 --batch-size 64 --lr 0.01
      fine-tune the published weights to other classes
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m pyconv.train /data/imagenet --model pyconvresnet50 --output runs/two-hosts
      on two machines: the same command on each
exit codes: 0 done, 1 failed, 2 wrong usage or bad input; saved and left early: 124 time limit,
130 interrupted, 143 terminated. The same command goes on where a run was left.
"""


def seconds(text: str) -> float:
    """A duration such as ``90s``, ``30m`` or ``8h`` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 30m or 8h")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("pyconv-train", "Train a network on labelled images.", EXAMPLES)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--model", required=True, help="of pyconv.list_models(), or module:factory")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="paper", help="default: paper; see its flags below"
    )
    parser.add_argument("--weights", help="published weights or a checkpoint to start from")
    parser.add_argument(
        "--freeze", type=int, default=0, metavar="N", help="keep the stem and stages 1 to N"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="default: last.pt in --output, if it is there"
    )
    parser.add_argument("--nproc-per-node", metavar="N", help="processes here: a number, or gpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="copy summary.json there")
    cli.add_fields(parser, Engine, "how it is computed", {"time_limit": seconds})
    cli.add_fields(parser, Recipe, "what is learned (defaults of --recipe paper)")
    return parser


def _command(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.json is not None:  # before days of work
        require_writable(args.json)
    recipe = cli.read_fields(args, RECIPES[args.recipe])
    engine = cli.read_fields(args, Engine())
    count = processes(args.nproc_per_node, engine.device)
    if count > 1:
        return launch(main, argv, count, CURE)
    try:
        with kept():
            summary = train(
                args.data,
                args.output,
                model=args.model,
                recipe=recipe,
                engine=engine,
                weights=args.weights,
                freeze=args.freeze,
                resume=args.resume,
            )
    except DivergedError as error:
        raise OSError(error) from error
    if os.environ.get("RANK", "0") == "0":
        cli.say(_report(args.output, summary))
        if args.json is not None:
            summary_file = args.output.expanduser() / "summary.json"
            write_result(args.json, summary_file.read_text("utf-8"))
    return summary.exit_code


def _report(output: Path, summary: Summary) -> str:
    """The table on stdout."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f} %"

    reasons = {0: "finished", 124: "time limit", 130: "interrupted", 143: "terminated"}
    rows = (
        ("run", f"{output} ({reasons[summary.exit_code]})"),
        ("epochs", f"{summary.epochs}"),
        ("best top-1", percent(summary.best_top1)),
        ("last top-1", percent(summary.last_top1)),
        ("time", f"{summary.seconds:,.0f} s"),
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-train``."""
    return cli.run("pyconv-train", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
