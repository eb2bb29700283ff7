"""The Python of the pages runs as it is printed, each page in one process from top to bottom.

What stands in for the world: weights of a fixed rule in the cache, in place of the published ones,
and folders of a few images in place of ``/data/``. What cannot run here has a comment that says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import golden
import photos as imagenet_photos
import pytest
import snippets
import torch
from _pytest.mark import ParameterSet

from pyconv import PyConvResNet50_Weights, pyconvresnet18, pyconvresnet50
from pyconv.data.imagenet import synsets

ROOT = Path(__file__).parents[2]


def pages() -> Iterator[ParameterSet]:
    """Each page with Python; those that need packages of other people run beside these."""
    for page in snippets.PAGES:
        languages = {block.language for block in snippets.blocks(page) if block.not_run is None}
        if languages:
            marker = pytest.mark.ecosystem if "py" in languages else pytest.mark.docs
            yield pytest.param(page, marks=marker, id=page.stem)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted."""
    folder = tmp_path_factory.mktemp("world")
    state = golden.fill(pyconvresnet50()).float().state_dict()
    (folder / "cache").mkdir()
    for weights in PyConvResNet50_Weights:
        torch.save(state, folder / "cache" / weights.filename)
    torch.save(pyconvresnet18().state_dict(), folder / "best.pth")
    imagenet_photos.flat(folder / "data/imagenet", imagenet_photos.photos(synsets(), count=4))
    picture = imagenet_photos.encode(imagenet_photos.picture(1))
    for name in ("photograph.jpg", "cat.jpg"):
        imagenet_photos.write(folder / name, picture)
    (folder / "predictions.csv").write_text("path,label,top1\na.jpg,rose,rose\nb.jpg,daisy,rose\n")
    (folder / "runs/flowers").mkdir(parents=True)
    columns = "epoch,train_loss,val_loss,train_top1,val_top1"
    (folder / "runs/flowers/log.csv").write_text(f"{columns}\n1,2.0,2.1,40,39\n2,1.0,1.5,60,55\n")
    return folder


@pytest.mark.parametrize("page", list(pages()))
def test_the_python_of_a_page_runs(page: Path, world: Path) -> None:
    runs = (block for block in snippets.blocks(page) if block.not_run is None)
    script = world / f"page_{page.stem}.py"
    code = snippets.module(page, runs).replace("/path/to/checkout", str(ROOT))
    script.write_text(code.replace('"/data/', f'"{world}/data/'), "utf-8")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYCONV_HOME": str(world / "cache"), "PYCONV_OFFLINE": "1"},
        cwd=world,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr


def test_most_of_it_runs() -> None:
    every = [block for page in snippets.PAGES for block in snippets.blocks(page)]
    left_out = [block for block in every if block.not_run is not None]
    assert len(left_out) < len(every) / 4
