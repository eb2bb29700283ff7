"""Label maps: where they lie, what their numbers mean, and what is not counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import photos
import pytest
import segmentation_data
from PIL import Image

from pyconv.data import ade20k
from pyconv.segmentation import find_labelled_photos
from pyconv.segmentation.labels import read_labels, read_names


def save(path: Path, numbers: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(numbers)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_ade20ks_folders(tmp_path: Path) -> None:
    found = find_labelled_photos(segmentation_data.ade20k(tmp_path))
    assert len(found.samples) == 7
    assert found.names == ade20k.class_names()
    assert found.first == 1 and found.left_out == ()
    assert found.finding == "7 images with label maps of 150 classes, numbered from 1"
    image, labels = found.read(2)
    assert labels.shape == (image.height, image.width) == (48, 62)
    numbers = np.asarray(Image.open(found.samples[2][1])).astype(int)
    assert np.array_equal(labels.numpy(), numbers - 1)  # and -1 is none


@pytest.mark.parametrize("name", ["annotations", "labels", "masks"])
@pytest.mark.parametrize("split", ["", "val", "validation"])
def test_folders_of_ones_own(tmp_path: Path, name: str, split: str) -> None:
    for n in range(3):
        photos.write(
            tmp_path / "images" / split / "deep" / f"{n}.jpg", photos.encode(photos.picture(n))
        )
        labels = segmentation_data.label_map(n, 64, 48, [0, 1, 255])
        photos.write(tmp_path / name / split / "deep" / f"{n}.png", photos.encode(labels, "PNG"))
    photos.write(tmp_path / "images" / split / "alone.jpg", b"")
    photos.write(tmp_path / name / split / "lost.png", b"")
    found = find_labelled_photos(tmp_path, ["road", "sky"])
    assert len(found.samples) == 3 and found.first == 0
    assert [line.split(":")[0] for line in found.left_out] == [
        "1 .jpg file is left out, without a label map",
        "1 .png file is left out, without an image",
    ]
    assert {-1, 0, 1} >= set(found.read(0)[1].unique().tolist())


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16"])
def test_numbers_are_read_as_they_are(tmp_path: Path, mode: str) -> None:
    numbers = np.array([[0, 1, 2], [3, 255, 1]], dtype=np.uint8)
    image = Image.fromarray(numbers)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    elif mode != "L":
        image = Image.fromarray(numbers.astype(np.int32 if mode == "I" else np.uint16))
    path = tmp_path / ("a.tif" if mode == "I" else "a.png")
    image.save(path)
    assert read_labels(path, 4).tolist() == [[0, 1, 2], [3, -1, 1]]
    assert read_labels(path, 3, first=1).tolist() == [[-1, 0, 1], [2, -1, 0]]


def test_what_is_no_label_map_is_named(tmp_path: Path) -> None:
    colour = save(tmp_path / "colour.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"colour\.png is a picture in colour"):
        read_labels(colour, 4)
    beyond = save(tmp_path / "beyond.png", np.array([[0, 4, 5], [6, 7, 3]], np.uint8))
    with pytest.raises(ValueError, match=r"holds 4, 5, 6, \.\.\., and the classes are 0 to 3"):
        read_labels(beyond, 4)
    with pytest.raises(ValueError, match=r"holds 6, 7, and the classes are 1 to 5"):
        read_labels(beyond, 5, first=1)
    photos.write(tmp_path / "broken.png", b"\x89PNG and no more")
    with pytest.raises(ValueError, match=r"broken\.png is no image"):
        read_labels(tmp_path / "broken.png", 4)


def test_folders_without_label_maps_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder"):
        find_labelled_photos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no folders images and annotations"):
        find_labelled_photos(tmp_path)
    photos.write(tmp_path / "images/a.jpg", b"")
    photos.write(tmp_path / "annotations/b.png", b"")
    with pytest.raises(ValueError, match=r"No image .* a\.jpg belongs to a\.png"):
        find_labelled_photos(tmp_path)


def test_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("road\n traffic light\n\nsky\n", "utf-8")
    assert read_names(path) == ("road", "traffic light", "sky")
    for text, words in [("road\nroad\n", "holds a name twice"), ("road", "less than two names")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        read_names(path)
