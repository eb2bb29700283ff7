"""What it takes to import pyconv and to load a checkpoint, against the plain ways.

python benchmarks/loading.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from pairs import alternate, parser, ratio, report

import pyconv


def import_seconds(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def plain_way(path: Path) -> None:
    """Construct, torch.load, load_state_dict: what the original and most scripts do."""
    model = pyconv.pyconvresnet50()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def main() -> None:
    options = parser(__doc__, rounds=15).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = pyconv.pyconvresnet50().state_dict()
        files = {"zip": Path(folder, "zip.pth"), "legacy (2020)": Path(folder, "legacy.pth")}
        torch.save(state, files["zip"])
        torch.save(state, files["legacy (2020)"], _use_new_zipfile_serialization=False)
        comparisons = {
            "import pyconv / import torch": (
                lambda: import_seconds("pyconv"),
                lambda: import_seconds("torch"),
            ),
        } | {
            f"pyconvresnet50(weights=FILE), {format} / construct, load, copy": (
                lambda file=file: pyconv.pyconvresnet50(weights=file),
                lambda file=file: plain_way(file),
            )
            for format, file in files.items()
        }
        rows = []
        for name, (ours, theirs) in comparisons.items():
            seconds = alternate({"ours": ours, "theirs": theirs}, options.rounds)
            rows.append(
                {
                    "comparison": name,
                    "ratio": ratio(seconds["ours"], seconds["theirs"]),
                    "ours, ms": 1e3 * statistics.median(seconds["ours"]),
                    "theirs, ms": 1e3 * statistics.median(seconds["theirs"]),
                }
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
