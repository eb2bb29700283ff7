"""The command pyconv-eval: evaluate a network on labelled images.

pyconv-eval /data/imagenet --model pyconvresnet50
torchrun --nproc-per-node 8 -m pyconv.evaluate /data/imagenet --model pyconvresnet50
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.folders import ImageList
from ..data.loading import make_loader
from ..models.registry import get_weight
from ..system import commands, devices, processor
from ..system.failures import explain
from ..system.files import expanded, require_writable, write_result
from ..system.launch import launch, process_count
from ..system.processes import SharedError, World, joined
from ..system.signals import noting
from ..weights import CheckpointError, DownloadError
from ..weights.rows import provenance
from . import published, report
from .evaluation import Metrics, evaluate
from .job import EvalOptions, Job, decide

__all__ = ["main"]

PATIENCE = datetime.timedelta(days=1)  # of fast processes with slow ones


def _prepare(job: Job, options: EvalOptions) -> nn.Module:
    """The model on its device, in its dtype and layout, made faster as asked for."""
    model = job.model.to(options.device).eval()
    channels, crop = len(job.preprocess.mean), job.preprocess.crop
    sides = (channels, crop, crop)
    if options.optimize:
        try:
            from ..speed import optimize
        except ImportError as error:
            raise ValueError("--optimize needs pyconv.speed, which is not here.") from error
        # Enough to time each algorithm.
        few = torch.zeros(min(options.batch_size, 16), *sides, device=options.device)
        model = optimize(model, few, dtype=options.dtype, compile=options.compile)
    else:
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        model = model.to(options.dtype).to(memory_format=layout)
        if options.compile:
            model.compile()
    if options.compile:  # now, so that the images per second are not those of the compiler
        with torch.inference_mode(), contextlib.suppress(torch.OutOfMemoryError):
            size = (options.batch_size, *sides)
            model(torch.zeros(size, device=options.device, dtype=options.dtype))
    return model


def _result(
    job: Job, options: EvalOptions, metrics: Metrics, args: argparse.Namespace, world: World
) -> dict[str, Any]:
    """All there is to know of a finished evaluation, ready for JSON."""
    decoder = "torchvision's JPEG" if args.fast_decode else "PIL"
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": job.name,
        "weights": str(job.weights),
        "weights_file": provenance(job.weights),
        "data": str(args.data or "the sample"),
        "finding": job.images.finding,
        "present_classes": len({label for _, label in job.images.samples}),
        **metrics.as_dict(),
        "skipped": [str(path) for path in job.images.skipped],
        "missing": list(job.images.missing),
        "left_out": list(job.images.left_out),
        "published": report.published(metrics, job.weights, job.preprocess.crop),
        "preprocessing": asdict(job.preprocess) | {"decoder": decoder},
        "device": devices.describe(options.device),
        "dtype": args.dtype,
        "channels_last": options.channels_last,
        "optimize": options.optimize,
        "compile": options.compile,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "versions": devices.versions(),
        "per_class": report.class_rows(metrics.per_class, job.images.classes),
    }
    if job.record is not None:
        result |= {"on_record": job.record, "agrees": report.agrees(job.record, metrics)}
    return result


EXAMPLES = """\
  pyconv-eval --sample
      check the installation: the embedded network on 1,000 real images
  pyconv-eval /data/imagenet --model pyconvresnet50
      the paper's weights on the ImageNet validation images, as they lie there
  pyconv-eval /data/imagenet --model pyconvresnet50 --weights IMAGENET1K_V2 --crop 320
      the better weights at the larger crop that the authors report
  pyconv-eval /data/imagenet --model pyconvresnet50 --optimize --dtype bfloat16 --fast-decode
      the fastest way
  pyconv-eval /data/imagenet --published --markdown table.md
      all published weights that are here, with their authors' claims beside them
  pyconv-eval /data/imagenet --model pyconvresnet50 --nproc-per-node 8
      on eight GPUs; the counts are those of one
  pyconv-eval /data/flowers/val --checkpoint runs/flowers/best.pt --json result.json
      what pyconv-train has trained, on your own classes
"""


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser("pyconv-eval", "Evaluate a network on labelled images.", EXAMPLES)
    add = parser.add_argument
    add("data", type=Path, nargs="?", help="the folder of images, or ILSVRC2012_img_val.tar")
    add("--sample", action="store_true", help="evaluate the embedded sample")
    add(
        "--published",
        action="store_true",
        help="evaluate every published set in the cache, at each crop that its authors claim; "
        "--model takes a pattern, such as 'pyconv*50'",
    )
    add(
        "--model",
        help="of pyconv.list_models(), or module:name of your own; default: what --checkpoint says",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights", help="published weights, such as IMAGENET1K_V2; default: the paper's"
    )
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a checkpoint of your own")

    add = parser.add_argument_group("images").add_argument
    add("--labels", type=Path, metavar="FILE", help="lines 'name label', relative to the folder")
    add(
        "--subset-classes",
        action="store_true",
        help="also compare only the outputs of the classes that the images are of, as is published "
        "for ImageNet-A and -R",
    )
    add("--crop", type=_positive, help="side of the centre crop in pixels")
    add("--resize", type=_positive, help="shorter side before the crop in pixels")
    add("--fast-decode", action="store_true", help="decode faster; pixels differ by 1 of 255")
    add("--strict", action="store_true", help="stop at an image that cannot be read")

    add = parser.add_argument_group("engine").add_argument
    add("--device", help="default: cuda or mps if there, else cpu")
    add("--dtype", choices=devices.DTYPES, default="float32", help="default: float32")
    add("--optimize", action="store_true", help="rewrite the network for speed first")
    add("--compile", action="store_true", help="compile the network first")
    add("--channels-last", action=argparse.BooleanOptionalAction, help="default: where faster")
    add("--batch-size", type=_positive, default=64, help="default: 64")
    add("--workers", type=int, help="loader processes; default: by cores and images")
    add("--nproc-per-node", metavar="N", help="processes here: a number, or gpu; default: 1")

    add = parser.add_argument_group("results").add_argument
    add("--json", type=Path, metavar="FILE", help="write the result there as well, with all detail")
    add("--markdown", type=Path, metavar="FILE", help="write the table of --published there")
    add("--csv", type=Path, metavar="FILE", help="append the result there as a row")
    add("--predictions", type=Path, metavar="FILE", help="write each image's top five, as CSV")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sample == (args.data is not None):
        parser.error("give either a folder of images or --sample")
    if args.sample:
        own = ("model", "weights", "checkpoint", "labels", "crop", "resize", "published")
        for option in own:
            if getattr(args, option):
                parser.error(f"--sample has its own network and images: leave out --{option}")
    elif args.published:
        for option in ("weights", "checkpoint", "crop", "resize", "predictions", "subset_classes"):
            if getattr(args, option):
                name = option.replace("_", "-")
                parser.error(f"--published has its own weights and crops: leave out --{name}")
    elif args.markdown is not None:
        parser.error("--markdown is for --published")
    elif args.model is None and args.checkpoint is None and args.weights is None:
        parser.error("--model is missing, such as --model pyconvresnet50")
    for option in ("checkpoint", "labels"):
        path = getattr(args, option)
        if path is not None and not expanded(path).is_file():
            raise ValueError(f"--{option}: there is no file {path}. Give the path of one.")
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must be 0 or more")
    for path in (args.json, args.markdown, args.csv, args.predictions):  # before hours of work
        if path is not None:
            require_writable(path)
    if args.csv is not None:
        report.check_csv(args.csv)
    return args


def _write(job: Job, result: dict[str, Any], metrics: Metrics, args: argparse.Namespace) -> None:
    """Write and print the result."""

    def predictions(path: Path) -> None:
        samples, classes = job.images.samples, job.images.classes
        write_result(path, report.predictions_csv(samples, metrics.predictions, classes))

    try:
        commands.deliver(
            report.table(result),
            (args.json, lambda path: write_result(path, result)),
            (args.csv, lambda path: report.append_csv(path, result)),
            (args.predictions, predictions),
        )
    finally:
        if (advice := report.hint(result)) is not None:
            sys.stderr.write(f"{advice}\n")


def _announce(job: Job) -> None:
    lines = [] if job.note is None else [job.note]
    lines += [job.images.finding, *report.shortened(job.images.left_out)]
    if missing := job.images.missing:
        lines.append(f"Names of the list that are not there: {len(missing):,}, as {missing[0]}")
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def _advise(options: EvalOptions) -> None:
    advice = processor.advice(options.device.type, options.dtype)
    if advice is not None and not options.optimize:  # which knows what to do about it
        sys.stderr.write(f"{advice}\n")


def _count(job: Job, options: EvalOptions, args: argparse.Namespace, world: World) -> Metrics:
    """Count what the network gets right of this process's shard, until the first Ctrl-C."""
    if len(set(world.gather(_fingerprint(job.images)))) > 1:
        raise ValueError("The processes see different images. Give them all the same folder.")
    loader = make_loader(
        job.images,
        job.preprocess,
        options.batch_size,
        options.workers,
        fast_decode=args.fast_decode,
        pin_memory=options.device.type == "cuda",
        shard=(world.rank, world.size),
    )
    model = world.on_all(lambda: _prepare(job, options))
    with noting(signal.SIGINT) as noted:
        world.gather(None)  # all begin once all note an interruption
        return evaluate(
            model,
            loader,
            normalise=job.preprocess.normalise,
            device=options.device,
            dtype=options.dtype,
            progress=world.first,
            strict=args.strict,
            predictions=args.predictions is not None,
            subset=job.subset,
            fixed_batch=options.batch_size if options.compile else None,
            stop=lambda: bool(noted),
            world=world,
        )


def _evaluate_here(args: argparse.Namespace, world: World) -> int:
    """Evaluate this process's shard; the first process reports on all of them."""
    job, options = world.on_all(lambda: decide(args, world))
    if world.first:
        _announce(job)
        _advise(options)
    metrics = _count(job, options, args, world)
    # The others wait, or whoever started them would hurry the first one.
    world.on_first(lambda: _write(job, _result(job, options, metrics, args, world), metrics, args))
    if metrics.partial:
        return commands.INTERRUPTED
    if metrics.system_errors:
        return commands.FAILED
    return (
        commands.DONE
        if job.record is None or report.agrees(job.record, metrics)
        else commands.FAILED
    )


def _evaluate_published(args: argparse.Namespace, world: World) -> int:
    """Evaluate every published set that is there; what is done is written after each of them."""
    todo = world.on_first(lambda: published.plan(args.model))
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    rows_lost: list[str] = []  # of --csv

    def written(partial: bool) -> tuple[str, list[str]]:
        """The table, and what could not be written."""
        found = published.report(str(args.data), results, todo, failed, partial)
        table = published.table(found)
        return table, commands.unwritten(
            (args.json, lambda path: write_result(path, found)),
            (args.markdown, lambda path: write_result(path, table + "\n")),
        )

    def add_row() -> None:
        rows_lost.extend(
            commands.unwritten((args.csv, lambda path: report.append_csv(path, results[-1])))
        )

    partial = False
    try:
        for name, crop in todo.runs:
            own = argparse.Namespace(**vars(args) | {"model": None, "weights": name, "crop": crop})
            try:
                job, options = world.on_all(functools.partial(decide, own, world))
            except (CheckpointError, OSError, SharedError) as error:
                reason = error.__cause__ if isinstance(error, SharedError) else error
                own_fault = isinstance(reason, (CheckpointError, DownloadError)) or (
                    isinstance(reason, OSError) and str(get_weight(name).path) in str(reason)
                )
                if not own_fault:  # of the images, or of all
                    raise
                failed[name] = str(reason)
                continue
            if world.first:
                if not results:
                    _announce(job)
                    _advise(options)
                sys.stderr.write(f"{name}, crop {crop}\n")
            metrics = _count(job, options, own, world)
            results.append(_result(job, options, metrics, own, world))
            partial = metrics.partial
            world.on_first(lambda: written(True))  # what cannot be, is tried again at the end
            world.on_first(add_row)
            if partial:
                break
    except KeyboardInterrupt:
        if not results:
            raise
        partial = True
    if world.first:
        table, lost = written(partial)
        commands.say(table)
        if rows_lost or lost:
            raise OSError("; ".join(dict.fromkeys(rows_lost + lost)))
    if partial:
        return commands.INTERRUPTED
    broken = failed or any(result["system_errors"] for result in results)
    return commands.FAILED if broken else commands.DONE


def _fingerprint(images: ImageList) -> str:
    names = "\n".join(f"{path.name} {label}" for path, label in images.samples)
    return hashlib.sha256(os.fsencode(names)).hexdigest()  # names need not be valid UTF-8


def _command(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    count = process_count(args.nproc_per_node, args.device, shared=True)
    if count > 1:
        return launch(main, argv, count)
    # Only a few counts are exchanged, so the CPU does it whatever device computes.
    with joined(patience=PATIENCE) as world:
        try:
            return (_evaluate_published if args.published else _evaluate_here)(args, world)
        except (RuntimeError, MemoryError) as error:
            cure = "Use another --device, a smaller --batch-size or --dtype bfloat16."
            if (reason := explain(error, cure)) is None:
                raise
            raise OSError(reason) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-eval``."""
    return commands.run("pyconv-eval", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
