"""Pixels of every kind: deep ones are scaled or refused; what an image is; whose fault it is."""

from __future__ import annotations

import errno
import io
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from pyconv.data import Preprocess, decode
from pyconv.data.decoding import image_suffixes, read_image, to_bytes
from pyconv.system.reading import ContentError

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
GREY = (RAMP >> 8).astype(np.uint8)


def tiff(bits: int, data: bytes, width: int, height: int, white: int = 1) -> bytes:
    """A TIFF of one grey channel, as few programs can write it."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, white),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + rows + bytes(4)


def twelve_bits() -> bytes:
    values = (RAMP >> 4).astype(np.uint32).reshape(-1, 2)
    packed = np.stack(
        [values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1
    )
    return tiff(12, packed.astype(np.uint8).tobytes(), 64, 64)


DEEP: dict[str, Callable[[], bytes]] = {
    "16-bit PNG": lambda: photos.encode(Image.fromarray(RAMP), "PNG"),
    "16-bit TIFF": lambda: photos.encode(Image.fromarray(RAMP), "TIFF"),
    "16-bit TIFF, as on Macs": lambda: photos.encode(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    "16-bit JPEG 2000": lambda: photos.encode(Image.fromarray(RAMP), "JPEG2000"),
    "16-bit PGM": lambda: b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
    "12-bit TIFF": twelve_bits,
    "float TIFF": lambda: photos.encode(
        Image.fromarray((GREY / np.float32(255)).astype(np.float32)), "TIFF"
    ),
    "float PFM": lambda: photos.encode(
        Image.fromarray((GREY / np.float32(255)).astype(np.float32)), "PPM"
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pixels_are_scaled_by_their_range(kind: str) -> None:
    """A ramp from black to white stays one, where PIL alone makes it white or black."""
    data = DEEP[kind]()
    assert np.array_equal(np.asarray(decode(data, 1)), GREY)
    colour = np.asarray(decode(data))
    assert all(np.array_equal(colour[..., channel], GREY) for channel in range(3))


def test_a_deep_image_that_is_given_as_such_is_scaled_too() -> None:
    """As predictions have it: ``weights.transforms()(Image.open("deep.png"))``."""
    pixels = Preprocess(64, 64, (0.5,), (0.5,)).pixels(Image.fromarray(RAMP))
    assert np.array_equal(pixels[0].numpy(), GREY)


def test_sixteen_bits_of_colour_are_scaled() -> None:
    import zlib

    wide = np.repeat(RAMP[..., None], 3, 2).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(name: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(decode(png))[..., 1], GREY)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "32-bit whole numbers": (
        lambda: photos.encode(Image.fromarray(RAMP.astype(np.int32) * 1000), "TIFF"),
        "state no range.*Save it with 8 or 16 bits",
    ),
    "floating numbers from 0 to 255": (
        lambda: photos.encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        "not from 0 to 1.*Save it with 8 bits",
    ),
    "not a number": (
        lambda: photos.encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
        "not from 0 to 1",
    ),
    "white as 0": (
        lambda: tiff(16, RAMP.astype("<u2").tobytes(), 64, 64, white=0),
        "white is the number 0",
    ),
    "LAB": (lambda: photos.encode(Image.new("LAB", (8, 8)), "TIFF"), "LAB.*Save it in RGB"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_states_no_range_is_refused_in_words(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ContentError, match=message):
        decode(make())


SHALLOW: dict[str, Callable[[Image.Image], bytes]] = {
    "1 bit": lambda image: photos.encode(image.convert("1"), "PNG"),
    "grey": lambda image: photos.encode(image.convert("L"), "PNG"),
    "grey and transparent": lambda image: photos.encode(image.convert("LA"), "PNG"),
    "colour": lambda image: photos.encode(image, "PNG"),
    "colour and transparent": lambda image: photos.encode(image.convert("RGBA"), "PNG"),
    "palette": lambda image: photos.encode(image.quantize(16), "PNG"),
    "palette and transparent": lambda image: photos.encode(
        image.quantize(16), "PNG", transparency=bytes(range(16))
    ),
    "GIF": lambda image: photos.encode(image, "GIF"),
    "CMYK": lambda image: photos.encode(image.convert("CMYK"), "TIFF"),
    "YCbCr": lambda image: photos.encode(
        image.convert("YCbCr"),
        "TIFF",
        compression="tiff_lzw",  # plain, older Pillows cut it short
    ),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", SHALLOW)
def test_pixels_of_8_bits_are_pils_to_the_bit(kind: str, channels: int) -> None:
    data = SHALLOW[kind](photos.picture(1))
    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert(mode)
    ours = decode(data, channels)
    assert ours.mode == mode
    assert np.array_equal(np.asarray(ours), np.asarray(expected))
    assert to_bytes(ours, channels) is ours


def test_what_the_installed_pillow_reads_is_an_image() -> None:
    expected = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm"}
    assert expected <= image_suffixes()
    for suffix in sorted(image_suffixes() & {*Image.registered_extensions()}):
        kind = Image.registered_extensions()[suffix]
        assert kind in Image.OPEN or kind == "MPO", suffix  # which is opened as JPEG
    assert not image_suffixes() & {".pdf", ".mpg", ".h5", ".fits", ".eps", ".txt", ""}


def test_importing_pyconv_data_imports_no_pillow() -> None:
    code = "import sys, pyconv.data.folders; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_the_system_does_not_read_is_not_called_a_bad_image(tmp_path: Path) -> None:
    refused = tmp_path / "refused.jpg"
    refused.symlink_to("/proc/self/mem")  # whose first byte gives EIO
    with pytest.raises(OSError, match=r"Input/output error.*Nothing is known") as info:
        read_image(refused)
    assert info.value.errno == errno.EIO
    with pytest.raises(FileNotFoundError, match="gone"):
        read_image(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="pipe"):  # and is not waited for
        read_image(tmp_path / "pipe.jpg")
    photos.write(tmp_path / "cut.jpg", photos.encode(photos.picture(0))[:300])
    with pytest.raises(ContentError):
        read_image(tmp_path / "cut.jpg")


def test_too_many_open_files_are_the_systems(tmp_path: Path) -> None:
    photos.write(tmp_path / "good.png", photos.encode(photos.picture(0), "PNG"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/dev/fd").iterdir()))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 8, hard))
    try:
        with pytest.raises(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files") as info:
            read_image(tmp_path / "good.png")
        assert info.value.errno == errno.EMFILE
    finally:
        for file in held:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_image(tmp_path / "good.png").size == photos.picture(0).size
