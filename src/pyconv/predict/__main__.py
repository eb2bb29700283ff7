"""The command pyconv-predict: name what is on photographs.

pyconv-predict cat.jpg dog.jpg
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.folders import ImageList
from ..data.loading import Fault, make_loader
from ..data.preprocess import Preprocess
from ..models.load import LoadedModel, Opened, finish, open_model
from ..system import commands, devices, processor
from ..system.failures import explain
from ..system.files import expanded, require_writable, write_result
from ..system.signals import noting
from ..weights import DownloadError
from ..weights.rows import PyConvResNetTiny_Weights, provenance, sample_file
from .photos import find_photos
from .prediction import Prediction, likeliest

__all__ = ["main"]

DEFAULT = "pyconvresnet50"
NAMED = 10  # unreadable photographs, and kinds of files left out, that are told on the screen
NO_DOWNLOAD = (
    "What comes with the library needs no download: --sample, or --model pyconvresnet_tiny, which "
    "knows ten kinds of clothes."
)
PHOTOS_PER_WORKER = 200  # which repay the start of a process that decodes

EXAMPLES = """\
  pyconv-predict --sample
      try it: three photographs of clothes and the network that come with the library
  pyconv-predict cat.jpg dog.jpg
      ImageNet's classes, by pyconvresnet50 with its best published weights
  pyconv-predict photos/ --checkpoint runs/flowers/best.pt --json result.json
      all photographs in a folder, by what pyconv-train has trained
  pyconv-predict cat.jpg --model pyconvhgresnet152 --top 3
      by another network
"""


@dataclass
class Answers:
    """What was found on the photographs."""

    predictions: dict[int, list[Prediction]] = field(default_factory=dict)  # by position
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    partial: bool = False  # whether it was stopped before the last photograph


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser("pyconv-predict", "Name what is on photographs.", EXAMPLES)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="image files, or folders of them")
    add("--sample", action="store_true", help="three photographs that come with the library")
    add("--model", help=f"of pyconv.list_models(), or module:name; default: {DEFAULT}")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", help="published weights; default: the best of the model")
    source.add_argument("--checkpoint", metavar="FILE", help="a checkpoint of your own")
    add("--top", type=_positive, default=5, metavar="K", help="classes to name; default: 5")
    add("--crop", type=_positive, help="side of the centre crop in pixels")
    add("--resize", type=_positive, help="shorter side before the crop in pixels")
    add("--device", help="default: cuda or mps if there, else cpu")
    add("--batch-size", type=_positive, default=32, help="default: 32")
    add("--workers", type=int, help="loader processes; default: by cores and photographs")
    add("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sample == bool(args.photos):
        parser.error("give either photographs or --sample")
    for option in ("model", "weights", "checkpoint", "crop", "resize") if args.sample else ():
        if getattr(args, option) is not None:
            parser.error(f"--sample has its own network and images: leave out --{option}")
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must be 0 or more")
    if args.checkpoint is not None and not expanded(args.checkpoint).is_file():
        raise ValueError(f"--checkpoint: there is no file {args.checkpoint}. Give the path of one.")
    if args.json is not None:
        require_writable(args.json)
    return args


def _open(args: argparse.Namespace) -> Opened:
    """The network, with its weights, that was asked for."""
    if args.sample:
        return open_model(PyConvResNetTiny_Weights.DEFAULT)
    if args.checkpoint is not None:
        return open_model(expanded(args.checkpoint), args.model)
    if args.weights is not None:
        return open_model(args.weights, args.model)
    try:
        return open_model("DEFAULT", args.model or DEFAULT)
    except DownloadError as error:
        if args.model is not None:
            raise
        raise DownloadError(f"{error}\n{NO_DOWNLOAD}") from error


def _sample_photos() -> list[Path]:
    """The first image of three classes of the sample."""
    folders = sorted(sample_file("images").iterdir())
    return [min(folder.iterdir()) for folder in folders[1::4]]


def _answer(
    model: LoadedModel, photos: Sequence[Path], pixels: Preprocess, args: argparse.Namespace
) -> Answers:
    """Predict batch by batch, until the end or the first Ctrl-C."""
    answers = Answers()
    workers = args.workers
    if workers is None:
        workers = min(processor.usable_cores(), len(photos) // PHOTOS_PER_WORKER, 16)
    images = ImageList(("",), tuple((path, 0) for path in photos))
    loader = make_loader(images, pixels, args.batch_size, workers)
    shown = len(photos) > args.batch_size and sys.stderr is not None  # None: closed
    pace = 0.1 if shown and sys.stderr.isatty() else 30.0
    start, done = time.perf_counter(), 0
    with (
        noting(signal.SIGINT) as noted,
        tqdm(total=len(photos), unit="photo", disable=not shown, mininterval=pace) as bar,
    ):
        for batch in loader:
            answers.faults += batch.faults
            if len(batch.indices):
                found = likeliest(model, pixels.normalise(batch.pixels), args.top)
                answers.predictions.update(zip(batch.indices.tolist(), found, strict=True))
            seen = len(batch.indices) + len(batch.faults)
            done += seen
            bar.update(seen)
            if noted and done < len(photos):
                answers.partial = True
                break
    answers.seconds = time.perf_counter() - start
    return answers


def _result(
    opened: Opened,
    photos: Sequence[Path],
    left_out: Sequence[str],
    pixels: Preprocess,
    answers: Answers,
    device: str,
) -> dict[str, Any]:
    """All there is to know, ready for JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": opened.name,
        "weights": str(opened.weights),
        "weights_file": provenance(opened.weights),
        "images": len(answers.predictions),
        "predictions": [
            {"path": str(photos[place]), "classes": [asdict(each) for each in best]}
            for place, best in sorted(answers.predictions.items())
        ],
        "images_per_second": len(answers.predictions) / answers.seconds,
        "unreadable": [fault.path for fault in answers.faults],
        "reasons": [fault.text for fault in answers.faults],
        "left_out": list(left_out),
        "partial": answers.partial,
        "preprocessing": asdict(pixels),
        "device": device,
        "versions": devices.versions(),
    }


def table(result: dict[str, Any]) -> str:
    """The rows on stdout: each photograph, and below it the classes with their probabilities."""
    lines = []
    for answer in result["predictions"]:
        lines.append(answer["path"])
        for each in answer["classes"]:
            lines.append(f"  {100 * each['probability']:5.1f} %  {each['name']}")
    return "\n".join(lines)


def _report(faults: Sequence[Fault], count: int, answers: Answers) -> None:
    """Say on stderr what was not answered."""
    lines = [fault.text for fault in faults[:NAMED]]
    if faults:
        more = "; --json names all of them" if len(faults) > NAMED else ""
        lines.append(f"{len(faults):,} of {count:,} photographs could not be read{more}.")
    if answers.partial:
        left = count - len(answers.predictions) - len(faults)
        lines.append(f"Interrupted: {left:,} of {count:,} photographs were not looked at.")
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def _predict(args: argparse.Namespace) -> int:
    photos, left_out = (_sample_photos(), ()) if args.sample else find_photos(args.photos)
    device = devices.choose_device(args.device)
    opened = _open(args)
    if opened.num_classes == 0:
        raise ValueError(
            f"{opened.weights} holds weights without a classifier. Give a checkpoint that has one; "
            "pyconv-train --weights can train one for it."
        )
    pixels = opened.transforms(crop=args.crop, resize=args.resize)
    model = finish(opened, device)
    sys.stderr.write("".join(f"{line}\n" for line in [_heading(opened, model, pixels), *left_out]))
    answers = _answer(model, photos, pixels, args)
    if not answers.predictions:
        first, many = answers.faults[0], len(photos) > 1
        words = f"None of the {len(photos):,} photographs could be read; " if many else ""
        raise (OSError if first.system else ValueError)(words + first.text)
    result = _result(opened, photos, left_out, pixels, answers, devices.describe(device))
    try:
        commands.deliver(table(result), (args.json, lambda path: write_result(path, result)))
    finally:
        _report(answers.faults, len(photos), answers)
    if answers.partial:
        return commands.INTERRUPTED
    return commands.FAILED if answers.faults else commands.DONE


def _heading(opened: Opened, model: LoadedModel, pixels: Preprocess) -> str:
    images = f"resize {pixels.resize}, crop {pixels.crop}"
    return f"{opened.name}, {opened.weights}: {len(model.classes):,} classes, {images}"


def _command(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    try:
        return _predict(args)
    except (RuntimeError, MemoryError) as error:
        cure = "Use another --device or a smaller --batch-size."
        if (reason := explain(error, cure)) is None:
            raise
        raise OSError(reason) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-predict``."""
    return commands.run("pyconv-predict", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
