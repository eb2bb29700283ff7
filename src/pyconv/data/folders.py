"""Folders as they lie on disk in, a labelled list of images out.

Every layout gives each image the *name* of its class, from a folder, a file name or a list; one
place turns names into positions. So nothing depends on which classes happen to be on the disk.
What is left out on the way is named.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from ..system.files import expanded
from ..system.reading import ContentError, reading
from . import imagenet
from .decoding import read_bytes
from .listing import NO_IMAGE, LeftOut, describe, entries, files_below, is_image, is_litter
from .lists import Row, read_list
from .numbering import Found, number

__all__ = ["ImageList", "find_images", "val_folders"]

VAL_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val")
VAL_NAMES = {"val", "valid", "validation"}  # in letters of any case
TEXTS = {".csv", ".json", ".log", ".mat", ".md", ".txt", ".xml", ".yaml", ".yml"}  # on the images
KAGGLE_LIST = "LOC_val_solution.csv"
NO_CLASS = "whose names say no class"

SYNSET = re.compile(r"n\d{8}", re.ASCII)
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})", re.ASCII)
SYNSET_AT_END = re.compile(r".+_(n\d{8})", re.ASCII)
TAR_END = bytes(512)
WHOLE = re.compile(r"0*(\d{1,6})(\.0*)?", re.ASCII)  # 3, or 3.0 as pandas writes it
NEGATIVE = re.compile(r"-\d+(\.0*)?", re.ASCII)


@dataclass(frozen=True)
class ImageList:
    """Labelled images: a label is a position in ``classes``."""

    classes: tuple[str, ...]
    samples: tuple[tuple[Path, int], ...]
    source: str = "folder names"  # where the labels come from
    skipped: tuple[Path, ...] = ()  # files among the images that have no label or are no images
    archive: Path | None = None  # the tar file that the images lie in
    spans: tuple[tuple[int, int], ...] = ()  # offset and size of each image in it
    left_out: tuple[str, ...] = ()  # what is not counted, in sentences with counts and examples
    missing: tuple[str, ...] = ()  # names that a list gives and that are not there

    @property
    def finding(self) -> str:
        """What was found, in one line."""
        present = len({label for _, label in self.samples})
        classes = f"{present:,}" + (f" of {len(self.classes):,}" * (present < len(self.classes)))
        return f"{len(self.samples):,} images of {classes} classes, labels from {self.source}"

    def read(self, index: int) -> bytes:
        """The bytes of an image file.

        Raises:
            OSError: if the system does not read it; nothing is known to be wrong with the file.
            ValueError: if it is a pipe or a device.
        """
        if self.archive is None:
            return read_bytes(self.samples[index][0])
        offset, size = self.spans[index]
        with reading(self.archive) as file:
            file.seek(offset)
            return file.read(size)


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
    ``ILSVRC2012_img_val.tar``. An image is what the installed Pillow reads, by its suffix. Classes
    may be missing. What is left out is named in the result.

    Args:
        root: The folder, or the tar file.
        classes: What the labels mean: the names of the model's classes in order, or how many
            there are (1000 are ImageNet's, where the names allow it); None takes those found, in
            sorted order.
        labels: A text file of ``name label`` lines, or a table of them, in place of all looking;
            names relative to ``root``, labels positions or names of classes.

    Raises:
        ValueError: if there are no images, they lie on another level, or the classes do not fit.
    """
    root = expanded(root)
    if labels is not None:
        known = () if classes is None or isinstance(classes, int) else classes
        found = _from_list(root, expanded(labels), known)
    elif root.is_file():
        found = _from_tar(root)
    else:
        found = _look(root)
    names, positions = number(found, classes, root)
    return ImageList(
        names,
        tuple((path, positions[name]) for path, name in found.samples),
        found.source,
        tuple(chain.from_iterable(found.left_out.values())),
        None if found.spans is None else root,
        () if found.spans is None else tuple(found.spans[path] for path, _ in found.samples),
        describe(found.left_out),
        found.missing,
    )


def _look(root: Path) -> Found:
    """Recognise a folder: what only ImageNet has comes first, any folder per class last."""
    left_out: LeftOut = {}
    place = _descend(root, left_out)
    folders, files = entries(place, left_out)
    images = [file for file in files if is_image(file)]
    left_out[NO_IMAGE] = _no_texts(file for file in files if not is_image(file))
    synsets = [folder for folder in folders if SYNSET.fullmatch(folder.name)]
    if images and not synsets:
        found = _from_names(images, _kaggle_labels(place), left_out)
        if found.samples:
            _leave(folders, "in a folder beside the images", found.left_out)
            return found
    if folders:
        left_out["beside the folders of the classes"] = images
        others = [folder for folder in folders if synsets and folder not in synsets]
        _leave(others, "in a folder whose name is no synset", left_out)
        return _from_folders(place, synsets or folders, left_out)
    if images:
        raise ValueError(
            f"{place} holds images whose names say no class, such as {images[0].name}. If it is "
            f"the folder of one class, give {place.parent}; else give --labels FILE."
        )
    packed = next((f" For the images in {file.name}, give {file}." for file in _tars(files)), None)
    more = _and(left_out) if packed is None else packed
    raise ValueError(f"There are no images in {place}: it is empty, or holds other files.{more}")


def _no_texts(files: Iterable[Path]) -> list[Path]:
    """The files without those that are known to tell about images."""
    return [file for file in files if file.suffix.lower() not in TEXTS]


def _leave(folders: Sequence[Path], reason: str, left_out: LeftOut) -> None:
    """Name the files in folders that are not searched for images."""
    for folder in folders:
        if files := _no_texts(files_below(folder, left_out)):
            left_out.setdefault(f"{reason} ({folder.name})", []).extend(files)


def _and(left_out: LeftOut) -> str:
    """The first of what was left out, to end a message."""
    return "".join(f" {sentence}." for sentence in describe(left_out)[:1])


def _tars(files: Sequence[Path]) -> list[Path]:
    """Those of the files that are tar files, the validation images' first."""
    return sorted((f for f in files if f.suffix == ".tar"), key=lambda f: "val" not in f.name)


def _descend(root: Path, left_out: LeftOut) -> Path:
    """The folder that holds the validation images: ``root``, or the well-known one inside."""
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Give the folder that holds the images.")
    places = val_folders(root)
    if not places:
        return root
    others = [*places[1:], *(path for path in root.iterdir() if path.name.casefold() == "test")]
    left_out[f"beside {places[0].name}, which holds the images"] = others
    return places[0]


def val_folders(root: Path) -> list[Path]:
    """The folders in ``root`` that are known to hold validation images, the likeliest first."""
    inside = sorted(root.iterdir())
    if any(SYNSET.fullmatch(path.name) for path in inside):
        return []
    places = [root / name for name in VAL_FOLDERS if (root / name).is_dir()]
    places += [path for path in inside if _is_val(path) and not any(map(path.samefile, places))]
    return places


def _is_val(path: Path) -> bool:
    """Whether it is a folder such as Val. A class may be called so: then its images lie in it."""
    named = path.name.casefold() in VAL_NAMES and path.is_dir()
    return named and any(deeper.is_dir() for deeper in path.iterdir())


def _from_folders(place: Path, folders: Sequence[Path], left_out: LeftOut) -> Found:
    """One folder per class; images may lie deeper inside."""
    files = [(file, folder) for folder in folders for file in files_below(folder, left_out)]
    images = [(file, folder.name) for file, folder in files if is_image(file)]
    left_out.setdefault(NO_IMAGE, []).extend(file for file, _ in files if not is_image(file))
    if not images:
        raise ValueError(
            f"There are no images in the folders of {place}. It should hold one folder per class, "
            f"with the images of the class inside.{_and(left_out)}"
        )
    by_synset = SYNSET.fullmatch(folders[0].name) is not None
    if not by_synset and not any(file.parent.parent == place for file, _ in images):
        likely = min(folders, key=lambda folder: folder.name.casefold().startswith("train"))
        raise ValueError(
            f"The folders of {place} hold no images but folders. Give the folder one level down, "
            f"which holds a folder per class, such as {likely}."
        )
    return Found(images, tuple(folder.name for folder in folders), "folder names", left_out)


def _from_names(images: Sequence[Path], listed: Mapping[str, str], left_out: LeftOut) -> Found:
    """ImageNet's validation images in one folder."""
    named = [(image, listed.get(image.stem) or _synset_in(image)) for image in images]
    return Found(
        [(image, name) for image, name in named if name is not None],
        imagenet.synsets(),
        KAGGLE_LIST if listed else "file names",
        left_out | {NO_CLASS: [image for image, name in named if name is None]},
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


def _from_list(root: Path, path: Path, known: Collection[str]) -> Found:
    """The images that a text file names, with positions or names of classes."""
    left_out: LeftOut = {}
    place = _descend(root, left_out)

    @functools.cache
    def file_of(name: str) -> Path | None:
        """The image, where it is there; names may be written as on Windows."""
        ways = (name, name.replace("\\", "/"))
        places = (folder / way for way in ways for folder in (root, place))
        return next((file for file in places if file.is_file()), None)

    rows = read_list(path, lambda name: file_of(name) is not None)
    found = [(file_of(row.name), row) for row in rows]
    samples = [(file, row.label) for file, row in found if file is not None]
    missing = tuple(row.name for file, row in found if file is None)
    if not samples:
        first = f": {missing[0]} is not in {place}" if missing else ""
        raise ValueError(f"{path} names no image that is there{first}. Names are relative to it.")
    left_out[f"not named in {path.name}"] = _unlisted(place, rows, [file for file, _ in samples])
    source = path.name + f" ({len(missing):,} more that it names are not there)" * bool(missing)
    labels = {row.label for row in rows}
    numbers = {label: str(int(each[1])) for label in labels if (each := WHOLE.fullmatch(label))}
    others = sorted(labels - numbers.keys())
    # What a model calls its classes is a name, be it a number: 1 is not the second one then.
    named = labels <= {*known} or (len(known) > 0 and all(map(str.isdecimal, known)))
    by_name = named or len(others) == len(labels)
    below_zero = not labels <= {*known} and any(map(NEGATIVE.fullmatch, others))
    if "" in labels or (others and (not by_name or below_zero)):
        raise ValueError(
            f"The labels in {path} are neither all positions nor all names: {others[0]!r} is "
            "no position. Leave out the images without a label."
        )
    if by_name:
        numbers = {each: each if each in known else numbers.get(each, each) for each in labels}
        names = tuple(numbers.values())
    else:
        names = tuple(str(position) for position in range(max(map(int, numbers.values())) + 1))
    once = _once([(file, numbers[label]) for file, label in samples], path)
    if again := len(samples) - len(once):
        source += f" ({again:,} of its lines name an image again)"
    return Found(once, names, source, left_out, missing, is_list=True, numbered=not by_name)


def _once(samples: Sequence[tuple[Path, str]], path: Path) -> list[tuple[Path, str]]:
    """The samples without those that a list names again.

    Raises:
        ValueError: if it gives an image two labels.
    """
    first: dict[str, tuple[Path, str]] = {}
    for file, label in samples:
        _, before = first.setdefault(os.path.normpath(file), (file, label))
        if before != label:
            raise ValueError(
                f"{path} names {file} twice, with the labels {before!r} and {label!r}. Keep one "
                "line for each image."
            )
    return list(first.values())


def _unlisted(place: Path, rows: Sequence[Row], files: Sequence[Path]) -> list[Path]:
    """The images that a list does not name, beside those that it does."""
    listed = {os.path.normpath(file) for file in files}
    if any(Path(row.name).is_absolute() for row in rows):  # and the folder may be any other
        folders = sorted({Path(file).parent for file in listed})
        there = [file for folder in folders for file in entries(folder, {})[1]]
    else:
        there = files_below(place, {})
    return [file for file in there if is_image(file) and os.path.normpath(file) not in listed]


def _from_tar(path: Path) -> Found:
    """ImageNet's validation images in their tar file, which is read in place."""
    try:
        with reading(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            # Of a name that is there twice, tar unpacks the last.
            files = {PurePosixPath(each.name): each for each in tar if not each.isdir()}
            file.seek(tar.offset)
            if file.read(len(TAR_END)) != TAR_END:  # where it ends too early, tarfile may not say
                raise tarfile.ReadError("unexpected end of data")
    except ContentError as error:
        if "unexpected end" in str(error):
            raise ValueError(f"{path} is cut off: fetch or copy it again.") from error
        raise ValueError(
            f"{path} is neither a folder nor a plain tar file ({error.__cause__}). Unpack it, and "
            "give the folder that holds the images."
        ) from error
    places = [place for place in sorted(files) if not any(is_litter(part) for part in place.parts)]
    samples, spans = [], {}
    left_out: LeftOut = {NO_IMAGE: [], NO_CLASS: []}
    for place in places:
        member, name = files[place], _synset_of(place)
        if not is_image(place):
            left_out[NO_IMAGE].append(path / place)
        elif name is None or not member.isfile():
            left_out[NO_CLASS].append(path / place)
        else:
            samples.append((path / place, name))
            spans[path / place] = (member.offset_data, member.size)
    if not samples:
        raise ValueError(
            f"{path} holds no images whose names say a class of ImageNet. Unpack it, and give the "
            "folder that holds the images."
        )
    return Found(samples, imagenet.synsets(), f"the names in {path.name}", left_out, spans=spans)


def _synset_of(path: PurePosixPath) -> str | None:
    folder = path.parent.name
    return folder if SYNSET.fullmatch(folder) else _synset_in(path)
