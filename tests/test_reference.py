"""The reference of docs/ follows the docstrings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyconv

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(pyconv, "speed"), reason="the page names functions of pyconv.speed")
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
