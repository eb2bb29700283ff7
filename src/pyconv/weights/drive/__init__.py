"""A Google Drive file id in, verified bytes on disk out.

A file is written under a name of its own, proven, and only then moved to its place in one step, so
what lies in the cache is whole whatever happened and whoever else was downloading. The lock merely
saves work.
"""

from .answers import DriveFile
from .cache import cache_dir, fetch, is_offline, verify
from .record import Digest, Record, Trust, read_record, write_record
from .target import Check, DownloadError, Settings

__all__ = [
    "Check",
    "Digest",
    "DownloadError",
    "DriveFile",
    "Record",
    "Settings",
    "Trust",
    "cache_dir",
    "fetch",
    "is_offline",
    "read_record",
    "verify",
    "write_record",
]
