"""Norms folded into the convolutions before them, and what an example shows of a model."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..layers import _PyConvNd
from ..onednn import CONVS, Conv, geometry_of
from .guard import is_overridden
from .problem import Problem, problem_of


class Seen(NamedTuple):
    """A module while the example ran."""

    calls: int  # how often it was called
    problem: Problem | None = None  # of a convolution, when it was called first
    images: int = 0


@torch.no_grad()
def observe(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Seen]:
    """Run a model on inputs, and tell of each module, by its name, what was seen of it."""
    seen: dict[str, Seen] = {}

    def note(name: str, module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        if name in seen:
            seen[name] = seen[name]._replace(calls=seen[name].calls + 1)
            return
        seen[name] = Seen(1)
        given = [x for x in (*args, *options.values()) if isinstance(x, Tensor)]
        if not given or not isinstance(module, CONVS) or isinstance(module.padding, str):
            return
        x = given[0]
        if module.padding_mode != "zeros":
            x = F.pad(x, list(module._reversed_padding_repeated_twice), module.padding_mode)
        if x.dim() == module.weight.dim():
            problem = problem_of(x, module.weight, geometry_of(module), "prepared")
            seen[name] = Seen(1, problem, x.shape[0])

    handles = [
        module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


Called = Mapping[str, Seen]  # what an example showed, by the names of modules; empty without one
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def pairs(model: nn.Module, called: Called) -> dict[str, str]:
    """The names of convolutions and of the norms that may be folded into them.

    What cannot be traced symbolically is entered part by part, and somebody may call modules inside
    a part by themselves. If there is an example, they must be ``called`` as often as the part is;
    without one, an ``nn.Sequential`` is left, whose parts are called so most.
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


def _neighbours(model: nn.Module, called: Called, prefix: str = "") -> list[tuple[str, str]]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # a forward that depends on data, which says nothing of the parts of it
        return [
            (f"{name}.{first}", f"{name}.{second}")
            for name, child in model.named_children()
            if not isinstance(child, nn.Sequential) or f"{prefix}{name}" in called
            for first, second in _neighbours(child, called, f"{prefix}{name}.")
        ]
    # Weights that others read as well.
    read = {id(attrgetter(str(node.target))(model)) for node in graph.nodes if _is_read(node)}
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


def _is_read(node: fx.Node) -> bool:
    """Whether somebody takes the values of a tensor, not only what they are like."""
    asked = [user.args[1] if user.target is getattr else None for user in node.users]
    return node.op == "get_attr" and not {*asked} <= {"dtype", "device", "shape"}


class _Tracer(fx.Tracer):
    """Looks inside everything but pyramids and norms."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        is_leaf = isinstance(module, _PyConvNd) or _is_frozen(module)
        return is_leaf or super().is_leaf_module(module, name)


def _is_frozen(norm: nn.Module) -> bool:
    """Whether it is torchvision's FrozenBatchNorm2d, by name: to import that takes a while."""
    return str(type(norm)) == "<class 'torchvision.ops.misc.FrozenBatchNorm2d'>"


def foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a batch norm may move into the convolution or pyramid before it."""
    levels = conv.levels if isinstance(conv, _PyConvNd) else [conv]
    return (
        (isinstance(norm, Norm) or _is_frozen(norm))
        and (not isinstance(conv, _PyConvNd) or type(conv).forward is _PyConvNd.forward)
        and norm.running_mean is not None
        and all(type(level) in CONVS for level in levels)
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
    root.set_submodule(name, module)
    return root
