"""predict(): equal to a plain loop over windows, mirror images and scales, for any image."""

from __future__ import annotations

import math
from typing import Any

import photos
import pytest
import torch
from photos import one_thread  # noqa: F401
from PIL import Image
from segmentation_data import Plain, small
from torch import Tensor, nn
from torch.nn import functional as F

from pyconv.data import Preprocess
from pyconv.segmentation import PUBLISHED_SCALES, predict
from pyconv.segmentation.prediction import NUMBERS, plan


@torch.inference_mode()
def plain(
    model: nn.Module, image: Tensor, scales: tuple[float, ...], mirror: bool, window: int, base: int
) -> Tensor:
    """The published procedure, one window after the other."""
    _, height, width = image.shape
    step, total = math.ceil(window * 2 / 3), torch.zeros(())
    for scale in scales:
        longer = round(scale * base)
        size = (
            (longer, round(longer / height * width))
            if height > width
            else (round(longer / width * height), longer)
        )
        x = F.interpolate(image[None], size, mode="bilinear", align_corners=False)
        below, right = (max(window - side, 0) for side in size)
        x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))
        rows, columns = x.shape[-2:]
        found, count = torch.zeros(()), torch.zeros(rows, columns)
        for i in range(math.ceil((rows - window) / step) + 1):
            for j in range(math.ceil((columns - window) / step) + 1):
                bottom, end = min(i * step + window, rows), min(j * step + window, columns)
                here = (..., slice(bottom - window, bottom), slice(end - window, end))
                part = model(x[here]).softmax(1)
                if mirror:
                    part = (part + model(x[here].flip(-1)).softmax(1).flip(-1)) / 2
                if found.ndim == 0:
                    found = torch.zeros(part.shape[1], rows, columns)
                found[here] += part[0]
                count[here] += 1
        found = (found / count)[:, below // 2 :, right // 2 :][:, : size[0], : size[1]]
        total = total + F.interpolate(found[None], (height, width), mode="bilinear")[0]
    return total / len(scales)


@pytest.mark.parametrize(
    ("window", "base", "scales"),
    [
        (65, 64, (1.0,)),  # one window, padded
        (33, 64, (1.0,)),  # several, the last one flush with the border
        (17, 40, PUBLISHED_SCALES),
        (33, 50, (0.5, 1.75)),
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [(60, 80), (90, 41), (33, 33)])
def test_it_is_a_plain_loop(
    size: tuple[int, int], mirror: bool, window: int, base: int, scales: tuple[float, ...]
) -> None:
    model = Plain().eval()
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    expected = plain(model, image, scales, mirror, window, base)
    classes, found = predict(
        model, image, scales=scales, mirror=mirror, window=window, base_size=base, batch_size=3,
        probabilities=True,
    )  # fmt: skip
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert classes.dtype == torch.long
    assert torch.equal(classes, found.argmax(0))
    alone = predict(model, image, scales=scales, mirror=mirror, window=window, base_size=base)
    torch.testing.assert_close(alone, classes)


def test_the_published_procedure_is_single_scale_by_default() -> None:
    model, image = Plain().eval(), torch.randn(3, 300, 500)
    expected = plain(model, image, (1.0,), True, 473, 512)
    torch.testing.assert_close(
        predict(model, image, probabilities=True)[1], expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("size", "longer", "shape", "tops", "lefts"),
    [
        ((512, 683), 512, (384, 512), (0,), (0, 39)),
        ((683, 512), 896, (896, 672), (0, 316, 423), (0, 199)),
        ((10, 1000), 512, (5, 512), (0,), (0, 39)),
        ((1, 9000), 512, (1, 512), (0,), (0, 39)),
    ],
)
def test_where_the_windows_lie(
    size: tuple[int, int],
    longer: int,
    shape: tuple[int, int],
    tops: tuple[int, ...],
    lefts: tuple[int, ...],
) -> None:
    view = plan(*size, longer, 473)
    assert (view.height, view.width) == shape
    assert (view.tops, view.lefts) == (tops, lefts)


def test_a_dict_of_outputs_and_dtypes_are_understood() -> None:
    model, image = small(5).eval(), torch.randn(3, 70, 90)
    how: dict[str, Any] = {"window": 65, "base_size": 80}
    classes = predict(model, image, **how)
    assert classes.shape == (70, 90)
    model.train()
    assert torch.equal(predict(model, image, **how), classes)  # in eval mode
    assert (predict(model.double(), image, **how) == classes).float().mean() > 0.99
    assert (predict(model.bfloat16(), image, **how) == classes).float().mean() > 0.7


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK"])
def test_photographs_of_every_kind(mode: str) -> None:
    picture = photos.picture(3).convert(mode)
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    pixels = pixels.view(picture.height, picture.width, 3).permute(2, 0, 1)
    model, how = Plain().eval(), {"window": 33, "base_size": 64}
    expected = predict(model, Preprocess().normalise(pixels), **how)
    assert torch.equal(predict(model, picture, **how), expected)
    assert torch.equal(predict(model, pixels, **how), expected)


def test_a_grey_network_takes_grey_photographs() -> None:
    import pyconv

    model = pyconv.PyConvSegNet(pyconv.pyconvresnet_tiny(), 3)
    for mode in ("L", "RGB"):
        assert predict(model, photos.picture(1).convert(mode), window=33, base_size=40).shape == (
            48,
            64,
        )


def test_a_large_photograph_is_put_together_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = Plain().eval(), torch.randn(3, 200, 300)
    how: dict[str, Any] = {"window": 33, "base_size": 40, "scales": (1.0, 1.5)}
    whole = predict(model, image, probabilities=True, **how)
    assert NUMBERS > 7 * 200 * 300
    monkeypatch.setattr("pyconv.segmentation.prediction.NUMBERS", 2 * 200 * 300 + 1)  # two classes
    parts = predict(model, image, probabilities=True, **how)
    assert all(map(torch.equal, whole, parts))


def test_windows_that_memory_is_too_small_for_are_fewer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Small(Plain):
        most = 1

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    model, image = Small().eval(), torch.randn(3, 100, 100)
    how: dict[str, Any] = {"window": 33, "base_size": 80}
    expected = predict(Plain().eval(), image, **how)
    assert torch.equal(predict(model, image, **how), expected)
    assert "Memory ran out with 4 images at once; going on with 2" in capsys.readouterr().err
    model.most = 0
    with pytest.raises(ValueError, match="Not even one image fits into the memory of cpu"):
        predict(model, image, **how)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (torch.zeros(1, 3, 5, 5), {}, r"\[1, 3, 5, 5\], and the network takes one of \[3,"),
        (torch.zeros(1, 5, 5), {}, r"\[1, 5, 5\], and the network takes one of \[3, height"),
        (torch.zeros(3, 0, 5), {}, r"\[3, 0, 5\]"),
        (torch.zeros(3, 5, 5), {"scales": ()}, r"scales=\(\) must be positive"),
        (torch.zeros(3, 5, 5), {"scales": (0.0,)}, "must be positive numbers"),
        (torch.zeros(3, 5, 5), {"window": 0}, "window=0 must be at least 1"),
        (torch.zeros(3, 5, 5), {"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_wrong_use_is_one_sentence(image: Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predict(Plain(), image, **options)


def test_an_image_of_one_pixel() -> None:
    assert predict(Plain(), Image.new("RGB", (1, 1)), window=33, base_size=40).shape == (1, 1)
