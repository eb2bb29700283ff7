"""The images of a training run: data set, sampler, augmentation, loaders.

Nothing here has a state to save. The images of a step follow from (seed, epoch, step, process),
the augmentation of an image from (seed, epoch, image). torchvision is imported when images are
first read.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.folders import find_images
from ..data.preprocess import Preprocess
from ..data.workers import start_lasting_worker
from .recipe import Recipe

__all__ = [
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

    classes: tuple[str, ...]
    train: Samples
    val: Samples


def find_splits(root: str | Path) -> Splits:
    """The images of ``root``/train and ``root``/val, each with one folder per class.

    Raises:
        ValueError: if a folder is missing, a class has no images, or the two do not hold the same
            classes.
    """
    root = Path(root).expanduser()
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise ValueError(
                f"There is no folder {root / name}. Give the folder that holds train/ and val/, "
                "each with one folder per class."
            )
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
    return Splits(train.classes, train.samples, val.samples)


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
    """A training image cannot be decoded."""

    def __init__(self, message: str) -> None:
        # A loader process sends the whole traceback as the message; its last line is ours.
        super().__init__(message.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class TrainImages(Dataset[tuple[Tensor, Tensor]]):
    """Decoded and transformed images: uint8 ``[C, H, W]`` with their labels, by (epoch, index)."""

    def __init__(
        self, samples: Samples, transform: Callable[[Any], Tensor], channels: int, seed: int = 0
    ) -> None:
        # Strings: a million Path objects would fill the memory of every loader process.
        self.paths: list[str] = [str(path) for path, _ in samples]
        self.labels: Tensor = torch.tensor([label for _, label in samples])
        self.transform = transform
        self.mode: str = "L" if channels == 1 else "RGB"
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        from PIL import Image

        epoch, index = key
        path = self.paths[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of EXIF and palettes, which change no pixel
                with Image.open(path) as file:
                    image = file.convert(self.mode)
        except Exception as error:  # a damaged file can make a decoder fail in any way
            raise UnreadableImageError(
                f"{path} cannot be read as an image ({type(error).__name__}). Replace or delete it."
            ) from error
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        return self.transform(image), self.labels[index]


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


def train_loader(
    images: TrainImages, sampler: StepSampler, workers: int, pin: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The parts of ``sampler``: uint8 ``[N, C, H, W]`` and labels ``[N]``."""
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=start_lasting_worker,
    )


def val_loader(
    samples: Samples, preprocess: Preprocess, batch: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of the validation images, each image once and in order."""
    images = TrainImages(samples, preprocess.pixels, len(preprocess.mean))
    keys: Any = [(0, index) for index in range(len(images))]
    return DataLoader(
        images,
        batch_size=batch,
        sampler=keys,
        num_workers=workers,
        worker_init_fn=start_lasting_worker,
    )
