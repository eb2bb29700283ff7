"""One convolution, as PyTorch computes it, or goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .machine import has_tiles

__all__ = [
    "Geometry",
    "computed_in",
    "conv",
    "conv_gradients",
    "is_channels_last",
    "miscomputed",
]

TILES = has_tiles()  # asked once: torch.compile cannot follow the question


class Geometry(NamedTuple):
    """What a convolution is told besides its input, weight and bias."""

    groups: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Positions of the kernel per stride."""
        return tuple(s // d for s, d in zip(self.stride, self.dilation, strict=True))

    @property
    def tiles(self) -> bool:
        """Whether kernels shifted by whole strides lie on the grid of their dilation."""
        return all(s % d == 0 for s, d in zip(self.stride, self.dilation, strict=True))


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    groups, stride, padding, dilation = geometry
    dtype, device = computed_in(x), x.device.type
    if miscomputed(x.shape[2:], weight.shape, geometry, dtype, device):
        tensors = [None if t is None else t.float() for t in (x, weight, bias)]
        with torch.autocast(device, enabled=False):
            return function(*tensors, stride, padding, dilation, groups).to(dtype)
    return function(x, weight, bias, stride, padding, dilation, groups)


def conv_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Any, Any]:
    """The gradients on the input and on the weight; None for one that is not wanted."""
    groups, stride, padding, dilation = geometry
    dtype, tensors = x.dtype, (grad, x, weight)
    wrong = miscomputed(x.shape[2:], weight.shape, geometry, dtype, x.device.type)
    if wrong:
        tensors = (grad.float(), x.float(), weight.float())
    none = [0] * len(stride)
    found = torch.ops.aten.convolution_backward(
        *tensors, None, stride, padding, dilation, False, none, groups, [*wanted, False]
    )
    on_x, on_weight = (t.to(dtype) if wrong and t is not None else t for t in found[:2])
    return on_x, on_weight


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of ``x`` is computed, under autocast or not."""
    device = x.device.type
    if device == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype  # meta does not know of autocast
    return torch.get_autocast_dtype(device)


def miscomputed(
    size: Sequence[int], weight: Sequence[int], geometry: Geometry, dtype: torch.dtype, device: str
) -> bool:
    """Whether oneDNN gets such a convolution wrong: by more than the result, and silently.

    ``size`` is that of the input's map, ``weight`` the shape ``[out, in / g, *k]``. Seen with
    PyTorch 2.14 in bfloat16 on an Intel Xeon with tiles (AMX), in two cases, forwards:

    - less than 16 inputs per group make whole runs of 32 with the width of the kernel, more than
      one of them, such as 8 inputs and 8 pixels. Published kernels are odd, but those of tiles two,
      four or eight pixels wide come to it.
    - a kernel with a stride has room for one step only: the output's map is one pixel wide. If
      the input's map is so too, the gradient on the weight is whatever lay in memory.
    """
    if not TILES or dtype.itemsize != 2 or device != "cpu":
        return False
    inputs, width, dims = weight[1], weight[-1], len(weight) - 2
    if inputs < 16 and inputs * width > 32 and inputs * width % 32 == 0:
        return True
    stride, padding, dilation = (row[-1] for row in geometry[1:])
    if dims == 1 or stride == 1 or width == 1 or not isinstance(size[-1], int):
        return False
    return size[-1] + 2 * padding - dilation * (width - 1) - 1 < stride


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie beside each other."""
    return x.stride(1) == 1 and x.shape[1] > 1
