"""The command pyconv-eval: evaluate a network on labelled images.

pyconv-eval /data/imagenet --model pyconvresnet50
torchrun --nproc-per-node 8 -m pyconv.evaluate /data/imagenet --model pyconvresnet50
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbone import image_channels
from ..data.folders import ImageList, find_images
from ..data.loading import make_loader
from ..data.preprocess import Preprocess, expected_pixels
from ..models import get_model, options_for, published_pixels, resolve_weights
from ..system import commands, devices, processor
from ..system.failures import explain
from ..system.files import require_writable, write_result
from ..system.launch import launch, process_count
from ..system.processes import World, joined
from ..system.signals import noting
from ..weights import checkpoint, store
from ..weights.rows import PyConvResNetTiny_Weights, WeightsEnum, sample_file
from . import report
from .evaluation import Metrics, evaluate

__all__ = ["main"]

PATIENCE = datetime.timedelta(days=1)  # of fast processes with slow ones


@dataclass(frozen=True)
class Job:
    """What the command was asked to do, decided."""

    model: nn.Module
    name: str
    weights: WeightsEnum | Path  # a published set, or the checkpoint
    images: ImageList
    preprocess: Preprocess
    record: dict[str, Any] | None = None  # what is on record for these very files
    note: str | None = None  # what else to tell the user


@dataclass(frozen=True)
class EvalOptions:
    """How to compute: all of it is written into the result."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    optimize: bool
    compile: bool
    batch_size: int
    workers: int


def _sample_job() -> Job:
    weights = PyConvResNetTiny_Weights.DEFAULT
    return Job(
        get_model(weights.value.model, weights=weights),
        weights.value.model,
        weights,
        find_images(sample_file("images")),
        weights.transforms(),
        json.loads(sample_file("record.json").read_text("utf-8")),
    )


def _job(args: argparse.Namespace) -> Job:
    """Build the model first: a wrong name should not wait for 50,000 images to be listed."""
    chosen: WeightsEnum | Path | None = args.checkpoint
    if chosen is None:
        chosen = resolve_weights(args.model, args.weights is None, args.weights)
    assert chosen is not None  # without --weights, the paper's
    notes, options = checkpoint.Notes(), {}
    if isinstance(chosen, Path):
        chosen = chosen.expanduser()
        notes, options = checkpoint.read_notes(chosen), options_for(args.model, chosen)
    model = get_model(args.model, weights=chosen, **options)
    note = None
    if isinstance(chosen, WeightsEnum):
        published = chosen.value.preprocess
    elif notes.preprocess is None:
        published = published_pixels(args.model)
    else:
        published = notes.preprocess
        note = f"Preprocessing and classes are those that {chosen} was trained with."
    preprocess = expected_pixels(
        published,
        image_channels(model),
        crop=args.crop,
        resize=args.resize,
        network=str(chosen),
    )
    count, names = getattr(model, "num_classes", options.get("num_classes")), notes.classes or ()
    classes = names if len(names) == count else count
    images = find_images(args.data, classes, labels=args.labels)
    return Job(model, args.model, chosen, images, preprocess, note=note)


def _options(args: argparse.Namespace, images: int, world: World) -> EvalOptions:
    device = devices.choose_device(args.device, shared=True)
    dtype = devices.DTYPES[args.dtype]
    channels_last = args.channels_last
    if channels_last is None:  # where it is known to be faster
        channels_last = device.type == "cpu" or (device.type == "cuda" and dtype.itemsize == 2)
    workers = args.workers
    if workers is None:  # a worker takes a moment to start, which few images do not repay
        cores = processor.usable_cores() // devices.local_processes()
        workers = min(cores, images // world.size // 2000, 16)
    return EvalOptions(
        device, dtype, channels_last, args.optimize, args.compile, args.batch_size, workers
    )


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
        "weights_file": _provenance(job.weights),
        "data": str(args.data or "the sample"),
        "finding": job.images.finding,
        **metrics.as_dict(),
        "skipped": [str(path) for path in job.images.skipped],
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


def _provenance(weights: WeightsEnum | Path) -> dict[str, str | None]:
    if isinstance(weights, WeightsEnum):
        return weights.provenance()
    return store.provenance(weights, "a file of the user's")


EXAMPLES = """\
  pyconv-eval --sample
      check the installation: the embedded network on 1,000 real images
  pyconv-eval /data/imagenet --model pyconvresnet50
      the paper's weights on the ImageNet validation images, as they lie there
  pyconv-eval /data/imagenet --model pyconvresnet50 --weights IMAGENET1K_V2 --crop 320
      the better weights at the larger crop that the authors report
  pyconv-eval /data/imagenet --model pyconvresnet50 --optimize --dtype bfloat16 --fast-decode
      the fastest way
  pyconv-eval /data/imagenet --model pyconvresnet50 --nproc-per-node 8
      on eight GPUs; the counts are those of one
  pyconv-eval /data/flowers/val --model resnet50 --checkpoint best.pth --json result.json
      your own checkpoint on your own classes
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
    add("--model", help="of pyconv.list_models(), or module:name of your own")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights", help="published weights, such as IMAGENET1K_V2; default: the paper's"
    )
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a checkpoint of your own")

    add = parser.add_argument_group("images").add_argument
    add("--labels", type=Path, metavar="FILE", help="lines 'name label', relative to the folder")
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
    add("--csv", type=Path, metavar="FILE", help="append the result there as a row")
    add("--predictions", type=Path, metavar="FILE", help="write each image's top five, as CSV")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sample == (args.data is not None):
        parser.error("give either a folder of images or --sample")
    if args.sample:
        own = ("model", "weights", "checkpoint", "labels", "crop", "resize")
        for option in own:
            if getattr(args, option) is not None:
                parser.error(f"--sample has its own network and images: leave out --{option}")
    elif args.model is None:
        parser.error("--model is missing, such as --model pyconvresnet50")
    for option in ("checkpoint", "labels"):
        path = getattr(args, option)
        if path is not None and not path.expanduser().is_file():
            raise ValueError(f"--{option}: there is no file {path}. Give the path of one.")
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must be 0 or more")
    for path in (args.json, args.csv, args.predictions):  # before hours of work
        if path is not None:
            require_writable(path)
    if args.csv is not None:
        report.check_csv(args.csv)
    return args


def _write(job: Job, result: dict[str, Any], metrics: Metrics, args: argparse.Namespace) -> None:
    """Say and write the result; one place where that fails costs none of the others theirs."""

    def predictions(path: Path) -> None:
        samples, classes = job.images.samples, job.images.classes
        write_result(path, report.predictions_csv(samples, metrics.predictions, classes))

    outputs: list[tuple[Path | None, Callable[[Path], None]]] = [
        (Path("stdout"), lambda _: commands.say(report.table(result))),
        (args.json, lambda path: write_result(path, result)),
        (args.csv, lambda path: report.append_csv(path, result)),
        (args.predictions, predictions),
    ]
    failures = []
    for path, write in outputs:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failures.append(f"{path} could not be written: {error.strerror or error}")
    if (advice := report.hint(result)) is not None:
        sys.stderr.write(f"{advice}\n")
    if failures:
        raise OSError("; ".join(failures))


def _announce(job: Job) -> None:
    images = job.images
    if job.note is not None:
        sys.stderr.write(f"{job.note}\n")
    sys.stderr.write(f"{images.finding}\n")
    if images.skipped:
        sys.stderr.write(
            f"{len(images.skipped):,} other files were left out, having no label or no suffix of "
            f"an image; the first is {images.skipped[0]}\n"
        )


def _evaluate_here(args: argparse.Namespace, world: World) -> int:
    """Evaluate this process's shard; the first process reports on all of them."""

    def prepare() -> tuple[Job, EvalOptions]:
        job = _sample_job() if args.sample else _job(args)
        return job, _options(args, len(job.images.samples), world)

    job, options = world.on_all(prepare)
    if len(set(world.gather(_fingerprint(job.images)))) > 1:
        raise ValueError("The processes see different images. Give them all the same folder.")
    if world.first:
        _announce(job)
        advice = processor.advice(options.device.type, options.dtype)
        if advice is not None and not options.optimize:  # which knows what to do about it
            sys.stderr.write(f"{advice}\n")
    loader = make_loader(
        job.images,
        job.preprocess,
        options.batch_size,
        options.workers,
        fast_decode=args.fast_decode,
        pin_memory=options.device.type == "cuda",
        shard=(world.rank, world.size),
    )
    model = _prepare(job, options)
    with noting(signal.SIGINT) as noted:
        world.gather(None)  # all begin once all note an interruption
        metrics = evaluate(
            model,
            loader,
            normalise=job.preprocess.normalise,
            device=options.device,
            dtype=options.dtype,
            progress=world.first,
            strict=args.strict,
            predictions=args.predictions is not None,
            fixed_batch=options.batch_size if options.compile else None,
            stop=lambda: bool(noted),
            world=world,
        )
    # The others wait, or whoever started them would hurry the first one.
    world.on_first(lambda: _write(job, _result(job, options, metrics, args, world), metrics, args))
    if metrics.partial:
        return commands.INTERRUPTED
    return (
        commands.DONE
        if job.record is None or report.agrees(job.record, metrics)
        else commands.FAILED
    )


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
            return _evaluate_here(args, world)
        except RuntimeError as error:
            cure = "Use another --device, a smaller --batch-size or --dtype bfloat16."
            if (reason := explain(error, cure)) is None:
                raise
            raise OSError(reason) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-eval``."""
    return commands.run("pyconv-eval", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
