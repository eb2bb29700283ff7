"""The README does what it says: snippets and commands run, the table is the data."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import golden
import photos as imagenet_photos
import pytest
import torch
from drive_server import Drive

from pyconv import PyConvResNet50_Weights, pyconvresnet50
from pyconv.data.imagenet import synsets
from pyconv.weights.rows import ENUMS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")

MODULES = {
    "pyconv-eval": "pyconv.evaluate",
    "pyconv-predict": "pyconv.predict",
    "pyconv-segment": "pyconv.segmentation",
    "pyconv-train": "pyconv.train",
    "pyconv-weights": "pyconv.weights",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_print_what_their_comments_say(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)  # (.+?)(?: \.\.\.)?$", snippet, re.MULTILINE)
    assert promised
    for text in promised:
        assert text in done.stdout


def test_what_comes_out_of_the_sample_is_what_stands_there() -> None:
    command, *lines = blocks("console")[0].splitlines()
    words = command.removeprefix("$ pyconv-predict ").split()
    done = subprocess.run(
        [sys.executable, "-m", "pyconv.predict", *words], capture_output=True, text=True, check=True
    )
    found = [re.sub(r"^/.*/pyconv/data/", ".../pyconv/data/", s) for s in done.stdout.splitlines()]
    assert lines.pop() == "..." and found[: len(lines)] == lines and len(found) > len(lines)


def test_commands_are_those_that_ci_runs(tmp_path: Path) -> None:
    """`.ci/run` takes the second command from the README; the first one is run here."""
    install, work = (block.strip() for block in blocks("sh"))
    assert work == "pip install -e '.[dev]' && pytest -n 2"
    assert "readme 2" in (ROOT / ".ci/run").read_text("utf-8")
    pip, evaluate = install.split(" && ")
    assert pip == "pip install ."
    # This environment has the package already: install another copy, without its dependencies.
    copy = tmp_path / "checkout"
    for name in ("src", "README.md", "LICENSE", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else _copy)(source, copy / name)
    target = tmp_path / "installed"
    command = [sys.executable, "-m", *pip.split(), "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run(command, cwd=copy, check=True, timeout=300)
    done = subprocess.run(
        [sys.executable, target / "bin" / evaluate.split()[0], *evaluate.split()[1:]],
        env=os.environ | {"PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^on record +top-1 .* %: agrees$", done.stdout, re.MULTILINE)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.mark.slow
def test_the_other_commands_work_on_folders_of_that_kind(tmp_path: Path) -> None:
    """With the weights of the reference rule, from an imitation of Drive, and a few images."""
    photos = imagenet_photos.photos(synsets(), count=4)
    imagenet_photos.flat(tmp_path / "imagenet", photos)
    for split in ("train", "val"):
        for flower in ("daisy", "rose"):
            for index in range(4):
                file = tmp_path / "flowers" / split / flower / f"{index}.jpg"
                imagenet_photos.write(file, imagenet_photos.encode(imagenet_photos.picture(index)))
    for name in ("cat.jpg", "photos/dog.jpg"):
        imagenet_photos.write(tmp_path / name, imagenet_photos.encode(imagenet_photos.picture(1)))
    weights = PyConvResNet50_Weights.IMAGENET1K_V1
    assert weights.file_id is not None
    file = io.BytesIO()
    torch.save(golden.fill(pyconvresnet50()).float().state_dict(), file)
    # The best weights, placed by hand: an imitation of Drive has one file.
    (tmp_path / PyConvResNet50_Weights.DEFAULT.filename).write_bytes(file.getvalue())
    with Drive(file.getvalue(), weights.file_id) as drive:
        for line in blocks("console")[1].splitlines():
            command, *words = line.removeprefix("$ ").replace("/data/", f"{tmp_path}/").split()
            if command == "pyconv-train":  # one epoch on a small crop is enough to see it run
                words += ["--epochs", "1", "--batch-size", "4", "--crop", "64", "--device", "cpu"]
            done = subprocess.run(
                [sys.executable, "-m", MODULES[command], *words],
                env=os.environ | {"PYCONV_HOME": str(tmp_path), "PYCONV_DRIVE_URL": drive.url},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.json").exists()
    assert (tmp_path / "runs/flowers/best.pt").exists()


def test_the_table_of_models_is_the_data() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", README, re.MULTILINE)
    table = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    published = {e["DEFAULT"].value.model: e for e in ENUMS if e["DEFAULT"].file_id}
    assert set(table) == set(published)
    for name, enum in published.items():
        paper, best = enum["IMAGENET1K_V1"], enum["DEFAULT"]
        augmented = best.value.top1 if best is not paper else ()
        claims = [f"{top1:.2f}" for _, top1 in (*paper.value.top1, *augmented)]
        facts = [f"{paper.value.num_params / 1e6:.1f} M", f"{paper.value.gmacs:.2f}"]
        assert [cell for cell in table[name] if cell] == facts + claims


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) < 100


def test_every_link_leads_somewhere() -> None:
    pages = [
        page
        for folder in (".", "docs", "docs/reference", "benchmarks")
        for page in (ROOT / folder).glob("*.md")
    ]
    assert len(pages) > 10
    for page in pages:
        for link, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
            if not link.startswith("http"):
                target = page.parent / link if link else page
                assert target.exists(), f"{page.name}: {link}"
                assert not heading or heading in anchors(target), f"{page.name}: {link}#{heading}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
