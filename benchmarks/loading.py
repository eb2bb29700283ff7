"""The time to import pyconv and to load a checkpoint, against plain PyTorch.

python benchmarks/loading.py --json loading.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe
from pairs import alternate, ratio

import pyconv


def import_anew(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def load_plainly(path: Path) -> None:
    """Construct, torch.load, load_state_dict: what the original and most scripts do."""
    model = pyconv.pyconvresnet50()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def compare(
    name: str, ours: Callable[[], object], plain: Callable[[], object], rounds: int
) -> dict[str, Any]:
    """One row: our time divided by that of plain PyTorch, and the medians of both."""
    seconds = alternate({"ours": ours, "plain": plain}, rounds)
    return {
        "what": name,
        "ours / plain": 1 / ratio(seconds["plain"], seconds["ours"]),
        "ours, ms": 1e3 * statistics.median(seconds["ours"]),
        "plain, ms": 1e3 * statistics.median(seconds["plain"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    options = parser.parse_args()
    rows = [
        compare(
            "import pyconv / import torch",
            lambda: import_anew("pyconv"),
            lambda: import_anew("torch"),
            options.rounds,
        )
    ]
    state = pyconv.pyconvresnet50().state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pth")
        for name, zipped in (("zip", True), ("legacy", False)):
            torch.save(state, path, _use_new_zipfile_serialization=zipped)
            rows.append(
                compare(
                    f"pyconvresnet50(weights=FILE) / construct, torch.load, copy ({name} format)",
                    lambda: pyconv.pyconvresnet50(weights=path),
                    lambda: load_plainly(path),
                    options.rounds,
                )
            )
    print(", ".join(f"{key} {value}" for key, value in describe().items()) + "\n")
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        cells = (f"{cell:.3g}" if isinstance(cell, float) else cell for cell in row.values())
        print(f"| {' | '.join(cells)} |")
    if options.json is not None:
        result = {"machine": describe(), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
