"""One convolution and its gradients as PyTorch computes them, around what oneDNN gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..onednn import Geometry, computed_in, right_dtype


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


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie beside each other."""
    # To a compiler the condition itself may be a symbol.
    return True if x.stride(1) == 1 and x.shape[1] > 1 else False  # noqa: SIM210
