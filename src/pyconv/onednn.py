"""The convolutions that oneDNN computes wrongly, without an error, and what is done instead.

PyTorch computes on the CPU by oneDNN. :func:`miscomputed` says which convolutions come out grossly
wrong; pyramids compute such levels in a wider dtype, and round once, and so do :func:`conv` and
:func:`conv_gradients`, of which faster algorithms are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .system.processor import computes_in, has_amx, is_exporting, processor

__all__ = [
    "HAS_AMX",
    "Conv",
    "Geometry",
    "computed_in",
    "computed_rightly",
    "conv",
    "conv_gradients",
    "geometry_of",
    "miscomputed",
    "right_dtype",
]

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Asked once: torch.compile cannot follow the questions.
HAS_AMX = has_amx()
PROCESSOR = processor()
CPU_LACKS = tuple(half for half in (torch.bfloat16, torch.float16) if not computes_in("cpu", half))
WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}


class Geometry(NamedTuple):
    """What a convolution is told besides its input, weight and bias."""

    groups: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def map_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The size of the output's map, from those of the input's and of the kernel."""
        rows = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in rows)

    @property
    def can_tile(self) -> bool:
        """Whether kernels shifted by whole strides lie on the grid of their dilation."""
        return all(s % d == 0 for s, d in zip(self.stride, self.dilation, strict=True))


def geometry_of(conv: Conv) -> Geometry:
    """The geometry of a convolution whose input is padded already, where it is not by zeros."""
    padding = conv.padding if conv.padding_mode == "zeros" else (0,) * len(conv.stride)
    return Geometry(conv.groups, conv.stride, padding, conv.dilation)  # type: ignore[arg-type]


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of ``x`` is computed, under autocast or not."""
    device = x.device.type
    if device == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype  # meta does not know of autocast
    return torch.get_autocast_dtype(device)


def computed_rightly(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Compute those ``levels`` of a pyramid in a wider dtype that oneDNN would get wrong."""

    @wraps(forward)
    def rightly(self: Any, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or is_exporting() or x.device.type != "cpu":
            return forward(self, x)
        dtype, levels = computed_in(x), self.levels
        rights = [_right_for(level, x, dtype) for level in levels]
        if all(right == dtype for right in rights):
            return forward(self, x)
        maps = [
            level(x) if right == dtype else _widened(level, x, right).to(dtype)
            for level, right in zip(levels, rights, strict=True)
        ]
        return torch.cat(maps, dim=-1 - self.dims)

    return rightly


def _right_for(level: nn.Module, x: Tensor, dtype: torch.dtype) -> torch.dtype:
    if not isinstance(level, CONVS) or isinstance(level.padding, str):
        return dtype  # not as a pyramid makes them
    weight = _kept_weight(level)
    if computed_in(weight) != dtype:
        return dtype  # PyTorch has something to say
    dims, learns = len(level.stride), torch.is_grad_enabled() and weight.requires_grad
    size: Sequence[int] = x.shape[-dims:]
    if level.padding_mode != "zeros":
        size = [n + 2 * p for n, p in zip(size, level.padding, strict=True)]
    shape = (level.out_channels, level.in_channels // level.groups, *level.kernel_size)
    return right_dtype(size, shape, geometry_of(level), dtype, "cpu", learns)


def _kept_weight(level: Any) -> Tensor:
    """The weight; where it is made of parameters at each access, as by spectral_norm, one of these.

    Making it may change them, so nothing but the convolution does.
    """
    made = level._modules.get("parametrizations", ())  # is_parametrized() takes longer
    kept = next(made["weight"].parameters(), None) if "weight" in made else None
    weight: Tensor = level.weight if kept is None else kept
    return weight


def _widened(level: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    wide = {name: parameter.to(dtype) for name, parameter in level.named_parameters()}
    with torch.autocast("cpu", enabled=False):
        out: Tensor = functional_call(level, wide, (x.to(dtype),))
    return out


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, in, *size]``, ``[out, in / g, *k]``, ``[out]`` -> ``[N, out, *map]``."""
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    groups, stride, padding, dilation = geometry
    dtype, device = computed_in(x), x.device.type
    size, learns = x.shape[2 - weight.dim() :], torch.is_grad_enabled() and weight.requires_grad
    right = right_dtype(size, weight.shape, geometry, dtype, device, learns)
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
    """The gradients with respect to input and weight; None for one that is not wanted."""
    groups, stride, padding, dilation = geometry
    right = right_dtype(x.shape[2:], weight.shape, geometry, x.dtype, x.device.type, wanted[1])
    tensors = [tensor.to(right) for tensor in (grad, x, weight)]
    none = [0] * len(stride)
    found = torch.ops.aten.convolution_backward(
        *tensors, None, stride, padding, dilation, False, none, groups, [*wanted, False]
    )
    grad_x, grad_weight = (None if t is None else t.to(x.dtype) for t in found[:2])
    return grad_x, grad_weight


def right_dtype(
    size: Sequence[int],
    weight: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
    device: str,
    learns: bool,
) -> torch.dtype:
    """The dtype itself, or a wider one in which a convolution is computed rightly.

    Where a CPU lacks arithmetic for a dtype, PyTorch rounds each sum to it: a wider one is nearer
    the truth, and several times as fast. Arguments as for :func:`miscomputed`.
    """
    if device == "cpu" and dtype in CPU_LACKS and not is_exporting():
        dtype = torch.float32
    while miscomputed(size, weight, geometry, dtype, device, learns):
        dtype = WIDER[dtype]
    return dtype


def miscomputed(
    size: Sequence[int],
    weight: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
    device: str,
    learns: bool,
) -> bool:
    """Whether oneDNN returns grossly wrong numbers for such a convolution, without an error.

    ``size`` is that of the input's map, ``weight`` the shape ``[out, in / g, *k]``; ``learns`` says
    whether its gradient is wanted. Seen with PyTorch 2.14:

    - In bfloat16 with AMX, the output: fewer than 16 inputs per group whose number times the width
      of the kernel is 64, 96, 128, ..., such as 8 inputs and 8 pixels. Published kernels are odd,
      but those of tiles two, four or eight pixels wide come to it.
    - In bfloat16 with AVX-512, a kernel with a stride that has one position across the map: the
      gradient of the weight is whatever lay in memory, and some outputs are. So it is with volumes
      that have one such position, or are smaller than the kernel, in any direction.
    - In bfloat16 with AVX-512, the gradient of the weight of groups dilated along the height, over
      maps more than 28 pixels wide: with AMX of depthwise ones that have an output for each input,
      without AMX of any number of inputs that is no multiple of 16.
    - In bfloat16 with AVX-512, the gradient of the weight of more than 112 inputs per group, by a
      kernel padded with more rows than the map has, such as 5x5 on maps of one row.
    - In float32, a kernel with a stride along the depth of a volume no deeper than it is, with
      AVX-512; and an ungrouped 1x1 kernel with a stride on 2 to 7 inputs, with AVX2 alone: the
      gradient of the weight is written outside its memory, and the process dies.
    """
    volume, half = len(size) == 3, dtype.itemsize == 2
    if device != "cpu" or dtype == torch.float64:
        return False
    inputs, width = weight[1], weight[-1]
    few = learns and PROCESSOR == "AVX2" and geometry.groups == 1 and 1 < inputs < 8
    if not (half or volume or few) or not all(isinstance(n, int) for n in size):
        return False
    rows = [_Axis(*row) for row in zip(size, weight[2:], *geometry[1:], strict=True)]
    first, last = rows[0], rows[-1]
    if volume and first.stride > 1 and first.reach >= first.size:
        return True
    if few and all(row.kernel == 1 for row in rows) and any(row.stride > 1 for row in rows):
        return True
    if not half:
        return False
    if HAS_AMX and inputs < 16 and inputs * width > 32 and inputs * width % 32 == 0:
        return True
    dilated = any(row.dilation > 1 for row in rows[:-1]) and last.outputs > 28
    depthwise = tuple(weight[:2]) == (geometry.groups, 1)
    if learns and geometry.groups > 1 and dilated and (depthwise if HAS_AMX else inputs % 16):
        return True
    if learns and inputs > 96 and first.padding > first.size:  # seen from 113 on: a margin
        return True
    small = volume and any(row.has_one_position or row.reach > row.size for row in rows)
    return small or last.has_one_position


class _Axis(NamedTuple):
    """A convolution along one dimension of the map."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def outputs(self) -> int:
        return (self.size + 2 * self.padding - self.reach) // self.stride + 1

    @property
    def has_one_position(self) -> bool:
        return self.stride > 1 and (self.outputs == 1 or self.size <= self.stride)
