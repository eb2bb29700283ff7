"""One cache for several users, and for whoever comes after a process that was killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from drive_server import Drive, cut
from fetching import CONTENT, FILE, LOCK, ONCE, PART, QUICK, WHOLE, left, start_worker
from test_download_disk import as_ordinary_user, wait_for

from pyconv.weights.drive import fetch, read_record

pytestmark = pytest.mark.skipif(os.name == "nt", reason="users and signals are those of Unix")

FIRST, SECOND, GROUP = 64001, 64002, 64000


# Once all is imported: another user may not be able to read the interpreter's files.
BECOME = """
import os
import pyconv.weights.drive.transfer
os.setgroups([])
os.setgid({group})
os.setuid({user})
os.umask({umask})
"""


def as_user(user: int, umask: int) -> str:
    """What makes a process one of another user, in the group that shares the cache."""
    return BECOME.format(user=user, umask=umask, group=GROUP)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a group of users writes into."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users; the tests with modes below are for all")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
        yield folder


def kill_in_mid_body(drive: Drive, folder: Path, before: str = "") -> None:
    """Start a download and kill it once bytes are on the disk."""
    drive.bodies = iter([cut(100_000, stall=True)])
    worker = start_worker(drive, folder, before)
    deadline = time.monotonic() + 60
    while [place.stat().st_size for place in folder.glob(".*.part")] != [100_000]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    worker.kill()
    worker.communicate(timeout=60)
    assert left(folder) == PART


@pytest.mark.parametrize("umasks", [(0o022, 0o002), (0o002, 0o022)], ids=["022, 002", "002, 022"])
def test_the_second_user_waits_for_the_first(
    drive: Drive,
    shared: Path,
    umasks: tuple[int, int],
) -> None:
    drive.bodies = repeat(lambda exchange: exchange.send_file(step=1 << 14, pause=0.05))
    first = start_worker(drive, shared, as_user(FIRST, umasks[0]))
    wait_for(drive, "body")
    second = start_worker(drive, shared, as_user(SECOND, umasks[1]))
    for worker in (first, second):
        complaint = worker.communicate(timeout=60)[1]
        assert worker.returncode == 0, complaint
    assert drive.requests == ONCE
    assert left(shared) == WHOLE
    assert (shared / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("umasks", [(0o022, 0o002), (0o002, 0o022)], ids=["022, 002", "002, 022"])
def test_the_second_user_clears_what_was_left_of_the_first(
    drive: Drive,
    shared: Path,
    umasks: tuple[int, int],
) -> None:
    kill_in_mid_body(drive, shared, as_user(FIRST, umasks[0]))
    second = start_worker(drive, shared, as_user(SECOND, umasks[1]))
    complaint = second.communicate(timeout=60)[1]
    assert second.returncode == 0, complaint
    assert left(shared) == WHOLE
    assert (shared / "weights.pth").read_bytes() == CONTENT
    assert read_record(shared / "weights.pth") is not None


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_every_user_of_a_folder_can_take_its_lock(
    drive: Drive,
    tmp_path: Path,
    umask: int,
) -> None:
    before = os.umask(umask)
    try:
        fetch(FILE, tmp_path, settings=QUICK, progress=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / LOCK).stat().st_mode) == 0o666
    assert stat.S_IMODE((tmp_path / "weights.pth").stat().st_mode) == 0o666 & ~umask


def test_a_lock_of_another_user_is_done_without(drive: Drive) -> None:
    with tempfile.TemporaryDirectory() as name:  # which pytest's would not let others into
        folder = Path(name)
        folder.chmod(0o777)
        (folder / LOCK).touch(0o444)
        with as_ordinary_user():
            assert fetch(FILE, folder, settings=QUICK, progress=False).read_bytes() == CONTENT
        assert left(folder) == WHOLE


# What a kill leaves at each of the moments between which the disk changes.

KILLS = {
    "note, then file": "module.os.open = suicide",
    "file there, empty": "module.PartialFile.write = suicide",
    "record, then file": "Path.replace = lambda *a: suicide() if is_part(a[0]) else real(*a)",
    "file, then note": "module._remove = suicide",
    "file, then folder": "module._sync_folder = suicide",
}
KILL = """
import os, signal
import pyconv.weights.drive.partial as module
real, is_part = Path.replace, lambda path: path.name.endswith(".part")
def suicide(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
{how}
"""


@pytest.mark.parametrize("moment", KILLS)
def test_whenever_it_is_killed_the_next_start_leaves_nothing(
    moment: str,
    drive: Drive,
    tmp_path: Path,
) -> None:
    first = start_worker(drive, tmp_path, KILL.format(how=KILLS[moment]))
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    path = fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == WHOLE


def test_killed_while_it_takes_over_what_another_left(drive: Drive, tmp_path: Path) -> None:
    kill_in_mid_body(drive, tmp_path)
    how = "module.Digest.of = suicide"  # it has the file under its own name and hashes it
    second = start_worker(drive, tmp_path, KILL.format(how=how))
    second.communicate(timeout=60)
    assert second.returncode == -signal.SIGKILL
    path = fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == WHOLE


def test_a_hit_leaves_alone_what_somebody_works_on(drive: Drive, tmp_path: Path) -> None:
    path = fetch(FILE, tmp_path, settings=QUICK, progress=False)
    owner = {"host": os.uname().nodename, "pid": os.getpid()}
    live = tmp_path / f".weights.pth.{'a' * 16}.part"
    kept = tmp_path / f".weights.pth.{'b' * 16}.part"  # of a download by force, to be continued
    live.write_bytes(CONTENT[:10])
    kept.write_bytes(CONTENT[:10])
    old = tmp_path / f".weights.pth.{'c' * 16}.part"
    old.write_bytes(CONTENT[:10])
    for place, who in ((live, owner), (kept, None), (old, owner)):
        place.with_name(place.name + ".json").write_text(json.dumps({"owner": who}))
    for place in (old, old.with_name(old.name + ".json")):
        os.utime(place, (1, 1))
    assert fetch(FILE, tmp_path) == path
    assert sorted(left(tmp_path)) == sorted(
        [*WHOLE, *[".weights.pth.*.part"] * 2, *[".weights.pth.*.part.json"] * 2]
    )
    assert live.exists() and kept.exists()
