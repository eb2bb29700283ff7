"""Pixels: equal to the original's to the bit, whatever files there are, and each image once."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import one_thread  # noqa: F401
from PIL import Image
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification

from pyconv import PyConvResNet50_Weights
from pyconv.data import ImageList, Preprocess, make_loader

WEIGHTS = PyConvResNet50_Weights.IMAGENET1K_V1


def original(crop: int = 224, resize: int = 256) -> Callable[[Image.Image], torch.Tensor]:
    """The evaluation pipeline of the original's script, by the transforms that it used."""
    statistics = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            statistics,
        ]
    )


def image_list(folder: Path, files: dict[str, bytes]) -> ImageList:
    for name, data in files.items():
        photos.write(folder / name, data)
    return ImageList(("only",), tuple((folder / name, 0) for name in files))


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "colour.JPEG": lambda image: photos.encode(image, quality=90),
    "progressive.JPEG": lambda image: photos.encode(image, progressive=True),
    "subsampled.JPEG": lambda image: photos.encode(image, quality=75, subsampling=2),
    "grey.JPEG": lambda image: photos.encode(image.convert("L")),
    "cmyk.JPEG": lambda image: photos.encode(image.convert("CMYK")),
    "palette.png": lambda image: photos.encode(image.quantize(16), "PNG"),
    "alpha.png": lambda image: photos.encode(image.convert("RGBA"), "PNG"),
    "png in disguise.JPEG": lambda image: photos.encode(image, "PNG"),
    "rotated.JPEG": lambda image: photos.encode(image, exif=rotation()),
    "bad exif.JPEG": lambda image: photos.encode(image, exif=b"Exif\x00\x00MM\x00*\x00\x00"),
}


def rotation() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    return exif


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 257), (100, 90), (224, 224)])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (320, 366), (224, 224)])
def test_pixels_are_the_originals_to_the_bit(
    size: tuple[int, int], crop: int, resize: int, tmp_path: Path
) -> None:
    data = photos.encode(photos.picture(1, *size), quality=90)
    preprocess = WEIGHTS.transforms(crop, resize)
    (batch,) = make_loader(image_list(tmp_path, {"1.JPEG": data}), preprocess)
    expected = original(crop, resize)(Image.open(io.BytesIO(data)).convert("RGB"))
    assert batch.pixels.dtype == torch.uint8
    assert torch.equal(preprocess.normalise(batch.pixels)[0], expected)
    assert torch.equal(preprocess(Image.open(io.BytesIO(data))), expected)


def test_a_file_of_any_form_gives_the_originals_pixels(tmp_path: Path) -> None:
    files = {name: form(photos.picture(2, 90, 70)) for name, form in FORMS.items()}
    preprocess = WEIGHTS.transforms(48, 56)
    (batch,) = make_loader(image_list(tmp_path, files), preprocess)
    assert not batch.faults
    pixels = preprocess.normalise(batch.pixels)
    for (name, data), ours in zip(files.items(), pixels, strict=True):
        expected = original(48, 56)(Image.open(io.BytesIO(data)).convert("RGB"))
        assert torch.equal(ours, expected), name


def test_fast_pixels_differ_by_one_at_most(tmp_path: Path) -> None:
    forms = FORMS | {"large.JPEG": lambda _: photos.encode(photos.picture(3, 500, 375))}
    files = {name: form(photos.picture(2, 90, 70)) for name, form in forms.items()}
    images, preprocess = image_list(tmp_path, files), WEIGHTS.transforms()
    (exact,) = make_loader(images, preprocess)
    (fast,) = make_loader(images, preprocess, fast_decode=True)
    difference = (exact.pixels.int() - fast.pixels.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01
    assert not torch.equal(exact.pixels, fast.pixels)  # or the fast way was not taken


def test_grey_models_get_grey_pixels_either_way(tmp_path: Path) -> None:
    data = photos.encode(photos.picture(4))
    preprocess = Preprocess(28, 28, (0.5,), (0.25,))
    images = image_list(tmp_path, {"1.JPEG": data})
    (exact,), (fast,) = (make_loader(images, preprocess, fast_decode=f) for f in (False, True))
    assert exact.pixels.shape == (1, 1, 28, 28)
    assert torch.equal(exact.pixels, fast.pixels)


def broken() -> dict[str, bytes]:
    jpeg, png = photos.encode(photos.picture(5)), photos.encode(photos.picture(5), "PNG")
    return {
        "empty.JPEG": b"",
        "cut.JPEG": jpeg[: len(jpeg) // 2],
        "end missing.JPEG": jpeg[:-200],
        "head.JPEG": jpeg[:12],
        "cut.png": png[: len(png) // 2],
        "flipped.png": png[:60] + bytes([png[60] ^ 0xFF]) + png[61:],
        "a web page.JPEG": b"<!DOCTYPE html><html>",
        "noise.JPEG": np.random.RandomState(0).bytes(2000),
    }


@pytest.mark.parametrize("fast", [False, True])
def test_what_cannot_be_read_is_named_and_left_out(fast: bool, tmp_path: Path) -> None:
    files = {"good.JPEG": photos.encode(photos.picture(6)), **broken()}
    images = image_list(tmp_path, files)
    gone = ImageList(images.classes, (*images.samples, (tmp_path / "gone.JPEG", 0)))
    (batch,) = make_loader(gone, WEIGHTS.transforms(32, 36), fast_decode=fast)
    assert len(batch.pixels) == len(batch.labels) == 1
    assert batch.indices.tolist() == [0]
    assert {Path(fault.path).name for fault in batch.faults} == {*broken(), "gone.JPEG"}
    assert all(fault.reason for fault in batch.faults)


def test_a_picture_too_large_for_pil_is_refused_the_fast_way_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as if the picture had 200 megapixels
    images = image_list(tmp_path, {"1.JPEG": photos.encode(photos.picture(1, 60, 50))})
    for fast in (False, True):
        (batch,) = make_loader(images, WEIGHTS.transforms(32, 36), fast_decode=fast)
        assert "exceeds limit" in batch.faults[0].reason


def test_reasons_are_in_words(tmp_path: Path) -> None:
    images = image_list(tmp_path, {"1.JPEG": b"", "2.JPEG": b"words"})
    (batch,) = make_loader(images, WEIGHTS.transforms(32, 36))
    reasons = [fault.reason for fault in batch.faults]
    assert reasons == ["the file is empty", "it is no image of a kind that PIL knows"]


def test_a_batch_of_nothing_readable_is_empty(tmp_path: Path) -> None:
    (batch,) = make_loader(image_list(tmp_path, {"1.JPEG": b""}), WEIGHTS.transforms(32, 36))
    assert batch.pixels.shape == (0, 3, 32, 32)
    assert len(batch.faults) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_unpack_in_order(workers: int, tmp_path: Path) -> None:
    files = {f"{n}.JPEG": photos.encode(photos.picture(n)) for n in range(5)}
    images = image_list(tmp_path, files)
    labelled = ImageList(tuple("abcde"), tuple((p, n) for n, (p, _) in enumerate(images.samples)))
    loader = make_loader(labelled, WEIGHTS.transforms(32, 36), batch_size=2, workers=workers)
    batches = [(pixels.shape[0], labels.tolist()) for pixels, labels in loader]
    assert batches == [(2, [0, 1]), (2, [2, 3]), (1, [4])]
    assert len(loader) == 3


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 40), size=st.integers(1, 7), batch=st.integers(1, 9))
def test_shards_hold_each_image_once(count: int, size: int, batch: int) -> None:
    images = ImageList(("a",), tuple((Path(f"/nowhere/{n}.png"), 0) for n in range(count)))
    seen = [
        fault.position
        for rank in range(size)
        for part in make_loader(images, Preprocess(8, 8, (0.0,), (1.0,)), batch, shard=(rank, size))
        for fault in part.faults
    ]
    assert sorted(seen) == list(range(count))


def test_floating_images_are_taken_as_torchvision_takes_them() -> None:
    ours = PyConvResNet50_Weights.DEFAULT.transforms()
    theirs = ImageClassification(crop_size=224, resize_size=256)
    for image in (torch.rand(3, 300, 280), torch.rand(3, 256, 256), torch.rand(2, 3, 260, 300)):
        before = image.clone()
        torch.testing.assert_close(ours(image), theirs(image))
        assert torch.equal(image, before)  # the user's own is not written to


def test_a_crop_that_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="crop=300 does not fit into resize=256"):
        WEIGHTS.transforms(300, 256)


def test_the_unstated_resize_keeps_the_margin() -> None:
    assert WEIGHTS.transforms(320).resize == 366
