"""Equal algorithms for one grouped convolution; ``choice.py`` says which one is best.

Few channels per group leave most of a vector unit idle. Each algorithm gives the numbers of
``conv`` on the true grouped weights, and gradients of them, but asks the unit for something else:

- **native**: the grouped convolution as it stands.
- **blocked**: neighbouring groups merged into one, with zeros between them.
- **tiled**: a tile of neighbouring output pixels computed at once, as if they were channels, by a
  larger kernel that strides over whole tiles; merged groups besides, if asked for.
- **depthwise**: every channel convolved on its own, then a sum over each group's channels.
- **direct**: kernels of our own for which no lane is idle (``direct.py``).

All but native and direct multiply by zeros, so they agree for finite inputs only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..onednn import Geometry, conv
from .direct import direct
from .guard import is_channels_last, is_recorded, is_transformed

Name = Literal["native", "blocked", "tiled", "depthwise", "direct"]
FORM = re.compile(
    r"native|depthwise|direct|blocked:merge=(?P<merged>\d+)"
    r"|tiled:(?P<tile>\d+(x\d+)*)(:merge=(?P<merge>\d+))?"
)


class Algorithm(NamedTuple):
    """How to compute a grouped convolution: ``str()`` and :meth:`parse` are inverses."""

    name: Name = "native"
    merge: int = 1  # neighbouring groups computed as one
    tile: tuple[int, ...] = ()  # output pixels computed at once, per dimension of the map

    def __str__(self) -> str:
        tile = ["x".join(map(str, self.tile))] if self.tile else []
        merge = [f"merge={self.merge}"] if self.merge > 1 else []
        return ":".join([self.name, *tile, *merge])

    @classmethod
    def parse(cls, text: str) -> Algorithm:
        """Read ``"native"``, ``"direct"``, ``"blocked:merge=4"``, ``"tiled:2x4:merge=2"``, ...

        Raises:
            ValueError: if the text is none of these.
        """
        match = FORM.fullmatch(text)
        if match:
            tile = tuple(map(int, match["tile"].split("x"))) if match["tile"] else ()
            merge = int(match["merged"] or match["merge"] or 1)
            found = cls(text.partition(":")[0], merge, tile)  # type: ignore[arg-type]
            if str(found) == text and (not tile or (min(tile) > 0 and max(tile) > 1)):
                return found
        raise ValueError(
            f"{text!r} is no algorithm. Use 'native', 'depthwise', 'direct', 'blocked:merge=4', "
            "'tiled:2x2' or 'tiled:2x2:merge=2'."
        )

    def fits(self, geometry: Geometry) -> bool:
        """Whether a convolution can be computed so."""
        return geometry.groups % self.merge == 0 and (
            not self.tile or (len(self.tile) == len(geometry.stride) and geometry.can_tile)
        )


NATIVE = Algorithm()
DEPTHWISE = Algorithm("depthwise")
DIRECT = Algorithm("direct")


class Algorithms(NamedTuple):
    """How to compute a convolution, and its gradients with respect to input and weight."""

    forward: Algorithm = NATIVE
    grad_input: Algorithm = NATIVE
    grad_weight: Algorithm = NATIVE


def compute(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, algorithm: Algorithm
) -> Tensor:
    """``[N, in, *size]``, ``[out, in / g, *k]``, ``[out]`` -> ``[N, out, *map]``."""
    return apply(x, *prepare(weight, bias, geometry, algorithm), geometry, algorithm)


def prepare(
    weight: Tensor, bias: Tensor | None, geometry: Geometry, algorithm: Algorithm
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that :func:`apply` wants: once per model, or per call in training.

    ``[out, in / g, *k]``, ``[out]`` -> native and direct: as they are;
    blocked: ``[out, merge * in / g, *k]``;
    tiled: ``[tile * out, merge * in / g, *(k + (tile - 1) * stride)]``, ``[tile * out]``;
    depthwise: ``[out / g * in, 1, *k]``, ``[out]``.
    """
    groups = geometry.groups
    if algorithm.name == "depthwise":
        split = weight.unflatten(0, (groups, -1)).transpose(0, 1)  # [out / g, g, in / g, *k]
        return split.flatten(0, 2).unsqueeze(1), bias
    if algorithm.merge > 1:
        weight = _merge_groups(weight, groups, algorithm.merge)
    if not algorithm.tile:
        return weight, bias
    groups //= algorithm.merge
    pixels = math.prod(algorithm.tile)
    if bias is not None:
        bias = bias.unflatten(0, (groups, 1, -1)).expand(-1, pixels, -1).flatten()
    return _tile_kernels(weight, groups, algorithm.tile, _taps_per_stride(geometry)), bias


def _taps_per_stride(geometry: Geometry) -> list[int]:
    """By how many taps of the kernel a stride moves it, per dimension of the map.

    A function: torch.compile of PyTorch 2.10 does not know properties of named tuples.
    """
    return [s // d for s, d in zip(geometry.stride, geometry.dilation, strict=True)]


def collect(
    prepared: Tensor, shape: torch.Size, geometry: Geometry, algorithm: Algorithm
) -> Tensor:
    """The adjoint of :func:`prepare`: from a gradient of its weight to that of the true one.

    ``shape`` is that of the true weight, ``[out, in / g, *k]``.
    """
    groups = geometry.groups
    if algorithm.name == "depthwise":
        split = prepared.squeeze(1).unflatten(0, (-1, groups, shape[1]))
        collected: Tensor = split.transpose(0, 1).flatten(0, 1)
        return collected
    if algorithm.tile:
        prepared = _untile_kernels(
            prepared, groups // algorithm.merge, algorithm.tile, _taps_per_stride(geometry)
        )
    return _split_groups(prepared, groups, algorithm.merge) if algorithm.merge > 1 else prepared


def _merge_groups(weight: Tensor, groups: int, merge: int) -> Tensor:
    """``[out, in / g, *k]`` -> ``[out, merge * in / g, *k]``, zero between the groups merged."""
    own = torch.eye(merge, dtype=weight.dtype, device=weight.device)
    own = own.reshape(1, merge, 1, merge, 1, *(1,) * (weight.dim() - 2))
    split = weight.unflatten(0, (groups // merge, merge, -1)).unsqueeze(3)
    merged: Tensor = (split * own).flatten(3, 4).flatten(0, 2)
    return merged


def _split_groups(weight: Tensor, groups: int, merge: int) -> Tensor:
    """The adjoint of :func:`_merge_groups`: the blocks that it does not fill with zeros."""
    split = weight.unflatten(1, (merge, -1)).unflatten(0, (groups // merge, merge, -1))
    blocks: Tensor = split.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 2)
    return blocks


def _tile_kernels(weight: Tensor, groups: int, tile: Sequence[int], steps: Sequence[int]) -> Tensor:
    """``[out, i, *k]`` -> ``[tile * out, i, *(k + (tile - 1) * steps)]``: shifted copies."""
    weight = weight.unflatten(0, (groups, -1))  # [g, (tiles so far) * out / g, i, *k]
    # The last dimension first, so that tiles end up in the order of the map.
    for dim, (count, step) in enumerate(zip(tile[::-1], steps[::-1], strict=True), 1):
        if count > 1:
            weight = _shifted(weight.movedim(-dim, -1), count, step)  # [count, g, ..., k']
            weight = weight.movedim(-1, -dim).movedim(0, 1).flatten(1, 2)
    return weight.flatten(0, 1)


def _untile_kernels(
    weight: Tensor, groups: int, tile: Sequence[int], steps: Sequence[int]
) -> Tensor:
    """The adjoint of :func:`_tile_kernels`: the shifted copies moved back and added up."""
    weight = weight.unflatten(0, (groups, -1))
    for dim, (count, step) in enumerate(zip(tile, steps, strict=True), 3 - weight.dim()):
        if count > 1:
            size = weight.shape[dim] - (count - 1) * step
            copies = weight.unflatten(1, (count, -1)).unbind(1)
            moved = [copy.narrow(dim, n * step, size) for n, copy in enumerate(copies)]
            weight = torch.stack(moved).sum(0)
    return weight.flatten(0, 1)


def _shifted(row: Tensor, count: int, step: int) -> Tensor:
    """``[..., k]`` -> ``[count, ..., k + (count - 1) * step]``: copy n is moved by n * step."""
    size = row.shape[-1] + (count - 1) * step
    # Written end to end, rows that are ``step`` longer than they are read slip by ``step`` each.
    rows = F.pad(row, (0, size + step - row.shape[-1])).unsqueeze(-2)
    rows = rows.expand(*rows.shape[:-2], count, -1).flatten(-2)[..., : count * size]
    shifted: Tensor = rows.unflatten(-1, (count, size)).movedim(-2, 0)
    return shifted


def apply(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, algorithm: Algorithm
) -> Tensor:
    """Convolve with what :func:`prepare` returned: ``[N, in, *size]`` -> ``[N, out, *map]``."""
    learns = torch.is_grad_enabled() and x.requires_grad
    if algorithm.name == "direct" and not (learns or is_recorded() or is_transformed()):
        return direct(x, [weight], [bias], [geometry])
    if algorithm.name == "depthwise":
        return _apply_depthwise(x, weight, bias, geometry)
    geometry = geometry._replace(groups=geometry.groups // algorithm.merge)
    if algorithm.tile:
        return _apply_tiled(x, weight, bias, geometry, algorithm.tile)
    return conv(x, weight, bias, geometry)


def _apply_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    channels = x.shape[1]
    copies = weight.shape[0] // channels  # out / g
    alone = geometry._replace(groups=channels)
    maps = [conv(x, part, None, alone) for part in weight.chunk(copies)]
    # The sum over each group is a 1x1 convolution with ones, and a fast one.
    ones = group_sums(weight, copies, geometry)
    return conv(
        maps[0] if copies == 1 else torch.cat(maps, 1), ones, bias, pointwise_geometry(geometry)
    )


def group_sums(like: Tensor, copies: int, geometry: Geometry) -> Tensor:
    """``[out, out / g * in, *1]``: ones where an output sums up a depthwise map."""
    out, maps = copies * geometry.groups, like.shape[0]
    ones = torch.eye(out, dtype=like.dtype, device=like.device)
    ones = ones.reshape(out, geometry.groups, copies).transpose(1, 2)  # [out, out / g, g]
    ones = ones.repeat_interleave(maps // out, dim=2).flatten(1)
    return ones.reshape(out, maps, *(1,) * len(geometry.stride))


def pointwise_geometry(geometry: Geometry) -> Geometry:
    """The geometry of a 1x1 convolution."""
    return Geometry(1, *((n,) * len(geometry.stride) for n in (1, 0, 1)))


def _apply_tiled(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tile: tuple[int, ...]
) -> Tensor:
    layout = tiling(x, weight, geometry, tile)
    y = conv(pad_end(x, layout.missing), weight, bias, layout.geometry)
    return crop(untile(y, geometry.groups, tile), layout.size)


class Tiling(NamedTuple):
    """How a map is laid out in whole tiles."""

    size: list[int]  # of the output's map
    beyond: list[int]  # pixels of the last tiles behind its end
    missing: list[int]  # pixels that these tiles want behind the end of the input's map
    geometry: Geometry  # of the convolution that strides over whole tiles


def tiling(x: Tensor, weight: Tensor, geometry: Geometry, tile: tuple[int, ...]) -> Tiling:
    """The layout for a prepared weight."""
    groups, stride, padding, dilation = geometry
    sizes, beyond, missing = [], [], []
    for size, k, t, s, p, d in zip(
        x.shape[2:], weight.shape[2:], tile, stride, padding, dilation, strict=True
    ):
        reach = d * (k - 1) + 1  # of the kernel of a whole tile
        sizes.append((size + 2 * p + (t - 1) * s - reach) // s + 1)
        tiles = -(-sizes[-1] // t)
        beyond.append(tiles * t - sizes[-1])
        missing.append(max(0, (tiles - 1) * t * s + reach - size - 2 * p))
    whole = tuple(t * s for t, s in zip(tile, stride, strict=True))
    return Tiling(sizes, beyond, missing, Geometry(groups, whole, padding, dilation))


def pad_end(x: Tensor, missing: Sequence[int]) -> Tensor:
    """Zeros behind the end of each dimension of the map."""
    return F.pad(x, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The beginning of each dimension of the map."""
    for dim, wanted in enumerate(size, 2):
        if x.shape[dim] != wanted:
            x = x.narrow(dim, 0, wanted)
    return x


def untile(y: Tensor, groups: int, tile: tuple[int, ...]) -> Tensor:
    """``[N, g * tile * out / g, *tiles]`` -> ``[N, out, *(tiles * tile)]``, in the same layout."""
    dims = len(tile)
    last = is_channels_last(y)
    size = [n * t for n, t in zip(y.shape[2:], tile, strict=True)]
    channels = y.shape[1] // math.prod(tile)
    y = y.unflatten(1, (groups, *tile, channels // groups))  # [N, g, *tile, out / g, *tiles]
    pixels = [dim for t in range(dims) for dim in (3 + dims + t, 2 + t)]
    if last:
        y = y.permute(0, *pixels, 1, 2 + dims)
        return y.reshape(y.shape[0], *size, channels).movedim(-1, 1)
    y = y.permute(0, 1, 2 + dims, *pixels)
    return y.reshape(y.shape[0], channels, *size)


def tile_map(y: Tensor, groups: int, tile: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`untile`, in the same layout."""
    dims = len(tile)
    last = is_channels_last(y)
    tiles = [n // t for n, t in zip(y.shape[2:], tile, strict=True)]
    outputs, channels = y.shape[1] // groups, y.shape[1] * math.prod(tile)
    for dim, n, t in zip(range(dims + 1, 1, -1), reversed(tiles), tile[::-1], strict=True):
        y = y.unflatten(dim, (n, t))
    y = y.unflatten(1, (groups, outputs))  # [N, g, out / g, tiles, tile, tiles, tile, ...]
    maps = list(range(3, 3 + 2 * dims, 2))
    order = [1, *(dim + 1 for dim in maps), 2]
    if last:
        return y.permute(0, *maps, *order).reshape(y.shape[0], *tiles, channels).movedim(-1, 1)
    return y.permute(0, *order, *maps).reshape(y.shape[0], channels, *tiles)
