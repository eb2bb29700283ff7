"""Seven heads of torchvision on a network of the zoo, each trained on three photographs.

    pip install scikit-image matplotlib
    python docs/examples/torchvision_heads.py --picture heads.jpg

The photographs lie in the wheel of scikit-image: by NASA (public domain), Rachel Michetti and
Stefan van der Walt (both CC0). Their labels were drawn by hand, as polygons.
Three images are learned by heart: this shows that heads and gradients fit together, no more.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from pyconv import Backbone, get_model
from pyconv.integrations.torchvision import fpn_backbone

DETECTORS = (FasterRCNN, RetinaNet, SSD)  # MaskRCNN is a FasterRCNN
CLASSES = ("background", "person", "cup", "cat")
OUTLINES = {  # x and y of corners, as parts of the photograph's width and height
    "astronaut": [
        (0.30, 0.10), (0.38, 0.03), (0.50, 0.03), (0.58, 0.10), (0.60, 0.22), (0.56, 0.33),
        (0.61, 0.48), (0.72, 0.62), (0.73, 0.78), (0.62, 0.98), (0.02, 0.98), (0.08, 0.62),
        (0.22, 0.46), (0.33, 0.32),
    ],
    "coffee": [
        (0.28, 0.20), (0.34, 0.08), (0.48, 0.04), (0.62, 0.09), (0.68, 0.22), (0.66, 0.40),
        (0.60, 0.58), (0.42, 0.76), (0.33, 0.72), (0.32, 0.52),
    ],
    "chelsea": [
        (0.08, 0.02), (0.68, 0.02), (0.80, 0.20), (0.80, 0.45), (0.72, 0.72), (0.58, 0.93),
        (0.35, 0.93), (0.02, 0.75), (0.02, 0.25),
    ],
}  # fmt: skip


def heads(network: str, classes: int, size: int, **options: Any) -> dict[str, Any]:
    """Functions that build each head on a network, for images of ``size`` pixels."""

    def body(stages: Any, output_stride: int = 32) -> Backbone:
        return Backbone(get_model(network, output_stride=output_stride, **options), stages)

    def fpn() -> Any:  # with weights=..., frozen norms and three trainable layers
        return fpn_backbone(network, **options)

    def ssd() -> Any:  # finds the channels of the maps by itself
        maps = body(stages=(2, 3, 4))
        return SSD(maps, DefaultBoxGenerator([[2]] * len(maps.channels)), (size, size), classes)

    def segmenter(kind: Any, head: Any) -> Any:
        maps = body({"layer3": "aux", "layer4": "out"}, output_stride=8)
        aux, out = maps.channels
        return kind(maps, head(out, classes), FCNHead(aux, classes))

    def lraspp() -> Any:
        maps = body({2: "low", 4: "high"}, output_stride=16)
        return LRASPP(maps, *maps.channels, classes)

    sizes = {"min_size": size, "max_size": size}
    few: dict[str, Any] = {  # proposals, of the 1000 to 2000 that real training takes
        "rpn_post_nms_top_n_train": 100,
        "rpn_post_nms_top_n_test": 50,
        "box_batch_size_per_image": 32,
        "box_detections_per_img": 5,
    }
    return {
        "FasterRCNN": lambda: FasterRCNN(fpn(), classes, **sizes, **few),
        "RetinaNet": lambda: RetinaNet(fpn(), classes, **sizes),
        "MaskRCNN": lambda: MaskRCNN(fpn(), classes, **sizes, **few),
        "SSD": ssd,
        "DeepLabV3": lambda: segmenter(DeepLabV3, DeepLabHead),
        "FCN": lambda: segmenter(FCN, FCNHead),
        "LRASPP": lraspp,
    }


def photographs(size: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """``[3, 3, size, size]`` from 0 to 1, and boxes, labels and masks as detectors take them."""
    import skimage.data
    from skimage.draw import polygon2mask

    images, targets = [], []
    for label, (name, corners) in enumerate(OUTLINES.items(), 1):
        photograph = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) / 255
        images.append(F.interpolate(photograph[None], (size, size), mode="area")[0])
        mask = torch.from_numpy(
            polygon2mask((size, size), [(y * size, x * size) for x, y in corners])
        )
        xs, ys = mask.any(0).nonzero(), mask.any(1).nonzero()
        box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        labels = torch.tensor([label])
        targets.append({"boxes": box[None], "labels": labels, "masks": mask[None].byte()})
    return torch.stack(images), targets


def loss_of(model: torch.nn.Module, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """The loss of a head in training: the sum of a detector's own, or that of the pixels."""
    if isinstance(model, DETECTORS):
        losses: list[Tensor] = list(model([*images], targets).values())
        return torch.stack(losses).sum()
    truth = torch.stack([t["masks"][0].long() * t["labels"] for t in targets])
    normalised = (images - 0.45) / 0.225  # detectors do this themselves
    return sum((F.cross_entropy(out, truth) for out in model(normalised).values()), torch.zeros(()))


def train(model: torch.nn.Module, images: Tensor, targets: Any, steps: int) -> list[float]:
    """The loss of every step."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-4)
    losses = []
    for _ in range(steps):
        loss = loss_of(model.train(), images, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def drawn(model: torch.nn.Module, images: Tensor) -> Tensor:
    """The photographs with what a trained head finds on them, side by side."""
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

    colours, pictures = ["black", "orange", "cyan", "magenta"], []
    detects = isinstance(model, DETECTORS)
    found = model.eval()([*images] if detects else (images - 0.45) / 0.225)
    for index, picture in enumerate(images.mul(255).byte()):
        if not detects:
            classes = found["out"][index].argmax(0)
            masks = torch.stack([classes == label for label in range(1, len(CLASSES))])
            pictures.append(draw_segmentation_masks(picture, masks, 0.6, colours[1:]))
            continue
        best = {key: value[found[index]["scores"] > 0.5] for key, value in found[index].items()}
        shown = [colours[label] for label in best["labels"]]
        words = [
            f"{CLASSES[c]} {s:.2f}" for c, s in zip(best["labels"], best["scores"], strict=True)
        ]
        if shown and "masks" in best:
            picture = draw_segmentation_masks(picture, best["masks"][:, 0] > 0.5, 0.6, shown)
        if shown:
            filled = {
                "label_background_colors": shown,
                "label_colors": "black",
                "fill_labels": True,
            }
            picture = draw_bounding_boxes(picture, best["boxes"], words, shown, width=2, **filled)
        pictures.append(picture)
    return make_grid(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="pyconvresnet18", help="a network of the zoo")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=128, help="pixels of the images")
    parser.add_argument("--heads", nargs="+", help="only these, such as FasterRCNN")
    parser.add_argument("--picture", type=Path, help="a file for what the trained heads find")
    arguments = parser.parse_args()

    images, targets = photographs(arguments.size)
    rows = {}
    for name, build in heads(arguments.model, len(CLASSES), arguments.size).items():
        if arguments.heads and name not in arguments.heads:
            continue
        torch.manual_seed(0)
        model = build()
        losses = train(model, images, targets, arguments.steps)
        print(f"{name:10} loss {losses[0]:6.3f} -> {losses[-1]:6.3f}", flush=True)
        if arguments.picture:
            rows[name] = drawn(model, images)
    if arguments.picture:
        import matplotlib.pyplot as plt

        lines = math.ceil(len(rows) / 2)
        figure, axes = plt.subplots(lines, 2, figsize=(8, 1.55 * lines), squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for ax, (name, row) in zip(axes.flat, rows.items(), strict=False):
            ax.imshow(row.permute(1, 2, 0))
            ax.set_title(name, fontsize=9, pad=3)
        figure.tight_layout(pad=0.3)
        figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
