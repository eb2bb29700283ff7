"""
Pyramids in a U-Net and in a YOLO block
=======================================

``PyConv2d`` goes where a 3x3 convolution is, and ``convert`` puts it there in networks that others
wrote. This page does both: a small U-Net that fills holes in photographs is trained with plain
convolutions and with pyramids, and a block of a YOLO detector is written with a pyramid. How far
each network sees is measured and drawn.
"""

# sphinx_gallery_thumbnail_number = 3

import copy
from collections import OrderedDict

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as tv

import pyconv

torch.manual_seed(0)


# %%
# A U-Net
# -------
#
# Two steps down, two steps up, with a bridge between maps of one size. It knows nothing of
# pyramids.


def convs(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    def __init__(self, widths=(32, 64, 128)):
        super().__init__()
        fine, middle, coarse = widths
        self.down1, self.down2, self.bottom = (
            convs(3, fine),
            convs(fine, middle),
            convs(middle, coarse),
        )
        self.up2, self.up1 = convs(coarse + middle, middle), convs(middle + fine, fine)
        self.last = nn.Conv2d(fine, 3, 1)

    def forward(self, x):
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.up1(torch.cat([F.interpolate(middle, scale_factor=2.0), fine], 1))
        return x + self.last(fine)


plain = UNet()

# %%
# The same with pyramids
# ----------------------
#
# ``convert`` replaces the 3x3 convolutions but for the first, chooses groups that divide their
# channels, and says what it did. A pyramid never has more parameters than the convolution had.

pyramids = copy.deepcopy(plain)
print(pyconv.convert(pyramids, kernels=(3, 5, 7)))

# %%
# Both learn
# ----------
#
# The photographs are two that come with scikit-learn. Patches of the temple are for training, the
# flower is for testing. A fifth of all squares of 8x8 pixels are black.

temple, flower = (
    tv.to_tensor(Image.fromarray(load_sample_image(name))) for name in ("china.jpg", "flower.jpg")
)


def patches(photograph, count, generator, side=48):
    rows = torch.randint(photograph.shape[1] - side, (count,), generator=generator).tolist()
    columns = torch.randint(photograph.shape[2] - side, (count,), generator=generator).tolist()
    return torch.stack([photograph[:, y : y + side, x : x + side] for y, x in zip(rows, columns)])


def holes(clean, generator):
    count, _, height, width = clean.shape
    kept = torch.rand(count, 1, height // 8, width // 8, generator=generator) > 0.2
    return clean * F.interpolate(kept.float(), scale_factor=8.0)


def train(network, steps=120):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for _ in range(steps):
        clean = patches(temple, 8, generator)
        loss = F.mse_loss(network(holes(clean, generator)), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


clean = flower[None, :, :400, :600]
black = holes(clean, torch.Generator().manual_seed(1))
shown = {"holes": black}
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, network in (("3x3", plain), ("pyramids", pyramids)):
    axes.plot(train(network), label=name)
    with torch.no_grad():
        shown[name] = network.eval()(black)
axes.set(xlabel="step", ylabel="squared error", yscale="log")
axes.legend()
for name, picture in shown.items():
    print(f"{name}: squared error {F.mse_loss(picture, clean):.4f} on the flower")

# %%

panels, row = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axes, (name, picture) in zip(row, shown.items()):
    axes.imshow(picture[0, :, 80:320, 120:480].clamp(0, 1).permute(1, 2, 0))
    axes.set_title(name)
    axes.axis("off")

# %%
# 120 steps and one seed do not show which is better: the point is that both learn, with the same
# code.
#
# How far they see
# ----------------
#
# The effective receptive field is how much each pixel of an image moves the centre of a map. The
# deepest convolutions of both networks, side by side:

figure = pyconv.viz.receptive_field(
    plain,
    pyramids,
    stage="bottom",
    size=96,
    names=["3x3", "pyramids"],
    title="U-Nets after 120 steps",
)
figure

# %%
# A block of a YOLO detector
# --------------------------
#
# The backbones of YOLO networks are built of blocks that compute on half of the channels and
# concatenate what each step gave. The 3x3 convolution of such a step becomes a pyramid by its
# name. ``PyConv2d`` takes numbers of channels, chooses its groups, and pads itself.


class Bottleneck(nn.Module):
    def __init__(self, channels, conv):
        super().__init__()
        self.cv1 = nn.Sequential(conv(channels, channels), nn.BatchNorm2d(channels), nn.SiLU())
        self.cv2 = nn.Sequential(conv(channels, channels), nn.BatchNorm2d(channels), nn.SiLU())

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class CSPBlock(nn.Module):
    def __init__(self, channels, steps, conv):
        super().__init__()
        half = channels // 2
        self.cv1 = nn.Conv2d(channels, channels, 1)
        self.steps = nn.ModuleList(Bottleneck(half, conv) for _ in range(steps))
        self.cv2 = nn.Conv2d(half * (steps + 2), channels, 1)

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


def conv3x3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def pyramid(inputs, outputs):
    return pyconv.PyConv2d(inputs, outputs, pyconv_kernels=(3, 5, 7))


blocks = [CSPBlock(64, 2, conv) for conv in (conv3x3, pyramid)]
for block in blocks:
    parameters = sum(parameter.numel() for parameter in block.parameters())
    print(f"{parameters:,} parameters, {tuple(block(torch.randn(1, 64, 40, 40)).shape)}")

figure = pyconv.viz.receptive_field(
    *(nn.Sequential(OrderedDict(stem=conv3x3(3, 64), block=block)) for block in blocks),
    stage="block",
    size=48,
    names=["3x3", "pyramids"],
    title="untrained blocks",
)
figure
