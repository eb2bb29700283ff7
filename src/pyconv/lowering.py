"""Equal ways to compute one grouped convolution, and the choice among them.

Few channels per group leave most of a vector unit idle. Each way below gives the numbers of
``conv`` on the true grouped weights, and gradients on them, but asks the unit for something else:

- **native**: the grouped convolution as it stands.
- **blocked**: neighbouring groups merged into one, with zeros between them.
- **tiled**: a tile of neighbouring output pixels computed at once, as if they were channels, by a
  larger kernel that strides over whole tiles; merged groups besides, if asked for.
- **depthwise**: every channel convolved on its own, then a sum over each group's channels.

Zeros stand in for weights in the middle two, so they agree for finite inputs only.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Lowering",
    "Problem",
    "apply",
    "autotune",
    "blocked",
    "candidates",
    "choose",
    "depthwise",
    "grouped_conv",
    "native",
    "prepare",
    "rule",
    "tiled",
]

Kind = Literal["native", "blocked", "tiled", "depthwise"]


class Lowering(NamedTuple):
    """One way to compute a grouped convolution: ``str()`` and :meth:`parse` are inverses."""

    kind: Kind = "native"
    merge: int = 1  # neighbouring groups computed as one
    tile: tuple[int, ...] = ()  # output pixels computed at once, per dimension of the map

    def __str__(self) -> str:
        tile = ["x".join(map(str, self.tile))] if self.tile else []
        merge = [f"merge={self.merge}"] if self.merge > 1 else []
        return ":".join([self.kind, *tile, *merge])

    @classmethod
    def parse(cls, text: str) -> Lowering:
        """Read ``"native"``, ``"depthwise"``, ``"blocked:merge=4"``, ``"tiled:2x4:merge=2"``.

        Raises:
            ValueError: if the text is none of these.
        """
        kind, *options = text.split(":")
        merge = 1
        tile: tuple[int, ...] = ()
        try:
            for option in options:
                if option.startswith("merge="):
                    merge = int(option.removeprefix("merge="))
                else:
                    tile = tuple(int(size) for size in option.split("x"))
            given = (merge > 1, bool(tile) and min(tile) > 0 and max(tile) > 1)
            fits = {
                "native": [(False, False)],
                "depthwise": [(False, False)],
                "blocked": [(True, False)],
                "tiled": [(False, True), (True, True)],
            }
            if given not in fits[kind] or merge < 1 or bool(tile) != given[1]:
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(
                f"{text!r} is no lowering. Use 'native', 'depthwise', 'blocked:merge=4', "
                "'tiled:2x2' or 'tiled:2x2:merge=2'."
            ) from None
        return cls(kind, merge, tile)  # type: ignore[arg-type]

    def fits(self, geometry: Geometry) -> bool:
        """Whether a convolution can be computed in this way."""
        return geometry.groups % self.merge == 0 and (
            not self.tile or (len(self.tile) == len(geometry.stride) and geometry.tiles)
        )


NATIVE = Lowering()


class Geometry(NamedTuple):
    """What a convolution is told besides its input, weight and bias."""

    groups: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def tiles(self) -> bool:
        """Whether kernels shifted by whole strides lie on the grid of their dilation."""
        return all(s % d == 0 for s, d in zip(self.stride, self.dilation, strict=True))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    conv: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    groups, stride, padding, dilation = geometry
    return conv(x, weight, bias, stride, padding, dilation, groups)


def native(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, in, *size]``, ``[out, in / g, *k]``, ``[out]`` -> ``[N, out, *map]``."""
    return _conv(x, weight, bias, geometry)


def blocked(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, merge: int
) -> Tensor:
    """As :func:`native`, with ``merge`` neighbouring groups computed as one."""
    lowering = Lowering("blocked", merge)
    return apply(x, *prepare(weight, bias, geometry, lowering), geometry, lowering)


def tiled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    tile: tuple[int, ...],
    merge: int = 1,
) -> Tensor:
    """As :func:`native`, with ``tile`` neighbouring output pixels computed at once."""
    lowering = Lowering("tiled", merge, tile)
    return apply(x, *prepare(weight, bias, geometry, lowering), geometry, lowering)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """As :func:`native`, by ``out / g`` depthwise convolutions and one sum over each group.

    The partial sums are rounded to the dtype of the input, which costs accuracy below float32.
    """
    lowering = Lowering("depthwise")
    return apply(x, *prepare(weight, bias, geometry, lowering), geometry, lowering)


def prepare(
    weight: Tensor, bias: Tensor | None, geometry: Geometry, lowering: Lowering
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that :func:`apply` wants: once per model, or per call in training.

    ``[out, in / g, *k]``, ``[out]`` -> native: as they are; blocked: ``[out, merge * in / g, *k]``;
    tiled: ``[tile * out, merge * in / g, *(k + (tile - 1) * stride)]``, ``[tile * out]``;
    depthwise: ``[out / g * in, 1, *k]``, ``[out]``.
    """
    groups = geometry.groups
    if lowering.kind == "depthwise":
        split = weight.unflatten(0, (groups, -1)).transpose(0, 1)  # [out / g, g, in / g, *k]
        return split.flatten(0, 2).unsqueeze(1), bias
    if lowering.merge > 1:
        weight = _merge_groups(weight, groups, lowering.merge)
    if not lowering.tile:
        return weight, bias
    groups //= lowering.merge
    pixels = math.prod(lowering.tile)
    if bias is not None:
        bias = bias.unflatten(0, (groups, 1, -1)).expand(-1, pixels, -1).flatten()
    steps = [s // d for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
    return _tile_kernels(weight, groups, lowering.tile, steps), bias


def _merge_groups(weight: Tensor, groups: int, merge: int) -> Tensor:
    """``[out, in / g, *k]`` -> ``[out, merge * in / g, *k]``, zero between the groups merged."""
    own = torch.eye(merge, dtype=weight.dtype, device=weight.device)
    own = own.reshape(1, merge, 1, merge, 1, *(1,) * (weight.dim() - 2))
    split = weight.unflatten(0, (groups // merge, merge, -1)).unsqueeze(3)
    merged: Tensor = (split * own).flatten(3, 4).flatten(0, 2)
    return merged


def _tile_kernels(weight: Tensor, groups: int, tile: Sequence[int], steps: Sequence[int]) -> Tensor:
    """``[out, i, *k]`` -> ``[tile * out, i, *(k + (tile - 1) * steps)]``: shifted copies."""
    weight = weight.unflatten(0, (groups, -1))  # [g, (tiles so far) * out / g, i, *k]
    # The last dimension first, so that tiles end up in the order of the map.
    for dim, (count, step) in enumerate(zip(reversed(tile), reversed(steps), strict=True), 1):
        if count > 1:
            weight = _shifted(weight.movedim(-dim, -1), count, step)  # [count, g, ..., k']
            weight = weight.movedim(-1, -dim).movedim(0, 1).flatten(1, 2)
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
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lowering: Lowering
) -> Tensor:
    """Convolve with what :func:`prepare` returned: ``[N, in, *size]`` -> ``[N, out, *map]``."""
    if lowering.kind == "depthwise":
        return _apply_depthwise(x, weight, bias, geometry)
    geometry = geometry._replace(groups=geometry.groups // lowering.merge)
    if lowering.tile:
        return _apply_tiled(x, weight, bias, geometry, lowering.tile)
    return _conv(x, weight, bias, geometry)


def _apply_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    channels = x.shape[1]
    copies = weight.shape[0] // channels  # out / g
    alone = geometry._replace(groups=channels)
    maps = [_conv(x, part, None, alone) for part in weight.chunk(copies)]
    out = copies * geometry.groups
    # The sum over each group is a 1x1 convolution with ones, and a fast one.
    ones = torch.eye(out, dtype=weight.dtype, device=weight.device)
    ones = ones.reshape(out, geometry.groups, copies).transpose(1, 2)  # [out, out / g, g]
    ones = ones.repeat_interleave(channels // geometry.groups, dim=2).flatten(1)
    ones = ones.reshape(out, copies * channels, *(1,) * len(geometry.stride))
    still = Geometry(1, *((n,) * len(geometry.stride) for n in (1, 0, 1)))
    return _conv(maps[0] if copies == 1 else torch.cat(maps, 1), ones, bias, still)


def _apply_tiled(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tile: tuple[int, ...]
) -> Tensor:
    groups, stride, padding, dilation = geometry
    sizes, missing = [], []
    for size, k, t, s, p, d in zip(
        x.shape[2:], weight.shape[2:], tile, stride, padding, dilation, strict=True
    ):
        reach = d * (k - 1) + 1  # of the kernel of a whole tile
        sizes.append((size + 2 * p + (t - 1) * s - reach) // s + 1)
        missing.append(max(0, (-(-sizes[-1] // t) - 1) * t * s + reach - size - 2 * p))
    if any(missing):
        x = F.pad(x, [pad for m in reversed(missing) for pad in (0, m)])
    whole = tuple(t * s for t, s in zip(tile, stride, strict=True))
    y = _conv(x, weight, bias, Geometry(groups, whole, padding, dilation))
    y = _untile(y, groups, tile)
    for dim, size in enumerate(sizes, 2):
        if y.shape[dim] != size:
            y = y.narrow(dim, 0, size)
    return y


def _untile(y: Tensor, groups: int, tile: tuple[int, ...]) -> Tensor:
    """``[N, g * tile * out / g, *tiles]`` -> ``[N, out, *(tiles * tile)]``, in the same layout."""
    dims = len(tile)
    last = _is_channels_last(y)
    size = [n * t for n, t in zip(y.shape[2:], tile, strict=True)]
    y = y.unflatten(1, (groups, *tile, -1))  # [N, g, *tile, out / g, *tiles]
    pixels = [dim for t in range(dims) for dim in (3 + dims + t, 2 + t)]
    channels = [1, 2 + dims]
    if last:
        y = y.permute(0, *pixels, *channels)
        return y.reshape(y.shape[0], *size, -1).movedim(-1, 1)
    y = y.permute(0, *channels, *pixels)
    return y.reshape(y.shape[0], -1, *size)


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1


# With gradients, without, or without and the weight prepared beforehand.
Mode = Literal["training", "inference", "prepared"]


@dataclass(frozen=True)
class Problem:
    """All that the choice of a lowering looks at."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    geometry: Geometry
    size: tuple[int, ...]  # of the input's map
    dtype: torch.dtype
    channels_last: bool
    device: str  # its type, such as "cpu"
    mode: Mode

    @property
    def inputs(self) -> int:
        """Input channels per group."""
        return self.in_channels // self.geometry.groups

    @property
    def outputs(self) -> int:
        """Output channels per group."""
        return self.out_channels // self.geometry.groups


TILES = {
    1: ((2,), (4,), (8,)),
    2: ((2, 1), (2, 2), (4, 1), (4, 2), (4, 4)),
    3: ((1, 2, 1), (1, 2, 2), (2, 2, 2), (1, 4, 2)),
}
MERGES = (1, 2, 4, 8, 16)
MOST_OUTPUTS = 32  # of a group as computed; two vectors of float32 are busy then
MOST_ZEROS = 8  # multiply-adds computed for one that is wanted


def candidates(problem: Problem) -> list[Lowering]:
    """The ways worth timing for a problem, native first."""
    if problem.geometry.groups == problem.in_channels and problem.outputs == 1:
        return [NATIVE]  # depthwise already
    found = [NATIVE]
    if problem.outputs <= 4 and problem.dtype.itemsize >= 4:  # see depthwise() on rounding
        found.append(Lowering("depthwise"))
    tiles = TILES[len(problem.kernel)] if problem.geometry.tiles else ()
    for merge in MERGES:
        for tile in ((), *tiles):
            lowering = Lowering("tiled" if tile else "blocked", merge, tile)
            if (
                problem.geometry.groups % merge == 0
                and (merge > 1 or tile)
                and problem.outputs * merge * math.prod(tile) <= MOST_OUTPUTS
                and _zeros(problem, lowering) <= MOST_ZEROS
            ):
                found.append(lowering)
    return found


def _zeros(problem: Problem, lowering: Lowering) -> float:
    """Multiply-adds computed for each that is wanted."""
    ratio = float(lowering.merge)
    _, stride, _, dilation = problem.geometry
    for k, s, d, t in zip(problem.kernel, stride, dilation, lowering.tile, strict=False):
        ratio *= (k + (t - 1) * s // d) / k
    return ratio


@dataclass(frozen=True)
class Measured:
    """A row of ``rule.json``: the fastest way for a shape, written by ``benchmarks/rule.py``."""

    inputs: int  # per group, as outputs
    outputs: int
    kernel: int
    stride: int
    size: int  # of the input's map
    lowering: Lowering

    def octaves_to(self, problem: Problem) -> float:
        """How far a problem is from the one measured, in doublings of its numbers."""
        return sum(
            abs(math.log2(mine / its)) * weight
            for mine, its, weight in (
                (self.inputs, problem.inputs, 1),
                (self.outputs, problem.outputs, 1),
                (self.kernel, max(problem.kernel), 1),
                (self.stride, max(problem.geometry.stride), 1),
                (self.size, max(problem.size) or self.size, 0.5),  # 0: not known
            )
        )


MEASURED = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # else: native, or autotune
NEAR = 2.0  # octaves within which a choice is trusted


def rule(problem: Problem) -> Lowering:
    """The way that was fastest for the nearest shape measured; native where none is near."""
    best, least = NATIVE, NEAR
    if not MEASURED or len(problem.kernel) != 2 or problem.device != "cpu":
        return best
    for row in RULE.get((problem.dtype, problem.channels_last, problem.mode), ()):
        octaves = row.octaves_to(problem)
        if octaves < least:
            best, least = row.lowering, octaves
    return best if best.fits(problem.geometry) else NATIVE


def _read_rule() -> dict[tuple[torch.dtype, bool, str], list[Measured]]:
    text = (Path(__file__).parent / "rule.json").read_text(encoding="utf-8")
    read = {}
    for key, rows in json.loads(text)["fastest"].items():
        dtype, layout, mode = key.split()
        read[getattr(torch, dtype), layout == "channels_last", mode] = [
            Measured(*shape, Lowering.parse(way))  # type: ignore[call-arg]
            for *shape, way in rows
        ]
    return read


RULE = _read_rule()


def choose(problem: Problem, batch: int) -> Lowering:
    """The lowering for a problem: timed under :class:`autotune`, else by :func:`rule`."""
    if autotune.enabled:
        return _tuned(astuple(problem), batch)
    return rule(problem) if torch.compiler.is_compiling() else _ruled(problem)


_ruled = functools.cache(rule)  # which torch.compile would only look through, with a warning


def _tuned(fields: tuple[Any, ...], batch: int) -> Lowering:
    key = Problem(*fields), batch
    if key not in _timed:
        _timed[key] = fastest(*key)
    return _timed[key]


_timed: dict[tuple[Problem, int], Lowering] = {}


class autotune:  # a verb, as torch.no_grad is
    """Time the candidates once per shape, on the spot, instead of asking the rule.

    ``pyconv.autotune(True)`` switches it on for good; ``with pyconv.autotune():`` for a while.
    """

    enabled: bool = False

    def __init__(self, enabled: bool = True) -> None:
        self.before = autotune.enabled
        if enabled:
            # Then torch.compile runs it where it would otherwise trace it. Not said at the
            # function, because it imports the compiler, which takes as long as torch.
            torch.compiler.assume_constant_result(_tuned)
        autotune.enabled = enabled

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        autotune.enabled = self.before


def fastest(problem: Problem, batch: int) -> Lowering:
    """The candidate that :func:`measure` finds to be fastest."""
    times = measure(problem, batch)
    return min(times, key=times.__getitem__)


def measure(
    problem: Problem,
    batch: int,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Lowering, float]:
    """Run the candidates in turns and return their median seconds."""
    runs = {way: _run(problem, batch, way) for way in candidates(problem)}
    if len(runs) == 1:
        return dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run()  # the first call compiles kernels and allocates
    times: dict[Lowering, list[float]] = {way: [] for way in runs}
    for _ in range(rounds):
        for way, run in runs.items():
            synchronize()
            start = clock()
            run()
            synchronize()
            times[way].append(clock() - start)
    return {way: statistics.median(seconds) for way, seconds in times.items()}


def _run(problem: Problem, batch: int, lowering: Lowering) -> Callable[[], object]:
    """One call as the problem describes it, on constant data: nobody's random state is touched."""
    dims, geometry = len(problem.size), problem.geometry
    layout = (
        (torch.channels_last, torch.channels_last_3d)[dims - 2]
        if problem.channels_last and dims > 1
        else torch.contiguous_format
    )

    def ones(*shape: int) -> Tensor:
        tensor = torch.ones(shape, dtype=problem.dtype, device=problem.device)
        return tensor.contiguous(memory_format=layout)

    x = ones(batch, problem.in_channels, *problem.size)
    weight = ones(problem.out_channels, problem.inputs, *problem.kernel)
    prepared = prepare(weight, None, geometry, lowering)[0].contiguous(memory_format=layout)

    def run() -> object:
        with torch.autocast(problem.device, enabled=False):
            if problem.mode == "training":
                with torch.inference_mode(False), torch.enable_grad():
                    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
                    out = apply(
                        leaves[0], *prepare(leaves[1], None, geometry, lowering), geometry, lowering
                    )
                    return torch.autograd.grad(out, leaves, torch.ones_like(out))
            with torch.no_grad():
                kernel = (
                    prepared
                    if problem.mode == "prepared"
                    else prepare(weight, None, geometry, lowering)[0]
                )
                return apply(x, kernel, None, geometry, lowering)

    return run


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def grouped_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    pinned: Lowering | None = None,
) -> Tensor:
    """``conv`` by the lowering that is pinned, or else chosen: arguments and shapes as there."""
    geometry = Geometry(groups, stride, padding, dilation)
    lowering = pinned or _choose(x, weight, geometry)
    if lowering == NATIVE:
        return _conv(x, weight, bias, geometry)
    return apply(x, *prepare(weight, bias, geometry, lowering), geometry, lowering)


SMALL = 1e6  # multiply-adds per image: too few to prepare a weight for in every call


def _choose(x: Tensor, weight: Tensor, geometry: Geometry) -> Lowering:
    if x.dim() != weight.dim() or not all(isinstance(n, int) for n in x.shape[2:]):
        return NATIVE  # an unbatched input, or one whose size an exporter leaves open
    if not autotune.enabled and weight.numel() * math.prod(x.shape[2:]) < SMALL:
        return NATIVE
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    mode: Mode = "training" if training else "inference"
    return choose(problem_of(x, weight, geometry, mode), x.shape[0])


def problem_of(x: Tensor, weight: Tensor, geometry: Geometry, mode: Mode) -> Problem:
    """The problem of convolving such an input with such a weight, under autocast or not."""
    device, dtype = x.device.type, x.dtype
    if device != "meta" and torch.is_autocast_enabled(device):  # which meta does not know
        dtype = torch.get_autocast_dtype(device)
    return Problem(
        in_channels=x.shape[1],
        out_channels=weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        geometry=geometry,
        size=tuple(x.shape[2:]),
        dtype=dtype,
        channels_last=_is_channels_last(x),
        device=device,
        mode=mode,
    )
