"""
Classify a photograph
=====================

A photograph goes in, words come out. This page needs no download: its network is
``pyconvresnet_tiny``, which comes with the library and knows ten kinds of clothes. With a
connection, ``pyconv.load("pyconvresnet50")`` knows the 1,000 classes of ImageNet, and no other line
changes.
"""

# sphinx_gallery_thumbnail_number = 1

import tempfile
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import pyconv
from pyconv.predict import predict

# %%
# A model that knows its classes
# ------------------------------
#
# ``load`` takes the name of a network, a member of its weights, or a file such as ``best.pt``. The
# model is in eval mode, and knows the names of its classes and how its images are prepared.

model = pyconv.load("pyconvresnet_tiny")
print(", ".join(model.classes))
print(model.transforms())

# %%
# From photographs to words
# -------------------------
#
# Three photographs of the sample, which also comes with the library. Paths, PIL images and tensors
# are all welcome, one or many.

images = pyconv.PyConvResNetTiny_Weights.FASHION_MNIST.path.with_name("images")
paths = [next(images.glob(f"{name}/*.png")) for name in ("1-trouser", "5-sandal", "8-bag")]
for path, best in zip(paths, predict(model, paths, topk=3)):
    words = ", ".join(f"{guess.probability:.1%} {guess.name}" for guess in best)
    print(f"{path.parent.name}: {words}")

# %%
# The same on a sheet:

figure = pyconv.viz.predictions(model, paths)
figure

# %%
# On the command line it is one line, and ``--json`` writes the result into a file:
#
# .. code-block:: console
#
#    $ pyconv-predict *.png --model pyconvresnet_tiny --json words.json
#
# What it does not know
# ---------------------
#
# A network names one of its classes, whatever it is shown. A photograph of a flower:

flower = Image.fromarray(load_sample_image("flower.jpg"))
best = predict(model, flower, topk=3)[0]
print(*(f"{guess.probability:.1%} {guess.name}" for guess in best), sep=", ")

# %%
# Step by step
# ------------
#
# ``predict`` does what these four lines do. ``transforms()`` resizes, crops and brings the numbers
# to the scale that the network was trained with.

batch = model.transforms()(flower).unsqueeze(0)
with torch.inference_mode():
    probabilities = model(batch).softmax(1)
print(tuple(batch.shape), f"{probabilities.max():.1%}", model.classes[int(probabilities.argmax())])

# %%
# What the first pyramid sees
# ---------------------------
#
# Each level of a pyramid has a kernel size of its own. For the photograph below, the level of 3x3
# follows fine lines, and those of larger kernels follow larger shapes.

work = Path(tempfile.mkdtemp())
flower.save(work / "flower.jpg")
figure = pyconv.viz.responses(model, work / "flower.jpg", channels=2)
figure
