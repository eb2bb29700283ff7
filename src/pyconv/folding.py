"""What follows a convolution: found in the graph of a model, and folded into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from .layers import GroupedConv, _PyConvNd
from .prepared import Conv

__all__ = ["fold", "foldable", "is_plain_relu", "pairs", "replace"]

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def pairs(model: nn.Module, match: Callable[[nn.Module, nn.Module], bool]) -> dict[str, str]:
    """The names of modules of which the second alone reads the output of the first."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return {
        first: second
        for first, second in _neighbours(model, match)
        # A module of several names may be used elsewhere as well.
        if names[id(model.get_submodule(first))] == names[id(model.get_submodule(second))] == 1
    }


def _neighbours(
    model: nn.Module, match: Callable[[nn.Module, nn.Module], bool]
) -> list[tuple[str, str]]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # a forward that depends on data, which says nothing of the parts of it
        return [
            (f"{name}.{conv}", f"{name}.{norm}")
            for name, child in model.named_children()
            for conv, norm in _neighbours(child, match)
        ]
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(str(node.target) for node in nodes)
    return [
        (str(source.target), str(node.target))
        for node in nodes
        for source in node.args[:1]
        if isinstance(source, fx.Node)
        and source.op == "call_module"
        and list(source.users) == [node]
        and calls[str(node.target)] == calls[str(source.target)] == 1
        and match(model.get_submodule(str(source.target)), model.get_submodule(str(node.target)))
    ]


class _Tracer(fx.Tracer):
    """Looks inside everything but pyramids and their levels."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (_PyConvNd, GroupedConv)) or super().is_leaf_module(module, name)


def is_plain_relu(_: nn.Module, relu: nn.Module) -> bool:
    return type(relu) is nn.ReLU and not relu._forward_hooks and not relu._forward_pre_hooks


def foldable(conv: nn.Module, norm: nn.Module) -> bool:
    levels = conv.levels if isinstance(conv, _PyConvNd) else [conv]
    return (
        isinstance(norm, Norm)
        and norm.running_mean is not None
        and all(isinstance(level, Conv) for level in levels)
        and not any(
            parametrize.is_parametrized(m) or m._forward_hooks for m in (conv, norm, *levels)
        )
    )


@torch.no_grad()
def fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    """Move what a batch norm does into the convolution before it, in float64 whatever the dtype."""
    conv, norm = model.get_submodule(conv_name), cast(Any, model.get_submodule(norm_name))
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    first = 0
    for level in cast(list[Conv], conv.levels if isinstance(conv, _PyConvNd) else [conv]):
        weight, share = level.weight, slice(first, first + level.out_channels)
        first += level.out_channels
        bias = shift[share]
        if level.bias is not None:
            bias = bias + level.bias.double() * scale[share]
        scaled = weight.double() * scale[share].reshape(-1, *(1,) * (weight.dim() - 1))
        level.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
        level.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    replace(model, norm_name, nn.Identity())


def replace(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
    return root
