"""``predict()``: the likeliest classes of images, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data import imagenet
from ..data.decoding import read_image
from ..models.load import LoadedModel
from ..system.reading import ContentError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Prediction", "likeliest", "predict"]


@dataclass(frozen=True)
class Prediction:
    """A class that an image may be of."""

    name: str  # in English for ImageNet's synsets, else as the model has it
    probability: float  # 0 to 1
    index: int  # the output of the model


def predict(
    model: LoadedModel,
    images: str | Path | Image | Tensor | Iterable[str | Path | Image | Tensor],
    topk: int = 5,
    *,
    batch_size: int = 32,
) -> list[list[Prediction]]:
    """The likeliest classes of each image, the best first.

    The images pass through the model's own preprocessing, decoded as for an evaluation, and are
    computed where the model is. It is put into eval mode.

    Args:
        model: A model of :func:`pyconv.load`, or any other with its ``classes`` and
            ``transforms()``.
        images: One or more: paths of image files, PIL images, or tensors ``[C, H, W]`` of uint8 or
            of floating numbers from 0 to 1. Colour and grey are brought to what the model takes.
        topk: Classes to name of each image; all of them, if there are fewer.
        batch_size: Images to compute at once.

    Raises:
        ValueError: if the model does not know its classes, or a file is no image that can be read;
            it names the file.
        OSError: if the system does not read a file.
    """
    single = isinstance(images, (str, Path)) or not isinstance(images, Iterable)
    if isinstance(images, Tensor):
        single = images.ndim < 4
    remaining = iter([images] if single else images)  # type: ignore[arg-type]
    transforms = model.transforms()
    found: list[list[Prediction]] = []
    while batch := list(islice(remaining, batch_size)):
        pixels = torch.stack([transforms(_picture(each, len(transforms.mean))) for each in batch])
        found += likeliest(model, pixels, topk)
    return found


def _picture(image: str | Path | Image | Tensor, channels: int) -> Image | Tensor:
    if not isinstance(image, (str, Path)):
        return image
    try:
        return read_image(image, channels)
    except ContentError as error:
        raise ValueError(f"{image} cannot be read: {error}.") from error


@torch.inference_mode()
def likeliest(model: LoadedModel, pixels: Tensor, topk: int) -> Iterator[list[Prediction]]:
    """The likeliest classes of a batch: of each image in normalised pixels ``[N, C, H, W]``."""
    names = getattr(model, "classes", [])
    if not names:
        raise ValueError(
            "The model does not know its classes, or has none. Load it with pyconv.load, or name "
            "them: model.classes = [...]."
        )
    parameter = next(model.parameters(), torch.empty(0))
    logits = model.eval()(pixels.to(parameter.device, parameter.dtype)).float()
    if logits.shape[1] != len(names):
        raise ValueError(
            f"The model has {logits.shape[1]} outputs, and model.classes names {len(names)}."
        )
    best = logits.softmax(1).topk(min(topk, len(names)))
    for shares, places in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        yield [
            Prediction(imagenet.word(names[place]), share, place)
            for share, place in zip(shares, places, strict=True)
        ]
