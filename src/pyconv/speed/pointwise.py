"""1x1 convolutions in training as what they are: products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..onednn import HAS_AMX, computed_in
from . import kernels
from .guard import is_large_map, is_transformed, is_unmodified

__all__ = ["pointwise"]


def pointwise(x: Tensor, conv: nn.Module) -> Tensor:
    """``conv(x)``: ``[N, in, H, W]`` -> ``[N, out, H, W]``.

    In training oneDNN brings the tensors of a convolution to another layout in every call, there
    and back. In bfloat16 with AMX that costs more than the product, for which a channels-last map
    lies ready; in float32 nothing is won.
    """
    if not _is_product(x, conv):
        out: Tensor = conv(x)
        return out
    assert isinstance(conv, nn.Conv2d)
    pixels = x.permute(0, 2, 3, 1)  # [N, H, W, in], as it lies
    product = F.linear(pixels.reshape(-1, x.shape[1]), conv.weight.flatten(1), conv.bias)
    return product.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)


def _is_product(x: Tensor, conv: nn.Module) -> bool:
    return (
        HAS_AMX
        and kernels.enabled()
        and torch.is_grad_enabled()
        and isinstance(x, Tensor)
        and not is_transformed(x)
        and type(conv) is nn.Conv2d
        and conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.weight.requires_grad
        and is_unmodified(conv)
        and is_large_map(x)
        and x.shape[1] == conv.in_channels
        and computed_in(x) == torch.bfloat16
    )
