"""What all pictures share: figures without pyplot, colours, letters, and how an image is shown."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from ..data.decoding import read_image, to_bytes
from ..system.reading import ContentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    Picture = Image | Tensor | str | Path

__all__ = [
    "BLUE",
    "FAINT",
    "GREY",
    "INK",
    "RED",
    "TIMES",
    "Listable",
    "bare",
    "colours",
    "listed",
    "name_of",
    "new_figure",
    "opened",
    "pixels_of",
    "place",
]

# Okabe and Ito's colours, which readers with any kind of colour vision tell apart.
BLUE, GREEN, ORANGE, RED = "#0072B2", "#009E73", "#E69F00", "#D55E00"
PALETTE = (BLUE, GREEN, ORANGE, RED, "#CC79A7", "#56B4E9")
INK, GREY, FAINT = "#222222", "#8A8F94", "#E9ECEF"
TIMES = "\N{MULTIPLICATION SIGN}"


class Listable(Protocol):
    """A tensor, or an array of NumPy's."""

    def tolist(self) -> Any:
        """Its values as plain ones."""


def listed(values: Iterable[Any] | Listable) -> list[Any]:
    """The values of a list, a tensor or an array."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def colours(count: int) -> tuple[str, ...]:
    """So many colours, for levels or lines; from the seventh on they come again."""
    return tuple(islice(cycle(PALETTE), count))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window and to no global state.

    Raises:
        ImportError: if matplotlib is not installed, with the command that does it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"pyconv.viz draws with matplotlib ({error}): pip install 'torch-pyconv[viz]'."
        ) from error
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def place(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """Where to draw: the axes of the caller, or those of a new figure of this size."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.add_subplot()
    whole = ax.get_figure(root=True)
    assert whole is not None
    return whole, ax


def bare(axes: Axes) -> Axes:
    """The same axes, without ticks and frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def name_of(model: nn.Module) -> str:
    """The title of a network's row, or the name of a module's class."""
    title = getattr(getattr(model, "row", None), "title", None)
    return title if isinstance(title, str) else type(model).__name__


def opened(picture: Picture, channels: int) -> Image | Tensor:
    """A picture in the channels that a network takes: a PIL image, or a tensor ``[C, H, W]``.

    Raises:
        ValueError: if it is none, or a tensor of other channels.
        OSError: if the system does not read the file.
    """
    if isinstance(picture, Tensor):
        if picture.dim() != 3 or len(picture) != channels:
            raise ValueError(
                f"The image is a tensor {list(picture.shape)} and the network takes "
                f"[{channels}, height, width]. Give a tensor of that kind or a PIL image."
            )
        return picture
    try:
        if isinstance(picture, str | Path):
            return read_image(picture, channels)
        if hasattr(picture, "convert"):  # PIL is not imported to ask for its class
            return to_bytes(picture, channels)
    except ContentError as error:
        name = picture if isinstance(picture, str | Path) else "The image"
        raise ValueError(f"{name} cannot be read: {error}.") from error
    raise ValueError(
        f"A {type(picture).__name__} is no image. Give a path, a PIL image (of a NumPy array: "
        "PIL.Image.fromarray(array)) or a tensor [channels, height, width]."
    )


def pixels_of(image: Image | Tensor) -> Any:
    """What ``Axes.imshow`` takes: an array ``[H, W]`` in grey or ``[H, W, 3]``, 0 to 1 or bytes."""
    if not isinstance(image, Tensor):
        return image
    image = image.detach().cpu()
    if image.is_floating_point():
        low, high = image.min(), image.max()
        if low < 0 or high > 1:  # normalised: the darkest is black, the brightest white
            image = (image - low) / (high - low)
    return image.float().numpy()[0] if len(image) == 1 else image.permute(1, 2, 0).numpy()
