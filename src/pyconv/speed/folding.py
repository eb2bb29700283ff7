"""What follows a convolution: found in the graph of a model, and folded into it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..layers import _PyConvNd
from ..onednn import CONVS, Conv
from .guard import is_overridden
from .observing import Seen

__all__ = ["fold", "pairs", "replace"]

Called = Mapping[str, Seen]  # what an example showed, by the names of modules; empty without one
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def pairs(model: nn.Module, called: Called) -> dict[str, str]:
    """The names of convolutions and of the norms that may be folded into them.

    What cannot be traced symbolically is entered part by part, and somebody may call modules inside
    a part by themselves. If there is an example, they must be ``called`` as often as the part is;
    without one, an ``nn.Sequential`` is not looked into, whose parts are called so most.
    """
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return {
        first: second
        for first, second in _neighbours(_shadow(model), called)
        # A module of several names may be used elsewhere as well.
        if names[id(model.get_submodule(first))] == names[id(model.get_submodule(second))] == 1
    }


def _shadow(model: nn.Module) -> nn.Module:
    """A copy with the same tensors: where a forward changes its module, tracing it does as well."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _neighbours(
    model: nn.Module,
    called: Called,
    prefix: str = "",
) -> list[tuple[str, str]]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # a forward that depends on data, which says nothing of the parts of it
        return [
            (f"{name}.{first}", f"{name}.{second}")
            for name, child in model.named_children()
            for first, second in _inside(child, called, f"{prefix}{name}")
        ]
    # Weights that others read as well.
    read = {id(_attribute(model, str(node.target))) for node in graph.nodes if _is_read(node)}
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
        and _is_called_with(called, prefix, str(source.target), str(node.target))
        and not read & _tensors(model, str(source.target), str(node.target))
        and foldable(model.get_submodule(str(source.target)), model.get_submodule(str(node.target)))
    ]


def _is_called_with(called: Called, prefix: str, *names: str) -> bool:
    """Whether modules are called as often as the part they lie in, as far as an example shows."""
    part = called.get(prefix.rstrip("."))
    seen = [called.get(prefix + name) for name in names]
    return not prefix or not called or all(part and s and s.calls == part.calls for s in seen)


def _tensors(model: nn.Module, *names: str) -> set[int]:
    modules = [model.get_submodule(name) for name in names]
    return {id(t) for m in modules for t in chain(m.parameters(), m.buffers())}


def _attribute(model: nn.Module, path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(model.get_submodule(module), name)


def _is_read(node: fx.Node) -> bool:
    """Whether somebody takes the values of a tensor, not only what they are like."""
    asked = [user.args[1] if user.target is getattr else None for user in node.users]
    return node.op == "get_attr" and not {*asked} <= {"dtype", "device", "shape"}


def _inside(
    child: nn.Module,
    called: Called,
    name: str,
) -> list[tuple[str, str]]:
    """The pairs in a part of a module that cannot be traced."""
    if not isinstance(child, nn.Sequential) or name in called:
        return _neighbours(child, called, f"{name}.")
    return [
        (f"{part}.{first}", f"{part}.{second}")
        for part, module in child.named_children()
        for first, second in _inside(module, called, f"{name}.{part}")
    ]


class _Tracer(fx.Tracer):
    """Looks inside everything but pyramids."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _PyConvNd) or super().is_leaf_module(module, name)


def foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a batch norm may move into the convolution or pyramid before it."""
    levels = conv.levels if isinstance(conv, _PyConvNd) else [conv]
    return (
        isinstance(norm, Norm)
        and (not isinstance(conv, _PyConvNd) or type(conv).forward is _PyConvNd.forward)
        and norm.running_mean is not None
        and all(isinstance(level, CONVS) for level in levels)
        and not any(
            parametrize.is_parametrized(m) or is_overridden(m) for m in (conv, norm, *levels)
        )
    )


@torch.no_grad()
def fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    """Move what a batch norm does into the convolution before it, in float64 whatever the dtype."""
    conv, norm = model.get_submodule(conv_name), cast(Any, model.get_submodule(norm_name))
    first = 0
    for level in cast(list[Conv], conv.levels if isinstance(conv, _PyConvNd) else [conv]):
        share = slice(first, first + level.out_channels)
        first = share.stop
        mean, variance, scale, shift = (
            cast(Any, None if t is None else t[share].double())
            for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        bias = None if level.bias is None else level.bias.double()
        fused = fuse_conv_bn_weights(
            level.weight.double(), bias, mean, variance, norm.eps, scale, shift
        )
        dtype = level.weight.dtype
        level.weight, level.bias = (nn.Parameter(t.to(dtype), requires_grad=False) for t in fused)
    replace(model, norm_name, nn.Identity())


def replace(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
    return root
