"""The site, built once for all tests that look at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built pages, made as ``make docs`` makes it."""
    # The tutorials call the commands, as with the environment activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = "-m sphinx -M html docs docs/_build --fail-on-warning --keep-going --quiet -E -a"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "docs/_build/html"
