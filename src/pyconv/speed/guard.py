"""The one guard: when a call of the networks may be replaced by an equal, faster computation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks

from ..system.processor import is_exporting

PLAIN: set[type] = {nn.Parameter, type(None)}  # what the parameters of a module may be
LEAST = 1 << 17  # numbers of a map, below which calling costs more than is saved


def guarded(
    faster: Callable[[Any, Tensor], Any],
    parts: Callable[[Any], Iterable[nn.Module]],
    pays: Callable[[Any], bool] = lambda owner: True,
) -> Callable[[Any, Tensor], Any]:
    """A replacement that declines where the guard does not allow it.

    Args:
        faster: Called as what it replaces, with an owner, such as a layer, and the input.
        parts: Of the owner, the modules that are no longer called one by one.
        pays: Of the owner, whether to ask the guard at all, which takes time as well.
    """

    def replacement(owner: Any, x: Tensor) -> Any:
        may = pays(owner) and allows(x, parts(owner))
        return faster(owner, x) if may else NotImplemented

    return replacement


def allows(x: object, modules: Iterable[nn.Module]) -> bool:
    """Whether calling ``modules`` on ``x`` is nothing but their computation.

    It is not where a module is hooked, patched or holds tensors of another class, nor where the
    call is recorded for elsewhere (exported, traced), transformed (``torch.func``) or counted.
    """
    return (
        type(x) is Tensor
        and not is_recorded()
        and not is_transformed()
        and not hooks._has_any_global_hook()
        and all(map(_is_plain, modules))
    )


def is_recorded() -> bool:
    """Whether a call is recorded, for machines without the kernels and for other compilers."""
    return is_exporting() or (
        not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None
    )


def is_open(size: Sequence[int]) -> bool:
    """Whether a compiler or whoever records a call leaves the size of a map open."""
    if torch.compiler.is_compiling():  # what is a symbol to it, it calls an integer
        from torch.fx.experimental.symbolic_shapes import has_static_value  # takes time to import

        return not all(has_static_value(n) for n in size)
    return not all(type(n) is int for n in size)


def is_transformed() -> bool:
    """Whether forward mode, ``torch.func`` or a mode, as to count, follows PyTorch's operators.

    Something may carry a tangent then: the weights, if not the input.
    """
    return not torch.compiler.is_compiling() and bool(
        forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    )


def runs_kernels(x: Tensor) -> bool:
    """Whether kernels may compute with ``x``, which have no gradient and follow no autocast."""
    autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    learns = torch.is_grad_enabled() and x.requires_grad
    return not (is_recorded() or is_transformed() or learns or autocast)


def is_overridden(module: nn.Module) -> bool:
    """Whether this one module computes, or is watched, otherwise than its class says.

    Hooks watch it or write its weights, as pruning does.
    """
    own = vars(module)
    patched = "forward" in own or "_conv_forward" in own
    return bool(patched or module._forward_hooks or module._forward_pre_hooks)


def _is_plain(module: nn.Module) -> bool:
    if is_overridden(module) or module._backward_hooks or module._backward_pre_hooks:
        return False
    return set(map(type, module._parameters.values())) <= PLAIN


def is_large_map(x: Tensor) -> bool:
    """Whether ``x`` is a map that lies channels-last on the CPU, worth a kernel of our own."""
    return (
        x.dim() == 4
        and x.is_cpu
        and x.numel() >= LEAST
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie beside each other."""
    # To a compiler the condition itself may be a symbol.
    return True if x.stride(1) == 1 and x.shape[1] > 1 else False  # noqa: SIM210
