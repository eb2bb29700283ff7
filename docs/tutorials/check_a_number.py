"""
Check a published number, offline
=================================

A table of accuracies is a claim. This page checks one without a network connection: the figure of
the small network that comes with the library. The published networks are checked with the same
calls, on a machine that has their files and the 50,000 validation images of ImageNet.
"""

# sphinx_gallery_thumbnail_number = 1

import csv
import json
import subprocess
import tempfile
from pathlib import Path

import pyconv
from pyconv.data import find_images, make_loader
from pyconv.evaluate import evaluate

work = Path(tempfile.mkdtemp())

# %%
# The claim
# ---------
#
# Every set of weights says what was claimed for it, and on which images. This one was measured on
# the 10,000 test images of Fashion-MNIST, of which 1,000 come with the library.

weights = pyconv.PyConvResNetTiny_Weights.FASHION_MNIST
print(json.dumps(weights.meta["_metrics"], indent=2))
claimed = weights.meta["acc@1"]

# %%
# Is the file the right one?
# --------------------------
#
# These weights come with the library, and so with its own files. Of weights that were downloaded or
# placed by hand, ``weights.verify()`` hashes and checks the file, and says how far it is trusted.
# :doc:`/weights` tells how files are brought to a machine without a connection.

print(weights.path.name, weights.path.stat().st_size, "bytes")

# %%
# One command
# -----------
#
# ``pyconv-eval`` prints what it counted, with the figure on record beside it. With ``--sample``,
# these are the images that come with the library. A folder of your own stands in its place:
# ``pyconv-eval /data/imagenet --model pyconvresnet50``.

command = ["pyconv-eval", "--sample", "--json", "result.json", "--predictions", "each.csv"]
done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
print(done.stdout)

# %%
# Count again
# -----------
#
# ``--predictions`` writes a line for each image. Who trusts no total counts these.

with (work / "each.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
print(rows[0])
right = sum(row["label"] == row["top1"] for row in rows)
print(f"{right} of {len(rows)} are right")

# %%
# Does it agree?
# --------------
#
# Suppose a network is right for a share ``p`` of all images. Of ``n`` images that are drawn at
# random, it is right for nearly the same share: in 95 % of the cases, the difference is less than
# two standard errors, ``2 * sqrt(p * (1 - p) / n)``. For 50,000 images that is 0.4 points.

share, n = claimed / 100, len(rows)
error = 2 * (share * (1 - share) / n) ** 0.5
print(f"counted {right / n:.2%}, claimed {share:.2%} +- {error:.2%}")

# %%
# From Python
# -----------
#
# The same in the library's own parts, which is what to change if a question is not in the
# command's flags: here, which classes are confused.

images = find_images(weights.path.with_name("images"))
model = pyconv.load(weights)
pixels = model.transforms()
metrics = evaluate(model, make_loader(images, pixels), normalise=pixels.normalise, predictions=True)
print(f"top-1 {metrics.top1:.2f} %, top-5 {metrics.top5:.2f} %, of {metrics.images} images")
figure = pyconv.viz.confusion_matrix(metrics, images=images)
figure

# %%
# All published sets at once
# --------------------------
#
# With the files in the cache and ImageNet on the disk, one command evaluates every published set at
# every crop that its authors claim a figure for, and writes a table with the differences:
#
# .. code-block:: console
#
#    $ pyconv-weights download --all
#    $ pyconv-eval /data/imagenet --published --markdown table.md
#
# The machine that has the images need not have a connection: ``pyconv-weights`` names the folder
# that the files go to.
