"""What an example shows of a model: which modules it calls, and what convolutions have to do."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeGuard, cast

import torch
from torch import nn
from torch.nn import functional as F

from ..onednn import CONVS, Conv, geometry_of
from .guard import is_overridden
from .prepared import Convert
from .problem import Problem, problem_of

__all__ = ["Called", "Seen", "is_grouped", "observe"]

Seen = tuple[Problem, int]  # what a convolution has to do, and for how many images


class Called(Mapping[str, int]):
    """How often an example calls each module, by its name; it is run once somebody asks.

    ``example`` are the arguments of a call, or None for none. Floating ones are brought to the
    dtype of the model.
    """

    def __init__(self, model: nn.Module, example: tuple[Any, ...] | None) -> None:
        self.model, self.example = model, example

    def __getitem__(self, name: str) -> int:
        return self.times[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.times)

    def __len__(self) -> int:
        return len(self.times)

    @functools.cached_property
    def times(self) -> Counter[str]:
        found: Counter[str] = Counter()
        if self.example is None:
            return found

        def note(name: str, *_: Any) -> None:
            found[name] += 1

        handles = [
            module.register_forward_pre_hook(partial(note, name))
            for name, module in self.model.named_modules()
        ]
        dtypes = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        try:
            with torch.no_grad():
                self.model(*Convert(next(dtypes, None), images=False).all(self.example))
        finally:
            for handle in handles:
                handle.remove()
        return found


def is_grouped(module: nn.Module) -> TypeGuard[Conv]:
    """A level, or a convolution of the user's own; not one that may compute otherwise."""
    if type(module) not in CONVS or is_overridden(module):
        return False
    conv = cast(Conv, module)
    return conv.groups > 1 and not isinstance(conv.padding, str)


@torch.no_grad()
def observe(
    model: nn.Module, inputs: tuple[Any, ...], first: Mapping[str, Conv]
) -> dict[str, Seen]:
    """What convolutions have to do when the model runs, and for how many images.

    Of each grouped one, and of those that are ``first`` in a module, by its name.
    """
    seen: dict[str, Seen] = {}

    def note(name: str, module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        x, conv = [*args, *options.values()][0], first.get(name, cast(Conv, module))
        if conv.padding_mode != "zeros":
            x = F.pad(x, list(conv._reversed_padding_repeated_twice), conv.padding_mode)
        if x.dim() == conv.weight.dim():
            problem = problem_of(x, conv.weight, geometry_of(conv), "prepared")
            seen.setdefault(name, (problem, x.shape[0]))

    handles = [
        module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, module in model.named_modules()
        if is_grouped(module) or name in first
    ]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
