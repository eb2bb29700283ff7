"""A head that learns: PyConvSegNet over the frozen network of the sample, on mosaics of its images.

    python docs/segmentation_example.py            # some minutes on two cores
    python docs/segmentation_example.py --steps 300 --json out.json

The 1,000 photographs of the sample (Fashion-MNIST: grey, 28x28) come with the library. Each shows
one thing on a background that is exactly 0, so its own pixels say which of them are the thing. A
mosaic lays some photographs side by side on black, shifted at random; its label map has the class
of the photograph where the photograph is not 0, and "background" elsewhere. Mosaics for testing are
made of photographs that no mosaic for training shows, and the network below the head has seen
neither. Writes the curve and what is found in a mosaic into docs/figures, and prints the figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import pyconv
from pyconv.data import decode, find_images
from pyconv.segmentation import PixelMetrics, overlay
from pyconv.segmentation.counts import count
from pyconv.weights.rows import sample_file

FIGURES = Path(__file__).parent / "figures"
SIDE = 28  # pixels of a photograph
SHIFT = 3  # pixels that a photograph is moved by at most
WEIGHTS = pyconv.PyConvResNetTiny_Weights.DEFAULT
NAMES = ("background", *WEIGHTS.meta["categories"])
COLORS = [
    (0, 0, 0), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
]  # fmt: skip


def photographs() -> tuple[Tensor, Tensor]:
    """The photographs of the sample, uint8 ``[1000, 28, 28]``, and their classes from 1."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    images = find_images(sample_file("images"))
    pixels = [pil_to_tensor(decode(images.read(n), channels=1))[0] for n in range(1000)]
    return torch.stack(pixels), torch.tensor([label + 1 for _, label in images.samples])


def mosaics(
    pixels: Tensor, labels: Tensor, count: int, tiles: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mosaics of ``tiles`` by ``tiles`` photographs: uint8 [N, 1, S, S], and their label maps."""
    random = torch.Generator().manual_seed(seed)
    size = tiles * SIDE + 1
    images = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    maps = torch.zeros(count, size, size, dtype=torch.long)
    for n in range(count):
        for place in range(tiles**2):
            which = int(torch.randint(len(pixels), (), generator=random))
            moves = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=random).tolist()
            top, left = (
                min(max(where * SIDE + move, 0), size - SIDE)
                for where, move in zip(divmod(place, tiles), moves, strict=True)
            )
            here = (slice(top, top + SIDE), slice(left, left + SIDE))
            thing = pixels[which] > 0
            images[n, 0][here][thing] = pixels[which][thing]
            maps[n][here][thing] = labels[which]
    return images, maps


def network() -> pyconv.PyConvSegNet:
    """An untrained head over the sample's network, which stays as it is."""
    backbone = pyconv.pyconvresnet_tiny(pretrained=True)
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    return pyconv.PyConvSegNet(backbone, len(NAMES))


def learn(
    model: pyconv.PyConvSegNet, images: Tensor, maps: Tensor, steps: int, batch: int
) -> list[float]:
    """Train the head with the paper's losses and falling rate; the loss of each step."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1, momentum=0.9, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    normalise, losses = WEIGHTS.transforms().normalise, []
    order = torch.Generator().manual_seed(0)
    model.train()
    for part in (*model.stem, *model.stages):
        part.eval()  # the norms of the backbone keep their statistics
    for _ in range(steps):
        some = torch.randint(len(images), (batch,), generator=order)
        result = model(normalise(images[some]))
        loss = F.cross_entropy(result["out"], maps[some])
        loss = loss + 0.4 * F.cross_entropy(result["aux"], maps[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        losses.append(float(loss.detach()))
    return losses


@torch.inference_mode()
def found(model: pyconv.PyConvSegNet, images: Tensor) -> Tensor:
    """The class of each pixel, ``[N, S, S]``."""
    normalise = WEIGHTS.transforms().normalise
    model.eval()
    return torch.cat([model(normalise(some))["out"].argmax(1) for some in images.split(8)])


def measure(classes: Tensor, maps: Tensor) -> PixelMetrics:
    """The figures of what was found."""
    counts = count(classes, maps, len(NAMES))
    return PixelMetrics(len(maps), tuple(map(tuple, counts.tolist())), seconds=1.0)


def draw(losses: list[float], image: Tensor, labels: Tensor, classes: Tensor) -> None:
    """Both pictures of docs/segmentation.md."""
    from matplotlib import pyplot
    from PIL import Image

    figure, axis = pyplot.subplots(figsize=(6, 2.6), layout="constrained")
    axis.plot(losses, color="#1f77b4")
    axis.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / "segmentation_loss.png", dpi=100)

    def large(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(3, -1).repeat_interleave(3, -2)

    photo = large(image).expand(3, -1, -1)
    parts = [
        overlay(photo, torch.full(photo.shape[1:], -1), legend=False),
        overlay(photo, large(labels), NAMES, COLORS, legend=False),
        overlay(photo, large(classes), NAMES, COLORS),
    ]
    canvas = Image.new("RGB", (sum(p.width + 8 for p in parts), parts[-1].height), "white")
    left = 0
    for part in parts:
        canvas.paste(part, (left, 0))
        left += part.width + 8
    canvas.save(FIGURES / "segmentation.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    pixels, labels = photographs()
    test = torch.arange(len(pixels)) % 100 >= 70  # 30 photographs of each class
    images, maps = mosaics(pixels[~test], labels[~test], 400, args.tiles, seed=1)
    new_images, new_maps = mosaics(pixels[test], labels[test], 50, args.tiles, seed=2)
    model = network()
    before = measure(found(model, new_images), new_maps)
    losses = learn(model, images, maps, args.steps, batch=8)
    classes = found(model, new_images)
    after = measure(classes, new_maps)
    always = measure(torch.zeros_like(new_maps), new_maps)
    result = {
        "loss": [sum(losses[:5]) / 5, sum(losses[-5:]) / 5],
        "mean_iou": [before.mean_iou, after.mean_iou],
        "pixel_accuracy": [before.pixel_accuracy, after.pixel_accuracy],
        "mean_iou_of_background_alone": always.mean_iou,
        "iou": dict(zip(NAMES, after.iou, strict=True)),
    }
    print(json.dumps(result, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    draw(losses, new_images[0], new_maps[0], classes[0])


if __name__ == "__main__":
    main()
