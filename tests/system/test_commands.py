"""What every command owes a user: examples, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pyconv
from pyconv.system import start

COMMANDS = {command: module for module, command in start.COMMANDS.items()}

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


def test_the_commands_are_those_that_are_installed() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    modules = dict(re.findall(r'^(pyconv-\w+) = "([\w.:]+)"', project, re.MULTILINE))
    assert modules == {name: f"{module}.__main__:main" for name, module in COMMANDS.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_exit_codes_and_variables(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"usage: {command}" in done.stdout
    assert f"examples:\n  {command}" in done.stdout
    assert "\n\nexit codes: 0 done, 1 failed, 2 wrong usage or bad input" in done.stdout
    assert "130 interrupted" in done.stdout
    for variable in ("PYCONV_HOME", "PYCONV_OFFLINE", "PYCONV_DRIVE_URL"):
        assert f"\n  {variable}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_version_names_what_a_report_needs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"{COMMANDS[command]}.__main__").main
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    torch, torchvision = (metadata.version(name) for name in ("torch", "torchvision"))
    assert capsys.readouterr().out == (
        f"{command} {pyconv.__version__} (torch {torch}, torchvision {torchvision}, "
        f"Python {platform.python_version()})\n"
    )


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
