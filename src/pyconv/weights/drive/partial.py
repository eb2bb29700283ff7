"""The bytes of a download that have arrived so far, in a file of their own."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ...system.files import write_json
from .answers import Version
from .record import Digest, read_json
from .target import Target

__all__ = ["PartialFile", "clear"]

FLUSH = 32 << 20  # bytes after which the disk starts writing, so that the end waits for less
PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # says nothing of it
ABANDONED = 24 * 3600  # seconds after which what another machine left behind is taken over


class PartialFile:
    """The bytes that have arrived so far, in a file that no other process writes to.

    Beside it lies a note of the version it belongs to and of who is at work: before the file does,
    and after it is gone, so that whoever kills the process leaves nothing that nobody owns. Under
    the lock, a partial file whose process is gone is taken over and continued.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.place: Path = _new_place(target.path)
        self.version: Version = Version()
        self.size: int = 0  # bytes
        self._flushed = 0  # bytes that the disk has started to write
        self.resumed: bool = False  # whether the bytes came in more than one answer
        self._open: BinaryIO | None = None
        self._digest = Digest()
        # Hashing and flushing go on beside the arrival of bytes, at most one of each at a time.
        self._threads = ThreadPoolExecutor(2)
        self._hashing: Future[None] | None = None
        self._flushing: Future[None] | None = None

    @classmethod
    @contextlib.contextmanager
    def take(cls, target: Target, adopt: bool) -> Iterator[PartialFile]:
        """A partial file to write to: one left behind where allowed, else a new one.

        It stays for the next start if it could be continued then, else it is removed.
        """
        partial = cls(target)
        if adopt:
            partial._adopt()
        try:
            yield partial
        finally:
            partial._leave()
            partial._threads.shutdown()

    def _adopt(self) -> None:
        """Continue the longest one left behind that could be continued; remove the others."""
        for place in sorted(filter(_is_abandoned, _left(self.target)), key=_size, reverse=True):
            try:
                note = read_json(_note(place))
                if self._open is None and note["file_id"] == self.target.file.file_id:
                    self._continue(place, Version(**note["version"]))
            except (TypeError, KeyError):
                pass  # a note of nonsense
            except OSError as error:
                if error.errno in PASSING:
                    continue
            _remove(place)
        _remove_half_written(self.target)

    def _continue(self, place: Path, version: Version) -> None:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        opened = os.fdopen(os.open(place, flags), "r+b", buffering=0)
        status = os.fstat(opened.fileno())
        too_long = version.size is None or status.st_size > version.size
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or too_long:
            opened.close()
            return
        self._open, self.version = opened, version
        try:
            self._write_note(at_work=True)
            place.rename(self.place)
            self._digest = Digest.of(opened)
        except OSError:
            self.discard()
            raise
        self.size = self._digest.size
        self.resumed = self.size > 0

    def begin(self, version: Version) -> None:
        """Start from zero, in a new file."""
        self.discard()
        self.version = version
        self._write_note(at_work=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._open = os.fdopen(os.open(self.place, flags, 0o666), "r+b", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Add to the end of the file."""
        assert self._open is not None
        self._hashing = self._threads.submit(self.digest.update, chunk)
        self.size += len(chunk)
        view = memoryview(chunk)
        while view:  # a disk that fills up takes some of it first and fails at the next write
            view = view[self._open.write(view) :]
        if self.size - self._flushed > FLUSH and (self._flushing is None or self._flushing.done()):
            self._flushed = self.size
            if self._flushing is not None:
                self._flushing.result()  # the system tells of a failure only once
            self._flushing = self._threads.submit(os.fsync, self._open.fileno())

    def sync(self) -> os.stat_result:
        """Have the bytes on the disk, not merely in its queue."""
        assert self._open is not None
        if self._flushing is not None:
            self._flushing.result()
        os.fsync(self._open.fileno())
        return os.fstat(self._open.fileno())

    @property
    def digest(self) -> Digest:
        """Of all that was written."""
        if self._hashing is not None:
            self._hashing.result()
        return self._digest

    @property
    def complete(self) -> bool:
        return self._open is not None and self.size == self.version.size

    @property
    def continuable(self) -> bool:
        return self.size > 0 and self.version.resumable(self.target.file)

    def discard(self) -> None:
        """Forget what has arrived."""
        self._close()
        _remove(self.place)
        self.version, self.size, self.resumed = Version(), 0, False
        self._digest, self._flushed = Digest(), 0

    def publish(self) -> None:
        """Move the whole file to its place."""
        self._close()  # an open file cannot be moved everywhere
        self.place.replace(self.target.path)
        self.discard()  # the note
        _sync_folder(self.target.path.parent)

    def _leave(self) -> None:
        """Close the file; keep it for the next start where that could go on with it."""
        if not self.continuable:
            self.discard()
            return
        self._close()
        with contextlib.suppress(OSError):
            self._write_note(at_work=False)

    def _close(self) -> None:
        wait([work for work in (self._hashing, self._flushing) if work is not None])
        self._hashing = self._flushing = None
        if self._open is not None:
            self._open.close()
            self._open = None

    def _write_note(self, at_work: bool) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid()} if at_work else None
        content = {
            "file_id": self.target.file.file_id,
            "version": asdict(self.version),
            "owner": owner,
        }
        write_json(_note(self.place), content)


def clear(target: Target) -> None:
    """Remove what killed processes left of a file that is in its place: what is of no use there."""
    with contextlib.suppress(OSError):
        for place in _left(target):
            orphan = not place.exists() and _is_abandoned(place)
            if orphan or _is_old(place):
                _remove(place)
        _remove_half_written(target)


def _left(target: Target) -> set[Path]:
    """The partial files of a file that there are, or that there are notes of."""
    found = target.path.parent.glob(f".{target.path.name}.*.part*")
    return {path.with_name(path.name.removesuffix(".json")) for path in found}


def _remove_half_written(target: Target) -> None:
    for place in target.path.parent.glob(f".*{target.path.name}.*json.*"):  # a note or a record
        if _is_old(place):
            _remove(place)


def _new_place(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _note(place: Path) -> Path:
    return place.with_name(place.name + ".json")


def _remove(place: Path) -> None:
    for name in (place, _note(place)):
        with contextlib.suppress(OSError):
            name.unlink()


def _size(place: Path) -> int:
    try:
        return place.lstat().st_size
    except OSError:
        return -1


def _is_abandoned(place: Path) -> bool:
    """Whether nobody writes to it any more: its process says so, is gone, or idle for a day."""
    owner: Any = {}
    with contextlib.suppress(OSError):
        owner = read_json(_note(place)).get("owner", {})
    if owner is None:
        return True
    here = isinstance(owner, dict) and owner.get("host") == socket.gethostname()
    return (here and not _is_running(owner.get("pid"))) or _is_old(place)


def _is_old(place: Path) -> bool:
    """Whether neither it nor its note was written to for a day."""
    changes = []
    for path in (place, _note(place)):
        with contextlib.suppress(OSError):
            changes.append(path.lstat().st_mtime)
    return bool(changes) and time.time() - max(changes) > ABANDONED


def _is_running(pid: object) -> bool:
    if os.name == "nt" or not isinstance(pid, int) or pid <= 0:
        return True  # cannot be asked there without harm
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
