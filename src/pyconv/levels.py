"""The levels of a pyramid, decided before anything is built: channels, kernels and groups.

What cannot be is said in the user's words, with the cure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

__all__ = [
    "Level",
    "check_whole",
    "fitting_groups",
    "per_dimension",
    "plan_in_place_of",
    "plan_levels",
    "share_channels",
    "whole",
]


class Level(NamedTuple):
    """One level of a pyramid, decided and valid."""

    out_channels: int
    kernel: int
    groups: int


def share_channels(out_channels: int, levels: int) -> tuple[int, ...]:
    """Share ``out_channels`` over the levels as the paper does (its table 1).

    Each level takes one share; there are as many shares as the next power of two, and those left
    over go to the largest kernels: 1; 1/2 1/2; 1/4 1/4 1/2; four quarters.

    Raises:
        ValueError: if the shares are not whole channels.
    """
    parts = _shares(levels)
    count = sum(parts)
    if out_channels < count or out_channels % count:
        near = max(1, round(out_channels / count)) * count
        otherwise = ", or leave pyconv_groups out" if out_channels > count else ""
        raise ValueError(
            f"out_channels={out_channels} cannot be shared out over {levels} levels: it must be "
            f"a multiple of {count}. Use {near}, give one number of channels per level{otherwise}."
        )
    return tuple(out_channels // count * part for part in parts)


def _shares(levels: int) -> tuple[int, ...]:
    """How many of the paper's equal shares of the channels each level takes, one or two."""
    doubled = (1 << (levels - 1).bit_length()) - levels
    return (1,) * (levels - doubled) + (2,) * doubled


def fitting_groups(in_channels: int, out_channels: Sequence[int]) -> tuple[int, ...]:
    """The paper's groups 1, 4, 8, 16, ..., or the nearest that divide a level's channels."""
    return tuple(
        _nearest(_divisors(math.gcd(in_channels, channels)), _wanted(index))
        for index, channels in enumerate(out_channels)
    )


def uneven_levels(
    in_channels: int,
    out_channels: int,
    kernels: Sequence[int],
    groups: int = 1,
    instead_of: float = math.inf,
) -> tuple[Level, ...] | None:
    """Levels for any number of channels: about the paper's shares, in groups that divide them.

    The groups are those nearest the paper's, each times ``groups``. The first level, which needs
    the fewest, takes what the others leave. None if the channels allow no such levels.

    Args:
        in_channels, out_channels: Any numbers, ``groups`` divides both.
        kernels: The kernel sizes, all of which are kept.
        groups: Those that every level has at least, such as of a convolution to be replaced.
        instead_of: The kernel size of a convolution in ``groups``. Of it an output channel has
            at least as many weights as one of any level.
    """
    parts = _shares(len(kernels))
    levels: list[Level] = []
    for index, (kernel, part) in enumerate(zip(kernels, parts, strict=True)):
        share = out_channels * part // sum(parts)
        fitting = [
            group
            for group in _divisors(in_channels)
            if group <= share and kernel**2 * groups <= instead_of**2 * group
        ]
        if not fitting:
            return None
        group = _nearest(fitting, groups * _wanted(index))
        levels.append(Level(share // group * group, kernel, group))
    rest = out_channels - sum(level.out_channels for level in levels[1:])
    if rest % levels[0].groups:
        return None
    return (levels[0]._replace(out_channels=rest), *levels[1:])


def _wanted(index: int) -> int:
    """The groups of a level in the paper: 1, 4, 8, 16, ..."""
    return 1 if index == 0 else 2 ** (index + 1)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _nearest(groups: Iterable[int], wanted: int) -> int:
    return min(groups, key=lambda group: abs(math.log(group / wanted)))


def plan_levels(
    in_channels: int,
    out_channels: int | Sequence[int],
    sizes: int | Sequence[int],
    groups: Sequence[int] | None,
) -> tuple[Level, ...]:
    """Decide the levels of a pyramid, or say in the user's words why there is none.

    Raises:
        ValueError: naming the level, the numbers and the cure.
    """
    in_channels, out_channels, sizes = whole(in_channels), whole(out_channels), _several(sizes)
    _refuse_number(groups)
    if not sizes:
        raise ValueError(
            "pyconv_kernels is empty: a pyramid needs at least one level, such as (3, 5, 7, 9)."
        )
    for number, kernel in enumerate(sizes, 1):
        if not _is_int(kernel) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"level {number}: kernel size {kernel!r} is not an odd positive number; an even "
                "kernel cannot be centred, so its map would not fit the others. Use 3, 5, 7, 9, ..."
            )
    if not _is_int(in_channels) or in_channels < 1:
        raise ValueError(f"in_channels={in_channels!r} must be a positive number of channels.")

    if isinstance(out_channels, int):
        uneven = groups is None and out_channels % sum(_shares(len(sizes)))
        if uneven and (levels := uneven_levels(in_channels, out_channels, sizes)):
            return levels
        channels = share_channels(out_channels, len(sizes))
    else:
        channels = _several(out_channels)
    _check_length("out_channels", channels, sizes, "one int in all")
    for number, count in enumerate(channels, 1):
        if not _is_int(count) or count < 1:
            raise ValueError(f"level {number}: out_channels {count!r} must be a positive number.")

    if groups is None:
        groups = fitting_groups(in_channels, channels)
    groups = _several(groups)
    _check_length("pyconv_groups", groups, sizes, "None to have them chosen")
    for number, (count, group) in enumerate(zip(channels, groups, strict=True), 1):
        common = math.gcd(in_channels, count)
        if not _is_int(group) or group < 1 or common % group:
            fits = ", ".join(str(g) for g in range(1, common + 1) if common % g == 0)
            raise ValueError(
                f"level {number}: {group!r} groups do not divide in_channels={in_channels} and "
                f"out_channels={count}. Groups that do: {fits}; or pyconv_groups=None to have "
                "them chosen."
            )
    return tuple(Level(*row) for row in zip(channels, sizes, groups, strict=True))


def plan_in_place_of(
    in_channels: int, out_channels: int, kernels: Sequence[int], kernel: int, groups: int
) -> tuple[Level, ...] | None:
    """The levels of a pyramid that may stand in for a convolution; None if there are none.

    Every level costs at most as many weights per output channel as the convolution does, so the
    pyramid has at most as many in all. Where the channels allow no groups that do this for the
    largest kernels, these are left out, down to two levels.

    Args:
        in_channels, out_channels: The channels of the convolution, any numbers.
        kernels: The kernel sizes wished for.
        kernel, groups: Those of the convolution.
    """
    plans = (
        uneven_levels(in_channels, out_channels, kernels[:count], groups, kernel)
        for count in range(len(kernels), min(len(kernels), 2) - 1, -1)
    )
    return next((plan for plan in plans if plan is not None), None)


def whole(value: Any) -> Any:
    """A whole number, such as NumPy's, as Python's; all else as it is, to be named in an error."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def check_whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least so much.

    Raises:
        ValueError: if it is none.
    """
    value = whole(value)
    if not _is_int(value) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}.")
    return int(value)


def _several(values: Any) -> tuple[Any, ...]:
    """One number or several, as a tuple."""
    return tuple(map(whole, values if isinstance(values, Iterable) else (values,)))


def _refuse_number(groups: Any) -> None:
    """Refuse one number of groups: in nn.Conv2d, the number in its place is the stride."""
    if _is_int(whole(groups)):
        raise ValueError(
            f"pyconv_groups={groups}: give the groups level by level, such as ({groups},). If it "
            f"is the stride, as in the order of nn.Conv2d, write stride={groups}; the padding "
            "follows from the kernel."
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def per_dimension(name: str, given: int | Sequence[int], dims: int) -> Any:
    values = _several(given)
    values *= dims if len(values) == 1 else 1
    if len(values) != dims or not all(_is_int(value) and value > 0 for value in values):
        raise ValueError(
            f"{name}={given!r} must be a positive whole number, or {dims} of them, one per "
            "dimension of the map."
        )
    return values


def _check_length(name: str, values: Sequence[int], sizes: Sequence[int], otherwise: str) -> None:
    if len(values) != len(sizes):
        raise ValueError(
            f"{name} has {len(values)} entries and pyconv_kernels has {len(sizes)}: give one "
            f"per level, or {otherwise}. Got {name}={tuple(values)}, "
            f"pyconv_kernels={tuple(sizes)}."
        )
