"""The command pyconv-train: train a network of the zoo, or one's own, on labelled images.

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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..system import commands
from ..system.files import expanded, require_writable, write_result
from ..system.launch import launch, process_count
from .recipe import RECIPES, Recipe, TrainOptions
from .run import DivergedError, Summary
from .training import CURE, train

__all__ = ["main"]

EXAMPLES = """\
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/paper --nproc-per-node gpu
      the paper's recipe on all GPUs of this machine
  pyconv-train /data/imagenet --model pyconvresnet50 --output runs/augment --recipe augment \\
      --accumulate 8
      the recipe of the best published weights, its batch of 1024 in parts of 128
  pyconv-train /data/flowers --model pyconvresnet50 --output runs/flowers --weights DEFAULT \\
      --recipe finetune --val-fraction 0.2
      fine-tune the published weights to the classes of a folder of folders
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m pyconv.train /data/imagenet --model pyconvresnet50 --output runs/two-hosts
      on two machines: the same command on each
"""
EXIT_CODES = """\
0 done, 1 failed, 2 wrong usage or bad input; saved and left early: 124 time limit,
130 interrupted, 143 terminated. The same command goes on where a run was left."""


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
    text = "Train a network on labelled images."
    parser = commands.parser("pyconv-train", text, EXAMPLES, EXIT_CODES)
    parser.add_argument(
        "data", type=Path, help="folder with train/ and val/, or see --val-fraction"
    )
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
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="go on although the images are not those that the run was begun with",
    )
    parser.add_argument("--nproc-per-node", metavar="N", help="processes here: a number, or gpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="copy summary.json there")
    commands.add_fields(parser, TrainOptions, "how it is computed", {"time_limit": seconds})
    commands.add_fields(parser, Recipe, "what is learned (defaults of --recipe paper)")
    return parser


def _kept_memory() -> AbstractContextManager[None]:
    """Within, memory is kept from step to step, which is faster, if pyconv.speed is installed."""
    try:
        from ..speed import keep_memory
    except ImportError:
        return nullcontext()
    return keep_memory()


def _command(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.json is not None:  # before days of work
        require_writable(args.json)
    recipe = commands.read_fields(args, RECIPES[args.recipe])
    options = commands.read_fields(args, TrainOptions())
    count = process_count(args.nproc_per_node, options.device)
    if count > 1:
        return launch(main, argv, count, CURE)
    try:
        with _kept_memory():
            summary = train(
                args.data,
                args.output,
                model=args.model,
                recipe=recipe,
                options=options,
                weights=args.weights,
                freeze=args.freeze,
                resume=args.resume,
                accept_changed_data=args.accept_changed_data,
            )
    except DivergedError as error:
        raise OSError(error) from error
    if os.environ.get("RANK", "0") == "0":
        text = (expanded(args.output) / "summary.json").read_text("utf-8")
        report = _report(args.output, summary)
        commands.deliver(report, (args.json, lambda path: write_result(path, text)))
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
    return commands.run("pyconv-train", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
