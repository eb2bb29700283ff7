"""What every command owes a user: examples, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyconv.cli import write_json

COMMANDS = {
    "pyconv-eval": "pyconv.evaluate",
    "pyconv-train": "pyconv.train",
    "pyconv-weights": "pyconv.manage",
}

WRONG = [
    ("pyconv-eval", [], "give either a folder of images or --sample"),
    ("pyconv-eval", ["--sampel"], "See 'pyconv-eval --help'"),
    ("pyconv-eval", ["somewhere"], "--model is missing"),
    ("pyconv-eval", ["somewhere", "--model", "pyconvresnt50"], "Did you mean 'pyconvresnet50'"),
    ("pyconv-eval", ["somewhere", "--model", "resnet18"], "no published weights for resnet18"),
    (
        "pyconv-eval",
        ["somewhere", "--model", "pyconvresnet_tiny", "--checkpoint", "missing.pth"],
        "missing.pth",
    ),
    ("pyconv-weights", [], "See 'pyconv-weights --help'"),
    ("pyconv-weights", ["download", "pyconvresnt50"], "Did you mean 'pyconvresnet50'"),
    ("pyconv-eval", ["missing", "--model", "pyconvresnet_tiny"], "missing"),
    ("pyconv-train", ["somewhere", "--model", "resnet18"], "--output"),
    (
        "pyconv-train",
        ["somewhere", "--model", "resnet18", "--output", "run", "--time-limit", "8"],
        "write 90s, 30m or 8h",
    ),
]


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", COMMANDS[command], *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"usage: {command}" in done.stdout
    assert f"examples:\n  {command}" in done.stdout


@pytest.mark.parametrize(("command", "arguments", "words"), WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: str, arguments: list[str], words: str
) -> None:
    done = run(command, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.skipif(os.name == "nt", reason="pipes are those of Unix")
def test_a_link_or_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        write_json(tmp_path / name, {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_a_result_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(file, {"images": 1})
    with pytest.raises(TypeError):
        write_json(file, {"images": object()})
    assert file.read_text("utf-8") == '{\n  "images": 1\n}\n'
    assert list(tmp_path.iterdir()) == [file]
