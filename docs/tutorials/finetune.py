"""
Train on your own folder of images
==================================

A folder of images becomes a trained network: split it, train, stop, go on, and look at the curves
and at what goes wrong. The images are 1,797 handwritten digits (from scikit-learn), so that all of
this takes a minute or two without a GPU. For photographs, take ``pyconvresnet50`` with
``weights="DEFAULT"``, and leave out ``crop`` and ``resize``: they are 28 pixels for these digits.
"""

# sphinx_gallery_thumbnail_number = 2

import csv
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_digits

import pyconv
from pyconv.data import find_images, make_loader
from pyconv.evaluate import evaluate
from pyconv.train import Recipe, TrainOptions, train

work = Path(tempfile.mkdtemp())

# %%
# The images
# ----------
#
# Training wants a folder with ``train/`` and ``val/``, and in each of them a folder for each class.
# Here a fifth of the images of each class goes to ``val/``. The seed makes the split the same
# whenever the script is run.

digits = load_digits()
for label in range(10):
    images = digits.images[digits.target == label]
    order = list(range(len(images)))
    random.Random(0).shuffle(order)
    for place, index in enumerate(order):
        split = "val" if place < len(images) // 5 else "train"
        folder = work / "digits" / split / f"digit-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((images[index] * 255 / 16).astype("uint8"))
        picture.resize((28, 28)).save(folder / f"{index}.png")

found = find_images(work / "digits" / "train")
print(found.finding)

# %%
# A first training, interrupted
# -----------------------------
#
# A recipe says what is learned, options say how it is computed. ``lr`` belongs to ``batch_size``:
# half the images per step take half the rate. ``time_limit`` stops this run after ten seconds, as
# Ctrl-C would at any time.

recipe = Recipe(
    epochs=4,
    batch_size=64,
    lr=0.05,
    schedule="cosine",
    warmup=1,
    flip=0,  # a mirrored digit is none
    crop=28,
    resize=28,
    min_scale=0.6,
)
data, run = work / "digits", work / "run"
summary = train(
    data,
    run,
    model="pyconvresnet_tiny",
    recipe=recipe,
    options=TrainOptions(workers=0, device="cpu", time_limit=10),
)
print(f"{summary.epochs} of {recipe.epochs} epochs are done; exit code {summary.exit_code}")

# %%
# Go on
# -----
#
# The same call goes on from the last save, and ends with the weights of a run that was never
# stopped. On the command line it is the same:
#
# .. code-block:: console
#
#    $ pyconv-train digits --model pyconvresnet_tiny --output run --epochs 4 --batch-size 64 \
#          --lr 0.05 --schedule cosine --warmup 1 --flip 0 --crop 28 --resize 28 --min-scale 0.6

options = TrainOptions(workers=0, device="cpu")
summary = train(
    data,
    run,
    model="pyconvresnet_tiny",
    recipe=recipe,
    options=options,
)
print(f"{summary.best_top1:.1f} % of the validation images are right")

# %%
# Fine-tune
# ---------
#
# A network that has seen other images learns faster. ``weights`` may be published weights or a
# checkpoint. Here they are those of the sample, which was trained on photographs of clothes. With
# other classes the classifier starts anew. Starting from weights takes a lower rate, fewer epochs.

gentle = replace(recipe, epochs=2, lr=0.02)
tuned = train(
    data,
    work / "tuned",
    model="pyconvresnet_tiny",
    recipe=gentle,
    options=options,
    weights=pyconv.PyConvResNetTiny_Weights.FASHION_MNIST,
)
print(f"{tuned.best_top1:.1f} % of the validation images are right")

# %%
# Curves
# ------
#
# Each run writes ``log.csv`` with a row per epoch (and draws it into ``curves.png``).


def column(folder, name):
    with (folder / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


figure, axes = plt.subplots(figsize=(6, 3.2))
for folder, name in ((run, "from scratch"), (work / "tuned", "from weights")):
    top1 = column(folder, "val_top1")
    axes.plot(range(1, len(top1) + 1), top1, marker="o", label=name)
axes.set(xlabel="epoch", ylabel="top-1, %", ylim=(0, 100))
axes.legend()
figure.tight_layout()

# %%
# What goes wrong
# ---------------
#
# ``best.pt`` knows its network, its classes and how images are prepared, so that
# ``pyconv-eval digits/val --checkpoint tuned/best.pt`` needs no more words, and neither does
# ``pyconv.load``. ``evaluate`` counts, and can keep the most likely classes of each image.

val = find_images(data / "val")
model = pyconv.load(work / "tuned" / "best.pt")
pixels = model.transforms()
loader = make_loader(val, pixels, batch_size=64, workers=0)
metrics = evaluate(model, loader, normalise=pixels.normalise, predictions=True)
print(f"top-1 {metrics.top1:.1f} % of {metrics.images} images")

confusion = torch.zeros(10, 10, dtype=torch.int64)
for index, (first, *_) in metrics.predictions:
    confusion[val.samples[index][1], first] += 1

figure, axes = plt.subplots(figsize=(4, 4))
axes.imshow(confusion, cmap="Blues")
for row in range(10):
    for place in range(10):
        if count := int(confusion[row, place]):
            colour = "white" if count > 20 else "black"
            axes.text(place, row, str(count), ha="center", va="center", color=colour)
axes.set(xlabel="what the network says", ylabel="what it is")
axes.set(xticks=range(10), yticks=range(10))
figure.tight_layout()
