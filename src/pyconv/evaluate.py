"""Count what a model gets right on labelled images: ``evaluate()`` and the command pyconv-eval."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from . import checkpoint, cli
from .data import ImageList, Preprocess, find_images, make_loader
from .models import get_model, resolve_weights
from .weights import PyConvResNet50_Weights, PyConvResNetTiny_Weights, WeightsEnum, sample_file

__all__ = ["Metrics", "evaluate", "main"]


@dataclass(frozen=True)
class Metrics:
    """What an evaluation counted; ``top1`` and ``top5`` are in percent."""

    images: int
    correct1: int
    correct5: int  # with fewer than five classes: among all of them
    loss: float  # mean cross entropy
    seconds: float
    unreadable: tuple[str, ...] = ()

    @property
    def top1(self) -> float:
        return 100 * self.correct1 / self.images

    @property
    def top5(self) -> float:
        return 100 * self.correct5 / self.images

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The fields and the figures that follow from them, ready for JSON."""
        return {
            "images": self.images,
            "correct1": self.correct1,
            "correct5": self.correct5,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "images_per_second": self.images_per_second,
            "unreadable": list(self.unreadable),
        }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    normalise: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Metrics:
    """Evaluate a classifier on batches of images ``[N, C, H, W]`` and labels ``[N]``.

    The model is put on the device and into eval mode, and left there.

    Args:
        model: Gives logits ``[N, classes]``.
        loader: The batches, each image once.
        normalise: Applied to every batch on the device, such as :meth:`Preprocess.normalise`
            for a loader of uint8 pixels; None if the loader's images are ready.
        device: Where to compute.
        progress: Show a bar with the running accuracy on stderr.

    Raises:
        ValueError: if the loader has no images, or labels that the model has no output for.
    """
    model.to(device).eval()
    images = correct1 = correct5 = 0
    loss = 0.0
    start = time.perf_counter()
    with tqdm(loader, unit="batch", disable=not progress) as bar:
        for pixels, labels in bar:
            pixels, labels = pixels.to(device), labels.to(device)
            logits = model(pixels if normalise is None else normalise(pixels)).float()
            classes = logits.shape[1]
            if labels.numel() and int(labels.max()) >= classes:
                raise ValueError(
                    f"There is a label {int(labels.max())} and the model has {classes} classes, 0 "
                    f"to {classes - 1}. Evaluate it on images of the classes it was trained on."
                )
            best = logits.topk(min(5, classes)).indices == labels[:, None]
            images += len(labels)
            correct1 += int(best[:, 0].sum())
            correct5 += int(best.sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            bar.set_postfix_str(f"top-1 {100 * correct1 / images:.2f} %")
    if not images:
        raise ValueError("There are no images to evaluate on.")
    return Metrics(images, correct1, correct5, loss / images, time.perf_counter() - start)


@dataclass(frozen=True)
class Job:
    """What the command was asked to do, decided."""

    model: nn.Module
    name: str
    weights: str  # the name of the published set, or the path of the checkpoint
    published: WeightsEnum | None
    images: ImageList
    preprocess: Preprocess
    record: dict[str, Any] | None  # what is on record for these very files


def _sample_job() -> Job:
    weights = PyConvResNetTiny_Weights.DEFAULT
    return Job(
        get_model(weights.value.model, weights=weights),
        weights.value.model,
        str(weights),
        weights,
        find_images(sample_file("images")),
        weights.transforms(),
        json.loads(sample_file("record.json").read_text("utf-8")),
    )


def _job(args: argparse.Namespace) -> Job:
    """Build the model first: a wrong name should not wait for 50,000 images to be listed."""
    if args.checkpoint is not None:
        classes = checkpoint.count_classes(checkpoint.read(args.checkpoint))
        chosen: WeightsEnum | Path | None = args.checkpoint
        model = get_model(args.model, weights=chosen, num_classes=classes)
    else:
        chosen = resolve_weights(args.model, args.weights is None, args.weights)
        model = get_model(args.model, weights=chosen)
    published = chosen if isinstance(chosen, WeightsEnum) else None
    preprocess = (published or PyConvResNet50_Weights.DEFAULT).transforms(args.crop, args.resize)
    images = find_images(args.data)
    if len(images.classes) != model.num_classes:
        raise ValueError(
            f"{args.data} holds {len(images.classes)} classes and the model has "
            f"{model.num_classes}. Evaluate it on images of the classes it was trained on."
        )
    return Job(model, args.model, str(chosen), published, images, preprocess, None)


def _report(job: Job, metrics: Metrics) -> str:
    """The table on stdout."""
    rows = [
        ("model", job.name),
        ("weights", job.weights),
        ("images", f"{metrics.images:,}"),
        ("top-1", f"{metrics.top1:.2f} %"),
        ("top-5", f"{metrics.top5:.2f} %"),
        ("loss", f"{metrics.loss:.4f}"),
        ("speed", f"{metrics.images_per_second:,.0f} images/s"),
    ]
    if job.record is not None:
        verdict = "agrees" if agrees(job.record, metrics) else "DIFFERS"
        rows.append(("on record", f"top-1 {job.record['top1']:.2f} %: {verdict}"))
    elif job.published is not None and job.published.file_id is not None:
        claimed = job.published.meta["acc@1 by crop"].get(job.preprocess.crop)
        if claimed is not None:
            rows.append(("published", f"top-1 {claimed:.2f} % (the authors' figure)"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def agrees(record: dict[str, Any], metrics: Metrics) -> bool:
    """Whether the counts are those on record, but for one image in a thousand.

    Processors add up in different orders, so an image on the border of two classes may fall to
    either side; a wrong file, label or preprocessing moves many.
    """
    slack = metrics.images // 1000
    counts = ((record["correct1"], metrics.correct1), (record["correct5"], metrics.correct5))
    return metrics.images == int(record["images"]) and all(abs(a - b) <= slack for a, b in counts)


EXAMPLES = """\
  pyconv-eval --sample
      check the installation: the embedded network on 1,000 real images
  pyconv-eval /data/imagenet/val --model pyconvresnet50
      the paper's weights on the ImageNet validation images
  pyconv-eval /data/flowers/val --model resnet50 --checkpoint best.pth --json result.json
      your own checkpoint on your own classes
"""


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("pyconv-eval", "Evaluate a network on labelled images.", EXAMPLES)
    parser.add_argument("data", type=Path, nargs="?", help="folder with one folder per class")
    parser.add_argument("--sample", action="store_true", help="evaluate the embedded sample")
    parser.add_argument("--model", help="a name of pyconv.list_models()")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights", help="published weights, such as IMAGENET1K_V2; default: the paper's"
    )
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a checkpoint of your own")
    parser.add_argument("--crop", type=int, help="side of the centre crop in pixels")
    parser.add_argument("--resize", type=int, help="shorter side before the crop in pixels")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--workers", type=int, default=0, help="loader processes; default: 0")
    parser.add_argument("--device", default=None, help="default: cuda or mps if there, else cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def _command(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sample == (args.data is not None):
        parser.error("give either a folder of images or --sample")
    if not args.sample and args.model is None:
        parser.error("--model is missing, such as --model pyconvresnet50")
    job = _sample_job() if args.sample else _job(args)
    device = args.device or _default_device()
    loader = make_loader(job.images, job.preprocess, args.batch_size, args.workers)
    metrics = evaluate(
        job.model, loader, normalise=job.preprocess.normalise, device=device, progress=True
    )
    cli.say(_report(job, metrics))
    if args.json is not None:
        result = {"model": job.name, "weights": job.weights} | metrics.as_dict()
        if job.record is not None:
            result |= {"on_record": job.record, "agrees": agrees(job.record, metrics)}
        cli.write_json(args.json, result)
    return cli.DONE if job.record is None or agrees(job.record, metrics) else cli.FAILED


def _default_device() -> torch.device:
    """The accelerator if there is one; a build of PyTorch names its own even where none is."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-eval``."""
    return cli.run("pyconv-eval", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
