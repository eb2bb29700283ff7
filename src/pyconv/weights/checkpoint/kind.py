"""What a file is, by its first bytes and by the members of its archive."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

__all__ = ["CheckpointError", "Form", "identify"]

Form = Literal["zip", "legacy", "safetensors"]

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # what PyTorch < 1.6 wrote
LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself

SAVE = "Save model.state_dict() with torch.save, and load that."
UNPACK = "Unpack it first."
OTHERS = {  # what files begin with that people take for checkpoints, what they are, and the cure
    rb"version https://git-lfs": (
        "is a pointer of git-lfs, not the file itself",
        "Run 'git lfs pull' in the folder that it was cloned to.",
    ),
    rb"\x1f\x8b": ("is packed with gzip", UNPACK),
    rb"BZh": ("is packed with bzip2", UNPACK),
    rb"\xfd7zXZ": ("is packed with xz", UNPACK),
    rb"\x28\xb5\x2f\xfd": ("is packed with zstd", UNPACK),
    rb"7z\xbc\xaf": ("is a 7z archive", UNPACK),
    rb"Rar!": ("is a rar archive", UNPACK),
    rb"(?s).{257}ustar": ("is a tar archive", UNPACK),
    rb"\x89HDF": ("is an HDF5 file, as Keras writes them", SAVE),
    rb"\x93NUMPY": ("is an array of NumPy", SAVE),
    rb"GGUF": ("is a GGUF file", SAVE),
    rb"(?s)\x08[\x01-\x20]\x12": ("is a model in ONNX's or TensorFlow's form", SAVE),
    rb"(?s)\x80[\x00-\x05]": ("is a plain pickle, and nothing in it was executed", SAVE),
    rb"\s*[{\[]": ("is JSON, and is not a PyTorch checkpoint", "Get the file itself."),
}
MEMBERS = {  # the same by a member of a zip archive
    r"constants\.pkl|code/.*": (
        "is a TorchScript archive: a program with its weights",
        "Save model.state_dict() of the model that it was made from.",
    ),
    r"archive_format|serialized_exported_program\.json|models/.*": (
        "is a program of torch.export",
        "Save model.state_dict() of the model that it was made from.",
    ),
    r"model\.weights\.h5": ("is a model of Keras", SAVE),
    r".*\.npy": ("holds arrays of NumPy", SAVE),
}


class CheckpointError(ValueError):
    """A file or state dict is not a checkpoint of the model; says why and what to do."""


def identify(path: Path, file: BinaryIO) -> Form:
    """The form of a checkpoint; what PyTorch never wrote does not reach the unpickler.

    Raises:
        CheckpointError: if it is none, saying what it is.
        BadZipFile, and others: if it is a zip archive that is damaged.
    """
    head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty. Get the file again.")
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if head.startswith(ZIP_MAGIC):
        _identify_zip(path, file)
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    if re.search(rb"(?i)<html|<!doctype", head):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: what a download leaves behind that was "
            "not confirmed. Open it in a browser to see what it says, and get the file again."
        )
    for start, (what, cure) in OTHERS.items():
        if re.match(start, head):
            raise CheckpointError(f"{path} {what}. {cure}")
    raise CheckpointError(f"{path} is not a PyTorch checkpoint. Get the file again.")


def _identify_zip(path: Path, file: BinaryIO) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    inner = [name.partition("/")[2] for name in names]  # PyTorch puts all into one folder
    for pattern, (what, cure) in MEMBERS.items():
        if any(re.fullmatch(pattern, name) for name in [*names, *inner]):
            raise CheckpointError(f"{path} {what}. {cure}")
    if "data.pkl" not in inner:
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise CheckpointError(
            f"{path} is a zip archive that PyTorch did not write; it holds {few or 'nothing'}. "
            "Unpack it, and load the checkpoint in it."
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        # PyTorch stores tensors as they are; compressed ones could unpack to any size.
        raise CheckpointError(
            f"{path} is a compressed archive, which PyTorch never writes. Unpack it first, or get "
            "the checkpoint itself."
        )
