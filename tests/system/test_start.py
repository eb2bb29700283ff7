"""The start of a command: what goes wrong while PyTorch is imported is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torchvision
from test_commands import COMMANDS

TORCH = """\
import os, pathlib, time
pathlib.Path(os.environ["ARRIVED"]).touch()
while not os.path.exists(os.environ["ARRIVED"] + ".go"):
    time.sleep(0.01)
raise ImportError("libtorch_cpu.so: cannot open shared object file", name="torch._C")
"""
BROKEN = (
    "torch is missing or does not work here (libtorch_cpu.so: cannot open shared object file). "
    "Install it anew: pip install --force-reinstall torch torchvision\n"
)
SCRIPT = "import sys; from {}.__main__ import main; sys.exit(main())"  # as pip writes it


class Start:
    """Python, in a folder whose PyTorch takes as long to import as a test wishes, then fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrived = folder / "arrived"
        (folder / "torch.py").write_text(TORCH)

    def __call__(self, *words: str | Path, trap: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", "-c", f'{trap} exec "$@"', "bash", sys.executable, *words],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path]),
                "ARRIVED": str(self.arrived),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        while not self.arrived.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        return process


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("is_script", [False, True])
def test_ctrl_c_while_pytorch_is_imported(start: Start, command: str, is_script: bool) -> None:
    script = start.folder / command
    script.write_text(SCRIPT.format(COMMANDS[command]))
    process = start(script) if is_script else start("-W", "ignore", "-m", COMMANDS[command])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, f"\n{command}: interrupted.\n")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees what a process has loaded")
def test_ctrl_c_while_the_real_one_is_imported() -> None:
    words = [sys.executable, "-m", "pyconv.weights", "list"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text("utf-8"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "\npyconv-weights: interrupted.\n")


def test_an_ignored_ctrl_c_and_a_broken_pytorch(start: Start) -> None:
    """A shell's "&" ignores Ctrl-C for what it starts."""
    process = start("-m", "pyconv.weights", trap="trap '' INT;")
    process.send_signal(signal.SIGINT)
    start.arrived.with_suffix(".go").touch()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, f"pyconv-weights: {BROKEN}")


def test_other_programs_are_left_alone(start: Start) -> None:
    process = start("-c", "import pyconv", "pyconv-eval")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert said.endswith("\nKeyboardInterrupt\n")


def test_a_torchvision_that_does_not_match(tmp_path: Path) -> None:
    """One without its compiled part fails as one that was compiled for another PyTorch."""
    (tmp_path / "torchvision").mkdir()
    for path in Path(torchvision.__file__).parent.iterdir():
        if not path.match("_C*"):
            (tmp_path / "torchvision" / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-m", "pyconv.evaluate", "--sample"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "pyconv-eval: torchvision is missing or does not work here (operator torchvision::nms "
        "does not exist). Install it anew: pip install --force-reinstall torch torchvision"
    )
