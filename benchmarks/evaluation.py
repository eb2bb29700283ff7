"""Time the evaluation against the original's: the input pipeline, end to end, and its memory.

    python benchmarks/evaluation.py pipeline
    python benchmarks/evaluation.py end-to-end --flags "--optimize --dtype bfloat16 --fast-decode"
    python benchmarks/evaluation.py memory

Everything runs on the same generated JPEGs (500x375, quality 90). What is compared takes turns in
one process, and medians over the rounds are reported: ratios travel between machines, times do not.
``--json FILE`` keeps all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from pyconv import PyConvResNet50_Weights, get_model
from pyconv.data import ImageList, find_images, make_loader
from pyconv.evaluate import evaluate
from pyconv.evaluate.__main__ import main as pyconv_eval

PREPROCESS = PyConvResNet50_Weights.IMAGENET1K_V1.transforms()
CLASSES = 10


def write_images(root: Path, count: int) -> ImageList:
    """Pictures with the detail of photographs: noise at several scales."""
    random = np.random.RandomState(0)
    for n in range(count):
        layers = [random.randint(0, 256, (375 // s + 1, 500 // s + 1, 3)) for s in (4, 16, 64)]
        scaled = [
            np.asarray(Image.fromarray(x.astype(np.uint8)).resize((500, 375))) for x in layers
        ]
        pixels = np.average(scaled, axis=0, weights=(1, 2, 4)).astype(np.uint8)
        folder = root / f"class{n % CLASSES}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{n:05d}.JPEG", quality=90)
    return find_images(root)


class Original(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The original's input: PIL, and every image normalised on its own."""

    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def __init__(self, images: ImageList) -> None:
        self.samples = images.samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        with path.open("rb") as file, Image.open(file) as image:
            return self.transform(image.convert("RGB")), label


def plain_loader(images: ImageList, batch: int, workers: int) -> Iterable[list[torch.Tensor]]:
    return torch.utils.data.DataLoader(Original(images), batch, num_workers=workers)


def plain_loop(model: nn.Module, loader: Iterable[list[torch.Tensor]]) -> int:
    """An evaluation as it is written by hand: float32, NCHW, a count read after each batch."""
    correct = 0
    with torch.no_grad():
        for pixels, labels in loader:
            correct += (model(pixels).argmax(1) == labels).sum().item()
    return int(correct)


Runs = dict[str, list[float]]


def take_turns(ways: dict[str, Callable[[], float]], rounds: int) -> Runs:
    """Images per second of each way, round by round; a first round warms up."""
    runs: Runs = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            speed = way()
            if number:
                runs[name].append(speed)
    return runs


def timed(images: int, action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return images / (time.perf_counter() - start)


def pipeline(args: argparse.Namespace, root: Path) -> Runs:
    """Loading alone: float32 batches, ready for a model."""
    images = write_images(root, args.images)

    def ours(fast: bool) -> None:
        loader = make_loader(images, PREPROCESS, args.batch, args.workers, fast_decode=fast)
        for batch in loader:
            PREPROCESS.normalise(batch.pixels)

    def original() -> None:
        for _ in plain_loader(images, args.batch, args.workers):
            pass

    return take_turns(
        {
            "original": lambda: timed(args.images, original),
            "exact": lambda: timed(args.images, lambda: ours(False)),
            "--fast-decode": lambda: timed(args.images, lambda: ours(True)),
        },
        args.rounds,
    )


def end_to_end(args: argparse.Namespace, root: Path) -> Runs:
    """The command against a plain loop, on the same images and weights."""
    folder = root / "images"
    folder.mkdir()
    images = write_images(folder, args.images)
    torch.manual_seed(0)
    model = get_model(args.model, num_classes=CLASSES).eval()
    torch.save(model.state_dict(), root / "model.pth")
    command = [
        *(str(folder), "--model", args.model, "--checkpoint", str(root / "model.pth")),
        *("--batch-size", str(args.batch), "--workers", str(args.workers)),
        *("--json", str(root / "result.json"), *args.flags.split()),
    ]

    def ours() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            code = pyconv_eval(command)
        if code:
            raise SystemExit(f"pyconv-eval ended with {code}")
        return float(json.loads((root / "result.json").read_text())["images_per_second"])

    def plain() -> None:
        plain_loop(model, plain_loader(images, args.batch, args.workers))

    name = f"pyconv-eval {args.flags}".strip()
    ways = {"plain loop": lambda: timed(args.images, plain), name: ours}
    return take_turns(ways, args.rounds)


class Watched(nn.Module):
    """A classifier of almost no work that notes the memory of its process as it goes."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.seen = every, 0
        self.megabytes: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, self.seen = self.seen // self.every, self.seen + len(x)
        if self.seen // self.every > before:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return x.mean((2, 3)).repeat(1, 4)[:, :CLASSES]


def memory(args: argparse.Namespace, root: Path) -> Runs:
    """The resident memory over 50,000 images: a list that names few files again and again."""
    images = write_images(root, 100)
    times = args.memory_images // len(images.samples)
    many = ImageList(images.classes, images.samples * times)
    model = Watched(args.memory_images // 10)
    loader = make_loader(many, PREPROCESS, args.batch, args.workers, fast_decode=True)
    evaluate(model, loader, normalise=PREPROCESS.normalise, predictions=True, progress=True)
    return {"megabytes at each tenth": model.megabytes}


PARTS = {"pipeline": pipeline, "end-to-end": end_to_end, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the evaluation against the original's.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--model", default="pyconvresnet50")
    parser.add_argument("--flags", default="--optimize --dtype bfloat16 --fast-decode")
    parser.add_argument("--memory-images", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = PARTS[args.part](args, Path(folder))
    if args.part == "memory":
        print("resident memory, MB:", *(f"{value:.0f}" for value in next(iter(runs.values()))))
    else:
        base = statistics.median(next(iter(runs.values())))
        print("| way | images/s | ratio |\n|---|---|---|")
        for name, speeds in runs.items():
            print(f"| {name} | {statistics.median(speeds):.1f} | "
                  f"{statistics.median(speeds) / base:.2f} |")  # fmt: skip
    if args.json is not None:
        content = {"part": args.part, "torch": torch.__version__, "workers": args.workers}
        args.json.write_text(json.dumps(content | {"runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
