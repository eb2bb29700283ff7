"""Pyramidal convolution: one input, several kernel sizes at once (paper, section 3).

A pyramid has levels. Level ``n`` is an ordinary grouped convolution with its own kernel size; all
levels see the whole input and give maps of one size, which are concatenated along the channels.
Larger kernels take more groups, so that the cost of a pyramid stays near that of a plain 3x3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .levels import Level, per_dimension, plan_levels
from .onednn import Geometry, computed_in
from .speed import kernels
from .speed.algorithms import NATIVE, Lowering
from .speed.choice import choose_all, grouped_conv
from .speed.direct import HEADERS
from .speed.guard import is_large_map, is_transformed, is_unmodified
from .speed.kernels import DTYPES
from .speed.pyramid import convolve_levels

__all__ = ["PyConv1d", "PyConv2d", "PyConv3d", "get_pyconv", "pin"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


fx.wrap("grouped_conv")  # one node for symbolic tracing, which cannot follow a choice by shape


class GroupedConv(nn.modules.conv._ConvNd):
    """A convolution of a pyramid, computed the fastest equal way if it has groups (``choice.py``).

    With one group it only keeps away from what oneDNN computes wrongly (``convolution.py``).
    """

    lowering: Lowering | None = None  # the one pinned; None leaves the choice to the machine

    def forward(self, x: Tensor) -> Tensor:  # [N, in, *size] -> [N, out, *size / stride]
        padding: Any = self.padding
        if isinstance(padding, str):  # as nn.Conv2d takes it, but no pyramid gives it
            return super().forward(x)  # type: ignore[no-any-return]
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = (0,) * len(self.padding)
        return grouped_conv(
            x,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self.lowering,
        )


class GroupedConv1d(GroupedConv, nn.Conv1d):
    """A :class:`torch.nn.Conv1d` with several groups."""


class GroupedConv2d(GroupedConv, nn.Conv2d):
    """A :class:`torch.nn.Conv2d` with several groups."""


class GroupedConv3d(GroupedConv, nn.Conv3d):
    """A :class:`torch.nn.Conv3d` with several groups."""


def pin(module: nn.Module, lowering: str | None) -> None:
    """Compute all grouped levels inside ``module`` in one way: for tests, timing, odd machines.

    Args:
        module: A layer, a block or a whole network.
        lowering: ``"native"``, ``"direct"``, ``"depthwise"``, ``"blocked:merge=4"``,
            ``"tiled:2x2"`` or ``"tiled:2x2:merge=2"``; None leaves the choice to the library again.

    Raises:
        ValueError: if there is no such lowering, or a level cannot be computed by it; then
            nothing is pinned.
    """
    pinned = None if lowering is None else Lowering.parse(lowering)
    found = {n: m for n, m in module.named_modules() if isinstance(m, GroupedConv)}
    levels = {name: level for name, level in found.items() if level.groups > 1}
    for name, level in levels.items():
        geometry: Any = (level.groups, level.stride, level.padding, level.dilation)
        if pinned is not None and not pinned.fits(Geometry(*geometry)):
            raise ValueError(
                f"{name or 'the level'} ({level}) cannot be computed as {lowering!r}: its groups "
                "must be a multiple of merge, the tile needs one size per dimension of the map, "
                "and the stride must be a multiple of the dilation. Pin the other levels one by "
                "one, or 'native'."
            )
    for level in levels.values():
        level.lowering = pinned


class _PyConvNd(nn.Module):
    """The one implementation behind PyConv1d, PyConv2d and PyConv3d."""

    dims: ClassVar[int]  # of the map
    conv: ClassVar[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]]  # of one group
    grouped: ClassVar[type[GroupedConv1d] | type[GroupedConv2d] | type[GroupedConv3d]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int | Sequence[int],
        pyconv_kernels: int | Sequence[int] = (3, 5, 7, 9),
        pyconv_groups: int | Sequence[int] | None = (1, 4, 8, 16),
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        levels = plan_levels(in_channels, out_channels, pyconv_kernels, pyconv_groups)
        strides = per_dimension("stride", stride, self.dims)
        dilations = per_dimension("dilation", dilation, self.dims)
        self.in_channels = int(in_channels)
        self.out_channels = sum(level.out_channels for level in levels)
        self.add_levels(
            self._kind(level)(
                self.in_channels,
                level.out_channels,
                level.kernel,
                stride=strides,
                # Padding follows dilation, so that every level has the same output size.
                padding=tuple(d * (level.kernel // 2) for d in dilations),
                dilation=dilations,
                groups=level.groups,
                bias=bias,
                padding_mode=padding_mode,
                device=device,
                dtype=dtype,
            )
            for level in levels
        )

    def _kind(self, level: Level) -> type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]:
        """Plain with one group, but where oneDNN gets that wrong: see :func:`miscomputed`."""
        right = level.kernel > 1 or not 1 < self.in_channels < 8
        return self.conv if level.groups == 1 and right else self.grouped

    def add_levels(self, levels: Iterator[nn.Module]) -> None:
        """Register the levels under the original's names, ``pyconv_levels.N``."""
        self.pyconv_levels = nn.ModuleList(levels)

    @property
    def levels(self) -> list[nn.Module]:
        """The convolutions of the levels, smallest index first."""
        return list(self.pyconv_levels)

    def forward(self, x: Tensor) -> Tensor:  # [N, in, *size] -> [N, sum(out), *size / stride]
        if (levels := _jointly_trainable(x, self.levels)) is not None:
            return _train_jointly(x, levels)
        # Counted from behind, for an input without a batch.
        return torch.cat([level(x) for level in self.levels], dim=-1 - self.dims)


def _jointly_trainable(x: Tensor, levels: Sequence[nn.Module]) -> list[nn.Conv2d] | None:
    """The levels, if the kernels for the CPU may train them together; else None."""
    if not torch.is_grad_enabled() or not isinstance(x, Tensor) or is_transformed(x):
        return None
    if not is_large_map(x):
        return None
    plain = [level for level in levels if isinstance(level, nn.Conv2d) and _is_trainable(level)]
    ours = (
        len(plain) == len(levels) > 1
        and x.shape[1] == plain[0].in_channels
        and computed_in(x) in DTYPES
        and kernels.load(*HEADERS) is not None
    )
    return plain if ours else None


def _is_trainable(level: nn.Conv2d) -> bool:
    return (
        type(level) in (nn.Conv2d, GroupedConv2d)
        and level.padding_mode == "zeros"
        and not isinstance(level.padding, str)
        and type(level.weight) is nn.Parameter
        and level.weight.requires_grad
        and is_unmodified(level)
    )


def _train_jointly(x: Tensor, levels: Sequence[nn.Conv2d]) -> Tensor:
    weights, biases = [level.weight for level in levels], [level.bias for level in levels]
    geometries: list[Any] = [
        Geometry(level.groups, level.stride, level.padding, level.dilation)  # type: ignore[arg-type]
        for level in levels
    ]
    pinned = [
        level.lowering if isinstance(level, GroupedConv) and level.groups > 1 else NATIVE
        for level in levels
    ]
    ways = choose_all(x, weights, geometries, pinned)
    return convolve_levels(x, weights, biases, geometries, ways)


class PyConv1d(_PyConvNd):
    """A pyramid over sequences: ``[N, C, L]`` in and out; arguments as in :class:`PyConv2d`."""

    dims, conv, grouped = 1, nn.Conv1d, GroupedConv1d


class PyConv2d(_PyConvNd):
    """A pyramidal convolution over images (paper, section 3; the original's argument names).

    ``[N, in_channels, H, W]`` -> ``[N, sum(out_channels), ceil(H / stride), ceil(W / stride)]``.

    Args:
        in_channels: Channels of the input; every level sees all of them.
        out_channels: One number per level, or one in all, shared out as the paper does.
        pyconv_kernels: One odd kernel size per level.
        pyconv_groups: One number of groups per level; None takes the paper's 1, 4, 8, 16, ...,
            lowered per level until they divide its channels.
        stride: Stride of every level, one number or one per dimension of the map.
        dilation: Dilation of every level, likewise; the padding follows it.
        bias: Whether the levels have a bias; off, because a norm usually follows.
        padding_mode: As in :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: if no such pyramid exists; it names the level, the numbers and the cure.

    Example:
        >>> PyConv2d(64, 64)(torch.randn(1, 64, 56, 56)).shape
        torch.Size([1, 64, 56, 56])
    """

    dims, conv, grouped = 2, nn.Conv2d, GroupedConv2d


class PyConv3d(_PyConvNd):
    """A pyramid over volumes: ``[N, C, D, H, W]``; arguments as in :class:`PyConv2d`."""

    dims, conv, grouped = 3, GroupedConv3d, GroupedConv3d  # see miscomputed() on volumes


class NetworkPyConv2d(PyConv2d):
    """A :class:`PyConv2d` whose levels bear the names of the published networks.

    The authors' checkpoints call the levels ``conv2_1``, ``conv2_2``, ... instead of
    ``pyconv_levels.0``, ``pyconv_levels.1``, ...; nothing else differs.
    """

    def add_levels(self, levels: Iterator[nn.Module]) -> None:
        for number, level in enumerate(levels, 1):
            self.add_module(f"conv2_{number}", level)

    @property
    def levels(self) -> list[nn.Module]:
        return list(self.children())


def get_pyconv(
    in_channels: int,
    out_channels: int,
    pyconv_kernels: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    pyconv_groups: int | Sequence[int] | None = (1,),
    *,
    dilation: int | Sequence[int] = 1,
    **factory: Any,
) -> nn.Module:
    """Build the pyramid of a network, under the parameter names of the published checkpoints.

    One level is a :class:`torch.nn.Conv2d`, as in the original; ``out_channels`` is shared
    out over several. ``factory`` may hold ``device`` and ``dtype``.

    Raises:
        ValueError: as :class:`PyConv2d` does.
    """
    pyramid = NetworkPyConv2d(
        in_channels,
        out_channels,
        pyconv_kernels,
        pyconv_groups,
        stride=stride,
        dilation=dilation,
        **factory,
    )
    first, *others = pyramid.levels
    return pyramid if others else first
