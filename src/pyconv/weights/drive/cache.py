"""Files in the cache: here already, placed by hand, or still to be downloaded."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ...system.cache import cache_dir
from ...system.reading import reading
from .answers import DriveFile, Origin
from .partial import PartialFile, clear
from .record import Digest, Record, read_record, today, write_record
from .target import DEFAULTS, Check, Settings, Target

__all__ = ["cache_dir", "fetch", "is_offline", "verify"]

logger: logging.Logger = logging.getLogger(__name__)


def is_offline() -> bool:
    """Whether ``PYCONV_OFFLINE`` forbids opening a socket."""
    return os.environ.get("PYCONV_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def fetch(
    file: DriveFile,
    folder: Path | None = None,
    check: Check | None = None,
    progress: bool = True,
    settings: Settings = DEFAULTS,
    force: bool = False,
) -> Path:
    """The path of a file from Google Drive, downloaded and verified unless it is here already.

    A file that was verified before is returned without a lock, a socket or another look at its
    bytes; one that changed since, by its size or time, is hashed again. A file placed by hand is
    taken after ``check``, as ``user-supplied``.

    Args:
        file: Which file, and its name here.
        folder: Where it is to lie; default :func:`cache_dir`.
        check: Called with the path of a new file before it is published; raises ValueError
            where the file is not what it should be.
        progress: Show a bar on stderr, if that is a terminal.
        settings: Times and limits.
        force: Download even if the file is here, and accept another than was trusted at first
            use. The pinned hash still binds, and the old file stays until the new one is proven.

    Raises:
        DownloadError: if the file cannot be had or is not the right one.
        OSError: if the system does not give the bytes of a file that is there.
        ValueError: if ``PYCONV_DRIVE_URL`` is unusable.
    """
    target = Target(file, (folder or cache_dir()) / file.filename)
    if not force and _is_cached(target, check):
        clear(target)
        return target.path
    if is_offline():
        if force:
            raise target.error(
                f"PYCONV_OFFLINE forbids downloading {target.path} again. Leave --force out, or "
                "unset PYCONV_OFFLINE."
            )
        raise target.error(f"{target.path} is not there, and PYCONV_OFFLINE forbids its download.")
    origin = Origin.of(os.environ.get("PYCONV_DRIVE_URL"))
    try:
        with target.on_disk():
            target.path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # such as below /proc
        raise target.error(
            f"{target.path.parent} cannot be made. Set PYCONV_HOME to another folder."
        ) from error
    from .transfer import Transfer  # and requests with it, which a file in the cache does not need

    with _lock(target.path, settings.lock_wait) as alone:
        if force or not _is_cached(target, check):  # another process may have been faster
            with PartialFile.take(target, adopt=alone) as partial:
                Transfer(target, origin, partial, check, progress, settings, force).run()
    return target.path


def verify(file: DriveFile, path: Path, check: Check | None = None) -> Record:
    """Hash a cached file and check it again, whatever its record says; return its record.

    Raises:
        DownloadError: if it is not what was recorded or pinned, or fails the check.
        OSError: if the system does not give its bytes, FileNotFoundError if it is not there.
    """
    target, record = Target(file, path), read_record(path)
    with target.on_disk():
        status = path.stat()  # first: a file that comes in between is hashed again
    with reading(path) as opened:
        digest = Digest.of(opened)
    if record is not None and digest.sha256 != record.sha256:
        raise target.error(
            f"{path} is damaged or was replaced: its SHA-256 was {record.sha256} on {record.date} "
            f"and is {digest.sha256}. Delete it to download it again; to use it as your own, "
            f"delete {path.name}.json instead."
        )
    if problem := target.not_pinned(digest.sha256):
        raise target.error(f"{path} {problem}. Delete it to download it again.")
    if check is not None:
        try:
            check(path)
        except ValueError as error:
            raise target.error(f"{path} is not the right file: {error}") from error
    record = _refreshed(file, record, digest, status, checked=check is not None)
    with contextlib.suppress(OSError):  # the cache may be read-only
        write_record(path, record)
    return record


def _refreshed(
    file: DriveFile, record: Record | None, digest: Digest, status: os.stat_result, checked: bool
) -> Record:
    """The record of a file whose bytes were proven again, or were placed by hand."""
    if record is not None:
        return record.touched(status, checked)
    pinned = file.sha256 is not None
    named = {"sha256": pinned, "structure": checked}
    return Record(
        file_id=file.file_id,
        sha256=digest.sha256,
        size=digest.size,
        mtime_ns=status.st_mtime_ns,
        crc32c=digest.crc32c,
        checks=tuple(name for name, done in named.items() if done),
        last_modified=None,
        date=today(),
        trust="pinned" if pinned else "user-supplied",
    )


def _is_cached(target: Target, check: Check | None) -> bool:
    """Whether the right file is in place; what lies there and is wrong is an error."""
    path = target.path
    try:
        with target.on_disk():
            status = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise target.error(f"{path} is not a file. Move it away.")
    record = read_record(path)
    if record is not None and record.file_id != target.file.file_id:
        return False  # another file that bore this name
    unproven = check is not None and (record is None or "structure" not in record.checks)
    if record is None or unproven or not record.describes(status):
        record = verify(target.file, path, check if unproven else None)
    if problem := target.not_pinned(record.sha256):
        raise target.error(f"{path} {problem}. Delete it to download it again.")
    return True


@contextlib.contextmanager
def _lock(path: Path, wait: float) -> Iterator[bool]:
    """Hold the lock of a file and yield True; or go on without it where there is none to be had."""
    place = path.with_name(f".{path.name}.lock")
    # For every user of the folder, whatever the umask of the one who came first.
    lock = FileLock(place, timeout=wait, mode=0o666)
    try:
        if place.is_symlink():  # some versions of filelock would write through it
            raise OSError(f"{place} is a symbolic link")
        lock.acquire()
    except (Timeout, OSError, NotImplementedError) as error:
        logger.info("Downloading without a lock: %s", error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
