"""What each level of a pyramid gives for a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbone import image_channels
from ..data.preprocess import Preprocess
from .canvas import INK, bare, name_of, new_figure, opened, pixels_of
from .probe import output_of, pixels_for
from .pyramids import drawn_levels, find_pyramid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .canvas import Picture

__all__ = ["Response", "level_responses", "responses", "strongest"]


class Response(NamedTuple):
    """The map of one level for one image."""

    name: str  # of the kernel, such as 3x3
    groups: int
    map: Tensor  # [C, H, W]

    @property
    def deviation(self) -> Tensor:
        """How far each channel is from its own mean over the image: ``[C, H, W]``."""
        return self.map - self.map.mean((1, 2), keepdim=True)

    @property
    def strength(self) -> Tensor:
        """The root mean square deviation over the channels: ``[H, W]``."""
        return self.deviation.square().mean(0).sqrt()


def level_responses(
    model: nn.Module, x: Tensor, layer: str | None = None
) -> tuple[str, list[Response]]:
    """The name of a pyramid in a model, and the map of each of its levels for one image.

    Args:
        model: A network, or a pyramid on its own.
        x: The image as the model takes it: ``[C, H, W]``.
        layer: The name of the pyramid; default the first.

    Raises:
        ValueError: if there is no such pyramid, or the model does not call it.
    """
    name, pyramid = find_pyramid(model, layer)
    levels = drawn_levels(pyramid)
    if len(levels[0].kernel) != 2:
        raise ValueError(f"A {type(pyramid).__name__} sees no images: give a PyConv2d.")
    some = next(model.parameters())
    with torch.no_grad():
        out = output_of(pyramid, model, x[None].to(some.device, some.dtype))
    if out is None:
        raise ValueError(f"The model does not call {name!r}. Name a layer that it calls.")
    maps = out[0].float().cpu().split([level.out_channels for level in levels])
    found = zip(levels, maps, strict=True)
    return name, [Response(level.name, level.groups, part) for level, part in found]


def strongest(response: Response, count: int) -> list[int]:
    """The channels that differ most over the image, strongest first."""
    spread = response.map.flatten(1).std(1)
    return spread.topk(min(count, len(spread))).indices.tolist()


def responses(
    model: nn.Module,
    image: Picture,
    layer: str | None = None,
    *,
    preprocess: Preprocess | None = None,
    size: int = 320,
    channels: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw what each level of a pyramid gives for an image: all its channels at once, and some.

    A row for each level. A channel is shown by how far it is from its own mean over the image,
    below in blue and above in red; all channels by the root mean square of that. Every map has a
    scale of its own. The channels shown are those that differ most over the image.

    Args:
        model: A network, run in eval mode up to the layer, or a pyramid on its own.
        image: A path, a PIL image, or a tensor ``[C, H, W]`` of uint8 or of floats from 0 to 1.
        layer: The name of the pyramid in the network, such as ``"layer1.0.conv2"``; default the
            first.
        preprocess: Whose mean and standard deviation normalise the image, such as
            ``weights.transforms()``; default the model's own, as of :func:`pyconv.load`, else
            those of ImageNet.
        size: A larger image is shrunk to this shorter side, in pixels. It is not cropped.
        channels: How many channels to show of each level.
        title: Above the picture, before the name of the layer; say there what weights these are.

    Raises:
        ValueError: if there is no such pyramid, or the image has other channels than the network.
        OSError: if the system does not read the image.
        ImportError: if matplotlib is not installed.
    """
    takes = image_channels(model)
    if takes not in (1, 3):
        raise ValueError(
            f"A {type(model).__name__} takes {takes} channels, and an image has 1 or 3. Of a layer "
            "inside of a network give the network and its name: responses(model, image, "
            "'layer1.0.conv2')."
        )
    pixels = preprocess or pixels_for(model, takes)
    seen = _shrunk(opened(image, takes), size)
    name, found = level_responses(model, pixels.normalise(seen), layer)

    height, width = seen.shape[-2:]
    columns, rows, cell = channels + 1, len(found), 1.55
    tall = (cell * height / width + 0.2) * rows
    figure = new_figure(cell * (columns + 2.2), max(tall, 1.7 * cell * height / width) + 0.4)
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.7, *[1] * columns])
    photo = bare(figure.add_subplot(grid[:, 0]))
    photo.imshow(pixels_of(seen), cmap="gray")
    for row, response in enumerate(found):
        count = len(response.map)
        axes = bare(figure.add_subplot(grid[row, 1]))
        _draw(axes, response.strength, "Blues", f"all {count} channels", least=0)
        groups = "1 group" if response.groups == 1 else f"{response.groups} groups"
        label = axes.set_ylabel(f"{response.name}\n{groups}", color=INK, fontsize=11)
        label.set(rotation=0, ha="right", va="center")
        for column, channel in enumerate(strongest(response, channels), 2):
            axes = bare(figure.add_subplot(grid[row, column]))
            _draw(axes, response.deviation[channel], "RdBu_r", f"channel {channel}")
    words = title or name_of(model)
    figure.suptitle(f"{words}, {name}" if name else words, color=INK)
    return figure


def _draw(
    axes: Axes, values: Tensor, colormap: str, title: str, least: float | None = None
) -> None:
    """A map; the few largest values share a colour, so that they do not hide the others."""
    most = _most(values)
    axes.imshow(values.numpy(), cmap=colormap, vmin=-most if least is None else least, vmax=most)
    axes.set_title(title, color=INK, fontsize=9, pad=3)


def _most(values: Tensor) -> float:
    """The value that one in a hundred exceeds; quantile() refuses large maps."""
    flat = values.abs().flatten()
    return float(flat.kthvalue(max(1, round(0.99 * len(flat)))).values) or 1.0


def _shrunk(image: Any, size: int) -> Tensor:
    """The pixels ``[C, H, W]``, with a shorter side of at most ``size``."""
    from torchvision.transforms.v2 import functional as tv

    pixels: Tensor = image if isinstance(image, Tensor) else tv.pil_to_tensor(image)
    if min(pixels.shape[-2:]) <= size:
        return pixels
    return tv.resize(pixels, [size], antialias=True)  # type: ignore[no-any-return]
