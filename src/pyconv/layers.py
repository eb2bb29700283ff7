"""Pyramidal convolution: one input, several kernel sizes at once (paper, section 3).

A pyramid has levels. Level ``n`` is an ordinary grouped convolution with its own kernel size; all
levels see the whole input and give maps of one size, which are concatenated along the channels.
Larger kernels take more groups, so that the cost of a pyramid stays near that of a plain 3x3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .levels import per_dimension, plan_levels
from .onednn import computed_rightly
from .renamed import refused, renamed
from .replaceable import replaceable

__all__ = ["PyConv1d", "PyConv2", "PyConv2d", "PyConv3", "PyConv3d", "PyConv4", "get_pyconv"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Conv = type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]


class _PyConvNd(nn.Module):
    """What PyConv1d, PyConv2d and PyConv3d share."""

    __constants__: tuple[str, ...] = ("dims",)  # this and the next are for torch.jit.script
    __jit_unused_properties__: tuple[str, ...] = ("levels",)

    dims: ClassVar[int]  # of the map
    conv: ClassVar[Conv]  # of a level

    @refused(  # what nn.Conv2d has
        kernel_size="a pyramid has one kernel per level, pyconv_kernels=(3, 5, 7, 9)",
        groups="each level has its own, pyconv_groups=(1, 4, 8, 16)",
        padding="it follows from the kernels, so that all levels have the same output size",
    )
    def __init__(
        self,
        in_channels: int,
        out_channels: int | Sequence[int],
        pyconv_kernels: int | Sequence[int] = (3, 5, 7, 9),
        pyconv_groups: Sequence[int] | None = None,
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
        self.in_channels: int = int(in_channels)
        self.out_channels: int = sum(level.out_channels for level in levels)
        self.add_levels(
            self.conv(
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

    def add_levels(self, levels: Iterator[nn.Module]) -> None:
        """Register the levels under the original's names, ``pyconv_levels.N``."""
        self.pyconv_levels: nn.ModuleList = nn.ModuleList(levels)

    @property
    def levels(self) -> list[nn.Module]:
        """The convolutions of the levels, smallest index first."""
        return list(self.pyconv_levels)

    @replaceable
    @computed_rightly
    def forward(self, x: Tensor) -> Tensor:  # [N, in, *size] -> [N, sum(out), *size / stride]
        # Counted from behind, for an input without a batch.
        return torch.cat(self.forward_levels(x), dim=-1 - self.dims)

    def forward_levels(self, x: Tensor) -> list[Tensor]:
        """The map of each level."""
        return [level(x) for level in self.pyconv_levels]


class PyConv1d(_PyConvNd):
    """A pyramid over sequences: ``[N, C, L]`` in and out; arguments as in :class:`PyConv2d`."""

    dims: ClassVar[int] = 1
    conv: ClassVar[Conv] = nn.Conv1d


class PyConv2d(_PyConvNd):
    """A pyramidal convolution over images (paper, section 3; the original's argument names).

    ``[N, in_channels, H, W]`` -> ``[N, sum(out_channels), ceil(H / stride), ceil(W / stride)]``.

    Args:
        in_channels: Channels of the input; every level sees all of them.
        out_channels: One number per level, or one in all, shared out as the paper does. A number
            that does not divide so is shared out about so, unless the groups are given.
        pyconv_kernels: One odd kernel size per level.
        pyconv_groups: One number of groups per level; default the paper's 1, 4, 8, 16, ..., or the
            nearest that divide a level's channels.
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

    dims: ClassVar[int] = 2
    conv: ClassVar[Conv] = nn.Conv2d


class PyConv3d(_PyConvNd):
    """A pyramid over volumes: ``[N, C, D, H, W]``; arguments as in :class:`PyConv2d`."""

    dims: ClassVar[int] = 3
    conv: ClassVar[Conv] = nn.Conv3d


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

    def forward_levels(self, x: Tensor) -> list[Tensor]:
        return [level(x) for level in self.children()]


class DilatedMaxPool2d(nn.Module):
    """A 3x3 max-pool that looks ``dilation`` pixels around, for a map of ``size / stride``."""

    def __init__(self, dilation: int, stride: int) -> None:
        super().__init__()
        self.dilation: int = dilation
        self.stride: int = stride

    def forward(self, x: Tensor) -> Tensor:
        # nn.MaxPool2d pads by at most half its kernel, whatever the dilation.
        x = F.pad(x, [self.dilation] * 4, value=-torch.inf)
        return F.max_pool2d(x, 3, stride=self.stride, dilation=self.dilation)


@renamed(inplans="in_channels", planes="out_channels")
def get_pyconv(
    in_channels: int,
    out_channels: int,
    pyconv_kernels: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    pyconv_groups: Sequence[int] | None = None,
    *,
    dilation: int | Sequence[int] = 1,
    **factory: Any,
) -> PyConv2d | nn.Conv2d:
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
    return pyramid if others else cast(nn.Conv2d, first)


def _of(kernels: tuple[int, ...]) -> Callable[..., PyConv2d | nn.Conv2d]:
    """The original's layer of so many levels, as its blocks called it."""

    @renamed(inplans="in_channels", planes="out_channels")
    def layer(
        in_channels: int,
        out_channels: int,
        pyconv_kernels: int | Sequence[int] = kernels,
        stride: int | Sequence[int] = 1,
        pyconv_groups: Sequence[int] | None = None,
    ) -> PyConv2d | nn.Conv2d:
        return get_pyconv(in_channels, out_channels, pyconv_kernels, stride, pyconv_groups)

    layer.__doc__ = f"The original's layer of {len(kernels)} levels; as :func:`get_pyconv`."
    return layer


PyConv2: Callable[..., PyConv2d | nn.Conv2d] = _of((3, 5))
PyConv3: Callable[..., PyConv2d | nn.Conv2d] = _of((3, 5, 7))
PyConv4: Callable[..., PyConv2d | nn.Conv2d] = _of((3, 5, 7, 9))
