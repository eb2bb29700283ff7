"""A file and its place, how patiently it is got there, and the one way in which that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .answers import DriveFile

__all__ = ["DEFAULTS", "Check", "DownloadError", "Settings", "Target"]

Check = Callable[[Path], None]  # raises ValueError where a file is not what it should be


class DownloadError(OSError):
    """A file cannot be had or trusted; says why, and how to place it by hand."""


@dataclass(frozen=True)
class Settings:
    """How patient a download is; times in seconds."""

    connect_timeout: float = 15.0
    read_timeout: float = 60.0  # between two arrivals of bytes
    slowest: float = 1024.0  # bytes per second, on average over a window
    window: float = 30.0
    retries: int = 5
    first_wait: float = 1.0  # before the first retry; each next one waits twice as long
    longest_wait: float = 60.0  # whatever the server asks for
    redirects: int = 10
    confirmations: int = 2
    lock_wait: float = 1800.0  # for another process's download, before going on without it

    def wait(self, attempt: int, wanted: float | None) -> float:
        """Seconds before the retry after an attempt, counted from 0."""
        wait = self.first_wait * 2**attempt if wanted is None else wanted
        return min(wait, self.longest_wait)


DEFAULTS = Settings()


@dataclass(frozen=True)
class Target:
    """A file and its place in the cache."""

    file: DriveFile
    path: Path

    def error(self, reason: str) -> DownloadError:
        return DownloadError(
            f"{reason}\nTo place the file by hand: download it with a browser from "
            f"{self.file.browser_url} and save it as {self.path}"
        )

    def not_pinned(self, sha256: str) -> str | None:
        """What is wrong with a file of that hash; None where it is right, or nothing is pinned."""
        if self.file.sha256 in (None, sha256):
            return None
        return f"is not the pinned one: its SHA-256 is {sha256} instead of {self.file.sha256}"

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[None]:
        """Turn what the disk refuses into an error that says where and why."""
        try:
            yield
        except (DownloadError, FileNotFoundError):
            raise
        except (FileExistsError, NotADirectoryError) as error:
            raise self.error(
                f"{self.path.parent} is to be a folder, but it or one above it is a file. "
                "Move that, or set PYCONV_HOME to another folder."
            ) from error
        except OSError as error:
            raise self.error(
                f"{self.path.parent} cannot be used: {error.strerror or error}. Make room or get "
                "the permission there, or set PYCONV_HOME to another folder."
            ) from error
