"""The images of a training run: data set, sampler, augmentation, loaders.

Nothing here has a state to save. The images of a step follow from (seed, epoch, step, process),
the augmentation of an image from (seed, epoch, image). torchvision is imported when images are
first read.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.decoding import read_image
from ..data.folders import find_images, val_folders
from ..data.preprocess import Preprocess
from ..data.workers import data_loader, stack_pairs, start_lasting_worker
from ..system.files import expanded
from ..system.reading import ContentError, unreadable
from .recipe import Recipe

__all__ = [
    "Batches",
    "Splits",
    "StepSampler",
    "TrainImages",
    "UnreadableImageError",
    "augmentation",
    "derive_seed",
    "find_splits",
    "make_mixer",
    "shuffled",
    "train_loader",
    "val_loader",
]

Samples = Sequence[tuple[Path, int]]
Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Splits:
    """The labelled images of train/ and val/; a label is a position in ``classes``."""

    root: Path
    places: Mapping[str, Path]  # the folder that the images of a split lie in
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    left_out: tuple[str, ...] = ()  # what is not learned from or validated on, in sentences
    held_out: bool = False  # whether val was drawn from the images of one folder


def find_splits(root: str | Path, val_fraction: float = 0.0, seed: int = 0) -> Splits:
    """The images of ``root``/train and ``root``/val, each with one folder per class.

    With a ``val_fraction`` about that share of the images of ``root``/train, or of ``root`` if
    there is no such folder, is held out for validation. The seed and the name of an image decide,
    so images that are added later move no other one from one side to the other.

    Raises:
        ValueError: if a folder is missing, a class has no images, or the two do not hold the same
            classes.
    """
    root = expanded(root)
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Give the folder of the images.")
    if val_fraction:
        return _hold_out(root, val_fraction, seed)
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise ValueError(f"There is no folder {root / name}. {_way_to_splits(root)}")
    train, val = find_images(root / "train"), find_images(root / "val")
    if train.classes != val.classes:
        faults = (
            ("only in train/", sorted({*train.classes} - {*val.classes})),
            ("only in val/", sorted({*val.classes} - {*train.classes})),
        )
        differ = "; ".join(f"{where}: {_first(names)}" for where, names in faults if names)
        raise ValueError(
            f"The classes of train/ and val/ in {root} differ ({differ}). Both must hold the same "
            "folders."
        )
    for name, found in (("train", train), ("val", val)):
        present = {label for _, label in found.samples}
        if empty := [c for label, c in enumerate(found.classes) if label not in present]:
            raise ValueError(
                f"There are no images in the folders of {root / name} for: {_first(empty)}. Fill "
                "them, or remove these folders from both train/ and val/."
            )
    left_out = train.left_out + val.left_out
    places = {"train": root / "train", "val": root / "val"}
    return Splits(root, places, train.classes, train.samples, val.samples, left_out)


def _hold_out(root: Path, fraction: float, seed: int) -> Splits:
    if there := val_folders(root):
        raise ValueError(
            f"There is a folder {there[0]} to validate on. Leave --val-fraction out, or give the "
            "one folder whose images are to be divided."
        )
    place = root / "train" if (root / "train").is_dir() else root
    found = find_images(place)
    drawn = {path: _draw(path.relative_to(place).as_posix(), seed) for path, _ in found.samples}
    held: set[Path] = set()
    for label, name in enumerate(found.classes):
        own = sorted((path for path, of in found.samples if of == label), key=drawn.__getitem__)
        if len(own) < 2:
            raise ValueError(
                f"The class {name} in {place} has {len(own)} images: none can be held out. Add "
                "some, or remove the folder."
            )
        count = sum(drawn[path] < fraction for path in own)
        held.update(own[: min(max(count, 1), len(own) - 1)])  # some of each class on either side
    train = [sample for sample in found.samples if sample[0] not in held]
    val = [sample for sample in found.samples if sample[0] in held]
    places = {"train": place, "val": place}
    return Splits(root, places, found.classes, train, val, found.left_out, held_out=True)


def _way_to_splits(root: Path) -> str:
    """How to give a folder that holds train/ and val/."""
    places = val_folders(root)
    if not places:
        return (
            "Give the folder that holds train/ and val/, each with one folder per class; or hold "
            "images out of one folder of classes: --val-fraction 0.2."
        )
    val, train = places[0], places[0].parent / "train"
    if val.name != "val":
        more = "" if train.is_dir() else f", and the folder of the training images to {train}"
        return f"Rename {val} to val{more}."
    if train.is_dir():
        return f"Give {val.parent}, which holds train/ and val/."
    return f"Rename the folder of the training images to {train}."


def _draw(name: str, seed: int) -> float:
    """A number in 0..1 for the name of an image."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def derive_seed(*numbers: int) -> int:
    """A seed from some numbers, the same on every machine; other numbers give an unrelated one."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shuffled(images: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of ``images`` indices."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    return torch.randperm(images, generator=generator)


class UnreadableImageError(ValueError):
    """An image could be read, and is none.

    Args:
        path: The file.
        reason: Why it is no image.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path

    def __str__(self) -> str:
        path, reason = self.args
        return (
            f"{path} cannot be read as an image ({reason}). Replace or delete it, and run the same "
            "command again."
        )


Item = tuple[Tensor, Tensor]
Faulty = UnreadableImageError | OSError  # in place of an image, or of a batch with such an image


class TrainImages(Dataset[Item | Faulty]):
    """Decoded and transformed images: uint8 ``[C, H, W]`` with their labels, by (epoch, index).

    The error of an image that cannot be read is given in its place: raised in a loader process, it
    would arrive as the text of a traceback.
    """

    def __init__(
        self, samples: Samples, transform: Callable[[Any], Tensor], channels: int, seed: int = 0
    ) -> None:
        # Strings: a million Path objects would fill the memory of every loader process.
        self.paths: list[str] = [str(path) for path, _ in samples]
        self.labels: Tensor = torch.tensor([label for _, label in samples])
        self.transform = transform
        self.channels = channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Item | Faulty:
        epoch, index = key
        path = self.paths[index]
        try:
            image = read_image(path, self.channels)
        except ContentError as error:
            return UnreadableImageError(path, str(error))
        except OSError as error:
            return error
        except MemoryError:
            return unreadable(path, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        return self.transform(image), self.labels[index]


def _stack(items: Sequence[Any]) -> Item | Faulty:
    """A batch, or the error of the first of its images that cannot be read."""
    faulty: Any = next((item for item in items if isinstance(item, Exception)), None)
    return stack_pairs(items) if faulty is None else faulty


class Batches(Iterable[Item]):
    """The batches of a loader, from which the error of an image is raised."""

    def __init__(self, images: TrainImages, workers: int, **options: Any) -> None:
        self.loader: DataLoader[Any] = data_loader(
            images,
            collate_fn=_stack,
            num_workers=workers,
            worker_init_fn=start_lasting_worker,
            **options,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Item]:
        for batch in self.loader:
            if isinstance(batch, Exception):
                try:
                    raise batch
                finally:
                    del batch  # else it holds this frame, and Python's end waits for the workers
            yield batch


class StepSampler(Sampler[list[tuple[int, int]]]):
    """What one process loads, from the step that :meth:`start` sets to the end of the epoch.

    The images of an epoch are shuffled and cut into batches, one a step. Of a batch each process
    takes an equal share, and computes it in ``accumulate`` equal parts. Each part is yielded as a
    list of (epoch, index). Images behind the last whole batch of an epoch are left out.

    Raises:
        ValueError: if there are fewer images than one batch has.
    """

    def __init__(
        self, images: int, batch: int, seed: int, rank: int, processes: int, accumulate: int
    ) -> None:
        if images < batch:
            raise ValueError(
                f"There are {images} training images, fewer than one batch of {batch}. Choose a "
                "smaller --batch-size."
            )
        self.images = images
        self.batch = batch
        self.seed = seed
        self.steps: int = images // batch
        self.share: int = batch // processes
        self.first: int = rank * self.share
        self.part: int = self.share // accumulate
        self.epoch: int = 0
        self.step: int = 0

    def start(self, epoch: int, step: int) -> None:
        """Begin the next iteration at this step of this epoch, both counted from 0."""
        self.epoch, self.step = epoch, step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = shuffled(self.images, self.seed, epoch)
        for step in range(self.step, self.steps):
            begin = step * self.batch + self.first
            for part in order[begin : begin + self.share].split(self.part):
                yield [(epoch, index) for index in part.tolist()]


def augmentation(recipe: Recipe, crop: int) -> Callable[[Any], Tensor]:
    """The random augmentation of one image: PIL image -> uint8 ``[C, crop, crop]``."""
    from torchvision.transforms import v2

    changes = [v2.RandomResizedCrop(crop, scale=(recipe.min_scale, 1.0), antialias=True)]
    if recipe.flip:
        changes.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.randaugment:
        changes.append(v2.RandAugment(num_ops=2, magnitude=recipe.randaugment))
    changes.append(v2.PILToTensor())
    if recipe.erase:
        changes.append(v2.RandomErasing(recipe.erase))
    transform: Callable[[Any], Tensor] = v2.Compose(changes)
    return transform


def make_mixer(recipe: Recipe, classes: int) -> Mixer | None:
    """CutMix and MixUp of a batch: ``[N, C, H, W]`` and ``[N]`` -> ``[N, C, H, W]`` and ``[N, K]``.

    None if the recipe mixes nothing. A batch that is not mixed keeps its labels ``[N]``.
    """
    from torchvision.transforms import v2

    known = ((v2.CutMix, recipe.cutmix), (v2.MixUp, recipe.mixup))
    mixes = [mix(alpha=alpha, num_classes=classes) for mix, alpha in known if alpha]
    if not mixes or not recipe.mix_probability:
        return None
    mixer: Mixer = v2.RandomApply([v2.RandomChoice(mixes)], p=recipe.mix_probability)
    return mixer


def train_loader(images: TrainImages, sampler: StepSampler, workers: int, pin: bool) -> Batches:
    """The parts of ``sampler``: uint8 ``[N, C, H, W]`` and labels ``[N]``."""
    return Batches(
        images, workers, batch_sampler=sampler, pin_memory=pin, persistent_workers=workers > 0
    )


def val_loader(samples: Samples, preprocess: Preprocess, batch: int, workers: int) -> Batches:
    """Batches of the validation images, each image once and in order."""
    images = TrainImages(samples, preprocess.pixels, len(preprocess.mean))
    keys = [(0, index) for index in range(len(images))]
    return Batches(images, workers, batch_size=batch, sampler=keys)
