"""A training step against that of the original, paired in one process; and the cost of loading.

    python benchmarks/training.py --json training.json

The original's step: NCHW float32, every pyramid level as a plain grouped convolution, and the loss
and the accuracies fetched at every step. Ours: what pyconv-train does. The steps take turns of
four, of which the last counts. The result is the median of each, and the median ratio within the
turns. The second part trains a short epoch on JPEG files through pyconv-train. Its result is the
share of the time that the training waited for images.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pyconv import get_model
from pyconv.layers import PyConv2d
from pyconv.speed import kernels
from pyconv.speed.memory import keep_memory
from pyconv.system.processor import computes_in
from pyconv.train import Recipe, TrainOptions, train
from pyconv.train.step import make_optimizer

UNCOUNTED = 3  # steps of a turn, before the one that is timed


class PlainPyramid(nn.Module):
    """The levels of a pyramid as the original computes them: one grouped convolution each."""

    def __init__(self, pyramid: PyConv2d) -> None:
        super().__init__()
        self.levels = nn.ModuleList(pyramid.levels)

    def forward(self, x: Tensor) -> Tensor:
        maps = [
            F.conv2d(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)
            for c in self.levels
        ]
        return torch.cat(maps, 1)


def make_plain(network: nn.Module) -> nn.Module:
    """Replace every pyramid by plain grouped convolutions with the same weights."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PyConv2d):
                setattr(parent, name, PlainPyramid(child))
    return network


def original_step(name: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = make_plain(get_model(name)).to(images.device).train()
    optimizer = make_optimizer(network, Recipe())
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        with kernels.disabled():  # those of this library, in the blocks
            logits = network(images)
        loss = criterion(logits, labels)
        loss.item()
        right = logits.topk(5).indices == labels[:, None]
        right[:, 0].float().sum().item(), right.float().sum().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(
    name: str, images: Tensor, labels: Tensor, dtype: torch.dtype, compiled: bool
) -> Callable[[], None]:
    network = get_model(name).to(images.device).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(network, Recipe())
    criterion = nn.CrossEntropyLoss()
    images = images.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(network) if compiled else network
    seen = torch.zeros(2, device=images.device)

    def step() -> None:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            logits = forward(images)
        loss = criterion(logits.float(), labels)
        loss.backward()
        seen[0] += loss.detach()
        seen[1] += (logits.detach().argmax(1) == labels).sum()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def compare(name: str, batch: int, size: int, turns: int, device: torch.device, compiled: bool):
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    steps = {
        "original: NCHW float32, synchronised": original_step(name, images, labels),
    }
    for dtype in (torch.float32, torch.bfloat16):
        if computes_in(device.type, dtype):  # without, a step takes the better part of a minute
            label = f"pyconv {str(dtype).removeprefix('torch.')}"
            steps[label] = our_step(name, images, labels, dtype, False)
            if compiled:
                steps[f"{label}, compiled"] = our_step(name, images, labels, dtype, True)
    times = {label: [] for label in steps}
    for turn in range(turns + 1):
        for label, step in steps.items():
            # Memory is kept as in pyconv-train, and not for the original. The first steps of a turn
            # do not count, since they begin with the memory of another.
            with contextlib.nullcontext() if label.startswith("original") else keep_memory():
                taken = [timed(step, device) for _ in range(UNCOUNTED + 1)][-1]
            if turn >= 1:  # the first turn warms up
                times[label].append(taken)
    base = times[next(iter(steps))]
    return {
        label: {
            "ms": statistics.median(taken),
            "ratio": statistics.median(b / t for b, t in zip(base, taken, strict=True)),
        }
        for label, taken in times.items()
    }


def loading(name: str, batch: int, size: int, steps: int, device: torch.device) -> dict[str, float]:
    """Train one short epoch on 500x375 JPEG files; images/s and the share of time spent waiting."""
    with tempfile.TemporaryDirectory() as folder:
        root, generator = Path(folder), torch.Generator().manual_seed(0)
        for split, count in (("train", steps * batch // 2), ("val", 1)):
            for label in ("a", "b"):
                place = root / "data" / split / label
                place.mkdir(parents=True)
                for number in range(count):
                    coarse = torch.rand(1, 3, 24, 32, generator=generator)
                    pixels = F.interpolate(coarse, (375, 500), mode="bicubic")[0].clamp(0, 1)
                    image = Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())
                    image.save(place / f"{number}.jpg", quality=90)
        recipe = Recipe(epochs=1, batch_size=batch, lr=0.01, milestones=(), crop=size)
        options = TrainOptions(device=str(device))
        train(root / "data", root / "run", model=name, recipe=recipe, options=options)
        row = list(csv.DictReader((root / "run" / "log.csv").open()))[-1]
    return {key: float(row[key]) for key in ("images_per_second", "waiting_percent")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pyconvresnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16, help="of the short epoch; 0 leaves it out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compiled steps as well")
    parser.add_argument("--json", type=Path, help="write the result there as well")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = compare(args.model, args.batch, args.size, args.turns, device, args.compile)
    print(f"{args.model}, batch {args.batch}, {args.size}x{args.size}, {device}")
    for label, row in rows.items():
        print(f"{label:<38}{row['ms']:>10.0f} ms{row['ratio']:>8.2f}x")
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), **vars(args)}
    result = {key: str(value) for key, value in result.items()} | {"rows": rows}
    if args.steps:
        result["loading"] = loading(args.model, args.batch, args.size, args.steps, device)
        print(f"waiting for images: {result['loading']['waiting_percent']:.1f} % of the time")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
