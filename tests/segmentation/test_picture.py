"""overlay(): the colours of the classes over the photograph, and the names of what is seen."""

from __future__ import annotations

import numpy as np
import photos
import pytest
import torch
from PIL import Image

from pyconv.data import ade20k
from pyconv.segmentation import overlay
from pyconv.segmentation.picture import shares


def test_ade20ks_classes_and_colours() -> None:
    names, colors = ade20k.class_names(), ade20k.colors()
    assert len(names) == len(set(names)) == len(colors) == 150
    assert (names[0], names[2], names[149]) == ("wall", "sky", "flag")
    assert colors[0] == (120, 120, 120) and colors[2] == (6, 230, 230)
    assert all(0 <= n <= 255 for color in colors for n in color)


def test_each_pixel_is_tinted_by_its_class() -> None:
    photo = photos.picture(0, 40, 30)
    classes = torch.zeros(30, 40, dtype=torch.long)
    classes[:10], classes[20:] = 2, -1
    drawn = np.asarray(overlay(photo, classes, alpha=0.5, legend=False)).astype(int)
    pixels, colors = np.asarray(photo).astype(int), ade20k.colors()
    for rows, number in ((slice(0, 10), 2), (slice(10, 20), 0)):
        assert abs(drawn[rows] - (pixels[rows] + np.array(colors[number])) / 2).max() <= 1
    assert (drawn[20:] == pixels[20:]).all()  # no class


def test_the_legend_names_what_is_seen_largest_first() -> None:
    classes = torch.zeros(40, 50, dtype=torch.long)
    classes[:30], classes[39] = 2, 7
    assert shares(classes, ade20k.class_names()) == {
        "sky": {"pixels": 1500, "share": 75.0},
        "wall": {"pixels": 450, "share": 22.5},
        "bed": {"pixels": 50, "share": 2.5},
    }
    photo = photos.picture(0, 50, 40).convert("L")
    drawn = overlay(photo, classes)
    assert drawn.width > 100 and drawn.mode == "RGB"
    legend = drawn.crop((50, 0, drawn.width, drawn.height))
    tops = {}
    for number in (2, 0, 7):
        rows = np.argwhere((np.asarray(legend) == ade20k.colors()[number]).all(-1))[:, 0]
        tops[number] = rows.min()
    assert list(tops) == sorted(tops, key=tops.__getitem__)


def test_a_legend_of_many_classes_ends_with_how_many_more() -> None:
    classes = torch.arange(150).repeat(100, 2)
    drawn = overlay(Image.new("RGB", (300, 100)), classes)
    assert drawn.height < 300  # not a line for each


def test_tensors_and_names_of_ones_own() -> None:
    classes = torch.ones(3, 4, dtype=torch.long)
    drawn = overlay(torch.zeros(3, 3, 4, dtype=torch.uint8), classes, ["a", "b"], [(9, 9, 9)] * 2)
    assert drawn.size > (4, 3)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (torch.zeros(5, 6), r"classes \[5, 6\] must be \[6, 5\]"),
        (torch.full((6, 5), 150), "Class 150 has no name or colour: there are 150"),
    ],
)
def test_wrong_use_is_one_sentence(classes: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        overlay(Image.new("RGB", (5, 6)), classes)
