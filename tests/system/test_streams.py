"""Printing costs no result: encodings, closed streams, readers that left, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyconv
from pyconv.system import commands, streams

PYTHON = sys.executable


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in a folder, the variables added to the environment."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


LOST = "pyconv-weights: stdout could not be written: {}.\n"
LINES = {
    "a reader that has left": ("list | true", 0, ""),
    "a full disk": ("list >/dev/full", 1, LOST.format("No space left on device")),
    "unbuffered, opened for reading": ("--help 1</dev/null", 1, LOST.format("Bad file descriptor")),
    "no streams": ("list --json list.json <&- >&- 2>&-", 0, ""),
    "a mistake without stderr": ("download nothing 2>&-", 2, ""),
}


@pytest.mark.parametrize("name", LINES)
def test_the_exit_code_is_of_the_work_and_of_a_result_that_is_lost(
    name: str, tmp_path: Path
) -> None:
    words, code, said = LINES[name]
    unbuffered = "1" if name.startswith("unbuffered") else ""
    done = shell(f"{PYTHON} -m pyconv.weights {words}", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (code, said)
    if "list.json" in words:
        assert json.loads((tmp_path / "list.json").read_text("utf-8"))["weights"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images to train and evaluate on, and a checkpoint, under names that are not ASCII."""
    random = np.random.default_rng(7)
    for split, count in (("train", 4), ("val", 2)):
        for label in ("häuser", "straßen"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    torch.save(pyconv.pyconvresnet_tiny(num_classes=2).state_dict(), tmp_path / "größe.pth")
    return tmp_path


EVALUATE = (
    f"{PYTHON} -m pyconv.evaluate val --model pyconvresnet_tiny --checkpoint größe.pth "
    "--json r.json --csv r.csv --predictions p.csv"
)


@pytest.mark.parametrize(
    ("redirected", "encoding", "code"), [("", "ascii", 0), (">/dev/full", "cp1252", 1)]
)
def test_an_evaluation_is_written_whatever_is_printed(
    redirected: str, encoding: str, code: int, data: Path
) -> None:
    done = shell(f"{EVALUATE} {redirected}", data, PYTHONIOENCODING=encoding)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((data / "r.json").read_text("utf-8"))["images"] == 4
    assert (data / "r.csv").read_text("utf-8").count("\n") == 2
    assert "straßen" in (data / "p.csv").read_text("utf-8")
    if not redirected:
        assert "gr\\xf6\\xdfe.pth" in done.stdout
    if code:
        assert "pyconv-eval: stdout could not be written: No space left" in done.stderr


@pytest.mark.parametrize("redirected", ["2>/dev/full", ">&- 2>&-"])
def test_a_training_is_written_whatever_is_printed(redirected: str, data: Path) -> None:
    done = shell(
        f"{PYTHON} -m pyconv.train . --model pyconvresnet_tiny --batch-size 4 --workers 0 "
        f"--epochs 1 --output größe --json t.json {redirected}",
        data,
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((data / "t.json").read_text("utf-8"))["epochs"] == 1
    assert (data / "größe" / "best.pt").is_file()
    if redirected.startswith("2"):
        assert "gr\\xf6\\xdfe (finished)" in done.stdout


def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another program leaves a terminal that it shares with the command."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "x" * 1_000_000  # more than a pipe holds
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        read: list[str] = []
        thread = threading.Thread(target=lambda: read.append(reader.read(len(text))))
        with streams.sturdy():
            thread.start()
            commands.say(text)
        assert sys.stdout is writer
        thread.join()
    assert read == [text]


def test_streams_of_a_program_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook's, and those of a test, have no file."""
    before = sys.stdout
    with streams.sturdy():
        assert sys.stdout is before
        commands.say("größe")
    assert capsys.readouterr().out == "größe\n"


def test_a_program_without_streams_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is started without a console, where Python has None in their place."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    batches = [(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.long))]
    model = pyconv.pyconvresnet_tiny()
    assert pyconv.evaluate.evaluate(model, batches, progress=True).images == 2
