"""
A detector on images of four channels
=====================================

Cameras on aircraft and on robots give more than red, green and blue: a near infrared, a heat or a
depth channel. This page puts a pyramidal network into a detector of torchvision, gives it images of
four channels, and trains it until it finds boxes.

The images are made for this page: three channels are a piece of a photograph, the fourth shows
handwritten digits, as a heat camera shows what the eye does not see. The detector has to find them.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch.nn import functional as F
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_tensor
from torchvision.utils import draw_bounding_boxes

from pyconv.integrations.torchvision import fpn_backbone

torch.manual_seed(0)

# %%
# Scenes
# ------
#
# Each scene has two digits, 0 or 1, in the fourth channel. A target is what every detector of
# torchvision takes: boxes in pixels, and labels; 0 is the background.

SIDE, CLASSES = 96, ("background", "zero", "one")
photograph = to_tensor(Image.fromarray(load_sample_image("china.jpg")))
digits = load_digits(n_class=2)


def scene(generator):
    def random(high):
        return int(torch.randint(high, (), generator=generator))

    top, left = random(photograph.shape[1] - SIDE), random(photograph.shape[2] - SIDE)
    colours = photograph[:, top : top + SIDE, left : left + SIDE]
    heat = 0.1 * torch.rand(1, SIDE, SIDE, generator=generator)
    boxes, labels = [], []
    for half in range(2):
        index, size = random(len(digits.images)), 24 + random(17)
        digit = torch.from_numpy(digits.images[index]).float()[None, None] / 16
        digit = F.interpolate(digit, (size, size), mode="bilinear")[0]
        y, x = random(SIDE - size), half * SIDE // 2 + random(SIDE // 2 - size)
        heat[:, y : y + size, x : x + size] += digit
        boxes.append([x, y, x + size, y + size])
        labels.append(1 + int(digits.target[index]))
    image = torch.cat([colours, heat.clamp(0, 1)])
    return image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}


def scenes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return zip(*(scene(generator) for _ in range(count)))


images, targets = scenes(4, seed=1)
figure, axes = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
for column, image in enumerate(images):
    axes[0, column].imshow(image[:3].permute(1, 2, 0))
    axes[1, column].imshow(image[3], cmap="inferno")
for axis in axes.flat:
    axis.axis("off")

# %%
# The detector
# ------------
#
# ``in_channels=4`` makes a stem of four channels. Here it starts untrained, and all layers are
# trained. With published weights (``weights=``), ``fpn_backbone`` would freeze the first layers, as
# torchvision's builders do, and the fourth channel would start with the values of red.
#
# The detector itself must hear of the fourth channel in one place: a mean and a standard deviation
# for each channel. The anchors of an FCOS are the strides of
# its maps.

backbone = fpn_backbone("pyconvresnet_tiny", in_channels=4, returned_layers=[4])
detector = FCOS(
    backbone,
    num_classes=len(CLASSES),
    anchor_generator=AnchorGenerator(((8,), (16,)), ((1.0,), (1.0,))),
    min_size=SIDE,
    max_size=SIDE,
    image_mean=[0.5, 0.5, 0.5, 0.2],
    image_std=[0.25, 0.25, 0.25, 0.3],
)

# %%
# Training
# --------

generator = torch.Generator().manual_seed(0)
optimizer = torch.optim.AdamW(detector.parameters(), 2e-3, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=100)
losses = []
detector.train()
for _ in range(100):
    batch = [scene(generator) for _ in range(6)]
    loss = sum(detector([image for image, _ in batch], [target for _, target in batch]).values())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {sum(losses[-10:]) / 10:.2f}")

# %%
# What it finds
# -------------
#
# New scenes, with the boxes that have a score above 0.5. They are drawn on the fourth channel.

detector.eval()
images, targets = scenes(40, seed=2)
with torch.inference_mode():
    found = detector(list(images))

hits, total, false = 0, 0, 0
for result, target in zip(found, targets):
    sure = result["scores"] > 0.5
    overlaps = box_iou(target["boxes"], result["boxes"][sure])
    same = target["labels"][:, None] == result["labels"][sure]
    right = (overlaps > 0.5) & same
    hits, total = hits + int(right.any(1).sum()), total + len(target["boxes"])
    false += int((~right.any(0)).sum())
print(f"{hits} of {total} digits found, {false} boxes too many")

figure, axes = plt.subplots(1, 4, figsize=(8, 2.2), layout="constrained")
for axis, image, result in zip(axes, images, found):
    sure = result["scores"] > 0.5
    names = [CLASSES[label] for label in result["labels"][sure]]
    grey = (255 * image[3:].expand(3, -1, -1)).byte()
    axis.imshow(
        draw_bounding_boxes(grey, result["boxes"][sure], names, colors="cyan").permute(1, 2, 0)
    )
    axis.axis("off")
