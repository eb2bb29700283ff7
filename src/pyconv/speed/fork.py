"""A map that two read: the gradients that come back from both are added up in one fast pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import kernels
from .direct import HEADERS, add_up
from .guard import is_large_map, is_transformed
from .kernels import DTYPES

__all__ = ["fork"]


def fork(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` twice, for two readers. Autograd would add up as well, but reads and writes more."""
    ours = (
        torch.is_grad_enabled()
        and isinstance(x, Tensor)
        and not is_transformed(x)
        and x.requires_grad
        and is_large_map(x)
        and x.dtype in DTYPES
        and kernels.load(*HEADERS) is not None
    )
    return _Fork.apply(x) if ours else (x, x)


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # A view would forget how a single image lies, and with it that channels come last.
        return torch.ops.aten.alias(x), torch.ops.aten.alias(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        found = [grad for grad in grads if grad is not None]
        if len(found) == 2:
            return found[0] + found[1] if torch.is_grad_enabled() else add_up(found)
        return found[0] if found else None
