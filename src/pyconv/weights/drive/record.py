"""What is known of a cached file, kept as JSON beside it: its hash, where it is from, its trust."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import google_crc32c

from ...system.files import write_json
from ...system.reading import ContentError, reading

__all__ = ["Digest", "Record", "Trust", "read_json", "read_record", "write_record"]

CHUNK = 1 << 20  # bytes
Trust = Literal["pinned", "trusted-on-first-use", "user-supplied"]


class Digest:
    """SHA-256 and CRC-32C of bytes as they pass."""

    def __init__(self) -> None:
        self.size: int = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = google_crc32c.Checksum()

    @classmethod
    def of(cls, file: BinaryIO) -> Digest:
        """Of the rest of an open file."""
        digest = cls()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        return digest

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._sha256.update(chunk)
        self._crc32c.update(chunk)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        """Base64 of the big-endian checksum, as Google declares it."""
        return base64.b64encode(self._crc32c.digest()).decode()


@dataclass(frozen=True)
class Record:
    """What is known of a cached file.

    ``pinned``: its hash was given by the library or the caller. ``trusted-on-first-use``: it is
    what Drive sent first; whether the authors put it there, nobody here can tell.
    ``user-supplied``: somebody placed it by hand.
    """

    file_id: str
    sha256: str
    size: int  # bytes
    mtime_ns: int  # with the size: whether the file was touched since
    crc32c: str
    checks: tuple[str, ...]  # what was compared with what the server declared, and "structure"
    last_modified: str | None  # as the server declared it
    date: str  # of the record, UTC
    trust: Trust

    def describes(self, status: os.stat_result) -> bool:
        """Whether a file is, by its size and time, the one that was hashed."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)

    def touched(self, status: os.stat_result, checked: bool) -> Record:
        """The record of the same bytes, whose time changed or whose structure was checked."""
        new = ("structure",) if checked and "structure" not in self.checks else ()
        return replace(self, mtime_ns=status.st_mtime_ns, checks=self.checks + new)


def today() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def record_path(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(path.name + ".json")


def read_record(path: str | Path) -> Record | None:
    """The record of a cached file; None where there is none, or none that makes sense.

    Raises:
        OSError: if the system does not give its bytes: it must not be taken for missing.
    """
    content = read_json(record_path(Path(path)))
    try:
        record = Record(**{**content, "checks": tuple(content["checks"])})
    except (TypeError, KeyError):
        return None
    return record if record.trust in get_args(Trust) else None


def write_record(path: Path, record: Record) -> None:
    write_json(record_path(path), asdict(record))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none.

    Raises:
        OSError: if the system does not give its bytes.
    """
    try:
        with reading(path) as file:
            content = json.load(file)
    except (FileNotFoundError, ContentError):
        return {}
    return content if isinstance(content, dict) else {}
