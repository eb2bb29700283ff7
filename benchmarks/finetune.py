"""Fine-tuning recipes on small sets of real images: python benchmarks/finetune.py --output FOLDER

The images lie in the wheels of scikit-learn and scikit-image. pyconvresnet_tiny starts from its
weights, which have seen clothes. A fifth of the images is held out. What was tried is TRIED.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pyconv.train import TrainOptions, train
from pyconv.train.recipe import PAPER, Recipe
from pyconv.train.recipe import RECIPES as NAMED

SIDE = 28  # pixels


def digits() -> dict[str, list[np.ndarray]]:
    """40 handwritten figures of each kind, 8x8 pixels enlarged."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return {
        str(digit): [16 * image for image in found.images[found.target == digit][:40]]
        for digit in range(10)
    }


def faces() -> dict[str, list[np.ndarray]]:
    """100 faces and 100 parts of photographs without one, 25x25 pixels."""
    from skimage.data import lfw_subset

    images = 255 * lfw_subset()
    return {"face": list(images[:100]), "none": list(images[100:])}


def materials() -> dict[str, list[np.ndarray]]:
    """Squares of 64x64 pixels, beside each other, from photographs of five surfaces."""
    from skimage import data

    sources = {
        name: getattr(data, name)() for name in ("brick", "grass", "gravel", "moon", "coins")
    }
    return {
        name: [
            photo[y : y + 64, x : x + 64]
            for y in range(0, photo.shape[0] - 63, 64)
            for x in range(0, photo.shape[1] - 63, 64)
        ]
        for name, photo in sources.items()
    }


def write(folder: Path, classes: dict[str, list[np.ndarray]]) -> Path:
    """One folder per class."""
    for name, images in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images):
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
                folder / name / f"{number:03d}.png"
            )
    return folder


STEPS = dataclasses.replace(PAPER, epochs=20, milestones=(15,), batch_size=64)
TRIED: dict[str, Recipe] = {
    "finetune": NAMED["finetune"],
    "paper, for 20 epochs": dataclasses.replace(PAPER, epochs=20),
    "the rate of paper, 0.1, batches of 64": STEPS,
    "lr 0.01, batches of 64, a tenth from epoch 15 on": dataclasses.replace(STEPS, lr=0.01),
    "finetune with --min-scale 0.35": dataclasses.replace(NAMED["finetune"], min_scale=0.35),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    sets = {make.__name__: make() for make in (digits, faces, materials)}
    print("| recipe | " + " | ".join(sets) + " |\n|---|" + "---|" * len(sets))
    for name, recipe in TRIED.items():
        cells = []
        for which, classes in sets.items():
            if 0.8 * sum(map(len, classes.values())) < recipe.batch_size:
                cells.append("fewer images than a batch")
                continue
            data = write(args.output / "images" / which, classes)
            found = []
            for seed in range(args.seeds):
                own = dataclasses.replace(recipe, seed=seed, val_fraction=0.2)
                run = args.output / "runs" / f"{which}, {name}, {seed}".replace(" ", "_")
                summary = train(
                    data, run, model="pyconvresnet_tiny", recipe=own, weights="DEFAULT",
                    options=TrainOptions(workers=0),
                )  # fmt: skip
                found.append(summary.last_top1 or 0.0)
            cells.append(f"{statistics.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
