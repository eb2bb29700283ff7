"""``predict()``: the class of each pixel, as the published figures were measured.

The image is brought to each of several sizes and cut into overlapping windows. What the network
says of the windows, and of their mirror images, is averaged.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..backbone import image_channels
from ..data.preprocess import IMAGENET, WholeImage
from ..evaluate.halving import Halving

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PUBLISHED_SCALES", "predict"]

PUBLISHED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SMALLER = "a smaller --window"  # what to do where one does not fit into memory
NUMBERS = 1 << 26  # that are resized at once: 256 MiB of float32


class View(NamedTuple):
    """The image at one scale, and the windows that it is cut into."""

    height: int
    width: int
    tops: tuple[int, ...]  # of the windows, in the image as it is padded
    lefts: tuple[int, ...]
    padding: tuple[int, int, int, int]  # left, right, top, bottom

    @property
    def windows(self) -> int:
        return len(self.tops) * len(self.lefts)


def plan(height: int, width: int, longer: int, window: int) -> View:
    """The view in which the longer side of an image has so many pixels; decided without it.

    Windows overlap by a third, and the last one ends where the image does. An image smaller than a
    window is padded on both sides.
    """
    ratio = longer / max(height, width)
    high, wide = (max(1, round(side * ratio)) for side in (height, width))
    high, wide = (longer, wide) if height >= width else (high, longer)
    above, left = max(0, window - high) // 2, max(0, window - wide) // 2
    padding = (left, max(0, window - wide) - left, above, max(0, window - high) - above)
    tops, lefts = (starts(max(side, window), window) for side in (high, wide))
    return View(high, wide, tops, lefts, padding)


def starts(size: int, window: int) -> tuple[int, ...]:
    """Where the windows begin that cover so many pixels."""
    step = math.ceil(window * 2 / 3)
    count = math.ceil((size - window) / step) + 1
    return tuple(min(n * step, size - window) for n in range(count))


@overload
def predict(
    model: nn.Module,
    image: Image | Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    mirror: bool = True,
    window: int = 473,
    base_size: int = 512,
    batch_size: int = 4,
    probabilities: Literal[False] = False,
    progress: bool = False,
) -> Tensor: ...
@overload
def predict(
    model: nn.Module,
    image: Image | Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    mirror: bool = True,
    window: int = 473,
    base_size: int = 512,
    batch_size: int = 4,
    probabilities: Literal[True],
    progress: bool = False,
) -> tuple[Tensor, Tensor]: ...
@torch.inference_mode()
def predict(
    model: nn.Module,
    image: Image | Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    mirror: bool = True,
    window: int = 473,
    base_size: int = 512,
    batch_size: int = 4,
    probabilities: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The class of each pixel of an image, of its own size: int64 ``[H, W]``, on the CPU.

    The model computes on the device that it is on, in eval mode, and is left so. Where memory runs
    out, the batch is halved. What is kept beside it is on the CPU, and depends on the scales and
    not on the size of the image: about 1 GB for all published ones and 150 classes.

    Args:
        model: Gives logits ``[N, classes, H, W]``, or a dict with such under ``out``.
        image: A PIL image or uint8 ``[C, H, W]``, which are normalised by ImageNet's statistics; or
            floating numbers ``[C, H, W]``, taken as they are.
        scales: At each, the longer side has ``scale * base_size`` pixels. The published figures are
            for ``PUBLISHED_SCALES``.
        mirror: Whether to look at the mirror images of the windows as well, as is published.
        window: Side of the windows in pixels; they overlap by a third.
        base_size: Longer side of the image at scale 1 in pixels.
        batch_size: Windows at once.
        probabilities: Return the averaged probabilities ``[classes, H, W]`` as well: ``(classes,
            probabilities)``.
        progress: Show a bar on stderr.

    Raises:
        ValueError: if an option is out of its range, the image is none, or not even one window
            fits into memory.

    Example:
        >>> model = pyconv.pyconvsegnet_pyconvresnet50(pretrained=True)
        >>> classes = predict(model, PIL.Image.open("street.jpg"))
    """
    _check(scales, window, base_size, batch_size)
    pixels = _pixels(model, image)
    height, width = pixels.shape[-2:]
    views = [plan(height, width, max(1, round(s * base_size)), window) for s in scales]
    model.eval()
    run = Halving(lambda x: _softmax(model(x)), None, SMALLER)
    shown = progress and sys.stderr is not None  # None: closed
    total = sum(view.windows for view in views)
    with tqdm(total=total, unit="window", disable=not shown) as bar:
        maps = [
            _average(run, model, pixels, v, mirror, window, batch_size, bar.update) for v in views
        ]
    return _whole(maps, height, width, probabilities)


def _check(scales: Sequence[float], window: int, base_size: int, batch_size: int) -> None:
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales={scales!r} must be positive numbers, at least one.")
    for name, value in (("window", window), ("base_size", base_size), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1.")


def _pixels(model: nn.Module, image: Image | Tensor) -> Tensor:
    """The image as the model takes it: floating numbers ``[C, H, W]``."""
    channels = image_channels(model)
    if isinstance(image, Tensor):
        fits = not image.is_floating_point() or image.shape[0] == channels
        if image.ndim != 3 or not image.numel() or not fits:
            raise ValueError(
                f"The image is {list(image.shape)}, and the network takes one of [{channels}, "
                "height, width] at a time."
            )
        if image.is_floating_point():
            return image
    pixels = IMAGENET.for_channels(channels)
    return WholeImage(pixels.mean, pixels.std)(image)


def _softmax(output: Any) -> Tensor:
    logits: Tensor = output if isinstance(output, Tensor) else output["out"]
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _average(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    pixels: Tensor,
    view: View,
    mirror: bool,
    window: int,
    batch_size: int,
    done: Callable[[int], object],
) -> Tensor:
    """The probabilities ``[classes, height, width]`` of a view, on the CPU."""
    tensors = chain(model.parameters(), model.buffers())
    like = next((t for t in tensors if t.is_floating_point()), pixels)
    pixels = F.interpolate(pixels[None], (view.height, view.width), mode="bilinear")
    pixels = F.pad(pixels, view.padding)[0].to(like)  # zero is the mean
    height, width = pixels.shape[-2:]
    total, count = torch.zeros(0), torch.zeros(height, width)
    places = list(product(view.tops, view.lefts))
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        batch = torch.stack([pixels[:, y : y + window, x : x + window] for y, x in some])
        found = run(batch)
        if mirror:
            found = (found + run(batch.flip(-1)).flip(-1)) / 2
        for (y, x), part in zip(some, found.cpu(), strict=True):
            if not len(total):
                total = part.new_zeros(len(part), height, width)
            total[:, y : y + window, x : x + window] += part
            count[y : y + window, x : x + window] += 1
        done(len(some))
    left, _, above, _ = view.padding
    return total.div_(count)[:, above : above + view.height, left : left + view.width]


def _whole(
    maps: Sequence[Tensor], height: int, width: int, probabilities: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """The averages of the views at the image's own size, a few classes at a time."""
    best = maps[0].new_full((height, width), -1.0)
    classes = torch.zeros(height, width, dtype=torch.long)
    kept: list[Tensor] = []
    for first, part in _resized(maps, height, width):
        most, which = part.max(0)
        better = most > best
        classes[better], best[better] = which[better] + first, most[better]
        if probabilities:
            kept.append(part)
    return (classes, torch.cat(kept)) if probabilities else classes


def _resized(maps: Sequence[Tensor], height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """The number of a class, and the averages of so many classes from it on."""
    classes = len(maps[0])
    some = max(1, NUMBERS // (height * width))
    for first in range(0, classes, some):
        parts = (
            F.interpolate(one[None, first : first + some], (height, width), mode="bilinear")[0]
            for one in maps
        )
        total = next(parts)
        for part in parts:
            total += part
        yield first, total.div_(len(maps))
