"""PyConvSegNet, the paper's network for semantic segmentation: its head, and all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architectures import ARCHITECTURES, Architecture
from .backbone import Network, missing
from .layers import get_pyconv
from .levels import check_whole
from .resnet import NormLayer, ResNet, in_turn

__all__ = ["PyConvHead", "PyConvSegNet"]

WIDTH = 512  # channels inside the head
MERGED = 256  # channels that it returns, and those of the auxiliary head
POOLED = 9  # side of the map that the global part looks at
KERNELS, GROUPS = (3, 5, 7, 9), (1, 4, 8, 16)

# The paper's networks: PyConvSegNet over each backbone of bottlenecks.
SEGNETS: dict[str, Architecture] = {
    f"pyconvsegnet_{name}": row for name, row in ARCHITECTURES.items() if row.block == "bottleneck"
}

Convolve = Callable[[int, int], nn.Module]


def _conv(kernel: int) -> Convolve:
    return lambda inputs, outputs: nn.Conv2d(
        inputs, outputs, kernel, padding=kernel // 2, bias=False
    )


def _pyramid(inputs: int, outputs: int) -> nn.Module:
    return get_pyconv(inputs, outputs, KERNELS, pyconv_groups=GROUPS)


def _unit(build: Convolve, inputs: int, outputs: int, norm: NormLayer) -> list[nn.Module]:
    return [build(inputs, outputs), norm(outputs), nn.ReLU(inplace=True)]


def _pyramid_between(channels: int, norm: NormLayer) -> list[nn.Module]:
    """1x1, pyramid, 1x1: what the local and the global part share."""
    return [
        *_unit(_conv(1), channels, WIDTH, norm),
        *_unit(_pyramid, WIDTH, WIDTH, norm),
        *_unit(_conv(1), WIDTH, WIDTH, norm),
    ]


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, so that the corners of both maps are the same points."""
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def _cut(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns of a map."""
    if torch.compiler.is_compiling():  # torch.export would take the size of a view for fixed
        return F.pad(x, [0, width - x.shape[-1], 0, height - x.shape[-2]])
    return x[..., :height, :width]


class _Local(nn.Module):
    """What is seen around each pixel of the map."""

    def __init__(self, channels: int, norm: NormLayer) -> None:
        super().__init__()
        self.layers: nn.Sequential = nn.Sequential(*_pyramid_between(channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        return in_turn(self.layers, x)


class _Global(nn.Module):
    """What is seen in the whole map, brought down to 9x9 and back to its size."""

    def __init__(self, channels: int, norm: NormLayer) -> None:
        super().__init__()
        pool = nn.AdaptiveAvgPool2d(POOLED)
        self.features: nn.Sequential = nn.Sequential(pool, *_pyramid_between(channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        return _resize(in_turn(self.features, x), x.shape[-2], x.shape[-1])


class _Merge(nn.Module):
    """Both together, by a 3x3 convolution."""

    def __init__(self, norm: NormLayer) -> None:
        super().__init__()
        self.features: nn.Sequential = nn.Sequential(*_unit(_conv(3), 2 * WIDTH, MERGED, norm))

    def forward(self, nearby: Tensor, everywhere: Tensor) -> Tensor:
        return in_turn(self.features, torch.cat([nearby, everywhere], 1))


class PyConvHead(nn.Module):
    """The head of PyConvSegNet: a pyramid over the map, one over all of it at 9x9, merged.

    ``[N, channels, H, W]`` -> ``[N, 256, H, W]``.

    Args:
        channels: Channels of the feature map.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
    """

    def __init__(self, channels: int, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        self.local_context: nn.Module = _Local(channels, norm)
        self.global_context: nn.Module = _Global(channels, norm)
        self.merge_context: nn.Module = _Merge(norm)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.merge_context(self.local_context(x), self.global_context(x))
        return merged


class PyConvSegNet(nn.Module):
    """A class for each pixel: ``[N, C, H, W]`` -> an ordered dict with ``out``, for any H and W.

    ``out`` holds logits ``[N, num_classes, H, W]``, and so does ``aux`` in training, from the stage
    before the last; its loss is weighted 0.4 in the paper. The names of the entries in
    ``state_dict()`` are those of the published files.

    Args:
        backbone: A network of the zoo, or any other that has the ``stem``, ``stages``, ``channels``
            and ``strides`` of :class:`Network`. Its stem and stages become parts of this network;
            its classifier is not used. The published networks have
            ``ResNet(row, output_stride=8, dilate_first_block=True)``.
        num_classes: Classes of the pixels.
        aux: Whether there is an auxiliary head, for training.
        dropout: Probability of dropping a channel before the classifiers.
        norm_layer: Called with a number of channels; default as in the backbone, else
            ``nn.BatchNorm2d``.

    Attributes:
        stem, stages, channels, strides: As in :class:`Network`.
        num_classes: Classes of the pixels.

    Raises:
        ValueError: if the backbone lacks something, or an option is out of its range.
    """

    def __init__(
        self,
        backbone: Network,
        num_classes: int = 150,
        *,
        aux: bool = True,
        dropout: float = 0.1,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        lacks = missing(backbone, "stem", "stages", "channels", "strides")
        if not isinstance(backbone, nn.Module) or lacks:
            raise ValueError(
                f"PyConvSegNet takes a network with stem, stages, channels and strides, and a "
                f"{type(backbone).__name__} lacks {lacks or 'the class nn.Module'}. Build one with "
                "get_model(), or see pyconv.Network for what your own needs."
            )
        if aux and len(backbone.stages) < 2:
            raise ValueError("The auxiliary head needs two stages. Use aux=False.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r} must be a probability, 0 <= dropout < 1.")
        norm: NormLayer = norm_layer or getattr(backbone, "norm_layer", None) or nn.BatchNorm2d
        self.channels: tuple[int, ...] = tuple(backbone.channels)
        self.strides: tuple[int, ...] = tuple(backbone.strides)

        self.layer0: nn.Sequential = nn.Sequential(*backbone.stem)
        self.stage_names: list[str] = [f"layer{n}" for n, _ in enumerate(backbone.stages, 1)]
        for name, stage in zip(self.stage_names, backbone.stages, strict=True):
            self.add_module(name, stage)
        self.pyconvhead: PyConvHead = PyConvHead(self.channels[-1], norm)
        units = _unit(_conv(3), self.channels[-2], MERGED, norm) if aux else []
        self.aux: nn.Sequential | None = (
            nn.Sequential(*units, nn.Dropout2d(dropout), nn.Identity()) if aux else None
        )
        self.cls: nn.Sequential = nn.Sequential(nn.Dropout2d(dropout), nn.Identity())
        convs = (name for name, part in self.named_modules() if isinstance(part, nn.Conv2d))
        self.first_conv: str = next(convs)  # names of the modules that a checkpoint is adapted at
        self.classifier: str = "cls.1"
        self.other_classifiers: tuple[str, ...] = ("aux.4",) if aux else ()
        self.reset_classifier(num_classes)

    @property
    def stem(self) -> list[nn.Module]:
        """What is called before the stages, in order."""
        return list(self.layer0)

    @property
    def stages(self) -> list[nn.Module]:
        """The stages of the backbone in order: ``layer1``, ``layer2``, ..."""
        return [self.get_submodule(name) for name in self.stage_names]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width, stride = x.shape[-2], x.shape[-1], self.strides[-1]
        # The features lie on every eighth pixel, so that the corners of the map are those of an
        # image of 8k + 1 pixels. Others are filled up to that; zero is the mean.
        x = F.pad(x, [0, -(width - 1) % stride, 0, -(height - 1) % stride])
        full_height, full_width = x.shape[-2], x.shape[-1]

        def logits(classifier: nn.Module, features: Tensor) -> Tensor:
            return _cut(_resize(classifier(features), full_height, full_width), height, width)

        x = in_turn(self.stem, x)
        before = x
        for stage in self.stages:
            before, x = x, stage(x)
        result: dict[str, Tensor] = OrderedDict(out=logits(self.cls, self.pyconvhead(x)))
        if self.training and self.aux is not None:
            result["aux"] = logits(self.aux, before)
        return result

    def get_classifier(self) -> nn.Module:
        """The classifier: a 1x1 convolution."""
        return self.cls[-1]

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier, and that of the auxiliary head, by untrained ones.

        Raises:
            ValueError: if that is no number of classes.
        """
        self.num_classes: int = check_whole("num_classes", num_classes, least=1)
        where = next(self.pyconvhead.parameters())
        for head in (self.aux, self.cls):
            if head is not None:
                head[-1] = nn.Conv2d(MERGED, num_classes, 1, device=where.device, dtype=where.dtype)


def dilated(row: Architecture, output_stride: int = 8, **options: Any) -> ResNet:
    """The backbone as the published networks have it; ``options`` as of :class:`ResNet`."""
    return ResNet(row, output_stride=output_stride, dilate_first_block=True, **options)
