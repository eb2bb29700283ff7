"""Runs whose images change under them, and images that cannot be read or are left out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import failing
import pytest
import torch
from photos import one_thread  # noqa: F401
from train_fixtures import assert_same_weights, environment, make_tree, read_steps, start

from pyconv.train import loading
from pyconv.train.__main__ import main

FLAGS = (
    "--model", "pyconvresnet_tiny", "--batch-size", 16, "--lr", 0.02, "--min-scale", 0.8,
    "--epochs", 3, "--milestones", 2, "--device", "cpu", "--workers", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs and its images."""
    place = tmp_path_factory.mktemp("whole")
    assert run(make_tree(place / "tree"), place / "run") == 0
    return place


def run(tree: Path, output: Path, *flags: object) -> int:
    return main([str(word) for word in (tree, "--output", output, *FLAGS, *flags)])


def stopped(whole: Path, place: Path, epochs: int) -> tuple[Path, Path]:
    """A copy of the images and of the run, one step after so many epochs."""
    tree, output = place / "tree", place / "run"
    shutil.copytree(whole / "tree", tree)
    for _ in range(4 * epochs + 1):
        assert run(tree, output, "--time-limit", "0.000001s") == 124
    return tree, output


def state_of(output: Path) -> dict:
    return torch.load(output / "last.pt", weights_only=True)


def test_other_validation_images_are_told_and_never_compared_with_those_before(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, output = stopped(whole, tmp_path, epochs=1)
    before = (output / "best.pt").read_bytes()
    for number in (1, 2, 3):
        (tree / f"val/class0/00{number}.png").unlink()
    capsys.readouterr()
    assert run(tree, output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "val/: 3 removed (class0/001.png, class0/002.png, class0/003.png)" in error
    assert "--accept-changed-data" in error
    assert (output / "best.pt").read_bytes() == before

    assert run(tree, output, "--accept-changed-data", "--time-limit", "0.000001s") == 124
    assert "the best epoch is looked for from epoch 2 on" in capsys.readouterr().err
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["best_top1"], summary["best_from_epoch"]) == (None, 2)
    assert (output / "best.pt").read_bytes() == before
    assert run(tree, output) == 0  # it knows them now
    assert "changed" not in capsys.readouterr().err
    summary = json.loads((output / "summary.json").read_text())
    rows = state_of(output)["history"]
    assert summary["best_top1"] == max(row["val_top1"] for row in rows[1:])
    assert (output / "best-before-epoch-2.pt").read_bytes() == before
    assert len(torch.load(output / "best.pt", weights_only=True)["history"]) > 1
    # What is learned does not depend on what is validated.
    assert_same_weights(output, whole / "run")


def test_exchanged_labels_are_found_though_names_and_sizes_are_the_same(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, output = stopped(whole, tmp_path, epochs=0)
    for old, new in (("class0", "x"), ("class1", "class0"), ("x", "class1")):
        (tree / "train" / old).rename(tree / "train" / new)
    assert run(tree, output) == 2
    assert "train/: 32 replaced (class0/000.png" in capsys.readouterr().err
    assert run(tree, output, "--accept-changed-data", "--lr", 0.5) == 2  # another run in any case
    assert "there and 0.5 here" in capsys.readouterr().err


def test_fewer_images_end_an_epoch_that_is_as_long_already(whole: Path, tmp_path: Path) -> None:
    tree, output = stopped(whole, tmp_path, epochs=0)
    for _ in range(2):
        run(tree, output, "--time-limit", "0.000001s")  # step 3 of 4
    for path in sorted((tree / "train").rglob("00[0-9].png")):
        path.unlink()  # 24 are left, of one step
    assert run(tree, output, "--accept-changed-data") == 0
    steps = [row[:2] for row in read_steps(output)]
    assert steps == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]
    first = state_of(output)["history"][0]
    assert first["train_loss"] == pytest.approx(sum(row[2] for row in read_steps(output)[:3]) / 3)


@pytest.mark.parametrize(("cure", "workers"), [("delete", 0), ("replace", 1)])
def test_what_an_unreadable_image_asks_for_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cure: str, workers: int
) -> None:
    tree, output = make_tree(tmp_path / "tree"), tmp_path / "run"
    flags = ("--batch-size", 24, "--workers", workers)
    late = {*loading.shuffled(64, 0, 0)[48:].tolist()} & {*loading.shuffled(64, 0, 1)[:48].tolist()}
    bad = loading.find_splits(tree).train[min(late)][0]  # the second epoch wants it first
    content = bad.read_bytes()
    bad.write_bytes(content[:100])
    assert run(tree, output, *flags) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert f"{bad} cannot be read as an image" in error
    assert "Replace or delete it, and run the same command again." in error
    assert len(state_of(output)["history"]) == 1
    if cure == "delete":
        bad.unlink()
    else:
        bad.write_bytes(content)
    assert run(tree, output, *flags) == 0
    error = capsys.readouterr().err
    what = "removed" if cure == "delete" else "replaced"
    assert f"train/: 1 {what} ({bad.relative_to(tree / 'train')}). Not bit for bit" in error
    assert len(state_of(output)["history"]) == 3
    # And nothing else may change with it.
    next(path for path in bad.parent.iterdir() if path != bad).unlink()
    assert run(tree, output, *flags) == 2


def test_a_state_from_before_images_were_known_goes_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, output = stopped(whole, tmp_path, epochs=0)
    old = {k: v for k, v in state_of(output).items() if k not in ("images_seen", "compared_from")}
    torch.save(old, output / "last.pt")
    assert run(tree, output) == 0
    assert "does not say which images it has seen" in capsys.readouterr().err
    assert_same_weights(output, whole / "run")


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, output = make_tree(tmp_path / "tree"), tmp_path / "run"
    (tree / "train/class0/drawing.xcf").write_bytes(b"no picture")
    for path in sorted((tree / "train").rglob("*.png"))[::2]:
        path.rename(path.with_suffix(".jfif"))  # PIL looks at what is inside
    assert run(tree, output, "--epochs", 1, "--milestones", "") == 0
    assert "drawing.xcf" in capsys.readouterr().err
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 64
    assert len(summary["left_out"]) == 1 and "drawing.xcf" in summary["left_out"][0]


def test_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "tree", classes=1)
    assert run(tree, tmp_path / "run") == 2
    assert "holds one class, class0: there is nothing to tell it from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


REFUSING = """
import errno, os, sys
from pyconv.train.__main__ import main
for word in ("last.pt", "best.pt", "class3"):
    for number in (errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE):
        os.environ |= {"FAIL_PATH": f"/{word}", "FAIL_ERRNO": str(number)}
        print(word, main(sys.argv[1:]), file=sys.stderr)
"""


def test_what_the_system_refuses_is_not_called_damaged(whole: Path, tmp_path: Path) -> None:
    tree, output = stopped(whole, tmp_path, epochs=1)
    before = state_of(output)["position"]
    words = [str(word) for word in (tree, "--output", output, *FLAGS, "--workers", 1)]
    done = subprocess.run(
        [sys.executable, "-c", REFUSING, *words],
        env=environment() | failing.refusing("nothing yet"),
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if "Going on" not in line]
    told, codes = lines[::2], lines[1::2]
    assert codes == ["last.pt 1"] * 4 + ["best.pt 1"] * 4 + ["class3 1"] * 4
    for line, code in zip(told, codes, strict=True):
        assert re.match(rf"pyconv-train: .*/{code[:-2]}.* cannot be read: ", line)
        assert "Nothing is known to be wrong with the file" in line
    assert state_of(output)["position"] == before


def test_an_unreadable_image_ends_the_command_and_its_loaders_with_one_line(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", train=4)
    for path in (tree / "train/class1").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    process = start("pyconv.train", tree, *FLAGS, "--workers", 2, "--output", tmp_path / "run")
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert error.count("\n") == 1 and "cannot be read as an image" in error
