"""The published weights as data: where each file is and what its authors claim of it.

A new published set is a new row here: a member of an enum. Accuracies are the authors' own figures
(README of https://github.com/iduta/pyconv); this project has not measured them. Parameters and
multiply-adds are recounted by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..architectures import ARCHITECTURES
from ..data import imagenet
from ..data.preprocess import Preprocess, expected_pixels
from ..resnet import ResNet
from . import checkpoint, store
from .drive import DriveFile, Record, read_record
from .published import Published

FASHION_MNIST = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PAPER = "90 epochs, batch 256, SGD 0.1 divided by 10 at epochs 30, 60 and 80"
AUGMENT = "300 epochs, batch 1024, SGD 0.4, cosine, CutMix, mixed precision"


class WeightsEnum(Enum):
    """Published sets of weights. Members have the attributes of torchvision's weights enums."""

    _value_: Published

    @property
    def file_id(self) -> str | None:
        """The Google Drive id of the file; None where the file comes with the package."""
        return self.value.file_id

    @property
    def url(self) -> str:
        """Where the file is."""
        if self.file_id is None:
            return self.path.as_uri()
        return f"https://drive.google.com/uc?export=download&id={self.file_id}"

    @property
    def filename(self) -> str:
        """The name of the file in the cache."""
        return f"{self.value.model}-{self.name}.pth"

    @property
    def sha256(self) -> str | None:
        """The pinned hash of the file; None so far, as the authors published none."""
        return _pins().get(str(self))

    @property
    def meta(self) -> dict[str, Any]:
        """The facts of the weights, such as ``categories``, ``num_params``, ``acc@1`` (percent).

        Those with torchvision's names have its units: ``_ops`` are 1e9 multiply-adds,
        ``_file_size`` counts 2**20 bytes, ``min_size`` is height and width of the smallest image.
        """
        row = self.value
        return {
            "model": row.model,
            "categories": list(row.categories or imagenet.class_names()),
            "num_params": row.num_params,
            "gmacs": row.gmacs,
            "file_size": row.file_size,
            **self._claims(),
            "recipe": row.recipe,
            "claimed_by": "the authors" if row.file_id else "this project",
            "min_size": (1, 1),
            "_ops": row.gmacs,
            "_file_size": round(row.file_size / 2**20, 3),
        }

    def _claims(self) -> dict[str, Any]:
        """What its authors claim of it, and behind which pixels."""
        row = self.value
        return {
            "acc@1": row.top1[0][1],
            "acc@1 by crop": dict(row.top1),
            "crop": row.preprocess.crop,
            "resize": row.preprocess.resize,
            "_metrics": {row.dataset: {"acc@1": row.top1[0][1]}},
        }

    def transforms(self, crop: int | None = None, resize: int | None = None) -> Preprocess:
        """The preprocessing of the evaluation, for PIL images and uint8 tensors.

        Args:
            crop: Side of the centre crop in pixels; default as published, 224 for ImageNet.
            resize: Shorter side before the crop; default as published at the published crop
                (256 for 224), and in the same proportion at another: 366 for 320. The authors do
                not state what they resized to before their crop of 320.
        """
        return expected_pixels(self.value.preprocess, crop=crop, resize=resize)

    def get_state_dict(self, progress: bool = True) -> Mapping[str, Tensor]:
        """The state dict, from the cache or downloaded and verified.

        Raises:
            DownloadError: if the file cannot be had, with what to do about it.
            CheckpointError: if the file is not the checkpoint of this model.
        """
        return checkpoint.read(self.path if self.file_id is None else self.download(progress))

    @property
    def drive_file(self) -> DriveFile:
        """Where the file is on Drive, its name in the cache, and its hash if it is pinned.

        Raises:
            ValueError: if the file comes with the package.
        """
        if self.file_id is None:
            raise ValueError(f"{self} comes with the package; there is nothing to download.")
        return DriveFile(self.file_id, self.filename, self.sha256)

    @property
    def path(self) -> Path:
        """Where the file is on this machine, or would be."""
        if self.file_id is None:
            return sample_file(f"{self.value.model}.pth")
        return store.cached_path(self.drive_file)

    def record(self) -> Record | None:
        """What is known of the cached file; None where it was not looked at."""
        return read_record(self.path)

    def provenance(self) -> dict[str, str | None]:
        """The hash of the file, and how far it is trusted."""
        if self.file_id is None:
            return store.provenance(self.path, "comes with the library")
        record = self.record()
        if record is None:
            return {"sha256": None, "trust": None}
        return {"sha256": record.sha256, "trust": record.trust}

    def download(self, progress: bool = True, force: bool = False) -> Path:
        """The file in the cache, downloaded and proven unless it is there.

        Args:
            progress: Show a bar.
            force: Download anew, and accept another file than was trusted at first use.

        Raises:
            DownloadError: if the file cannot be had, or is not the checkpoint of this network.
            ValueError: if the file comes with the package.
        """
        return store.download(self.drive_file, self._network, progress, force)

    def verify(self) -> Record:
        """Hash the cached file and prove its structure and values again.

        Raises:
            DownloadError: if it is not the file on record, or not the checkpoint of this network.
            FileNotFoundError: if it is not in the cache.
        """
        return store.verify(self.drive_file, self._network)

    def check(self, path: Path) -> None:
        """Prove that a file is a checkpoint of the network of this set.

        Raises:
            CheckpointError: if it is not.
        """
        store.check(path, self._network)

    def _network(self) -> nn.Module:
        """The network that the file must be a checkpoint of."""
        row = self.value
        return ResNet(ARCHITECTURES[row.model]) if row.network is None else row.network()


def provenance(weights: WeightsEnum | Path) -> dict[str, str | None]:
    """The hash of published weights or of a file, and how far it is trusted."""
    if isinstance(weights, WeightsEnum):
        return weights.provenance()
    return store.provenance(weights, "a file of the user's")


@cache
def _pins() -> dict[str, str]:
    """Hashes known to the library, by the name of the weights; filled by ``pyconv-weights pin``."""
    pins: dict[str, str] = json.loads(Path(__file__).with_name("pins.json").read_text("utf-8"))
    return pins


def sample_file(name: str) -> Path:
    """A file or folder of the embedded sample."""
    return Path(__file__).parent.with_name("data") / "sample" / name


class ResNet50_Weights(WeightsEnum):
    """The authors' weights of ResNet-50."""

    IMAGENET1K_V1 = Published(
        "resnet50", "176TS0b6O0NALBbfzpz4mM1b47s4dwSVH",
        102_493_719, 25_557_032, 4.09, ((224, 76.12),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class ResNet101_Weights(WeightsEnum):
    """The authors' weights of ResNet-101."""

    IMAGENET1K_V1 = Published(
        "resnet101", "1bermctRPLs5DIsHB0c4iDIGHvjfERPLG",
        178_723_128, 44_549_160, 7.80, ((224, 78.00),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class ResNet152_Weights(WeightsEnum):
    """The authors' weights of ResNet-152."""

    IMAGENET1K_V1 = Published(
        "resnet152", "1FAggTH4m7Kec8MyRe8dx-ugI_yh-nLzL",
        241_533_957, 60_192_808, 11.51, ((224, 78.45),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class PyConvResNet50_Weights(WeightsEnum):
    """The authors' weights of PyConvResNet-50."""

    IMAGENET1K_V1 = Published(
        "pyconvresnet50", "128iMzBnHQSPNehgb8nUF5cJyKBIB7do5",
        99_662_311, 24_847_720, 3.82, ((224, 77.88),), PAPER,
    )  # fmt: skip
    IMAGENET1K_V2 = Published(
        "pyconvresnet50", "19RFyaDnJ34IeqwS8QOX29JWH9I0r_ewM",
        99_662_311, 24_847_720, 3.82, ((224, 79.44), (320, 80.59)), AUGMENT,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V2


class PyConvResNet101_Weights(WeightsEnum):
    """The authors' weights of PyConvResNet-101."""

    IMAGENET1K_V1 = Published(
        "pyconvresnet101", "1fn0eKdtGG7HA30O5SJ1XrmGR_FsQxTb1",
        169_768_767, 42_307_944, 7.23, ((224, 79.01),), PAPER,
    )  # fmt: skip
    IMAGENET1K_V2 = Published(
        "pyconvresnet101", "12PXOwgIF4eiApxDL5QrAMnjbiX69YQOi",
        169_768_767, 42_307_944, 7.23, ((224, 80.58), (320, 81.49)), AUGMENT,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V2


class PyConvResNet152_Weights(WeightsEnum):
    """The authors' weights of PyConvResNet-152."""

    IMAGENET1K_V1 = Published(
        "pyconvresnet152", "1zR6HOTaHB0t15n6Nh12adX86AhBMo46m",
        227_342_235, 56_640_872, 10.61, ((224, 79.52),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class PyConvHGResNet50_Weights(WeightsEnum):
    """The authors' weights of PyConvHGResNet-50."""

    IMAGENET1K_V1 = Published(
        "pyconvhgresnet50", "14x0uss32ASXr4FJTE7pip004XZpwNrZe",
        101_270_783, 25_234_728, 4.53, ((224, 78.48),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class PyConvHGResNet101_Weights(WeightsEnum):
    """The authors' weights of PyConvHGResNet-101."""

    IMAGENET1K_V1 = Published(
        "pyconvhgresnet101", "1Fm48GfOfn2Ivf5nBiR1SMhp66k67ePRh",
        179_175_938, 44_627_240, 8.32, ((224, 79.22),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class PyConvHGResNet152_Weights(WeightsEnum):
    """The authors' weights of PyConvHGResNet-152."""

    IMAGENET1K_V1 = Published(
        "pyconvhgresnet152", "1LRmdQWTceDkepnIxZ2mWbpEE2lFxy0QO",
        243_602_013, 60_657_960, 12.15, ((224, 79.36),), PAPER,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class PyConvResNetTiny_Weights(WeightsEnum):
    """The sample's weights, trained in this project; top-1 on the 10,000 images of its test set."""

    FASHION_MNIST = Published(
        "pyconvresnet_tiny", None,
        1_149_347, 276_522, 0.0116, ((28, 92.72),), "15 epochs, batch 128, one cycle of SGD to 0.1",
        Preprocess(crop=28, resize=28, mean=(0.2860,), std=(0.3530,)), FASHION_MNIST,
        "Fashion-MNIST",
    )  # fmt: skip
    DEFAULT = FASHION_MNIST


ENUMS: tuple[type[WeightsEnum], ...] = tuple(WeightsEnum.__subclasses__())

if not TYPE_CHECKING:  # a list that is computed would hide the enums from type checkers
    __all__ = ["WeightsEnum", *(enum.__name__ for enum in ENUMS)]
