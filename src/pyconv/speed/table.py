"""The rule: which way was fastest for which shape, measured beforehand.

It is data: ``rules/`` holds a file for each kind of :func:`processor`, written by
``benchmarks/rule.py``. On a GPU launching kernels outweighs small batches, so each table there
also states the smallest batch for which it holds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..system.processor import processor
from .algorithms import NATIVE, Lowering
from .problem import Problem, goes_wrong

__all__ = ["RULES", "Measured", "Rule", "applies", "nearest", "read_rule", "rule_of"]


@dataclass(frozen=True)
class Measured:
    """A row of a rule: the fastest way for a shape, written by ``benchmarks/rule.py``."""

    inputs: int  # per group, as outputs
    outputs: int
    kernel: int
    stride: int
    size: int  # of the input's map
    lowering: Lowering
    otherwise: Lowering  # without kernels of our own
    groups: int | None = None  # where their number matters as well

    @classmethod
    def of(cls, row: list[Any]) -> Measured:
        """Read ``[inputs, outputs, kernel, stride, size, lowering]``, and the other one if any.

        The number of groups may stand between size and lowering.
        """
        inputs, outputs, kernel, stride, size, *groups = [n for n in row if isinstance(n, int)]
        ways = [Lowering.parse(way) for way in row if isinstance(way, str)]
        known = groups[0] if groups else None
        return cls(inputs, outputs, kernel, stride, size, ways[0], ways[-1], known)

    def octaves_to(self, problem: Problem) -> float:
        """How far a problem is from the one measured, in doublings of its numbers."""
        return sum(
            abs(math.log2(mine / its)) * weight
            for mine, its, weight in (
                (self.inputs, problem.inputs, 1),
                (self.outputs, problem.outputs, 1),
                (self.kernel, max(problem.kernel), 1),
                (self.stride, max(problem.geometry.stride), 1),
                (self.size, max(problem.size) or self.size, 0.5),  # 0: unknown
                (self.groups or problem.geometry.groups, problem.geometry.groups, 0.5),
            )
        )


# For a dtype, channels-last or not, and a mode: the rows, by the images from which on they suit.
Rule = dict[tuple[torch.dtype, bool, str], dict[int, list[Measured]]]


def read_rule(processor: str) -> Rule:
    """What was measured on a :func:`processor`, such as ``"AVX2"``; nothing on the others.

    The file's keys are like ``"float32 channels_last forward"``, with the number of images behind
    where it matters.
    """
    path = Path(__file__).parent / "tables" / f"{processor}.json"
    if not path.exists():
        return {}
    read: Rule = {}
    for key, rows in json.loads(path.read_text(encoding="utf-8"))["fastest"].items():
        dtype, layout, mode, *images = key.split()
        known = read.setdefault((getattr(torch, dtype), layout == "channels_last", mode), {})
        known[int(images[0]) if images else 1] = [Measured.of(row) for row in rows]
    return read


RULES = {"cpu": read_rule(processor())}
NEAR = 2.0  # octaves within which a choice is trusted


def rule_of(device: str) -> Rule:
    """The rule for a type of device; read when it is first wanted, for it wakes up a GPU."""
    if device not in RULES:
        RULES[device] = read_rule(processor(device))
    return RULES[device]


def applies(problem: Problem) -> bool:
    """Whether a problem is of the kind that was measured.

    On GPUs float32 was measured with TF32 allowed, where tensor cores make zeros cheap.
    """
    rounded = True
    if problem.device == "cuda" and problem.dtype == torch.float32:
        conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made while importing
        rounded = conv.fp32_precision == "tf32"
    return rounded and len(problem.kernel) == 2


def nearest(problem: Problem, ours: bool = True, images: int | None = None) -> Lowering:
    """The way that was fastest for the nearest shape measured; native where none is near.

    Args:
        ours: Whether kernels of our own may be used.
        images: How many there are; None if they are many.
    """
    if not applies(problem):
        return NATIVE
    dtype = problem.dtype
    if problem.device == "cuda" and dtype == torch.float16:
        dtype = torch.bfloat16  # through the same units, at the same speed
    known = rule_of(problem.device).get((dtype, problem.channels_last, problem.mode), {})
    reached = [count for count in known if images is None or count <= images]
    best, least = None, NEAR
    for row in known[max(reached)] if reached else ():
        octaves = row.octaves_to(problem)
        if octaves < least:
            best, least = row, octaves
    if best is None:
        return NATIVE
    way = best.lowering if ours else best.otherwise
    if not max(problem.size):  # unknown: judged by the map of the row
        problem = problem._replace(size=(best.size,) * len(problem.size))
    return way if way.fits(problem.geometry) and not goes_wrong(problem, way) else NATIVE
