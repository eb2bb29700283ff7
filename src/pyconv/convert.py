"""Pyramids in other people's networks: their 3x3 convolutions become PyConv layers."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .layers import PyConv2d
from .levels import plan_in_place_of, plan_levels

__all__ = ["Conversion", "Converted", "convert"]

Where = Callable[[str, nn.Conv2d], bool] | str
NOT_NAMED = "where= does not name it"


class Converted(NamedTuple):
    """A convolution that became a pyramid."""

    name: str
    layer: PyConv2d
    before: int  # parameters of the convolution
    after: int  # parameters of the pyramid


class Conversion(NamedTuple):
    """What :func:`convert` changed, what it kept and why; printed, it is a table."""

    changed: tuple[Converted, ...]
    kept: dict[str, str]  # the reason, by the name of the convolution
    before: int  # parameters of the whole model
    after: int

    def __str__(self) -> str:
        rows = [f"{each.name}: {_shown(each)}" for each in self.changed]
        for reason, count in Counter(self.kept.values()).items():
            first = next(name for name, why in self.kept.items() if why == reason)
            rows.append(f"kept {count}, first {first}: {reason}")
        changed = (
            f"{len(self.changed)} of {len(self.changed) + len(self.kept)} convolutions changed"
        )
        rows.append(f"{changed}; parameters {self.before:,} -> {self.after:,}")
        return "\n".join(rows)


def convert(
    model: nn.Module,
    kernels: Sequence[int] = (3, 5, 7, 9),
    groups: Sequence[int] | None = None,
    where: Where | None = None,
) -> Conversion:
    """Replace 3x3 convolutions of a model by pyramids of equal or fewer parameters, in place.

    A pyramid has the channels, stride, dilation, bias, padding mode, device and dtype of the
    convolution, and starts untrained. Convolutions that other code looks into stay as they are:
    those with hooks, parametrizations or shared weights, those of a class of their own, and those
    whose ``weight`` or ``stride`` the class around them reads.

    Args:
        model: A module of any library.
        kernels: Kernel sizes of a pyramid, smallest first. Where the channels allow no groups that
            make the largest kernels cheap enough, these are left out, down to two levels.
        groups: Groups, one per kernel; default those nearest the paper's 1, 4, 8, 16 that divide
            the channels.
        where: Which convolutions: a pattern of their names, such as ``"layer3.*"``, or a function
            of name and convolution. Default all but the first, which sees the image, and those
            with groups, such as depthwise ones.

    Raises:
        TypeError: if the model is no module, such as a name.
        ValueError: if the model is itself a convolution, ``where`` names none, or there can be no
            pyramid of such kernels and groups.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"convert() takes an nn.Module, not {model!r}. Build the model first, such as "
            "pyconv.get_model(NAME) or MyNet()."
        )
    if isinstance(model, nn.Conv2d):
        raise ValueError(
            "The model is itself a convolution, so there is nothing to put a pyramid into. Build "
            "pyconv.PyConv2d in its stead."
        )
    _check(kernels, groups)
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    users = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    before, plans = _count(model), dict[str, PyConv2d | str]()
    for number, (name, conv) in enumerate(convs.items()):
        shared = any(users[id(parameter)] > 1 for parameter in conv.parameters())
        plans[name] = (
            _not_asked(name, conv, where, number == 0)
            or _unsuited(conv, shared)
            or _read_outside(model, name)
            or _pyramid(conv, kernels, groups)
        )
    if where is not None and all(plan == NOT_NAMED for plan in plans.values()):
        raise ValueError(
            f"where={where!r} names none of the {len(convs)} convolutions of the model. Names are "
            f"such as {', '.join(list(convs)[-3:])}."
        )
    changed = []
    for name, plan in plans.items():
        if isinstance(plan, PyConv2d):
            changed.append(Converted(name, plan, _count(convs[name]), _count(plan)))
            _replace(model, convs[name], plan)
    kept = {name: plan for name, plan in plans.items() if isinstance(plan, str)}
    return Conversion(tuple(changed), kept, before, _count(model))


def _check(kernels: Sequence[int], groups: Sequence[int] | None) -> None:
    """Check the wishes alone, on channels that any groups divide."""
    groups = (1,) * len(kernels) if groups is None else groups
    channels = math.prod(groups)
    plan_levels(channels, (channels,) * len(kernels), kernels, groups)


def _not_asked(name: str, conv: nn.Conv2d, where: Where | None, first: bool) -> str | None:
    """Why a convolution is not among those asked for; None if it is."""
    if where is not None:
        named = fnmatchcase(name, where) if isinstance(where, str) else where(name, conv)
        return None if named else NOT_NAMED
    if first:
        return "it sees the image; where= can ask for it"
    return "it has groups; where= can ask for it" if conv.groups > 1 else None


def _unsuited(conv: nn.Conv2d, shared: bool) -> str | None:
    """Why no pyramid can do what a convolution does for the modules around it; None if one can."""
    if conv.kernel_size != (3, 3):
        return "its kernel is not 3x3"
    if type(conv) is not nn.Conv2d:
        return f"it is of a class of its own ({type(conv).__name__})"
    if conv.padding not in ("same", conv.dilation):
        return "its padding changes the size of the map"
    if shared:
        return "another module shares its weight"
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks)
    if is_parametrized(conv) or any(hooks) or "forward" in vars(conv):
        return "it has hooks, a patched forward, or a weight that is computed"
    return None


def _read_outside(model: nn.Module, name: str) -> str | None:
    """Whether the class around a convolution reads more of it than its output."""
    path, _, child = name.rpartition(".")
    around = type(model.get_submodule(path))
    try:
        source = inspect.getsource(around)
    except (OSError, TypeError):  # such as a class made at a prompt
        return None
    read = re.search(rf"self\.{child}\.(weight|bias|kernel_size|stride|padding|groups)\b", source)
    return f"{around.__name__} reads its {read[1]}" if read else None


def _pyramid(
    conv: nn.Conv2d, kernels: Sequence[int], groups: Sequence[int] | None
) -> PyConv2d | str:
    """The pyramid for a convolution, or why there is none."""
    outs: int | Sequence[int] = conv.out_channels
    if groups is None:
        size = conv.kernel_size[0]
        levels = plan_in_place_of(conv.in_channels, conv.out_channels, kernels, size, conv.groups)
        if levels is None:
            return "its channels allow no pyramid of equal or fewer parameters"
        outs, kernels, groups = zip(*levels, strict=True)
    try:
        layer = PyConv2d(
            conv.in_channels,
            outs,
            kernels,
            groups,
            stride=conv.stride,
            dilation=conv.dilation,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
    except ValueError as error:  # groups of the caller's that do not divide the channels
        return str(error)
    if _count(layer) > _count(conv):
        return "the pyramid would have more parameters"
    return layer.requires_grad_(conv.weight.requires_grad).train(conv.training)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in place of another wherever it is."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # a module may have two names
            if child is old:
                setattr(parent, name, new)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shown(each: Converted) -> str:
    levels = each.layer.levels
    kernels = "+".join(f"{level.kernel_size[0]}" for level in levels)  # type: ignore[index]
    groups = "+".join(f"{level.groups}" for level in levels)
    return f"kernels {kernels}, groups {groups}, parameters {each.before:,} -> {each.after:,}"
