"""
A segmenter of your own classes
===============================

PyConvSegNet gives a class to each pixel. Here its head learns eleven classes over a network that
stays as it is, on images with label maps that are made on the spot, in a minute without a GPU.

The 1,000 photographs of :doc:`/sample` show one piece of clothing each, on a background that is
exactly 0. So their own pixels say which of them are the thing. A mosaic lays four of them side by
side; its label map has the class of the photograph where the photograph is not 0.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

import pyconv

torch.manual_seed(0)
weights = pyconv.PyConvResNetTiny_Weights.FASHION_MNIST
names = ["background", *weights.meta["categories"]]

# %%
# Images and label maps
# ---------------------
#
# 70 photographs of each class are for training and 30 for testing; no photograph is in mosaics of
# both. Images are ``[N, 1, 57, 57]``, label maps ``[N, 57, 57]`` with whole numbers from 0.

sample = sorted(weights.path.with_name("images").glob("*/*.png"))
photographs = torch.cat([pil_to_tensor(Image.open(path)) for path in sample])
things = torch.tensor([1 + int(path.parent.name.split("-")[0]) for path in sample])
for_test = torch.arange(len(things)) % 100 >= 70


def mosaics(which, number, seed, side=2):
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(number, 1, 28 * side + 1, 28 * side + 1)
    maps = torch.zeros(number, 28 * side + 1, 28 * side + 1, dtype=torch.long)
    for image, labels in zip(images, maps):
        for place, index in enumerate(
            which[torch.randint(len(which), (side**2,), generator=generator)].tolist()
        ):
            top, left = 28 * (place // side), 28 * (place % side)
            photograph = photographs[index]
            image[0, top : top + 28, left : left + 28] = photograph / 255
            labels[top : top + 28, left : left + 28] = things[index] * (photograph > 0)
    return images, maps


images, maps = mosaics((~for_test).nonzero()[:, 0], 200, seed=1)
new_images, new_maps = mosaics(for_test.nonzero()[:, 0], 40, seed=2)

# %%
# The network
# -----------
#
# Any network of the zoo can be the backbone. This one was trained to classify the same kind of
# photographs. With the published weights it is ``pyconvsegnet_pyconvresnet50(pretrained=True,
# num_classes=11)``, which keeps what was learned of ADE20K but for the last convolution.

backbone = pyconv.pyconvresnet_tiny(pretrained=True).requires_grad_(False)
model = pyconv.PyConvSegNet(backbone, num_classes=len(names))
normalise = weights.transforms().normalise


@torch.inference_mode()
def predicted():
    return model.eval()(normalise(new_images))["out"].argmax(1)


def mean_iou(classes):
    pairs = [(classes == number, new_maps == number) for number in range(len(names))]
    return 100 * sum(float((a & b).sum() / (a | b).sum()) for a, b in pairs) / len(names)


before = mean_iou(predicted())

# %%
# Training
# --------
#
# Two losses, as in the paper: that of the result, and 0.4 times that of an auxiliary head, which is
# there in training only. The norms of the backbone keep their statistics.

steps = 60
optimizer = torch.optim.SGD(
    [p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-4
)
schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
generator = torch.Generator().manual_seed(0)
losses = []
for _ in range(steps):
    model.train()
    for part in (*model.stem, *model.stages):
        part.eval()
    some = torch.randint(len(images), (8,), generator=generator)
    result = model(normalise(images[some]))
    loss = F.cross_entropy(result["out"], maps[some])
    loss = loss + 0.4 * F.cross_entropy(result["aux"], maps[some])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())

curve, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.plot(losses)
axes.set(xlabel="step", ylabel="loss", ylim=(0, None))

# %%
# How good is it?
# ---------------
#
# The mean IoU over all classes, on mosaics of photographs that the training did not show, beside
# what the untrained head had, and what one gets by calling everything background.

classes = predicted()
print(f"mean IoU {mean_iou(classes):.1f} %, before training {before:.1f} %")
print(f"all background: {mean_iou(torch.zeros_like(new_maps)):.1f} %")

# %%
# One mosaic, its label map, and what is found in it. For large photographs,
# ``pyconv.segmentation.predict`` slides a window, mirrors, and takes the mean over several sizes.

panels, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
axes[0].imshow(new_images[0, 0].numpy(), cmap="gray")
colours = plt.get_cmap("tab20", len(names))
for axis, labels in zip(axes[1:], (new_maps[0], classes[0])):
    shown = axis.imshow(labels.numpy(), cmap=colours, vmin=-0.5, vmax=len(names) - 0.5)
for axis, title in zip(axes, ("photographs", "label map", "found")):
    axis.set_title(title)
    axis.axis("off")
legend = panels.colorbar(shown, ax=axes, ticks=range(len(names)))
legend.ax.set_yticklabels(names)
