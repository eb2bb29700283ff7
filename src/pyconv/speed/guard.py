"""When the call of a module may be replaced by an equivalent computation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks

__all__ = [
    "is_dual",
    "is_functional",
    "is_large_map",
    "is_overridden",
    "is_transformed",
    "is_unmodified",
]

LEAST = 1 << 17  # numbers of a map, below which calling costs more than is saved


def is_overridden(module: nn.Module) -> bool:
    """Whether this one module computes, or is watched, otherwise than its class says.

    Hooks watch it or write its weights, as pruning does.
    """
    own = vars(module)
    patched = "forward" in own or "_conv_forward" in own
    return bool(patched or module._forward_hooks or module._forward_pre_hooks)


def is_unmodified(module: nn.Module) -> bool:
    """Whether calling a module and going back is nothing but what its class says."""
    return not (
        is_overridden(module)
        or module._backward_hooks
        or module._backward_pre_hooks
        or hooks._has_any_global_hook()
    )


def is_transformed(x: Tensor) -> bool:
    """Whether a call is traced or transformed, so that more is asked of it than its numbers."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or type(x) is not Tensor
        or forward_ad._current_level >= 0  # something may carry a tangent: the weights, if not x
    )


def is_functional() -> bool:
    """Whether forward mode or ``torch.func`` is at work, which only PyTorch's operators follow.

    Something may carry a tangent then: the weights, if not the input.
    """
    return not torch.compiler.is_compiling() and (
        forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    )


def is_large_map(x: Tensor) -> bool:
    """Whether ``x`` is a map that lies channels-last on the CPU, worth another way."""
    return (
        x.dim() == 4
        and x.is_cpu
        and x.numel() >= LEAST
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def is_dual(tensor: Tensor) -> bool:
    """Whether a tensor carries a tangent: in forward mode there is nothing to go back."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(tensor).tangent is not None
