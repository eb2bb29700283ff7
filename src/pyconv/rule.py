"""The rule: which way was fastest for which shape, measured beforehand.

It is data: ``rules/`` holds a file for each kind of processor as PyTorch names it, written by
``benchmarks/rule.py``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .lowering import NATIVE, Lowering
from .machine import processor
from .problem import Problem, goes_wrong

__all__ = ["RULE", "Measured", "Rule", "nearest", "read_rule"]


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

    @classmethod
    def of(cls, row: list[Any]) -> Measured:
        """Read ``[inputs, outputs, kernel, stride, size, lowering]``, and the other one if any."""
        ways = [Lowering.parse(way) for way in row[5:]]
        inputs, outputs, kernel, stride, size = row[:5]
        return cls(inputs, outputs, kernel, stride, size, ways[0], ways[-1])

    def octaves_to(self, problem: Problem) -> float:
        """How far a problem is from the one measured, in doublings of its numbers."""
        return sum(
            abs(math.log2(mine / its)) * weight
            for mine, its, weight in (
                (self.inputs, problem.inputs, 1),
                (self.outputs, problem.outputs, 1),
                (self.kernel, max(problem.kernel), 1),
                (self.stride, max(problem.geometry.stride), 1),
                (self.size, max(problem.size) or self.size, 0.5),  # 0: not known
            )
        )


Rule = dict[tuple[torch.dtype, bool, str], list[Measured]]


def read_rule(processor: str) -> Rule:
    """What was measured on a :func:`processor`, such as ``"AVX2"``; nothing on the others."""
    path = Path(__file__).parent / "rules" / f"{processor}.json"
    if not path.exists():
        return {}
    read: Rule = {}
    for key, rows in json.loads(path.read_text(encoding="utf-8"))["fastest"].items():
        dtype, layout, *modes = key.split()
        for mode in modes:
            read[getattr(torch, dtype), layout == "channels_last", mode] = [
                Measured.of(row) for row in rows
            ]
    return read


RULE = read_rule(processor())
NEAR = 2.0  # octaves within which a choice is trusted


def nearest(problem: Problem, ours: bool = True) -> Lowering:
    """The way that was fastest for the nearest shape measured; native where none is near.

    ``ours`` says whether kernels of our own may be used.
    """
    best, least = NATIVE, NEAR
    if len(problem.kernel) != 2 or problem.device != "cpu":
        return best
    for row in RULE.get((problem.dtype, problem.channels_last, problem.mode), ()):
        octaves = row.octaves_to(problem)
        if octaves < least:
            best, least = row.lowering if ours else row.otherwise, octaves
    return best if best.fits(problem.geometry) and not goes_wrong(problem, best) else NATIVE
