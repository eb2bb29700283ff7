"""What pixels a network expects: one answer for evaluation, training and published weights."""

from __future__ import annotations

import photos
import pytest
import torch
from photos import one_thread  # noqa: F401

from pyconv.data import Preprocess, decode
from pyconv.data.preprocess import WholeImage, expected_pixels

SAMPLE = Preprocess(28, 32, (0.3,), (0.4,))


def test_the_default_is_imagenets() -> None:
    assert expected_pixels() == Preprocess(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_what_is_published_holds_until_asked_otherwise() -> None:
    assert expected_pixels(SAMPLE) == expected_pixels(SAMPLE, 1) == SAMPLE
    assert expected_pixels(SAMPLE, crop=14) == Preprocess(14, 16, (0.3,), (0.4,))
    assert expected_pixels(SAMPLE, crop=14, resize=14).resize == 14
    grey = expected_pixels(channels=1)
    assert (grey.mean, grey.std) == ((0.449,), (0.226,))
    assert expected_pixels(SAMPLE, 3) == Preprocess(28, 32)  # ImageNet's colours, the sample's size
    assert expected_pixels(SAMPLE, mean=(0.0,), std=(1.0,)) == Preprocess(28, 32, (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 4}, "mine takes 4 channels, and image files give 1 or 3"),
        ({"channels": 3, "mean": (0.5,), "std": (0.5,)}, "of 3 channels; --mean and --std have 1"),
        ({"channels": 1, "mean": (0.5,)}, "--mean and --std have 1 and 0"),
        ({"crop": 40, "resize": 30}, "crop=40 does not fit into resize=30"),
    ],
)
def test_what_no_image_gives_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        expected_pixels(network="mine", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("source", ["L", "RGB", "P", "RGBA"])
def test_decoding_gives_grey_or_colour(channels: int, mode: str, source: str) -> None:
    image = photos.picture(1).convert(source)
    found = decode(photos.encode(image, "PNG"), channels)
    assert found.mode == mode
    assert found.tobytes() == image.convert(mode).tobytes()


def test_tensors_of_16_bits_are_scaled_and_what_says_no_white_is_refused() -> None:
    deep = torch.randint(65536, (1, 28, 28), dtype=torch.int32)
    for preprocess in (Preprocess(28, 28, (0.5,), (0.5,)), WholeImage((0.5,), (0.5,))):
        out = preprocess(deep.to(torch.uint16))
        assert torch.equal(out, (deep / 65535 - 0.5) / 0.5)
        for wrong in (deep, deep.long(), deep > 9):
            with pytest.raises(
                ValueError, match=r"tensor of torch\.\w+, which does not say what is"
            ):
                preprocess(wrong)


def test_pixels_are_the_same_before_and_after_the_conversion() -> None:
    image, grey = photos.picture(2), Preprocess(16, 20, (0.5,), (0.5,))
    assert torch.equal(grey.pixels(image), grey.pixels(image.convert("L")))
