"""Images in, uint8 batches out.

torchvision is imported when images are first touched, so that ``import pyconv`` stays as light as
``import torch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..system.failures import is_memory
from .decoding import decode, decode_fast
from .folders import ImageList
from .preprocess import Preprocess
from .workers import data_loader, start_worker

__all__ = ["Batch", "Fault", "make_loader"]


class Fault(NamedTuple):
    """An image that could not be read, and why."""

    position: int  # in the list of images
    path: str
    reason: str
    system: bool = False  # whether the system did not read it: nothing is known of the file

    @property
    def text(self) -> str:
        """What happened, as a sentence."""
        return self.reason if self.system else f"{self.path} cannot be read: {self.reason}"


@dataclass(frozen=True)
class Batch:
    """Images with their labels; unpacks into ``pixels, labels``."""

    pixels: Tensor  # uint8 [N, C, crop, crop]
    labels: Tensor  # [N]
    indices: Tensor  # [N], positions in the list of images
    faults: tuple[Fault, ...]  # images that belong here but could not be read

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.pixels, self.labels))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from where a GPU copies while the CPU goes on."""
        return replace(self, pixels=self.pixels.pin_memory())


class _Pixels(Dataset["tuple[Tensor, int, int] | Fault"]):
    """Decoded, resized and cropped images with their labels and positions."""

    def __init__(self, images: ImageList, preprocess: Preprocess, fast: bool) -> None:
        self.images, self.preprocess = images, preprocess
        self.fast = fast and len(preprocess.mean) == 3

    def __len__(self) -> int:
        return len(self.images.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int] | Fault:
        path, label = self.images.samples[index]
        try:
            data = self.images.read(index)
            image = decode_fast(data) if self.fast else decode(data, len(self.preprocess.mean))
            return self.preprocess.pixels(image), label, index
        except ValueError as error:
            return Fault(index, str(path), str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_memory(error):
                raise
            reason = f"Memory ran out with {path}." if is_memory(error) else str(error)
            return Fault(index, str(path), reason, system=True)

    def collate(self, items: Sequence[tuple[Tensor, int, int] | Fault]) -> Batch:
        read = [item for item in items if not isinstance(item, Fault)]
        crop, channels = self.preprocess.crop, len(self.preprocess.mean)
        pixels = [pixels for pixels, _, _ in read]
        return Batch(
            torch.stack(pixels) if pixels else torch.empty(0, channels, crop, crop).byte(),
            torch.tensor([label for _, label, _ in read], dtype=torch.long),
            torch.tensor([index for _, _, index in read], dtype=torch.long),
            tuple(item for item in items if isinstance(item, Fault)),
        )


def make_loader(
    images: ImageList,
    preprocess: Preprocess,
    batch_size: int = 64,
    workers: int = 0,
    *,
    fast_decode: bool = False,
    pin_memory: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> DataLoader[Batch]:
    """Batches of uint8 ``[N, C, crop, crop]`` with their labels ``[N]``, in order, each once.

    An image that cannot be read is left out of its batch and named in ``batch.faults``, with
    whether the file or the system is to blame.

    Args:
        images: What :func:`find_images` found.
        preprocess: Sizes and statistics.
        batch_size: Images in a batch; the last may have fewer.
        workers: Processes that decode; 0 decodes in this one. There are fewer, with a line on
            stderr, where the system does not give more.
        fast_decode: Decode JPEGs with torchvision and resize tensors, in half the time; pixels
            differ by 1 of 255 here and there. Other files, and grey models, go the exact way.
        pin_memory: Put the pixels into page-locked memory, for a GPU.
        shard: ``(rank, size)``: only every size-th image, from the rank-th on. Nothing is padded,
            so the shards of all ranks hold each image once.
    """
    # Once, before workers fork and before anyone looks at the clock.
    import torchvision.transforms.v2.functional  # noqa: F401

    rank, size = shard
    pixels = _Pixels(images, preprocess, fast_decode)
    return data_loader(
        pixels,
        batch_size=batch_size,
        sampler=range(rank, len(pixels), size),
        num_workers=workers,
        collate_fn=pixels.collate,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
