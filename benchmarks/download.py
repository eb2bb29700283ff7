"""How fast a verified download is, what memory it takes, and how fast a cached network loads.

Everything is paired and alternating, so that whatever else the machine does falls on both sides;
medians of the ratios are what counts. The server is the tests' imitation of Google Drive, in a
process of its own on loopback.

    python benchmarks/download.py --json result.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
PIECES = (16 << 10, 1 << 20)  # bytes a bare loop reads at a time: the original, the fastest

# One download in a new process: seconds, and how far memory grew, in bytes.
DOWNLOAD = """
import sys, time, types
from pathlib import Path
how, base, file_id, folder, package, piece = sys.argv[1:]
stub = types.ModuleType("pyconv")  # without torch, which would hide a growth
stub.__path__ = [package]
sys.modules["pyconv"] = stub
import requests
from pyconv.weights.drive import DriveFile, fetch
import pyconv.weights.drive.transfer
def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
def bare():
    url = f"{base}/download?id={file_id}&export=download&confirm=t&uuid=u"
    with requests.get(url, stream=True) as response, open(f"{folder}/bare", "wb") as file:
        for chunk in response.iter_content(int(piece)):
            file.write(chunk)
def verified():
    fetch(DriveFile(file_id, "weights.pth"), Path(folder), progress=False)
before, began = kilobytes("VmRSS"), time.perf_counter()
{"bare": bare, "verified": verified}[how]()
print(time.perf_counter() - began, (kilobytes("VmHWM") - before) * 1024)
"""


@contextlib.contextmanager
def drive(file: Path) -> Iterator[tuple[str, str]]:
    """Serve a file; the server's address and the file's id."""
    command = [sys.executable, str(TESTS / "drive_server.py"), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        base, file_id = server.stdout.readline().split()
        try:
            yield base, file_id
        finally:
            server.terminate()


def download(how: str, base: str, file_id: str, folder: Path, piece: int = 0) -> tuple[float, int]:
    import pyconv

    folder.mkdir()
    package = str(Path(pyconv.__file__).parent)
    words = [how, base, file_id, folder, package, piece]
    command = [sys.executable, "-c", DOWNLOAD, *map(str, words)]
    environment = os.environ | {"PYCONV_DRIVE_URL": base}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, growth = done.stdout.split()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return float(seconds), int(growth)


def compare_downloads(folder: Path, megabytes: int, repeats: int) -> dict[str, Any]:
    """A verified download against a bare requests loop that only writes."""
    source = folder / "source"
    with source.open("wb") as file:
        file.write(MAGIC)
        for _ in range(megabytes):
            file.write(os.urandom(10**6))
    rows = []
    with drive(source) as (base, file_id):
        for turn in range(repeats + 1):
            bare = [download("bare", base, file_id, folder / "cache", p)[0] for p in PIECES]
            verified, growth = download("verified", base, file_id, folder / "cache")
            if turn:  # the first round warms up
                rows.append((bare, verified, growth))
    return {
        "megabytes": megabytes,
        "verified_mb_per_second": megabytes / statistics.median(row[1] for row in rows),
        "bare": [
            {
                "piece_kib": piece >> 10,
                "mb_per_second": megabytes / statistics.median(row[0][index] for row in rows),
                "throughput_ratio": statistics.median(row[0][index] / row[1] for row in rows),
            }
            for index, piece in enumerate(PIECES)
        ],
        "hash_seconds": hash_seconds(megabytes),
        "memory_growth_mb": max(row[2] for row in rows) / 1e6,
    }


def hash_seconds(megabytes: int) -> float:
    """What SHA-256 alone takes on this machine, which no download that is verified can beat."""
    block, digest = os.urandom(10**6), hashlib.sha256()
    return seconds(lambda: [digest.update(block) for _ in range(megabytes)])


def compare_loading(folder: Path, repeats: int) -> dict[str, Any]:
    """A cached ``pyconvresnet50(pretrained=True)`` against the original's way to the same."""
    import torch

    from pyconv import PyConvResNet50_Weights, pyconvresnet50

    os.environ |= {"PYCONV_HOME": str(folder / "home"), "PYCONV_OFFLINE": "1"}
    path = folder / "home" / PyConvResNet50_Weights.IMAGENET1K_V1.filename
    path.parent.mkdir()
    torch.save(pyconvresnet50().state_dict(), path, _use_new_zipfile_serialization=False)

    def original() -> None:
        model = pyconvresnet50()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def cached() -> None:
        pyconvresnet50(pretrained=True)

    rows = [(seconds(original), seconds(cached)) for _ in range(repeats + 1)][1:]
    return {
        "original_seconds": statistics.median(row[0] for row in rows),
        "cached_seconds": statistics.median(row[1] for row in rows),
        "time_ratio": statistics.median(row[1] / row[0] for row in rows),
    }


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=230)
    parser.add_argument("--repeats", type=int, default=9, help="pairs; default: 9")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        downloads = compare_downloads(Path(name), args.megabytes, args.repeats)
        loading = compare_loading(Path(name), args.repeats)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "requests", "urllib3")},
        "pairs": args.repeats,
        "download": downloads,
        "loading": loading,
    }
    print(f"{args.megabytes} MB from loopback, {args.repeats} pairs, load {result['load']:.1f}")
    print(f"  verified download      {downloads['verified_mb_per_second']:8.0f} MB/s")
    print(f"  SHA-256 alone          {args.megabytes / downloads['hash_seconds']:8.0f} MB/s")
    for row in downloads["bare"]:
        print(f"  bare loop, {row['piece_kib']:4} KiB    {row['mb_per_second']:8.0f} MB/s")
        print(f"  throughput ratio       {row['throughput_ratio']:8.2f}   (target: at least 0.6)")
    print(f"  growth of memory       {downloads['memory_growth_mb']:8.1f} MB (target: below 64)")
    print("pyconvresnet50 with weights in the legacy format")
    print(f"  the original's way     {1e3 * loading['original_seconds']:8.0f} ms")
    print(f"  pretrained=True        {1e3 * loading['cached_seconds']:8.0f} ms")
    print(f"  time ratio             {loading['time_ratio']:8.2f}   (target: at most 0.5)")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
