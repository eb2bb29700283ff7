"""Are pyramids better than plain convolutions? PyConv against a ResNet with as many parameters.

    apt-get install dataset-fashion-mnist
    python benchmarks/fashion_mnist.py --output runs/fashion --json fashion_mnist.json

Both networks learn Fashion-MNIST by the same recipe through pyconv-train, three times each with
different seeds. The defaults fit into half an hour on two cores: the first 24,000 of the 60,000
training images, 5 epochs; --images 60000 --epochs 15 is the whole, and --at-once 2 trains two
networks side by side, on half of the cores each, which takes less time. The figure of a run is the
top-1 on all 10,000 test images after the last epoch: nothing is chosen on them. The same command
goes on with a study that was interrupted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from build_sample import CLASSES, read_idx
from PIL import Image

from pyconv.architectures import ARCHITECTURES
from pyconv.resnet import ResNet

TINY = ARCHITECTURES["pyconvresnet_tiny"]
PLANES = (22, 44, 66, 87)
# The tiny row with the blocks and shortcuts of ResNet, and planes that bring it to its size.
RESNET_TINY = replace(
    TINY,
    title="ResNet-tiny",
    block="basic1",
    pool_shortcut=False,
    stem=replace(TINY.stem, width=PLANES[0]),
    stages=tuple(
        replace(stage, planes=planes, kernels=(3,), groups=(1,))
        for stage, planes in zip(TINY.stages, PLANES, strict=True)
    ),
)
ROWS = {"pyconvresnet_tiny": "pyconvresnet_tiny", "resnet_tiny": "fashion_mnist:resnet_tiny"}


def resnet_tiny(num_classes: int = 10) -> ResNet:
    """The ResNet of the comparison, as pyconv-train builds it."""
    return ResNet(RESNET_TINY, num_classes=num_classes)


def write_tree(source: Path, root: Path, images: int) -> None:
    """Fashion-MNIST as PNG files in train/ and val/, one folder per class, once."""
    done = root / "complete"
    if done.exists():
        return
    for split, prefix, count in (("train", "train", images), ("val", "t10k", 10_000)):
        pixels = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")[:count]
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")[:count]
        for label, name in enumerate(CLASSES):
            folder = root / split / f"{label}-{name}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in torch.nonzero(labels == label)[:, 0].tolist():
                Image.fromarray(pixels[index].numpy()).save(folder / f"{index:05d}.png")
    done.touch()


def train(
    tree: Path, output: Path, model: str, epochs: int, seed: int, threads: int, extra: list[str]
) -> dict:
    """One run of pyconv-train; its summary, with the top-1 after each epoch."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent / "src"), os.environ.get("PYTHONPATH", "")])
    recipe = [
        "--epochs", epochs, "--batch-size", 128, "--lr", 0.1, "--schedule", "cosine", "--warmup", 1,
        "--nesterov", "--weight-decay", 5e-4, "--no-decay-norms", "--min-scale", 0.6,
        "--crop", 28, "--resize", 28, "--mean", 0.2860, "--std", 0.3530, "--seed", seed,
    ]  # fmt: skip
    command = [sys.executable, "-m", "pyconv.train", tree, "--model", model, "--output", output]
    subprocess.run(
        [str(word) for word in [*command, *recipe, *extra]],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
    )
    with (output / "log.csv").open(newline="") as log:
        epochs_top1 = [float(row["val_top1"]) for row in csv.DictReader(log)]
    return json.loads((output / "summary.json").read_text()) | {"epochs_top1": epochs_top1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--images", type=int, default=24_000, help="training images, to 60000")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", type=Path, help="write the result there as well")
    args, extra = parser.parse_known_args()  # what else is given goes to pyconv-train

    tree = args.output / f"images-{args.images}"
    write_tree(args.data, tree, args.images)
    threads = max(1, torch.get_num_threads() // args.at_once)
    with ThreadPoolExecutor(args.at_once) as at_once:
        runs = [
            (name, at_once.submit(train, tree, output, model, args.epochs, seed, threads, extra))
            for seed in range(args.seeds)  # in turns, so that a slow hour slows both
            for name, model in ROWS.items()
            for output in [args.output / f"{name}-{args.images}-{args.epochs}-{seed}"]
        ]
        results = {}
        try:
            for name, run in runs:
                results.setdefault(name, []).append(run.result())
        except BaseException:  # at once, not after hours of other runs
            at_once.shutdown(wait=False, cancel_futures=True)
            raise

    study = {"images": args.images, "epochs": args.epochs, "torch": torch.__version__, "rows": {}}
    print(f"{'network':<20}{'parameters':>12}{'top-1 %: mean':>16}{'spread':>9}{'images/s':>11}")
    for name, runs in results.items():
        tops = [run["last_top1"] for run in runs]
        row = {
            "parameters": runs[0]["parameters"],
            "top1": tops,
            "epochs_top1": [run["epochs_top1"] for run in runs],
            "mean": statistics.mean(tops),
            "spread": statistics.stdev(tops) if len(tops) > 1 else 0.0,
            "images_per_second": statistics.median(run["images_per_second"] for run in runs),
            "waiting_percent": statistics.median(run["waiting_percent"] for run in runs),
        }
        study["rows"][name] = row
        print(
            f"{name:<20}{row['parameters']:>12,}{row['mean']:>16.2f}{row['spread']:>9.2f}"
            f"{row['images_per_second']:>11,.0f}"
        )
    print("spread: standard deviation over the seeds, of single runs")
    if args.json is not None:
        args.json.write_text(json.dumps(study, indent=2) + "\n")


if __name__ == "__main__":
    main()
