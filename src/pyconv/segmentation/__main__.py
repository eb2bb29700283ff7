"""The command pyconv-segment: the class of each pixel of photographs, or how often it is right.

pyconv-segment street.jpg --model pyconvsegnet_pyconvresnet50 --output segmented
pyconv-segment --data /data/ADEChallengeData2016 --model pyconvsegnet_pyconvresnet50
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..evaluate.report import shortened
from ..predict.photos import find_photos
from ..system import commands, devices, processor
from ..system.failures import explain
from ..system.files import expanded, require_writable, write_result
from ..system.launch import launch, process_count
from ..system.processes import World, joined
from ..system.signals import noting
from . import report
from .counts import evaluate
from .job import Job, decide
from .photographs import segment

__all__ = ["main"]

PATIENCE = datetime.timedelta(days=1)  # of fast processes with slow ones

EXAMPLES = """\
  pyconv-segment street.jpg park.jpg --model pyconvsegnet_pyconvresnet50 --output segmented
      each photograph with its pixels in the colours of their classes, and their shares as JSON
  pyconv-segment photos --model pyconvsegnet_pyconvresnet152 --published --output segmented
      all photographs of a folder, as carefully as for the published figures
  pyconv-segment --data /data/ADEChallengeData2016 --model pyconvsegnet_pyconvresnet50 --published
      mean IoU and pixel accuracy on ADE20K's images for validation, beside the published ones
  pyconv-segment --data /data/streets --names names.txt --model pyconvsegnet_resnet50 \\
      --checkpoint best.pth --json result.json
      your own classes: label maps that count them from 0, and their names, one a line
"""


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < 100 for scale in scales):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of scales such as 0.75,1,1.25")
    return scales


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser("pyconv-segment", "Find the class of each pixel.", EXAMPLES)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photographs, or folders of them")
    add("--data", type=Path, metavar="DIR", help="instead, a folder of images and label maps")
    add("--names", type=Path, metavar="FILE", help="names of your own classes, one a line")
    add("--model", required=True, help="such as pyconvsegnet_pyconvresnet50, or module:name")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", help="published weights; default: the paper's")
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a checkpoint of your own")

    add = parser.add_argument_group("images").add_argument
    add("--scales", type=_scales, help="sizes to look at, such as 0.75,1,1.25; default: 1")
    add("--published", action="store_true", help="the scales of the published figures, 0.5 to 1.75")
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at mirror images as well, as is published; takes twice as long",
    )
    add("--window", type=_positive, default=473, help="side of the windows in pixels; default: 473")

    add = parser.add_argument_group("engine").add_argument
    add("--device", help="default: cuda or mps if there, else cpu")
    add("--dtype", choices=devices.DTYPES, default="float32", help="default: float32")
    add("--optimize", action="store_true", help="rewrite the network for speed first")
    add("--batch-size", type=_positive, default=4, help="windows at once; default: 4")
    add("--nproc-per-node", metavar="N", help="processes here: a number, or gpu; default: 1")

    add = parser.add_argument_group("results").add_argument
    add("--output", type=Path, metavar="DIR", help="write pictures and shares of PHOTO there")
    add("--json", type=Path, metavar="FILE", help="write the result there as well, with all detail")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.photos) == (args.data is not None):
        parser.error("give either photographs or --data")
    if args.photos and args.output is None:
        parser.error("--output is missing, such as --output segmented")
    if args.data is not None and args.output is not None:
        parser.error("--data writes no pictures: leave out --output, or give the photographs")
    if args.published and args.scales is not None:
        parser.error("--published has its own scales: leave out --scales")
    for option in ("checkpoint", "names"):
        path = getattr(args, option)
        if path is not None and not expanded(path).is_file():
            raise ValueError(f"--{option}: there is no file {path}. Give the path of one.")
    if args.json is not None:  # before hours of work
        require_writable(args.json)
    return args


def _prepare(job: Job) -> nn.Module:
    """The model on its device, in its dtype and layout, made faster as asked for."""
    model, options = job.model.to(job.device).eval(), job.options
    if job.optimize:
        try:
            from ..speed import optimize
        except ImportError as error:
            raise ValueError("--optimize needs pyconv.speed, which is not here.") from error
        one = torch.zeros(1, job.channels, options["window"], options["window"])
        return optimize(model, one.to(job.device), dtype=job.dtype)
    last = job.device.type == "cpu" or (job.device.type == "cuda" and job.dtype.itemsize == 2)
    layout = torch.channels_last if last else torch.contiguous_format
    return model.to(job.dtype).to(memory_format=layout)


def _evaluate_here(args: argparse.Namespace, world: World) -> int:
    """Evaluate this process's share; the first process reports on all of them."""
    job = world.on_all(lambda: decide(args))
    assert job.data is not None
    if len(set(world.gather(_fingerprint(job.data.samples)))) > 1:
        raise ValueError("The processes see different images. Give them all the same folder.")
    if world.first:
        lines = [job.data.finding, *shortened(job.data.left_out), *_advice(job)]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    model = world.on_all(lambda: _prepare(job))
    with noting(signal.SIGINT) as noted:
        world.gather(None)  # all begin once all note an interruption
        metrics = evaluate(
            model,
            job.data,
            progress=world.first,
            stop=lambda: bool(noted),
            world=world,
            **job.options,
        )
    # The others wait, or whoever started them would hurry the first one.
    world.on_first(lambda: report.write(report.evaluation(job, metrics, world.size), args.json))
    if metrics.partial:
        return commands.INTERRUPTED
    return commands.FAILED if metrics.system_errors else commands.DONE


def _fingerprint(samples: Sequence[tuple[Path, Path]]) -> str:
    names = "\n".join(f"{image.name} {labels.name}" for image, labels in samples)
    return hashlib.sha256(os.fsencode(names)).hexdigest()  # names need not be valid UTF-8


def _advice(job: Job) -> list[str]:
    advice = processor.advice(job.device.type, job.dtype)
    return [advice] if advice is not None and not job.optimize else []


def _segment(args: argparse.Namespace) -> int:
    """Write a picture of each photograph, and what is seen in it."""
    photos, left_out = find_photos(args.photos)
    output = expanded(args.output)
    targets = report.targets(list(dict.fromkeys(photos)), output)
    job = decide(args)
    output.mkdir(parents=True, exist_ok=True)
    lines = [*shortened(left_out), *_advice(job)]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    model = _prepare(job)
    with noting(signal.SIGINT) as noted:
        result, code = segment(model, job, targets, lambda: bool(noted))
    if args.json is not None:
        write_result(args.json, result)
    return code


def _command(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    count = process_count(args.nproc_per_node, args.device, shared=True)
    if args.data is None and count > 1:
        raise ValueError("--nproc-per-node shares the images of --data. Leave it out.")
    if count > 1:
        return launch(main, argv, count)
    # Only counts are exchanged, so the CPU does it whatever device computes.
    with joined(patience=PATIENCE) as world:
        try:
            return _segment(args) if args.data is None else _evaluate_here(args, world)
        except (RuntimeError, MemoryError) as error:
            cure = "Use another --device, a smaller --batch-size or --dtype bfloat16."
            if (reason := explain(error, cure)) is None:
                raise
            raise OSError(reason) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-segment``."""
    return commands.run("pyconv-segment", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
