"""Networks that are not the zoo's, each added by one call: what a user's own file looks like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyconv import Architecture, PyConv2d, Stage, Stem, register_model


class Plain(nn.Module):
    """No ResNet: its modules have names of their own, and its stages are convolutions."""

    first_conv, classifier = "entry.conv", "head.linear"
    channels, strides = (8, 16), (2, 4)

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.entry = nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm2d(8)})
        self.body = nn.ModuleList(
            nn.Sequential(PyConv2d(c, d, (3, 5), (1, 4), stride=2), nn.BatchNorm2d(d), nn.ReLU())
            for c, d in ((8, 8), (8, 16))
        )
        self.head = nn.ModuleDict()
        self.reset_classifier(num_classes)

    @property
    def stem(self) -> Sequence[nn.Module]:
        return list(self.entry.values())

    @property
    def stages(self) -> Sequence[nn.Module]:
        return list(self.body)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.head["linear"] = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.stem, *self.stages):
            x = module(x)
        logits: Tensor = self.head["linear"](torch.flatten(x, 2).mean(2))
        return logits


@register_model
def plain(num_classes: int, in_channels: int = 1) -> nn.Module:
    return Plain(num_classes, in_channels)


register_model(
    "short",
    Architecture(
        title="A row of two stages",
        block="basic2",
        expansion=1,
        stages=(Stage(1, 8, 1, (3, 5), (1, 4)), Stage(1, 16, 2, (3,), (1,))),
        stem=Stem(width=8, kernel=3, stride=2, pool=False),
        pool_shortcut=True,
        in_channels=1,
        num_classes=10,
    ),
)


def resnet50(num_classes: int) -> nn.Module:
    """Not registered, and named as a network of the zoo: module:name means the module's."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes)
    )


def numbered(num_classes: int = 10) -> nn.Module:
    """Its modules have numbers for names, as some of another network's have at their end."""
    conv, norm, linear = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, num_classes)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    model.first_conv, model.classifier = "0", "5"  # type: ignore[assignment]
    return model


def compiled(num_classes: int = 10) -> nn.Module:
    """A part of it is compiled when it is made, so its names have what torch.compile puts there."""
    model = numbered(num_classes)
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[index,operator,call-overload]
    return model


def forgets(num_classes: int) -> None:
    """Without a return."""
    resnet50(num_classes)


instance = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
not_callable = 3
