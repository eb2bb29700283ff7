"""Tables: which algorithm was fastest for which shape, measured beforehand.

``tables/`` holds a file for each kind of :func:`processor`, written by ``benchmarks/table.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..system.processor import processor
from .algorithms import NATIVE, Algorithm
from .problem import Problem, goes_wrong


class Row(NamedTuple):
    """The fastest algorithm for a shape."""

    inputs: int  # per group, as outputs
    outputs: int
    kernel: int
    stride: int
    size: int  # of the input's map
    groups: int | None  # where their number matters as well
    best: Algorithm
    otherwise: Algorithm  # without kernels of our own

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


Table = Mapping[str, list[Row]]  # by keys such as "float32 channels_last forward"


def read_table(processor: str) -> Table:
    """What was measured on a :func:`processor`, such as ``"AVX2"``; nothing on the others."""
    path = Path(__file__).parent / "tables" / f"{processor}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"fastest": {}}
    parse = Algorithm.parse
    return {
        key: [Row._make([*row[:-2], parse(row[-2]), parse(row[-1])]) for row in rows]
        for key, rows in content["fastest"].items()
    }


TABLES = {"cpu": read_table(processor())}


def table_of(device: str) -> Table:
    """The table for a type of device; read when first wanted, for to ask wakes up a GPU."""
    if device not in TABLES:
        TABLES[device] = read_table(processor(device))
    return TABLES[device]


NEAR = 2.0  # octaves within which a choice is trusted


def nearest(problem: Problem, table: Table, ours: bool = True) -> Algorithm:
    """What was fastest for the nearest shape measured; native where none is near.

    ``ours`` says whether kernels of our own may be used.
    """
    if len(problem.kernel) != 2 or (problem.device == "cuda" and is_exact(problem.dtype)):
        return NATIVE
    rows = [(row.octaves_to(problem), row) for row in table.get(problem.table_key, ())]
    octaves, best = min(rows, key=lambda pair: pair[0], default=(NEAR, None))
    if best is None or octaves >= NEAR:
        return NATIVE
    if not max(problem.size):  # unknown: judged by the map of the row
        problem = problem._replace(size=(best.size,) * len(problem.size))
    algorithm = best.best if ours else best.otherwise
    fits = algorithm.fits(problem.geometry) and not goes_wrong(problem, algorithm)
    return algorithm if fits else NATIVE


def is_exact(dtype: torch.dtype) -> bool:
    """Whether a GPU computes float32 as it is: tables hold for TF32, where zeros are cheap."""
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made while importing
    return dtype == torch.float32 and conv.fp32_precision != "tf32"
