"""Make this folder anew: train the tiny network, write its weights and 1,000 test images.

    apt-get install dataset-fashion-mnist
    python benchmarks/build_sample.py --output src/pyconv/data/sample

Trains ``pyconvresnet_tiny`` on the 60,000 training images of Fashion-MNIST (28x28 photographs of
clothes; Zalando, MIT) in 20 to 35 minutes on two cores, prints its accuracy on the 10,000 test
images after each epoch, and keeps the weights of the last one. Nothing is chosen on the test set.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyconv import pyconvresnet_tiny
from pyconv.data import find_images, make_loader
from pyconv.evaluate import evaluate
from pyconv.weights.rows import PyConvResNetTiny_Weights

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
MEAN, STD = 0.2860, 0.3530  # of the training pixels, in 0..1

EPOCHS, BATCH, PEAK_LR, MOMENTUM, WEIGHT_DECAY, SEED = 15, 128, 0.1, 0.9, 5e-4, 2020

logger = logging.getLogger(__name__)


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes as a uint8 tensor: ``[N]`` labels or ``[N, 28, 28]`` images."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions)]
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=4 + 4 * dimensions).view(
        shape
    )


def normalise(images: Tensor) -> Tensor:
    """uint8 ``[N, 28, 28]`` -> float32 ``[N, 1, 28, 28]``, zero mean and unit variance."""
    return (images.unsqueeze(1).float() / 255 - MEAN) / STD


def augment(images: Tensor) -> Tensor:
    """Flip half of the images and shift each by up to 2 pixels: uint8 ``[N, 28, 28]``."""
    count, size, margin = len(images), images.shape[-1], 2
    images = torch.where(torch.rand(count, 1, 1) < 0.5, images.flip(-1), images)
    padded = F.pad(images, (margin,) * 4)
    rows, columns = torch.randint(2 * margin + 1, (2, count, 1)) + torch.arange(size)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    with torch.inference_mode():
        batches = zip(images.split(500), labels.split(500), strict=True)
        correct = sum(int((model(normalise(x)).argmax(1) == y).sum()) for x, y in batches)
    return 100 * correct / len(labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """SGD with one warm-up and one cosine over all steps, cross entropy, the constants above."""
    steps = EPOCHS * (len(images) // BATCH)
    # Norms and biases are few and scale-free: decaying them only slows the training down.
    flat = [p for p in model.parameters() if p.ndim == 1]
    full = [p for p in model.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [
        {"params": full, "weight_decay": WEIGHT_DECAY},
        {"params": flat},
    ]
    optimizer = torch.optim.SGD(groups, lr=PEAK_LR, momentum=MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    for epoch in range(1, EPOCHS + 1):
        model.train()
        total = torch.zeros(())
        batches = torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]
        for batch in batches:
            logits = model(normalise(augment(images[batch])))
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean = total.item() / len(batches)
        if not math.isfinite(mean):
            raise SystemExit(f"The loss is not finite in epoch {epoch}; nothing was written.")
        logger.info(
            "epoch %d/%d: loss %.4f, test top-1 %.2f %%",
            epoch,
            EPOCHS,
            mean,
            accuracy(model, *test),
        )


def write_images(images: Tensor, labels: Tensor, folder: Path, per_class: int = 100) -> None:
    """The first images of each class, in order, as ``<class>/<index in the test set>.png``."""
    from PIL import Image

    for index, name in enumerate(CLASSES):
        place = folder / f"{index}-{name}"
        place.mkdir(parents=True, exist_ok=True)
        for number in torch.nonzero(labels == index)[:per_class, 0].tolist():
            Image.fromarray(images[number].numpy()).save(place / f"{number:05d}.png", optimize=True)


def write_record(model: nn.Module, folder: Path, test_top1: float) -> None:
    """What the network counts on the images just written, and on all test images."""
    weights = PyConvResNetTiny_Weights.DEFAULT.transforms()
    loader = make_loader(find_images(folder / "images"), weights)
    record = evaluate(model, loader, normalise=weights.normalise).as_dict()
    record = {key: record[key] for key in ("images", "correct1", "correct5", "top1", "top5")}
    record["test_top1"] = test_top1
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample's network, write the sample.")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    images = read_idx(args.data / "train-images-idx3-ubyte.gz")
    labels = read_idx(args.data / "train-labels-idx1-ubyte.gz").long()
    test_images = read_idx(args.data / "t10k-images-idx3-ubyte.gz")
    test_labels = read_idx(args.data / "t10k-labels-idx1-ubyte.gz").long()
    write_images(test_images, test_labels, args.output / "images")

    torch.manual_seed(SEED)
    model = pyconvresnet_tiny().to(memory_format=torch.channels_last)
    train(model, images, labels, (test_images, test_labels))
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    torch.save(state, args.output / "pyconvresnet_tiny.pth")
    write_record(model, args.output, accuracy(model, test_images, test_labels))


if __name__ == "__main__":
    main()
