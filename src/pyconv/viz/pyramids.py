"""A layer's pyramid, drawn to scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from ..layers import PyConv1d, PyConv2d, PyConv3d
from .canvas import FAINT, GREY, INK, TIMES, bare, colours, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DrawnLevel", "drawn_levels", "find_pyramid", "levels_of", "pyramid"]

PYRAMIDS = (PyConv1d, PyConv2d, PyConv3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # pyramids of one level
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class DrawnLevel(NamedTuple):
    """What the picture tells of a level."""

    kernel: tuple[int, ...]  # one size per dimension of the map
    dilation: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    parameters: int

    @property
    def name(self) -> str:
        """The size of the kernel, such as 3x3."""
        sizes = TIMES.join(map(str, self.kernel))
        return sizes if len(self.kernel) > 1 else f"kernel {sizes}"

    @property
    def weights(self) -> int:
        """The parameters without the bias."""
        return math.prod(self.kernel) * self.in_channels // self.groups * self.out_channels

    @property
    def extent(self) -> int:
        """Pixels from the first to the last that the kernel sees, the larger side."""
        return max(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def levels_of(layer: nn.Module) -> list[Convolution]:
    """The convolutions of a pyramid; a convolution is a pyramid of one level.

    Raises:
        ValueError: if the module is neither, and names a pyramid inside of it; or an optimised one.
    """
    own = layer.levels if isinstance(layer, PYRAMIDS) else [layer]
    levels = [level for level in own if isinstance(level, CONVOLUTIONS)]
    if len(levels) == len(own):
        return levels
    name = type(layer).__name__
    if isinstance(layer, PYRAMIDS):
        raise ValueError(f"This {name} is optimised. Take that of the model before optimize().")
    inner = next((n for n, m in layer.named_modules() if isinstance(m, PYRAMIDS)), None)
    cure = "" if inner is None else f" Take one inside of it: model.get_submodule({inner!r})."
    raise ValueError(f"A {name} is no pyramid.{cure}")


def drawn_levels(layer: nn.Module) -> tuple[DrawnLevel, ...]:
    """What the picture tells of each level of a pyramid.

    Raises:
        ValueError: if the layer is no pyramid.
    """
    return tuple(
        DrawnLevel(
            tuple(level.kernel_size),
            tuple(level.dilation),
            level.groups,
            level.in_channels,
            level.out_channels,
            sum(parameter.numel() for parameter in level.parameters()),
        )
        for level in levels_of(layer)
    )


def find_pyramid(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """A pyramid of a model: that of this name, or the first; of a pyramid, itself.

    Raises:
        ValueError: if there is no module of that name, or it is no pyramid.
    """
    modules = dict(model.named_modules())
    if name is None:
        own = isinstance(model, (*PYRAMIDS, *CONVOLUTIONS))
        name = "" if own else next((n for n, m in modules.items() if isinstance(m, PYRAMIDS)), "")
    elif name not in modules:
        have = ", ".join(n for n, m in modules.items() if isinstance(m, PYRAMIDS))
        raise ValueError(f"The model has no module {name!r}. Its pyramids: {have or 'none'}.")
    levels_of(modules[name])
    return name, modules[name]


# The picture, in units of its own: rows of levels, from the top.
ROW, MAP, CHANNELS = 2.25, 1.8, 0.32
INPUT, MAPS, SEEN, WORDS, END, OUTPUT, WIDTH = 0.5, 4.0, 6.0, 6.75, 11.6, 14.2, 16.4
BAR = 3.0  # of the most parameters


def pyramid(layer: nn.Module, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw a pyramid to scale: each level's kernel, groups, channels and share of the parameters.

    The squares are pixels, those in colour what a kernel sees. Beside them is how many of the input
    channels each output channel sees, which is one group.

    Args:
        layer: A ``PyConv1d``, ``PyConv2d`` or ``PyConv3d``, or a plain convolution.
        title: Above the picture.
        ax: Where to draw; default a new figure, which is returned.

    Raises:
        ValueError: if the layer is no pyramid; it names one inside of it.
        ImportError: if matplotlib is not installed.
    """
    levels = drawn_levels(layer)
    height = ROW * len(levels) + 1.1
    figure, axes = place(ax, 9.0, 9.0 * height / WIDTH + (0.3 if title else 0))
    bare(axes).set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
    if title:
        axes.set_title(title, color=INK)

    inputs, outputs = levels[0].in_channels, sum(level.out_channels for level in levels)
    total, most = (f(level.parameters for level in levels) for f in (sum, max))
    middle, scale = 0.9 + ROW * len(levels) / 2, ROW * len(levels) * 0.7 / max(inputs, outputs)
    side = max(max(level.extent for level in levels) + 2, 5)  # pixels of the maps
    _box(axes, "input", (INPUT, middle - inputs * scale / 2, 1.1, inputs * scale), GREY)
    _channels(axes, "input", INPUT + 0.55, middle, inputs, scale)
    _channels(axes, "output", OUTPUT + 0.55, middle, outputs, scale)

    axes.text(MAPS + MAP / 2, height - 0.1, "pixels", color=GREY, fontsize=9, ha="center")
    axes.text(SEEN, height - 0.1, "channels", color=GREY, fontsize=9)
    top = middle + outputs * scale / 2
    for number, (level, colour) in enumerate(zip(levels, colours(len(levels)), strict=True), 1):
        y = 0.9 + ROW * (len(levels) - number + 0.5)
        share = level.out_channels * scale
        _arrow(axes, (INPUT + 1.3, middle), (MAPS - 0.2, y), colour)
        _kernel(axes, f"kernel {number}", (MAPS, y - MAP / 2), level, side, colour)
        _box(axes, f"channels {number}", (SEEN, y - MAP / 2, CHANNELS, MAP), FAINT)
        seen = MAP / level.groups
        _box(axes, f"seen {number}", (SEEN, y + MAP / 2 - seen, CHANNELS, seen), colour)
        _words(axes, y, level)
        length = BAR * level.parameters / most
        _box(axes, f"parameters {number}", (WORDS, y - 0.9, length, 0.26), colour)
        percent = f"{100 * level.parameters / total:.0f} %"
        axes.text(WORDS + length + 0.12, y - 0.78, percent, color=INK, fontsize=9, va="center")
        _arrow(axes, (END, y), (OUTPUT - 0.2, top - share / 2), colour)
        _box(axes, f"output {number}", (OUTPUT, top - share, 1.1, share), colour)
        axes.text(OUTPUT + 1.25, top - share / 2, f"{level.out_channels}", color=INK, va="center")
        top -= share
    told = f"{total:,} parameters{_beside_plain(levels)}"
    axes.text(WIDTH / 2, 0.1, told, color=INK, ha="center", fontsize=10)
    return figure


def _beside_plain(levels: tuple[DrawnLevel, ...]) -> str:
    """How many a plain convolution of the smallest kernel has, for a pyramid of several levels."""
    small = min(levels, key=lambda level: level.extent)
    outputs = sum(level.out_channels for level in levels)
    plain = math.prod(small.kernel) * small.in_channels * outputs
    plain += sum(level.parameters - level.weights for level in levels)  # the same biases
    if len(levels) == 1:
        return ""
    return f"; a plain convolution of these channels ({small.name}) has {plain:,}"


def _words(axes: Axes, y: float, level: DrawnLevel) -> None:
    axes.text(WORDS, y + 0.38, level.name, color=INK, fontsize=14, weight="bold", va="bottom")
    each = level.in_channels // level.groups
    groups = "1 group" if level.groups == 1 else f"{level.groups} groups"
    channels = "channel" if each == 1 else "channels"
    words = f"{groups} of {each} {channels}\n{level.parameters:,} parameters"
    axes.text(WORDS, y - 0.1, words, color=INK, fontsize=10, va="center", linespacing=1.3)


def _box(axes: Axes, gid: str, place: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    left, bottom, width, height = place
    axes.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, lw=0, gid=gid))


def _channels(axes: Axes, name: str, x: float, middle: float, count: int, scale: float) -> None:
    half = count * scale / 2
    axes.text(x, middle + half + 0.2, name, color=INK, ha="center", va="bottom")
    axes.text(x, middle - half - 0.2, f"{count}", color=INK, ha="center", va="top")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, lw=1.3)
    axes.add_patch(arrow)


def _kernel(
    axes: Axes, gid: str, corner: tuple[float, float], level: DrawnLevel, side: int, colour: str
) -> None:
    """A map of ``side`` pixels with what a kernel sees of it; of volumes, one slice."""
    from matplotlib.collections import LineCollection

    left, bottom = corner
    pixel = MAP / side
    (rows, columns), (down, across) = (
        (1, *sizes)[-2:] if len(sizes) == 1 else sizes[-2:]
        for sizes in (level.kernel, level.dilation)
    )
    tall = pixel if len(level.kernel) > 1 else MAP / 5  # of one dimension, the height says nothing
    height = MAP if len(level.kernel) > 1 else tall
    bottom += (MAP - height) / 2
    _box(axes, f"map of {gid}", (left, bottom, MAP, height), FAINT)
    for row in range(rows):
        for column in range(columns):
            x = left + MAP / 2 + ((column - (columns - 1) / 2) * across - 0.5) * pixel
            y = bottom + height / 2 + ((row - (rows - 1) / 2) * down - 0.5) * tall
            _box(axes, gid, (x, y, pixel, tall), colour)
    upright = [
        [(left + n * pixel, bottom), (left + n * pixel, bottom + height)] for n in range(side + 1)
    ]
    flat = [
        [(left, bottom + n * tall), (left + MAP, bottom + n * tall)]
        for n in range(round(height / tall) + 1)
    ]
    width = min(0.8, 12 / side)  # thin where pixels are small
    axes.add_collection(LineCollection(upright + flat, colors="white", linewidths=width))
