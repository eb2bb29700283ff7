"""What a disk, a neighbour or a signal can do to a download: faults 37 to 46."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from drive_server import FILE_ID, Drive, cut, declare
from fetching import (
    CONTENT,
    FILE,
    LEGACY_MAGIC,
    LOCK,
    ONCE,
    OTHER,
    PART,
    QUICK,
    WHOLE,
    fails,
    left,
    resumed,
    start_worker,
    succeeds,
)

from pyconv.weights.drive import (
    DownloadError,
    DriveFile,
    Settings,
    fetch,
    read_record,
    verify,
)

PINNED = DriveFile(FILE_ID, "weights.pth", hashlib.sha256(CONTENT).hexdigest())
NOBODY = 65534

unix = pytest.mark.skipif(os.name == "nt", reason="signals and permissions are those of Unix")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below which any user may look, which is not so of pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for place in folder.rglob("*"):
        if place.is_dir():
            place.chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Permissions bind everybody but root; put root aside for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_fault_37_pinned_and_another_hash(drive: Drive, tmp_path: Path) -> None:
    succeeds(drive, tmp_path, ONCE, file=PINNED)
    drive.replace(OTHER)
    fails(drive, tmp_path, ONCE * 2, "not the pinned", leaves=WHOLE, file=PINNED, force=True)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    verify(PINNED, tmp_path / "weights.pth")


def test_fault_37_first_use_binds_until_told_otherwise(drive: Drive, tmp_path: Path) -> None:
    succeeds(drive, tmp_path, ONCE).unlink()
    drive.replace(OTHER)
    remains = [LOCK, "weights.pth.json"]
    fails(drive, tmp_path, ONCE * 2, "first use", "force=True", leaves=remains)
    succeeds(drive, tmp_path, ONCE * 3, force=True)


def test_fault_37_cached_file_is_not_the_pinned(drive: Drive, tmp_path: Path) -> None:
    succeeds(drive, tmp_path, ONCE)
    pinned = DriveFile(FILE_ID, "weights.pth", hashlib.sha256(OTHER).hexdigest())
    fails(drive, tmp_path, ONCE, "not the pinned", "Delete it", leaves=WHOLE, file=pinned)


def test_fault_38_disk_too_small_from_the_start(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr("pyconv.weights.drive.answers.LARGEST", 10 * free)
    drive.bodies = repeat(declare(Content_Length=str(5 * free)))
    fails(drive, tmp_path, ONCE, "has room for", "PYCONV_HOME")


@unix
def test_fault_38_disk_full_in_mid_body(drive: Drive, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow larger
    try:
        fails(drive, tmp_path, ONCE, "cannot be used", "File too large", "PYCONV_HOME")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@unix
def test_fault_38_small_disk_fills_up(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root; test_..._in_mid_body plays it for all")
    try:
        # The length is not known, so that the disk is found to be full only when it is.
        drive.bodies = repeat(declare(Content_Length=None))
        fails(drive, tmp_path, ONCE, "No space left on device", "PYCONV_HOME")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@unix
def test_fault_39_no_permission(drive: Drive, open_folder: Path) -> None:
    cache = open_folder / "cache"
    cache.mkdir(mode=0o555)
    cache.chmod(0o555)
    with as_ordinary_user():
        fails(drive, cache, ONCE, "cannot be used", "Permission denied", leaves=[])


@unix
def test_fault_39_no_permission_for_the_folder(drive: Drive, open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with as_ordinary_user(), pytest.raises(DownloadError, match="Permission denied"):
        fetch(FILE, open_folder / "cache", settings=QUICK)
    assert drive.requests == []


@unix
def test_fault_39_hit_in_a_read_only_cache(drive: Drive, open_folder: Path) -> None:
    cache = open_folder / "cache"
    succeeds(drive, cache, ONCE)
    (cache / LOCK).unlink()
    cache.chmod(0o555)
    with as_ordinary_user():
        assert fetch(FILE, cache) == cache / "weights.pth"
    assert drive.requests == ONCE
    assert left(cache) == WHOLE[1:]


@unix
def test_fault_39_file_by_hand_in_a_read_only_cache(drive: Drive, open_folder: Path) -> None:
    cache = open_folder / "cache"
    cache.mkdir()
    (cache / "weights.pth").write_bytes(CONTENT)
    cache.chmod(0o555)
    with as_ordinary_user():
        assert fetch(FILE, cache) == cache / "weights.pth"
    assert drive.requests == []


@pytest.mark.parametrize("below", [".", "deeper"])
def test_fault_40_cache_is_a_file(drive: Drive, tmp_path: Path, below: str) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"is to be a folder.*PYCONV_HOME"):
        fetch(FILE, tmp_path / "cache" / below, settings=QUICK)
    assert (tmp_path / "cache").read_text() == "a file"
    assert drive.requests == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has such a folder")
def test_fault_40_a_folder_that_cannot_be_made(drive: Drive) -> None:
    with pytest.raises(DownloadError, match=r"/proc/pyconv cannot be made.*PYCONV_HOME"):
        fetch(FILE, Path("/proc/pyconv"), settings=QUICK)
    assert drive.requests == []


def test_fault_40_a_folder_where_the_file_should_be(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").mkdir()
    fails(drive, tmp_path, [], "is not a file", leaves=["weights.pth"])


@unix
@pytest.mark.parametrize("name", ["weights.pth", LOCK, "weights.pth.json"])
def test_fault_41_symlink(drive: Drive, tmp_path: Path, name: str) -> None:
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    cache.mkdir()
    (cache / name).symlink_to(victim)
    succeeds(drive, cache, ONCE)
    assert not victim.exists()

    # The same with a victim that exists and must not change.
    shutil.rmtree(cache)
    cache.mkdir()
    victim.write_text("precious")
    (cache / name).symlink_to(victim)
    fetch(FILE, cache, settings=QUICK, progress=False, force=True)
    assert (cache / "weights.pth").read_bytes() == CONTENT
    assert not (cache / "weights.pth").is_symlink()
    assert victim.read_text() == "precious"


@unix
def test_fault_41_symlink_as_the_temporary_file(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # as if it were guessed
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f".weights.pth.{'0' * 16}.part").symlink_to(victim)
    succeeds(drive, cache, ONCE)
    assert victim.read_text() == "precious"


@unix
def test_fault_41_symlink_as_a_part_left_behind(drive: Drive, tmp_path: Path) -> None:
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    victim.write_bytes(CONTENT[:2000])
    drive.bodies = iter([cut(1000)])
    fails(drive, cache, ONCE, leaves=PART, settings=Settings(retries=0))
    part = next(cache.glob(".*.part"))
    part.unlink()
    part.symlink_to(victim)
    succeeds(drive, cache, ONCE * 2)
    assert victim.read_bytes() == CONTENT[:2000]


def test_symlink_to_a_file_elsewhere_is_a_hit(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "weights.pth").symlink_to(tmp_path / "elsewhere")
    assert fetch(FILE, cache) == cache / "weights.pth"
    assert drive.requests == []


def slow(drive: Drive) -> None:
    """Make the file take a noticeable time."""
    drive.replace(LEGACY_MAGIC + random.Random(2020).randbytes(2_000_000))
    drive.bodies = repeat(lambda exchange: exchange.send_file(step=1 << 16, pause=0.01))


def download_at_once(drive: Drive, folder: Path, processes: int, before: str = "") -> int:
    """Start so many processes; assert that all end well; how many of them downloaded."""
    slow(drive)
    workers = [start_worker(drive, folder, before) for _ in range(processes)]
    for worker in workers:
        complaint = worker.communicate(timeout=120)[1]
        assert worker.returncode == 0, complaint
    assert (folder / "weights.pth").read_bytes() == drive.content
    assert left(folder) == WHOLE
    verify(FILE, folder / "weights.pth")
    return drive.count("body")


@unix
@pytest.mark.parametrize("processes", [2, 8])
def test_fault_42_many_processes_at_once(drive: Drive, tmp_path: Path, processes: int) -> None:
    assert download_at_once(drive, tmp_path, processes) in (1, 2)


@unix
@pytest.mark.parametrize("processes", [2, 8])
def test_fault_43_locks_that_do_nothing(drive: Drive, tmp_path: Path, processes: int) -> None:
    # As on some network file systems, none of which can be mounted here.
    before = "import fcntl; fcntl.flock = lambda *arguments: None"
    assert 1 <= download_at_once(drive, tmp_path, processes, before) <= processes


def wait_for(drive: Drive, stage: str) -> None:
    deadline = time.monotonic() + 60
    while not drive.count(stage) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert drive.count(stage)


@unix
@pytest.mark.parametrize("moment", range(10))
def test_fault_44_killed_at_a_random_moment(drive: Drive, tmp_path: Path, moment: int) -> None:
    slow(drive)
    first = start_worker(drive, tmp_path)
    wait_for(drive, "body")
    time.sleep(random.Random(moment).uniform(0, 0.4))  # of a transfer that takes about as long
    first.kill()
    first.communicate(timeout=60)
    path = tmp_path / "weights.pth"
    assert not path.exists() or path.read_bytes() == drive.content
    second = start_worker(drive, tmp_path)
    complaint = second.communicate(timeout=60)[1]
    assert second.returncode == 0, complaint
    assert path.read_bytes() == drive.content
    assert read_record(path) is not None
    # A note or record may have been half written; such are removed after a day.
    assert [name for name in left(tmp_path) if not name.endswith("json.*")] == WHOLE
    assert drive.count("body") <= 2


@unix
def test_fault_44_what_was_there_is_not_asked_for_again(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(100_000, stall=True)])
    first = start_worker(drive, tmp_path)
    wait_for(drive, "body")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        sizes = [place.stat().st_size for place in tmp_path.glob(".*.part")]
        if sizes == [100_000]:
            break
        time.sleep(0.002)
    first.kill()
    first.communicate(timeout=60)
    assert left(tmp_path) == PART
    succeeds(drive, tmp_path, ONCE + resumed(100_000))


def test_fault_44_record_without_file(drive: Drive, tmp_path: Path) -> None:
    """The record is written before the file is moved: that may be the last that happened."""
    path = succeeds(drive, tmp_path, ONCE)
    path.unlink()
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_44_killed_between_new_record_and_new_file(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(FILE, tmp_path, progress=False, settings=QUICK)
    drive.replace(OTHER)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pyconv.weights.drive.partial.PartialFile.publish", interrupt)
        fetch(FILE, tmp_path, progress=False, settings=QUICK, force=True)
    assert fetch(FILE, tmp_path, progress=False, settings=QUICK).read_bytes() == CONTENT
    fetch(FILE, tmp_path, progress=False, settings=QUICK, force=True)
    assert path.read_bytes() == OTHER


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_fault_38_early_write_fails(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of a failed write once, at the next fsync, which need not be the last."""
    fsync, asked = os.fsync, []

    def full_once(descriptor: int) -> None:
        asked.append(descriptor)
        if len(asked) == 2:  # the first is of the note
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("pyconv.weights.drive.partial.FLUSH", 1000)
    monkeypatch.setattr("pyconv.weights.drive.partial.os.fsync", full_once)
    drive.bodies = repeat(lambda exchange: exchange.send_file(step=10_000, pause=0.005))
    fails(drive, tmp_path, ONCE, "No space left on device")


def test_fault_44_file_without_record(drive: Drive, tmp_path: Path) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    path.with_name("weights.pth.json").unlink()
    assert fetch(FILE, tmp_path) == path
    assert drive.requests == ONCE
    record = read_record(path)
    assert record is not None and record.trust == "user-supplied"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"trust": "blind"}', '{"sha256": 1}'])
def test_fault_44_damaged_record(drive: Drive, tmp_path: Path, damage: str) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    path.with_name("weights.pth.json").write_text(damage)
    assert fetch(FILE, tmp_path) == path
    record = read_record(path)
    assert record is not None and record.trust == "user-supplied"


def test_fault_44_litter_is_removed(drive: Drive, tmp_path: Path) -> None:
    old, live, note = (tmp_path / f".weights.pth.{n * 16}.part" for n in "abc")
    note = note.with_name(note.name + ".json")
    note.write_text("{}")
    old.write_bytes(CONTENT[:10])
    live.write_bytes(CONTENT[:10])
    half = [
        tmp_path / name
        for name in (".weights.pth.json.ab", f"..weights.pth.{'a' * 16}.part.json.ab")
    ]
    for place in half:
        place.touch()
    for place in (old, note, *half):
        os.utime(place, (1, 1))
    fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert not any(place.exists() for place in (old, note, *half))
    assert live.exists()  # somebody may be writing to it


NOTES = [
    {"owner": None},
    {"owner": None, "version": {"size": "many"}},
    {"owner": ["me"]},
    {"owner": "me"},
    {"owner": {"host": socket.gethostname(), "pid": 10**30}},
    {"owner": {"host": 1}},
]


@pytest.mark.parametrize("note", NOTES, ids=str)
def test_fault_44_nonsense_in_a_note(drive: Drive, tmp_path: Path, note: dict[str, Any]) -> None:
    part = tmp_path / f".weights.pth.{'a' * 16}.part"
    part.write_bytes(CONTENT[:10])
    part.with_name(part.name + ".json").write_text(json.dumps({"file_id": FILE.file_id} | note))
    path = fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert drive.requests == ONCE


def test_fault_44_a_record_of_brackets(drive: Drive, tmp_path: Path) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    path.with_name("weights.pth.json").write_text("[" * 200_000)
    assert fetch(FILE, tmp_path) == path


def test_another_file_of_the_same_name_is_downloaded(drive: Drive, tmp_path: Path) -> None:
    other = DriveFile("another-id", FILE.filename)
    with Drive(OTHER, other.file_id) as drive_of_other, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYCONV_DRIVE_URL", drive_of_other.url)
        assert fetch(other, tmp_path, progress=False).read_bytes() == OTHER
    assert fetch(FILE, tmp_path, settings=QUICK, progress=False).read_bytes() == CONTENT


def test_what_was_never_checked_is_checked_before_it_counts_as_checked(
    drive: Drive, tmp_path: Path
) -> None:
    path = succeeds(drive, tmp_path, ONCE)

    def refuse(path: Path) -> None:
        raise ValueError("it is of another model")

    with pytest.raises(DownloadError, match="it is of another model"):
        fetch(FILE, tmp_path, check=refuse)
    looked_at: list[Path] = []
    for _ in range(2):
        fetch(FILE, tmp_path, check=looked_at.append)
    assert looked_at == [path]
    assert drive.requests == ONCE


@unix
def test_fault_45_interrupted(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(100_000, stall=True)])
    worker = start_worker(drive, tmp_path)
    wait_for(drive, "body")
    time.sleep(0.05)
    worker.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in worker.communicate(timeout=60)[1]
    assert worker.returncode != 0
    assert "weights.pth" not in left(tmp_path)
    fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert left(tmp_path) == WHOLE


@pytest.mark.parametrize("damage", ["flipped", "truncated", "replaced"])
def test_fault_46_cached_file_changed(drive: Drive, tmp_path: Path, damage: str) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    changed = {
        "flipped": CONTENT[:5000] + b"\xff" + CONTENT[5001:],
        "truncated": CONTENT[:5000],
        "replaced": OTHER,
    }[damage]
    path.write_bytes(changed)
    fails(drive, tmp_path, ONCE, "damaged or was replaced", "Delete it", leaves=WHOLE)
    assert path.read_bytes() == changed  # it may be somebody's own
    with pytest.raises(DownloadError, match="damaged or was replaced"):
        verify(FILE, path)
    path.unlink()
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_46_bits_that_rot_are_found_by_verify(drive: Drive, tmp_path: Path) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    times = path.stat()
    path.write_bytes(CONTENT[:5000] + b"\xff" + CONTENT[5001:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fetch(FILE, tmp_path) == path  # a hit is not hashed again, so that it is fast
    with pytest.raises(DownloadError, match="damaged or was replaced"):
        verify(FILE, path)


def test_touched_file_is_hashed_once(drive: Drive, tmp_path: Path) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    os.utime(path, (1, 1))
    assert fetch(FILE, tmp_path) == path
    record = read_record(path)
    assert record is not None and record.describes(path.stat())
    assert record.trust == "trusted-on-first-use"
    assert drive.requests == ONCE


@pytest.mark.parametrize("pinned", [True, False])
def test_file_placed_by_hand(drive: Drive, tmp_path: Path, pinned: bool) -> None:
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    seen: list[Path] = []
    path = fetch(PINNED if pinned else FILE, tmp_path, seen.append)
    assert seen == [path]
    record = read_record(path)
    assert record is not None
    assert record.trust == ("pinned" if pinned else "user-supplied")
    assert record.checks == (("sha256", "structure") if pinned else ("structure",))
    fetch(FILE, tmp_path, seen.append)
    assert seen == [path]  # proven once
    assert drive.requests == []


def test_wrong_file_placed_by_hand(drive: Drive, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        raise ValueError("no weights in it")

    (tmp_path / "weights.pth").write_bytes(OTHER)
    fails(drive, tmp_path, [], "no weights in it", leaves=["weights.pth"], check=check)
    fails(drive, tmp_path, [], "not the pinned one", leaves=["weights.pth"], file=PINNED)
