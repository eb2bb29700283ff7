"""Draw the pictures of README.md, docs/viz.md and docs/segmentation.md.

pip install scikit-image && python docs/figures/draw.py [NAME ...]

The photograph is Chelsea by Stefan van der Walt (CC0), as scikit-image packs it; the clothes are
the sample's. Of these networks only pyconvresnet_tiny is trained, and the pictures say so.
"""

from __future__ import annotations

import functools
import io
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

import pyconv
from pyconv.data import find_images, make_loader
from pyconv.evaluate import evaluate

FOLDER = Path(__file__).parent
WEIGHTS = pyconv.PyConvResNetTiny_Weights.DEFAULT
TINY = "PyConvResNet-tiny"
COLOURS = 96  # of a picture: a third of the bytes, and no difference to be seen
PHOTOGRAPHS = {"responses"}


def pyramid() -> Figure:
    return pyconv.viz.pyramid(pyconv.pyconvresnet50().layer1[0].conv2)


def responses() -> Figure:
    from skimage.data import chelsea

    model, photograph = pyconv.load(WEIGHTS), Image.fromarray(chelsea())
    title = f"{TINY}, trained on 28x28 images of clothes"
    return pyconv.viz.responses(model, photograph, channels=2, title=title)


def receptive_field() -> Figure:
    torch.manual_seed(0)
    models = pyconv.resnet50(), pyconv.pyconvresnet50()
    return pyconv.viz.receptive_field(*models, stage=2, title="untrained networks")


def accuracy_against_cost() -> Figure:
    return pyconv.viz.accuracy_against_cost()


def predictions() -> Figure:
    images = find_images(WEIGHTS.path.with_name("images"))
    paths, labels = zip(*images.samples[40:1000:65], strict=True)
    title = f"{TINY} with its own weights"
    return pyconv.viz.predictions(pyconv.load(WEIGHTS), paths, labels, title=title)


def confusion_matrix() -> Figure:
    images, pixels = find_images(WEIGHTS.path.with_name("images")), WEIGHTS.transforms()
    metrics = evaluate(
        pyconv.pyconvresnet_tiny(weights=WEIGHTS),
        make_loader(images, pixels),
        normalise=pixels.normalise,
        predictions=True,
    )
    words, title = WEIGHTS.meta["categories"], f"{TINY} on its sample"
    return pyconv.viz.confusion_matrix(metrics, images=images, classes=words, title=title)


def segmentation_loss() -> Figure:
    return tutorial("segmenter")["curve"]


def segmentation() -> Figure:
    return tutorial("segmenter")["panels"]


@functools.cache
def tutorial(name: str) -> dict[str, Any]:
    """What a tutorial made, by the names that it has there."""
    return runpy.run_path(str(FOLDER.parent / "tutorials" / f"{name}.py"))


PICTURES: tuple[Callable[[], Figure], ...] = (
    pyramid,
    responses,
    receptive_field,
    accuracy_against_cost,
    predictions,
    confusion_matrix,
    segmentation_loss,
    segmentation,
)


def save(figure: Figure, stem: str) -> None:
    """Write a file that a page loads at once: photographs as JPEG, all else in few colours."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, bbox_inches="tight", pad_inches=0.08)
    picture = Image.open(file).convert("RGB")
    path = FOLDER / f"{stem}.{'jpg' if stem in PHOTOGRAPHS else 'png'}"
    if stem in PHOTOGRAPHS:
        picture.save(path, quality=75, optimize=True, progressive=True)
    else:
        few = picture.quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for draw in PICTURES:
        if draw.__name__ in sys.argv[1:] or not sys.argv[1:]:
            save(draw(), draw.__name__)
