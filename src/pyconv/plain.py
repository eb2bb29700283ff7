"""Whether a call is nothing but its numbers: what is asked before one way takes another's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks

__all__ = ["is_dual", "is_large_map", "is_plain", "is_transformed"]

LEAST = 1 << 17  # numbers of a map, below which calling costs more than is saved


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module is nothing but its forward, as its class has it."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or hooks._has_any_global_hook()
        or "forward" in vars(module)
    )


def is_transformed(x: Tensor) -> bool:
    """Whether somebody looks at the program, or at more than its numbers and their gradients."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or type(x) is not Tensor
        or forward_ad._current_level >= 0  # something may carry a tangent: the weights, if not x
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
