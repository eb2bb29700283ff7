"""What the tests of downloads share: impatient settings, and outcomes asserted whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drive_server import FILE_ID, Drive

import pyconv
from pyconv.weights.drive import DownloadError, DriveFile, Settings, fetch, read_record

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
CONTENT = LEGACY_MAGIC + bytes(range(256)) * 1200
OTHER = LEGACY_MAGIC + bytes(reversed(range(256))) * 1200
FILE = DriveFile(FILE_ID, "weights.pth")
QUICK = Settings(
    connect_timeout=10, read_timeout=10, retries=3, first_wait=0, longest_wait=0.05, lock_wait=60
)

LOCK = ".weights.pth.lock"
NOTHING = [LOCK]
PART = [".weights.pth.*.part", ".weights.pth.*.part.json", LOCK]
WHOLE = [LOCK, "weights.pth", "weights.pth.json"]

ONCE = ["GET start", "GET page", "GET body"]


def left(folder: Path) -> list[str]:
    """The names in a folder, the random part of temporary ones replaced by a star."""
    return sorted(re.sub(r"\.[0-9a-f]{8,16}\b", ".*", path.name) for path in folder.iterdir())


def resumed(offset: int) -> list[str]:
    """The requests of an attempt to go on."""
    return [f"{request} {offset}-" for request in ONCE]


def succeeds(
    drive: Drive, folder: Path, requests: Sequence[str], file: DriveFile = FILE, **how: Any
) -> Path:
    """Download; assert the bytes, the record, the requests and what is on the disk."""
    path = fetch(file, folder, settings=how.pop("settings", QUICK), progress=False, **how)
    assert path.read_bytes() == drive.content
    record = read_record(path)
    assert record is not None and record.size == len(drive.content)
    assert record.trust == ("trusted-on-first-use" if file.sha256 is None else "pinned")
    assert drive.requests == list(requests)
    assert left(folder) == WHOLE
    return path


def fails(
    drive: Drive | None,
    folder: Path,
    requests: Sequence[str],
    *words: str,
    leaves: Sequence[str] = NOTHING,
    file: DriveFile = FILE,
    **how: Any,
) -> str:
    """Download in vain; assert what the message says, the requests and what is on the disk."""
    with pytest.raises(DownloadError) as failure:
        fetch(file, folder, settings=how.pop("settings", QUICK), progress=False, **how)
    message = str(failure.value)
    for word in words:
        assert word in message, message
    assert file.browser_url in message
    assert str(folder / file.filename) in message
    if drive is not None:
        assert drive.requests == list(requests)
    assert left(folder) == list(leaves)
    return message


# The packages around it import torch; the client does not, and starts ten times faster without.
WORKER = """
import sys, types
for name, place in (("pyconv", ""), ("pyconv.weights", "/weights")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + place]
from pathlib import Path
from pyconv.weights.drive import DriveFile, Settings, fetch
{before}
file = DriveFile(sys.argv[3], "weights.pth")
settings = Settings(first_wait=0, longest_wait=0.05, lock_wait=60)
fetch(file, Path(sys.argv[2]), progress=False, settings=settings)
assert "torch" not in sys.modules
"""


def start_worker(drive: Drive, folder: Path, before: str = "", **options: Any) -> Any:
    """Download in a process of its own."""
    source = str(Path(pyconv.__file__).parent)
    command = [sys.executable, "-c", WORKER.format(before=before), source, str(folder), FILE_ID]
    environment = os.environ | {"PYCONV_DRIVE_URL": drive.url}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)
