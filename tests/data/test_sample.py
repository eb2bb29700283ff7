"""The sample: what `pyconv-eval --sample` evaluates, says, writes and decides."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_sample as build
import pytest
import torch
from PIL import Image

import pyconv
from pyconv import PyConvResNetTiny_Weights, pyconvresnet_tiny
from pyconv.data import find_images
from pyconv.weights.rows import sample_file

RECORD = json.loads(sample_file("record.json").read_text("utf-8"))


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyconv.evaluate", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_reports_what_is_on_record(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = run("--sample", "--json", file)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^(\S+(?: \S+)?) {2,}(.+)$", done.stdout, re.MULTILINE))
    result = json.loads(file.read_text("utf-8"))
    assert rows["model"] == result["model"] == "pyconvresnet_tiny"
    assert rows["images"].startswith("1,000")
    assert result["images"] == 1000
    assert abs(result["correct1"] - RECORD["correct1"]) <= 1
    assert rows["top-1"].startswith(f"{result['top1']:.2f} %")
    assert rows["top-5"].startswith(f"{result['top5']:.2f} %")
    assert rows["on record"] == f"top-1 {RECORD['top1']:.2f} %: agrees"
    assert result["agrees"] is True
    assert result["top1"] >= 92
    assert result["images_per_second"] > 0
    assert result["unreadable"] == []
    assert "top-1" in done.stderr  # the bar, with the running accuracy


def test_other_weights_do_not_agree_and_the_command_fails(tmp_path: Path) -> None:
    """The comparison is real: a copy of the package with one tensor changed is found out."""
    copy = tmp_path / "pyconv"
    shutil.copytree(Path(pyconv.__file__).parent, copy)
    weights = copy / "data" / "sample" / "pyconvresnet_tiny.pth"
    state = torch.load(weights, weights_only=True)
    state["conv1.weight"] = state["conv1.weight"].flip(-1)
    torch.save(state, weights)
    done = run("--sample", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout


def test_the_images_are_the_first_hundred_of_each_class() -> None:
    images = find_images(sample_file("images"))
    assert images.classes == tuple(f"{i}-{name}" for i, name in enumerate(build.CLASSES))
    assert len(images.samples) == 1000
    for label in range(10):
        numbers = [int(Path(str(p)).stem) for p, y in images.samples if y == label]
        assert len(numbers) == 100
        assert numbers == sorted(numbers)
        assert numbers[-1] < 1500  # of 10,000 in ten classes: the first hundred end about here
    with Image.open(images.samples[0][0]) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (28, 28), "L")


def test_the_sample_is_small_and_licensed() -> None:
    images = sum(path.stat().st_size for path in sample_file("images").rglob("*.png"))
    weights = PyConvResNetTiny_Weights.DEFAULT
    assert images <= 700_000
    assert weights.meta["file_size"] == sample_file("pyconvresnet_tiny.pth").stat().st_size
    assert weights.meta["file_size"] <= 1_300_000
    assert weights.meta["num_params"] <= 300_000
    assert weights.meta["acc@1"] == RECORD["test_top1"] >= 92.5
    assert "MIT License" in sample_file("LICENSE").read_text("utf-8")


def test_its_weights_need_no_network() -> None:
    code = (
        "import socket, pyconv\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "print(pyconv.pyconvresnet_tiny(pretrained=True).fc.weight.shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "10"


def test_build_trains_from_the_files_of_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's own steps on a data set in the package's format, small enough to be quick."""
    monkeypatch.setattr(build, "EPOCHS", 2)
    random = torch.Generator().manual_seed(0)
    for name, count in (("train", 256), ("t10k", 60)):
        pixels = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=random)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        for kind, tensor in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, tensor.ndim]) + b"".join(
                size.to_bytes(4, "big") for size in tensor.shape
            )
            content = gzip.compress(head + tensor.numpy().tobytes())
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(content)
    images = build.read_idx(tmp_path / "train-images-idx3-ubyte.gz")
    labels = build.read_idx(tmp_path / "train-labels-idx1-ubyte.gz").long()
    assert images.shape == (256, 28, 28)
    model = pyconvresnet_tiny()
    before = model.conv1.weight.clone()
    build.train(model, images, labels, (images[:20], labels[:20]))
    assert not torch.equal(model.conv1.weight, before)
    build.write_images(images, labels, tmp_path / "images", per_class=2)
    build.write_record(model, tmp_path, 50.0)
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record["images"] == 20
    assert record["test_top1"] == 50.0
