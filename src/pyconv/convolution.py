"""One convolution, as PyTorch computes it, or goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .machine import computes_in, has_tiles, is_exporting

__all__ = [
    "TILES",
    "Geometry",
    "computed_in",
    "conv",
    "conv_gradients",
    "is_channels_last",
    "miscomputed",
]

# Asked once: torch.compile cannot follow the questions.
TILES = has_tiles()
CPU_LACKS = tuple(half for half in (torch.bfloat16, torch.float16) if not computes_in("cpu", half))


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
    size, learns = x.shape[2 - weight.dim() :], torch.is_grad_enabled() and weight.requires_grad
    right = _right_dtype(size, weight.shape, geometry, dtype, device, learns)
    # Where dtypes differ, PyTorch has something to say.
    if right != dtype and all(t is None or computed_in(t) == dtype for t in (weight, bias)):
        tensors = [None if t is None else t.to(right) for t in (x, weight, bias)]
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
    right = _right_dtype(x.shape[2:], weight.shape, geometry, x.dtype, x.device.type, wanted[1])
    tensors = [tensor.to(right) for tensor in (grad, x, weight)]
    none = [0] * len(stride)
    found = torch.ops.aten.convolution_backward(
        *tensors, None, stride, padding, dilation, False, none, groups, [*wanted, False]
    )
    on_x, on_weight = (None if t is None else t.to(x.dtype) for t in found[:2])
    return on_x, on_weight


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of ``x`` is computed, under autocast or not."""
    device = x.device.type
    if device == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype  # meta does not know of autocast
    return torch.get_autocast_dtype(device)


def miscomputed(
    size: Sequence[int],
    weight: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
    device: str,
    learns: bool,
) -> bool:
    """Whether oneDNN gets such a convolution wrong: by more than the result, and silently.

    ``size`` is that of the input's map, ``weight`` the shape ``[out, in / g, *k]``; ``learns`` says
    whether the gradient on it is wanted. Seen with PyTorch 2.14:

    - In bfloat16 with tiles (AMX), forwards: less than 16 inputs per group make whole runs of 32
      with the width of the kernel, more than one of them, such as 8 inputs and 8 pixels. Published
      kernels are odd, but those of tiles two, four or eight pixels wide come to it.
    - In bfloat16 with AVX-512, a kernel that takes one step across the map: the gradient on the
      weight is whatever lay in memory, and some maps are. So it is with volumes that are smaller
      than the kernel in any direction.
    - In bfloat16 with AVX-512 and no tiles, the gradient on the weight of dilated groups, of a
      number of inputs that is no multiple of 16, over maps more than 28 pixels wide.
    - In float32 too, kernels that take steps through a volume no deeper than they are: the
      gradient on the weight is written where it must not be, and the process dies.
    """
    volume, half = len(size) == 3, dtype.itemsize == 2
    if device != "cpu" or not (half or volume) or not all(isinstance(n, int) for n in size):
        return False
    rows = [_Row(*row) for row in zip(size, weight[2:], *geometry[1:], strict=True)]
    first, last = rows[0], rows[-1]
    if volume and first.stride > 1 and first.reach >= first.size and dtype != torch.float64:
        return True
    if not half:
        return False
    inputs, width = weight[1], weight[-1]
    if TILES and inputs < 16 and inputs * width > 32 and inputs * width % 32 == 0:
        return True
    dilated = any(row.dilation > 1 for row in rows[:-1]) and last.steps > 28
    if learns and not TILES and geometry.groups > 1 and inputs % 16 and dilated:
        return True
    return last.one_step or (volume and any(row.one_step or row.reach > row.size for row in rows))


class _Row(NamedTuple):
    """A convolution along one direction."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def steps(self) -> int:
        return (self.size + 2 * self.padding - self.reach) // self.stride + 1

    @property
    def one_step(self) -> bool:
        return self.stride > 1 and (self.steps == 1 or self.size <= self.stride)


WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}


def _right_dtype(
    size: Sequence[int],
    weight: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
    device: str,
    learns: bool,
) -> torch.dtype:
    """The dtype itself, or a wider one in which oneDNN computes rightly, or not at all.

    Where a CPU lacks arithmetic for a dtype, PyTorch rounds each sum to it: a wider one is nearer
    the truth, and several times as fast.
    """
    if device == "cpu" and dtype in CPU_LACKS and not is_exporting():
        dtype = torch.float32
    while miscomputed(size, weight, geometry, dtype, device, learns):
        dtype = WIDER[dtype]
    return dtype


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie beside each other."""
    # To a compiler the condition itself may be a symbol.
    return True if x.stride(1) == 1 and x.shape[1] > 1 else False  # noqa: SIM210
