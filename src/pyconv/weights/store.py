"""Files of weights on this machine: from Google Drive into the cache, proven, read.

A file is proven against a network: it must be a checkpoint of it, with finite values. Whatever
builds the network is called on the meta device, where it takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from . import checkpoint, drive
from .drive import DriveFile, Record

__all__ = ["cached_path", "check", "download", "provenance", "verify"]

Build = Callable[[], nn.Module]


def cached_path(file: DriveFile) -> Path:
    """Where the file is in the cache, or would be."""
    return drive.cache_dir() / file.filename


def provenance(path: Path, trust: str) -> dict[str, str | None]:
    """The hash of a file, beside how far it is trusted."""
    with path.open("rb") as file:
        return {"sha256": drive.Digest.of(file).sha256, "trust": trust}


def download(file: DriveFile, build: Build, progress: bool = True, force: bool = False) -> Path:
    """The file in the cache, downloaded and proven unless it is there.

    Args:
        file: Which file.
        build: Builds the network that it must be a checkpoint of.
        progress: Show a bar.
        force: Download anew, and accept another file than was trusted at first use.

    Raises:
        DownloadError: if the file cannot be had, or is not a checkpoint of the network.
    """
    return drive.fetch(file, check=lambda path: check(path, build), progress=progress, force=force)


def verify(file: DriveFile, build: Build) -> Record:
    """Hash the cached file and prove its structure and values again.

    Raises:
        DownloadError: if it is not the file on record, or not a checkpoint of the network.
        FileNotFoundError: if it is not in the cache.
    """
    return drive.verify(file, cached_path(file), lambda path: check(path, build))


def check(path: Path, build: Build) -> None:
    """Prove that a file is a checkpoint of a network.

    Raises:
        CheckpointError: if it is not.
        OSError: if the system does not give its bytes.
    """
    with torch.device("meta"):
        expected = build().state_dict()
    state = checkpoint.read(path)
    checkpoint.check_structure(state, expected, "The file")
    checkpoint.check_values(state, "The file")
