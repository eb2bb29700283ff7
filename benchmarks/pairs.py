"""Paired, alternating measurements: what all benchmarks share.

Times of a shared machine wander; the ratio of two runs that follow each other wanders less. So
every candidate runs once in each round, and what is reported is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Seconds = list[float]


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Run every candidate once per round, in turn, after one round to warm up."""
    seconds: dict[str, Seconds] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: Seconds, theirs: Seconds) -> float:
    """The median over the rounds of our time by theirs: below 1 is faster."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def machine() -> dict[str, Any]:
    """What a ratio depends on, for the reader of a table."""
    names = [
        line.split(":", 1)[1].strip()
        for line in _lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def report(rows: list[dict[str, Any]], file: Path | None) -> None:
    """Print rows as a Markdown table under the machine, and write both as JSON."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()) + "\n")
    titles = list(rows[0])
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        print(f"| {' | '.join(cells)} |")
    if file is not None:
        file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
