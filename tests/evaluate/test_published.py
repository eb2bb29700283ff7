"""pyconv-eval --published: every published set that is here, its authors' claim beside the count.

The sets are small ones under names of their own; that those of the authors are met in the same way
follows from their rows, which tests/weights compares with the README of the authors.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import failing
import photos
import published_sets
import pytest
import torch
from photos import one_thread  # noqa: F401
from PIL import Image
from published_sets import Small_Weights

from pyconv.data import imagenet
from pyconv.evaluate.__main__ import main
from pyconv.evaluate.report import compare
from pyconv.models.registry import REGISTRY
from pyconv.system.cache import cache_dir

IMAGES = photos.photos(imagenet.synsets(), 13)
V1, V2, V3 = Small_Weights
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache, but for kernels that are compiled already: they would take most of a test."""
    home = tmp_path_factory.mktemp("home")
    for kernels in cache_dir().glob("kernels-*"):
        shutil.copytree(kernels, home / kernels.name)
    return home


@pytest.fixture(autouse=True)
def home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sets have a cache of their own, and the registry knows them within a test."""
    monkeypatch.setenv("PYCONV_HOME", str(cache))
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    with mock.patch.dict(REGISTRY):
        published_sets.register()
        yield
        for weights in Small_Weights:
            weights.path.unlink(missing_ok=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(photos.flat(tmp_path / "imagenet", IMAGES)[0])


@pytest.fixture
def counts(home: None) -> dict[int, int]:
    """The first set in the cache; how many images it has right at each crop, by a plain loop."""
    labels = torch.tensor([photo.label for photo in IMAGES])
    model = photos.knowing("small", inputs(28), labels, 1000)
    torch.save(model.state_dict(), V1.path)
    with torch.inference_mode():
        found = {crop: int((model(inputs(crop)).argmax(1) == labels).sum()) for crop in (28, 36)}
    assert 0 < found[36] < found[28] < len(IMAGES)  # or another crop would not be seen
    return found


def inputs(crop: int) -> torch.Tensor:
    pixels = V1.transforms(crop=crop)
    return torch.stack([pixels(Image.open(photos.io.BytesIO(photo.data))) for photo in IMAGES])


def check(result: dict[str, Any], weights: object, crop: int, correct1: int) -> None:
    claimed = {28: 90.0, 36: 40.0}[crop]
    assert (result["weights"], result["preprocessing"]["crop"]) == (str(weights), crop)
    assert (result["images"], result["correct1"]) == (len(IMAGES), correct1)
    assert result["published"] == compare(100 * correct1 / len(IMAGES), len(IMAGES), claimed, crop)


def test_each_set_at_each_crop_with_the_claim_beside_it(
    data: Path, counts: dict[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table, rows = (tmp_path / name for name in ("r.json", "t.md", "all.csv"))
    options = ["--published", "--json", out, "--markdown", table, "--csv", rows]
    assert main(list(map(str, [data, *options]))) == 0
    found = json.loads(out.read_text("utf-8"))
    assert found["partial"] is False and found["failed"] == {}
    assert len(found["results"]) == 2
    for result, crop in zip(found["results"], (28, 36), strict=True):
        check(result, V1, crop, counts[crop])
    # What is not here is named, with the way to get it: the authors' sets among them.
    assert found["left_out"][str(V2)] == f"pyconv-weights download {V2}"
    assert len(found["left_out"]) == 13 and "PyConvResNet50_Weights.IMAGENET1K_V1" in str(found)
    captured = capsys.readouterr()
    assert captured.out == table.read_text("utf-8")
    header, _, first, second, *_ = captured.out.splitlines()
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells[3:6] == ["top-1, %", "claimed", "difference"]
    for line, crop, claim in ((first, 28, 90.0), (second, 36, 40.0)):
        top1 = 100 * counts[crop] / 13
        wanted = [str(V1), str(crop), "13", f"{top1:.2f}", f"{claim:.2f}", f"{top1 - claim:+.2f}"]
        assert [cell.strip() for cell in line.strip("|").split("|")][:6] == wanted
    assert first.endswith("| no     |") and second.endswith("| yes    |")
    assert "claimed: by the authors, for all 50,000 images" in captured.out
    assert "Get them: `pyconv-weights download --all`" in captured.out
    assert captured.err.count("13 images of 1") == 1
    assert [row["crop"] for row in csv.DictReader(rows.open())] == ["28", "36"]


def test_a_set_that_is_damaged_costs_no_other(
    data: Path, counts: dict[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    V2.path.write_bytes(V1.path.read_bytes()[:10_000])
    V3.path.write_bytes(V1.path.read_bytes())
    out = tmp_path / "r.json"
    command = [str(data), "--published", "--model", "sm*l", "--json", str(out)]
    assert main(command) == 1
    found = json.loads(out.read_text("utf-8"))
    assert [result["weights"] for result in found["results"]] == [str(V1), str(V1), str(V3)]
    assert [*found["failed"]] == [str(V2)] and found["left_out"] == {}
    assert f"Failed: {V2}: " in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is Linux's")
def test_a_file_that_cannot_be_written_ends_no_run(
    data: Path, counts: dict[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.md"
    command = [str(data), "--published", "--model", "small", "--json", "/dev/full"]
    assert main([*command, "--csv", "/dev/full", "--markdown", str(table)]) == 1
    captured = capsys.readouterr()
    assert captured.out == table.read_text("utf-8")
    assert len([line for line in captured.out.splitlines() if f"| {V1} " in line]) == 2
    assert captured.err.count("/dev/full could not be written: No space left") == 1


def test_a_set_that_the_system_does_not_read_costs_no_other(
    data: Path, counts: dict[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    V2.path.write_bytes(V1.path.read_bytes())
    V3.path.write_bytes(V1.path.read_bytes())
    command = run(data, "--published", "--model", "sm*l")
    done = subprocess.run(
        command, env=failing.refusing(V2.path.name, errno.EIO) | environment(),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Failed: {V2}: " in done.stdout and "Input/output error" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if "| 28 " in line] == [
        str(V1), str(V3),
    ]  # fmt: skip


def test_a_fault_of_the_images_is_none_of_each_set(
    data: Path, counts: dict[int, int], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"{IMAGES[0].name} 3\n")
    done = subprocess.run(
        run(data, "--published", "--model", "small", "--labels", tmp_path / "list.txt"),
        env=failing.refusing("list.txt", errno.EIO) | environment(),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("list.txt cannot be read: Input/output error") == 1


def run(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tests/published_sets.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def test_processes_count_as_one_and_ctrl_c_leaves_what_is_done(
    counts: dict[int, int], tmp_path: Path
) -> None:
    """The first crop is done, the second is interrupted: copies make it long."""
    names = photos.repeated(tmp_path / "many", IMAGES, 40)
    out = tmp_path / "r.json"
    command = run(
        names.parent, "--published", "--model", "small", "--nproc-per-node", 2, "--json", out,
        "--labels", names, "--batch-size", 4, "--workers", 0,
    )  # fmt: skip
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        seen = b""
        while b"| 0/" not in seen.partition(b"crop 36")[2]:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, seen.decode()
            seen += piece
        process.send_signal(signal.SIGINT)
        table, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert b"Traceback" not in seen + errors
    found = json.loads(out.read_text("utf-8"))
    first, second = found["results"]
    assert (first["images"], first["correct1"]) == (40 * 13, 40 * counts[28])
    assert first["partial"] is False and second["partial"] is found["partial"] is True
    assert first["processes"] == 2
    assert 0 < second["images"] < 40 * 13
    assert b"(partial)" in table and b"Partial: 2 of 2 runs were begun." in table


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing is here": (["{data}", "--published"], "Get them: pyconv-weights download --all"),
    "a few are not here": (
        ["{data}", "--published", "--model", "pyconvresnet50"],
        "download PyConvResNet50_Weights.IMAGENET1K_V1 PyConvResNet50_Weights.IMAGENET1K_V2",
    ),
    "a pattern of nothing": (["{data}", "--published", "--model", "resnet5"], "of this pattern"),
    "weights of one's own": (
        ["{data}", "--published", "--weights", "DEFAULT"],
        "--published has its own weights and crops: leave out --weights",
    ),
    "a table of one": (["{data}", "--model", "small", "--markdown", "t.md"], "for --published"),
    "no data": (["--published"], "give either a folder of images or --sample"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_use_is_one_line(fault: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = WRONG[fault]
    try:
        code = main([text.format(data=data) for text in arguments])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and message in line


def test_a_folder_that_is_not_there_is_said_once(
    counts: dict[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["/nowhere", "--published", "--model", "small"]) == 2
    assert capsys.readouterr().err == (
        "pyconv-eval: There is no folder /nowhere. Give the folder of the images.\n"
    )
