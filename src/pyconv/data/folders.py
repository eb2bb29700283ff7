"""Folders as they lie on disk in, a labelled list of images out.

Every layout gives each image the *name* of its class, from a folder, a file name or a list; one
place turns names into positions. So nothing depends on which classes happen to be on the disk.
"""

from __future__ import annotations

import csv
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import imagenet

__all__ = ["ImageList", "find_images"]

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
VAL_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val")
LITTER = {"__MACOSX", "@eaDir", "lost+found"}  # folders that systems leave behind
KAGGLE_LIST = "LOC_val_solution.csv"

SYNSET = re.compile(r"n\d{8}", re.ASCII)
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})", re.ASCII)
SYNSET_AT_END = re.compile(r".+_(n\d{8})", re.ASCII)
TAR_END = bytes(512)
NEGATIVE = re.compile(r"-\d+", re.ASCII)
NAME_AND_LABEL = re.compile(r"(.+?)[\s,]+([^\s,]+)")


@dataclass(frozen=True)
class ImageList:
    """Labelled images: a label is a position in ``classes``."""

    classes: tuple[str, ...]
    samples: tuple[tuple[Path, int], ...]
    source: str = "folder names"  # where the labels come from
    skipped: tuple[Path, ...] = ()  # files among the images that have no label or are no images
    archive: Path | None = None  # the tar file that the images lie in
    spans: tuple[tuple[int, int], ...] = ()  # offset and size of each image in it

    @property
    def finding(self) -> str:
        """What was found, in one line."""
        present = len({label for _, label in self.samples})
        classes = f"{present:,}" + (f" of {len(self.classes):,}" * (present < len(self.classes)))
        return f"{len(self.samples):,} images of {classes} classes, labels from {self.source}"

    def read(self, index: int) -> bytes:
        """The bytes of an image file."""
        if self.archive is None:
            return self.samples[index][0].read_bytes()
        offset, size = self.spans[index]
        with self.archive.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass(frozen=True)
class _Found:
    """Images with the names of their classes, before the names become positions."""

    samples: Sequence[tuple[Path, str]]
    names: tuple[str, ...]  # of all classes, those without images included
    source: str
    skipped: Sequence[Path] = ()
    numbered: bool = False  # the names are positions by intention
    spans: Mapping[Path, tuple[int, int]] | None = None


def find_images(
    root: str | Path,
    classes: Sequence[str] | int | None = None,
    *,
    labels: str | Path | None = None,
) -> ImageList:
    """Recognise how labelled images lie under ``root``, and list them in a fixed order.

    Looks in ``root``, else in its ``val`` folder, for: folders named by synset
    (``val/n01440764/*.JPEG``); ImageNet's validation images in one folder, labelled by the table
    that comes with this library, by Kaggle's ``LOC_val_solution.csv`` or by a synset at the end of
    their names; ImageNet-V2's folders 0 to 999; any other folder per class. ``root`` may also be
    ``ILSVRC2012_img_val.tar``. Classes may be missing, and all but the images is ignored.

    Args:
        root: The folder, or the tar file.
        classes: What the labels mean: the names of the model's classes in order, or how many
            there are (1000 are ImageNet's, where the names allow it); None takes those found, in
            sorted order.
        labels: A text file of ``name label`` lines in place of all looking; names relative to
            ``root``, labels positions or names of classes.

    Raises:
        ValueError: if there are no images, they lie on another level, or the classes do not fit.
    """
    root = Path(root).expanduser()
    if labels is not None:
        found = _from_list(root, Path(labels).expanduser())
    elif root.is_file():
        found = _from_tar(root)
    else:
        found = _look(root)
    names, positions = _number(found, classes, root)
    return ImageList(
        names,
        tuple((path, positions[name]) for path, name in found.samples),
        found.source,
        tuple(found.skipped),
        None if found.spans is None else root,
        () if found.spans is None else tuple(found.spans[path] for path, _ in found.samples),
    )


def _look(root: Path) -> _Found:
    """Recognise a folder: what only ImageNet has comes first, any folder per class last."""
    place = _descend(root)
    folders, files = _entries(place)
    synsets = [folder for folder in folders if SYNSET.fullmatch(folder.name)]
    images = [file for file in files if _is_image(file)]
    if synsets:
        return _from_folders(place, synsets, images)
    if images:
        found = _from_names(images, _kaggle_labels(place))
        if found.samples:
            return found
    if folders:
        return _from_folders(place, folders, images)
    if images:
        raise ValueError(
            f"{place} holds images whose names say no class, such as {images[0].name}. If it is "
            f"the folder of one class, give {place.parent}; else give --labels FILE."
        )
    packed = next((f" For the images in {file.name}, give {file}." for file in _tars(files)), "")
    raise ValueError(f"There are no images in {place}: it is empty, or holds other files.{packed}")


def _tars(files: Sequence[Path]) -> list[Path]:
    """Those of the files that are tar files, the validation images' first."""
    return sorted((f for f in files if f.suffix == ".tar"), key=lambda f: "val" not in f.name)


def _descend(root: Path) -> Path:
    """The folder that holds the validation images: ``root``, or the well-known one inside."""
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Give the folder that holds the images.")
    if not any(SYNSET.fullmatch(entry.name) for entry in root.iterdir()):
        for name in VAL_FOLDERS:
            if (root / name).is_dir():
                return root / name
    return root


def _entries(place: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files of a folder, sorted, without what systems leave behind."""
    folders: list[Path] = []
    files: list[Path] = []
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not _is_litter(entry.name):
                (folders if entry.is_dir() else files).append(place / entry.name)
    return folders, files


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _is_image(path: Path | PurePosixPath) -> bool:
    return path.suffix.lower() in SUFFIXES


def _files_below(place: Path) -> list[Path]:
    folders, files = _entries(place)
    return files + [file for folder in folders for file in _files_below(folder)]


def _from_folders(place: Path, folders: Sequence[Path], beside: Sequence[Path]) -> _Found:
    """One folder per class; images may lie deeper inside, and those beside have no class."""
    files = [(file, folder) for folder in folders for file in _files_below(folder)]
    images = [(file, folder.name) for file, folder in files if _is_image(file)]
    if not images:
        raise ValueError(
            f"There are no images in the folders of {place}. It should hold one folder per class, "
            "with the images of the class inside."
        )
    by_synset = SYNSET.fullmatch(folders[0].name) is not None
    if not by_synset and not any(file.parent.parent == place for file, _ in images):
        raise ValueError(
            f"The folders of {place} hold no images but folders. Give the folder one level down, "
            f"which holds a folder per class, such as {folders[0]}."
        )
    return _Found(
        images,
        tuple(folder.name for folder in folders),
        "folder names",
        [*beside, *(file for file, _ in files if not _is_image(file))],
    )


def _from_names(images: Sequence[Path], listed: Mapping[str, str]) -> _Found:
    """ImageNet's validation images in one folder."""
    named = [(image, listed.get(image.stem) or _synset_in(image)) for image in images]
    return _Found(
        [(image, name) for image, name in named if name is not None],
        imagenet.synsets(),
        KAGGLE_LIST if listed else "file names",
        [image for image, name in named if name is None],
    )


def _synset_in(path: Path | PurePosixPath) -> str | None:
    """The class that a file name says: by a synset at its end, or as ImageNet's n-th image."""
    if match := SYNSET_AT_END.fullmatch(path.stem):
        return match[1]
    if match := VAL_NAME.fullmatch(path.stem):
        number = int(match[1])
        if 1 <= number <= len(imagenet.val_labels()):
            return imagenet.synsets()[imagenet.val_labels()[number - 1]]
    return None


def _kaggle_labels(place: Path) -> dict[str, str]:
    """The synset of each image by Kaggle's list, if it lies in the folder or above it."""
    # It lies beside ILSVRC, the images in ILSVRC/Data/CLS-LOC/val.
    for folder in [place, *place.absolute().parents[:4]]:
        if (folder / KAGGLE_LIST).is_file():
            with (folder / KAGGLE_LIST).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if len(row) == 2 and row[1].strip()]
            return {image: boxes.split()[0] for image, boxes in rows if image != "ImageId"}
    return {}


def _from_list(root: Path, path: Path) -> _Found:
    """The images that a text file names."""
    place = _descend(root)
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # some editors put a mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}). Save it as such.") from error
    listed = [_parse(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    found = [(_first_file(root / name, place / name), label) for name, label in listed]
    if found and found[0][0] is None and not Path(listed[0][0]).suffix:
        del listed[0], found[0]  # a header
    samples = [(file, label) for file, label in found if file is not None]
    if not samples:
        first = f": {listed[0][0]} is not in {place}" if listed else ""
        raise ValueError(f"{path} names no image that is there{first}. Names are relative to it.")
    missing = len(listed) - len(samples)
    source = path.name + f" ({missing:,} more that it names are not there)" * (missing > 0)
    labels = {label for _, label in listed}
    others = sorted(label for label in labels if not label.isdecimal())
    if others:
        if len(others) < len(labels) or any(NEGATIVE.fullmatch(label) for label in others):
            raise ValueError(
                f"The labels in {path} are neither all positions nor all names: {others[0]!r} is "
                "no position. Leave out the images without a label."
            )
        return _Found(samples, tuple(labels), source)
    samples = [(file, str(int(label))) for file, label in samples]
    names = tuple(str(number) for number in range(max(map(int, labels)) + 1))
    return _Found(samples, names, source, numbered=True)


def _parse(line: str, number: int, path: Path) -> tuple[str, str]:
    match = NAME_AND_LABEL.fullmatch(line.strip())
    if match is None:
        raise ValueError(
            f"Line {number} of {path} is not 'name label': {line.strip()!r}. The devkit's list of "
            "numbers needs no --labels: ImageNet's own file names say their classes."
        )
    return match[1].strip('"'), match[2].strip('"')


def _first_file(*places: Path) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _from_tar(path: Path) -> _Found:
    """ImageNet's validation images in their tar file, which is read in place."""
    try:
        with tarfile.open(path, "r:") as tar:
            # Of a name that is there twice, tar unpacks the last.
            files = {PurePosixPath(each.name): each for each in tar if not each.isdir()}
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(len(TAR_END)) != TAR_END:  # where it ends too early, tarfile may not say
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        if "unexpected end" in str(error):
            raise ValueError(f"{path} is cut off: fetch or copy it again.") from error
        raise ValueError(
            f"{path} is neither a folder nor a plain tar file ({error}). Unpack it, and give the "
            "folder that holds the images."
        ) from error
    images = [
        (path / place, _synset_of(place) if files[place].isfile() else None, files[place])
        for place in sorted(files)
        if _is_image(place) and not any(_is_litter(part) for part in place.parts)
    ]
    samples = [(image, name) for image, name, _ in images if name is not None]
    if not samples:
        raise ValueError(
            f"{path} holds no images whose names say a class of ImageNet. Unpack it, and give the "
            "folder that holds the images."
        )
    return _Found(
        samples,
        imagenet.synsets(),
        f"the names in {path.name}",
        [image for image, name, _ in images if name is None],
        spans={image: (member.offset_data, member.size) for image, _, member in images},
    )


def _synset_of(path: PurePosixPath) -> str | None:
    folder = path.parent.name
    return folder if SYNSET.fullmatch(folder) else _synset_in(path)


def _number(
    found: _Found, wanted: Sequence[str] | int | None, root: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Decide the order of the classes, and the position of every name in it."""
    classes = _classes(found, wanted)
    if isinstance(wanted, int) and len(classes) != wanted:
        raise ValueError(
            f"{root} holds {len(classes)} classes and the model has {wanted}. Evaluate it on "
            "images of the classes it was trained on; one without images is an empty folder."
        )
    positions = {name: position for position, name in enumerate(classes)}
    for name in {name for _, name in found.samples} - positions.keys():
        if not name.isdecimal() or int(name) >= len(classes):
            raise ValueError(f"{root} holds images of {name!r}, which the model does not know.")
        positions[name] = int(name)
    return classes, positions


def _classes(found: _Found, wanted: Sequence[str] | int | None) -> tuple[str, ...]:
    """The order of the classes: as asked for, ImageNet's, by number, or sorted."""
    synsets, names = imagenet.synsets(), set(found.names)
    if wanted is not None and not isinstance(wanted, int):
        return tuple(wanted)
    numbers = {int(name) for name in names if name.isdecimal()}
    all_numbers = len(numbers) == len(names)
    if all_numbers and max(numbers) == len(synsets) and (0 not in numbers or wanted == 1000):
        raise ValueError(
            "The classes are numbered up to 1000. The ids 1 to 1000 of ImageNet's devkit are in "
            "another order than the models' classes. Name them by synset, such as n01440764."
        )
    if found.numbered:
        count = wanted or len(names)
        return tuple(str(number) for number in range(count)) if count != 1000 else synsets
    if wanted == len(synsets) and (names <= set(synsets) or (all_numbers and max(numbers) < 1000)):
        return synsets
    if all_numbers and numbers == set(range(len(synsets))):
        return synsets  # ImageNet-V2, whose folders must not be sorted as text
    return tuple(sorted(names))
