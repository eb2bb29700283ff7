"""Arguments by the names that the original code, or PyTorch, gave them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["refused", "renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function also take arguments by other names: ``@renamed(inplanes="in_channels")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                if names[old] in kwargs:
                    raise TypeError(
                        f"{old}= is another name of {names[old]}=: give one of the two."
                    )
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def refused(**cures: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Explain arguments that are expected by habit: ``@refused(padding="it follows ...")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in cures.keys() & kwargs.keys():
                raise TypeError(f"There is no argument {name}=: {cures[name]}.")
            return function(*args, **kwargs)

        return call

    return decorate
