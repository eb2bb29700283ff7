"""The published weights of PyConvSegNet as data, beside those of the classifiers in ``rows.py``.

Figures are the authors' own (README of https://github.com/iduta/pyconvsegnet), for several scales
and mirrored images; this project has not measured them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..data import ade20k
from ..data.preprocess import WholeImage
from ..pyconvsegnet import SEGNETS, PyConvSegNet, dilated
from .published import Published
from .rows import WeightsEnum

RECIPE = "473x473 crops, batch 16, SGD 0.01 and 0.1 for the head, poly, from ImageNet weights"
PAPER = f"100 epochs of {RECIPE}"
LONGER = f"120 epochs of {RECIPE}, on the images for validation as well"


class SegmentationWeights(WeightsEnum):
    """Published sets of weights of segmentation networks; ``meta`` has ``miou``, ``pixel_acc``."""

    def _claims(self) -> dict[str, Any]:
        metrics = dict(self.value.metrics)
        return {**metrics, "_metrics": {self.value.dataset: metrics}}

    def transforms(self) -> WholeImage:  # type: ignore[override]  # there is nothing to crop
        """Pixels as the network takes them, at the image's own size; ``predict`` does the rest."""
        return WholeImage(self.value.preprocess.mean, self.value.preprocess.std)


def _network(model: str) -> PyConvSegNet:
    return PyConvSegNet(dilated(SEGNETS[model]))


def _ade20k(
    backbone: str,
    file_id: str,
    file_size: int,
    num_params: int,
    gmacs: float,  # for an image of 473x473
    miou: float,
    pixel_acc: float,
    dataset: str = "ADE20K-val",
    recipe: str = PAPER,
) -> Published:
    model = f"pyconvsegnet_{backbone}"
    return Published(
        model, file_id, file_size, num_params, gmacs, (), recipe,
        categories=ade20k.class_names(), dataset=dataset, network=partial(_network, model),
        metrics=(("miou", miou), ("pixel_acc", pixel_acc)),
    )  # fmt: skip


class PyConvSegNet_ResNet50_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with ResNet-50."""

    ADE20K_V1 = _ade20k(
        "resnet50", "1uIliL_0ZpP20JP6cT9jwrA9nvtriS3v_",
        137_896_592, 34_397_548, 107.36, 42.88, 80.97,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


class PyConvSegNet_ResNet101_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with ResNet-101."""

    ADE20K_V1 = _ade20k(
        "resnet101", "1C7NPjy0EEZajKrAAfpfOvjr_22O7JozQ",
        214_126_001, 53_389_676, 175.55, 44.39, 81.60,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


class PyConvSegNet_ResNet152_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with ResNet-152."""

    ADE20K_V1 = _ade20k(
        "resnet152", "1YoZhCOBxTGQuZkLokAd_eiaY7R0E36eE",
        276_936_830, 69_033_324, 231.70, 45.28, 81.89,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


class PyConvSegNet_PyConvResNet50_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with PyConvResNet-50."""

    ADE20K_V1 = _ade20k(
        "pyconvresnet50", "1wHK9WrW2YituFg6FLOSU06bPODASdZoT",
        135_065_215, 33_688_236, 104.67, 43.31, 81.18,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


class PyConvSegNet_PyConvResNet101_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with PyConvResNet-101."""

    ADE20K_V1 = _ade20k(
        "pyconvresnet101", "1RVS_nODNQeioBYvdTPS4DYvTozMMIAlh",
        205_171_671, 51_148_460, 167.34, 44.58, 81.77,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


class PyConvSegNet_PyConvResNet152_Weights(SegmentationWeights):
    """The authors' weights of PyConvSegNet with PyConvResNet-152.

    ``ADE20K_TRAINVAL`` has seen the images for validation, so nothing can be measured on them; its
    figures are those of the benchmark's server for the test images. ``DEFAULT`` is the other one.
    """

    ADE20K_V1 = _ade20k(
        "pyconvresnet152", "1P2qJNt72bCCDEO9FeKkWY4uakFLz-Ncb",
        262_745_143, 65_481_388, 218.77, 45.64, 82.36,
    )  # fmt: skip
    ADE20K_TRAINVAL = _ade20k(
        "pyconvresnet152", "1MdR9CeECFmMFspcYR8pbJLqo8AXEpMZz",
        262_745_143, 65_481_388, 218.77, 39.13, 73.91, "ADE20K-test", LONGER,
    )  # fmt: skip
    DEFAULT = ADE20K_V1


SEGMENTATION_ENUMS: tuple[type[SegmentationWeights], ...] = tuple(
    SegmentationWeights.__subclasses__()
)

if not TYPE_CHECKING:  # a list that is computed would hide the enums from type checkers
    __all__ = ["SegmentationWeights", *(enum.__name__ for enum in SEGMENTATION_ENUMS)]
