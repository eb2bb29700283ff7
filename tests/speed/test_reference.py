"""The reference of docs/, which names the engine's functions as well, follows the docstrings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import api; print(api.page(), end='')"],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert (ROOT / "docs/api.md").read_text("utf-8") == done.stdout, "run python docs/api.py"
