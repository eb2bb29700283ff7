"""torchvision's detectors: a network of the zoo with a feature pyramid, in one call.

For example::

    from torchvision.models.detection import FasterRCNN
    from pyconv.integrations.torchvision import fpn_backbone

    detector = FasterRCNN(fpn_backbone("pyconvresnet50", weights="DEFAULT"), num_classes=91)

The other heads take :class:`pyconv.Backbone` itself; docs/ecosystem.md shows each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..backbone import Backbone, Network
from ..models import get_model
from ..resnet import NormLayer
from ..weights.rows import WeightsEnum

# isort: split
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

__all__ = ["fpn_backbone", "freeze_layers"]


def fpn_backbone(
    backbone_name: str,
    *,
    weights: WeightsEnum | str | Path | None = None,
    norm_layer: NormLayer | None = None,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
    **options: Any,
) -> BackboneWithFPN:
    """A network with a feature pyramid on top, as torchvision's ``resnet_fpn_backbone``.

    ``[N, 3, H, W]`` -> maps ``"0"``, ``"1"``, ... and ``"pool"`` of 256 channels each. The network
    is ``body``, a :class:`pyconv.Backbone`. Defaults are those of torchvision's detectors: with
    weights, frozen norms and three trainable layers, and all of it trained without.

    Args:
        backbone_name: A network of the zoo, or of :func:`pyconv.register_model`.
        weights: As in its factory: a member of its enum, its name, or the path of a checkpoint.
        norm_layer: Called with a number of channels; default ``FrozenBatchNorm2d`` with weights,
            else ``nn.BatchNorm2d``.
        trainable_layers: How many are trained, of 0 to 5, the last ones: stages 4, 3, 2, 1 and the
            stem. Default 3 with weights, else 5.
        returned_layers: The stages whose maps are returned, of 1 to 4; default all.
        extra_blocks: What adds maps behind the last; default ``LastLevelMaxPool``.
        options: Further ones of the factory, such as ``replace_stride_with_dilation``.

    Raises:
        ValueError: if there is no such network, number of layers, or stage.
    """
    norm = norm_layer or (nn.BatchNorm2d if weights is None else FrozenBatchNorm2d)
    model: Any = get_model(backbone_name, weights=weights, norm_layer=norm, **options)
    if trainable_layers is None:
        trainable_layers = 5 if weights is None else 3
    freeze_layers(model, trainable_layers)
    stages = range(1, len(model.stages) + 1) if returned_layers is None else returned_layers
    body = Backbone(model, tuple(stages))
    # torchvision would take the body apart, which only works if its stages are its children.
    pyramid = BackboneWithFPN(nn.Sequential(), {}, list(body.channels), 256, extra_blocks)
    pyramid.body = body
    return pyramid


def freeze_layers(model: Network, trainable_layers: int) -> None:
    """Train only the last layers of a network, counted as ``trainable_layers`` of torchvision's.

    Args:
        model: A network of the zoo, or what has ``stem`` and ``stages``.
        trainable_layers: 0 for none, 4 for all stages, 5 for the stem as well.

    Raises:
        ValueError: if there are not so many.
    """
    layers = [model.stem, *([stage] for stage in model.stages)]
    if trainable_layers not in range(len(layers) + 1):
        raise ValueError(
            f"trainable_layers={trainable_layers!r} must be a number of 0 to {len(layers)}: the "
            f"last so many of the stem and {len(layers) - 1} stages are trained."
        )
    for layer in layers[: len(layers) - trainable_layers]:
        for module in layer:
            module.requires_grad_(False)
