"""The Python of the pages runs as it is printed, each page in one process from top to bottom.

What stands in for the world: weights of a fixed rule in the cache, in place of the published ones,
and folders of a few images in place of ``/data/``. What cannot run here has a comment that says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import golden
import photos as imagenet_photos
import pytest
import snippets
import torch


from pyconv import PyConvResNet50_Weights, pyconvresnet18, pyconvresnet50
from pyconv.data.imagenet import synsets

pytestmark = pytest.mark.docs

PAGES = [page for page in snippets.PAGES if any(b.not_run is None for b in snippets.blocks(page))]


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
    imagenet_photos.write(folder / "photograph.jpg", picture)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, world: Path) -> None:
    runs = (block for block in snippets.blocks(page) if block.not_run is None)
    script = world / f"page_{page.stem}.py"
    script.write_text(snippets.module(page, runs).replace('"/data/', f'"{world}/data/'), "utf-8")
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
