"""``overlay()``: what was found, drawn over the photograph, with a legend; and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data import ade20k

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["overlay", "shares"]

Color = tuple[int, int, int]

LONGEST = 24  # lines of a legend
SMALLEST = 12  # height of its letters in pixels


def shares(classes: Tensor, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The classes that are seen, largest first: their pixels, and their share in percent."""
    seen = classes[classes >= 0]
    pixels = torch.bincount(seen.flatten(), minlength=len(names))
    order = pixels.argsort(descending=True, stable=True).tolist()
    return {
        names[n]: {"pixels": int(pixels[n]), "share": 100 * int(pixels[n]) / classes.numel()}
        for n in order
        if pixels[n]
    }


def overlay(
    image: Image | Tensor,
    classes: Tensor,
    names: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
    *,
    alpha: float = 0.6,
    legend: bool = True,
) -> Image:
    """The photograph with each pixel tinted in the colour of its class, and a legend beside it.

    Args:
        image: A PIL image, or uint8 ``[3, H, W]``.
        classes: The class of each pixel ``[H, W]``; those below 0 are not tinted.
        names: Of the classes; default ADE20K's.
        colors: Red, green and blue from 0 to 255 for each class; default ADE20K's.
        alpha: How much of the colour there is, 0 to 1.
        legend: Whether the classes that are seen are named, the largest first.

    Raises:
        ValueError: if the sizes differ, or a class has no name or colour.
    """
    from PIL import Image as Images
    from torchvision.transforms.v2 import functional as tv

    photo = (tv.to_pil_image(image) if isinstance(image, Tensor) else image).convert("RGB")
    names = ade20k.class_names() if names is None else names
    colors = ade20k.colors() if colors is None else colors
    if classes.shape != (photo.height, photo.width):
        raise ValueError(
            f"classes {list(classes.shape)} must be [{photo.height}, {photo.width}], as the image."
        )
    count = min(len(names), len(colors))
    if classes.numel() and int(classes.max()) >= count:
        raise ValueError(f"Class {int(classes.max())} has no name or colour: there are {count}.")
    palette = torch.tensor([*colors, (0, 0, 0)], dtype=torch.uint8)
    tint = tv.to_pil_image(palette[classes.long().clamp(min=-1)].permute(2, 0, 1))
    drawn = Images.blend(photo, tint, alpha)
    if (classes < 0).any():
        drawn.paste(photo, mask=tv.to_pil_image((classes < 0).to(torch.uint8)[None] * 255))
    if not legend:
        return drawn
    seen = shares(classes, names)
    lines = [
        (colors[names.index(name)], f"{name}  {found['share']:.1f} %")
        for name, found in seen.items()
    ]
    return _beside(drawn, lines)


def _beside(picture: Image, lines: Sequence[tuple[Color, str]]) -> Image:
    """A picture with lines of text on the right of it, each behind a square of its colour."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    size = max(SMALLEST, max(picture.size) // 45)
    step, margin = round(1.6 * size), size
    font = ImageFont.load_default(size)
    room = max(1, (picture.height - 2 * margin) // step)
    most = min(LONGEST, max(room, 8))
    shown = list(lines) if len(lines) <= most else list(lines[: most - 1])
    texts = [text for _, text in shown]
    if len(shown) < len(lines):
        texts.append(f"{len(lines) - len(shown)} more")
    wide = max((round(font.getlength(text)) for text in texts), default=0)
    height = max(picture.height, 2 * margin + step * len(texts))
    canvas = Images.new("RGB", (picture.width + 3 * margin + size + wide, height), "white")
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    left = picture.width + margin
    for number, text in enumerate(texts):
        top = margin + number * step
        if number < len(shown):
            pen.rectangle((left, top, left + size, top + size), shown[number][0], "black")
        pen.text((left + size + margin, top + size / 2), text, "black", font, anchor="lm")
    return canvas
