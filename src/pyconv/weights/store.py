"""The published weights on this machine: which are here, and how far they are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..architectures import ARCHITECTURES
from ..resnet import ResNet
from . import checkpoint, drive
from .drive import DriveFile, Record
from .rows import WeightsEnum, sample_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cached_path",
    "check_file",
    "download_published",
    "drive_file",
    "load_published",
    "provenance",
    "published_record",
    "verify_published",
]


def drive_file(weights: WeightsEnum) -> DriveFile:
    """Where a published set lies on Drive, its name here, and its hash if it is pinned.

    Raises:
        ValueError: if the set comes with the package.
    """
    if weights.file_id is None:
        raise ValueError(f"{weights} comes with the package; there is nothing to download.")
    return DriveFile(weights.file_id, weights.filename, weights.sha256)


def cached_path(weights: WeightsEnum) -> Path:
    """Where the file of a published set is, or would be."""
    if weights.file_id is None:
        return sample_file(f"{weights.value.model}.pth")
    return drive.cache_dir() / weights.filename


def published_record(weights: WeightsEnum) -> Record | None:
    """What is known of the cached file of a published set; None where it was not looked at."""
    return drive.read_record(cached_path(weights))


def provenance(weights: WeightsEnum | Path) -> dict[str, str | None]:
    """The hash of published weights or of a file, and how far they are trusted."""
    if isinstance(weights, Path):
        return {"sha256": _sha256(weights), "trust": "a file of the user's"}
    if weights.file_id is None:
        return {"sha256": _sha256(cached_path(weights)), "trust": "comes with the library"}
    record = published_record(weights)
    if record is None:
        return {"sha256": None, "trust": None}
    return {"sha256": record.sha256, "trust": record.trust}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return drive.Digest.of(file).sha256


def load_published(weights: WeightsEnum, progress: bool = True) -> Mapping[str, Tensor]:
    """The state dict of a published set: from the package, from the cache, or downloaded."""
    if weights.file_id is None:
        return checkpoint.read(cached_path(weights))
    return checkpoint.read(download_published(weights, progress))


def download_published(weights: WeightsEnum, progress: bool = True, again: bool = False) -> Path:
    """The file of a published set in the cache, downloaded and proven unless it is there.

    Args:
        weights: Which set.
        progress: Show a bar.
        again: Download anew, and accept another file than was trusted at first use.

    Raises:
        DownloadError: if the file cannot be had, or is not the checkpoint of this network.
    """

    def check(path: Path) -> None:
        check_file(weights, path)

    return drive.fetch(drive_file(weights), check=check, progress=progress, again=again)


def verify_published(weights: WeightsEnum) -> Record:
    """Hash the cached file of a published set and prove its structure and values again.

    Raises:
        DownloadError: if it is not the file on record, or not the checkpoint of this network.
        FileNotFoundError: if it is not in the cache.
    """

    def check(path: Path) -> None:
        check_file(weights, path)

    return drive.verify(drive_file(weights), cached_path(weights), check)


def check_file(weights: WeightsEnum, path: Path) -> None:
    """Prove that a file is a checkpoint of the network of a published set.

    Tensors in the zip format are mapped into memory and visited one by one; the legacy format is
    read as a whole.

    Raises:
        CheckpointError: if it is not.
    """
    with torch.device("meta"):
        expected = ResNet(ARCHITECTURES[weights.value.model]).state_dict()
    state = checkpoint.read(path)
    checkpoint.check_structure(state, expected, "The file")
    checkpoint.check_values(state, "The file")
