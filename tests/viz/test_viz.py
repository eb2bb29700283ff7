"""What holds for all pictures: matplotlib when it is used, no pyplot, and a page that runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pyconv
from pyconv import viz

DOCS = Path(__file__).parents[2] / "docs"


CODE = """
import sys
import torch
import pyconv
assert "pyconv.viz" not in sys.modules
viz, layer, image = pyconv.viz, pyconv.PyConv2d(3, 8, (3, 5), None), torch.rand(3, 16, 16)
columns = "epoch", "train_loss", "val_loss", "train_top1", "val_top1"
draw = [
    lambda: viz.pyramid(layer),
    lambda: viz.responses(layer, image),
    lambda: viz.receptive_field(layer, stage="", size=17),
    lambda: viz.accuracy_against_cost(),
    lambda: viz.predictions(torch.ones(1, 1), [image]),
    lambda: viz.confusion_matrix([0, 1], [0, 0]),
    lambda: viz.training_curves([dict.fromkeys(columns, 1)]),
]
sys.modules["matplotlib"] = None
for each in draw:
    try:
        each()
    except ImportError as error:
        print(error)
del sys.modules["matplotlib"]
for each in draw:
    each().draw_without_rendering()
assert "matplotlib.pyplot" not in sys.modules
"""


def test_matplotlib_is_imported_to_draw_and_pyplot_never() -> None:
    """Without matplotlib one sentence says what to do."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 7
    for line in told:
        assert line.startswith("pyconv.viz draws with matplotlib")
        assert line.endswith(": pip install 'torch-pyconv[viz]'.")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_is_saved_in_any_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pyramid.{suffix}"
    viz.pyramid(pyconv.PyConv2d(64, 64)).savefig(path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(magic)


def test_a_picture_of_one_panel_stands_among_others() -> None:
    figure = Figure()
    places: list[Axes] = list(figure.subplots(1, 3))
    layer = pyconv.PyConv2d(64, 64)
    assert viz.pyramid(layer, ax=places[0]) is figure
    assert viz.accuracy_against_cost(ax=places[1]) is figure
    many = list(range(60))
    assert viz.confusion_matrix(many, many, ax=places[2]) is figure
    assert len(figure.axes) == 4  # and the scale of the matrix
    assert all(axes.get_children() for axes in places)


def test_the_figures_are_small_and_their_script_draws_each() -> None:
    spec = importlib.util.spec_from_file_location("draw", DOCS / "figures/draw.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pages = "".join((DOCS / name).read_text("utf-8") for name in ("viz.md", "segmentation.md"))
    for draw in script.PICTURES:
        (path,) = (DOCS / "figures").glob(f"{draw.__name__}.*")
        assert path.stat().st_size < 80_000
        assert f"](figures/{path.name})" in pages
    assert pages.count("](figures/") == len(script.PICTURES)
