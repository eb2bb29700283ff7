"""Features of the stages, for detectors and segmenters, attached to a network from outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from .resnet import ResNet, in_turn

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """The feature maps of a network's stages: ``[N, in_channels, H, W]`` -> an ordered dict.

    Stage ``n`` gives ``"layer{n}"``: ``[N, channels, H / stride, W / stride]``, finest first. The
    backbone shares the network's parameters, under the same names, without the classifier; stages
    behind the last one asked for are left out. It fits where detectors expect a backbone, such as
    torchvision's ``FasterRCNN`` and ``BackboneWithFPN``'s inner body.

    Args:
        model: A network of the zoo, with any ``output_stride`` and norm.
        stages: Which stages to return, of 1 to 4, in ascending order.

    Attributes:
        channels: Channels of each map.
        strides: Input pixels per feature of each map.
        return_layers: Names of the maps, as in torchvision's ``IntermediateLayerGetter``.

    Raises:
        ValueError: if a stage does not exist, the order is wrong, or it is no network of the zoo.
    """

    def __init__(self, model: ResNet, stages: int | Sequence[int] = (1, 2, 3, 4)) -> None:
        super().__init__()
        if not isinstance(model, ResNet):
            raise ValueError(
                f"Backbone takes a network of this library, not a {type(model).__name__}: build "
                "one with get_model() or a factory such as pyconvresnet50()."
            )
        stages = (stages,) if isinstance(stages, int) else tuple(stages)
        count = len(model.stages)
        if (
            not stages
            or sorted(set(stages)) != list(stages)
            or not {*stages} <= {*range(1, count + 1)}
        ):
            raise ValueError(
                f"stages={stages} must name stages of 1 to {count} in ascending order, each once, "
                "such as (1, 2, 3, 4)."
            )
        self.conv1, self.bn1, self.relu, self.maxpool = (
            model.conv1,
            model.bn1,
            model.relu,
            model.maxpool,
        )
        for number, stage in enumerate(model.stages[: stages[-1]], 1):
            self.add_module(f"layer{number}", stage)
        self.stages = stages
        self.return_layers = {f"layer{stage}": f"layer{stage}" for stage in stages}
        self.channels = tuple(model.channels[stage - 1] for stage in stages)
        self.strides = tuple(model.strides[stage - 1] for stage in stages)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = in_turn([self.conv1, self.bn1, self.relu, self.maxpool], x)
        features: OrderedDict[str, Tensor] = OrderedDict()
        for number in range(1, self.stages[-1] + 1):
            x = self.get_submodule(f"layer{number}")(x)
            if number in self.stages:
                features[f"layer{number}"] = x
        return features
