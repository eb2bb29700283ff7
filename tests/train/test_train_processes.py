"""Training in real processes that are really killed, on one host and on two."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from train_fixtures import (
    assert_same_weights,
    environment,
    make_tree,
    read_steps,
    start,
    wait_for_steps,
)

from pyconv.system.launch import launch
from pyconv.system.processes import MEETING
from pyconv.train import TrainOptions, train
from pyconv.train.__main__ import main
from pyconv.train.recipe import PAPER

pytestmark = pytest.mark.slow

FLAGS = (
    "--model", "pyconvresnet_tiny", "--batch-size", 8, "--lr", 0.02, "--min-scale", 0.8,
    "--epochs", 2, "--milestones", 1, "--ema", 0.5, "--save-every", 3, "--watch-every", 1,
    "--device", "cpu",
)  # fmt: skip
STEPS = 16  # 64 images, 2 epochs
TWO = ("--nproc-per-node", 2, "--workers", 0)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("images") / "tree")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and stderr of a process, which must not run for ever."""
    try:
        error = process.communicate(timeout=180)[1]
    finally:
        process.kill()
    return process.returncode, error


def run(*command: object) -> tuple[int, str]:
    return finish(start("pyconv.train", *command))


def children(pid: int) -> list[int]:
    """The processes that train for a launcher, oldest first."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return sorted(int(own) for own, parent, line in rows
                  if int(parent) == pid and "spawn_main" in line)  # fmt: skip


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        with contextlib.suppress(OSError):  # a zombie has ended
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return True
    return False


@pytest.fixture(scope="module")
def with_one(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([str(w) for w in (tree, *FLAGS, "--output", output, "--workers", 0)]) == 0
    torch.set_num_threads(threads)
    return output


@pytest.fixture(scope="module")
def with_two(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two")
    code, error = run(tree, *FLAGS, *TWO, "--output", output)
    assert code == 0, error
    return output


def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tree: Path, tmp_path: Path, with_one: Path
) -> None:
    command = ("pyconv.train", tree, *FLAGS, "--output", tmp_path, "--workers", 1)
    chance = random.Random()
    # The first may come before anything is saved, the second never does.
    moments = [chance.randrange(1, STEPS // 2), chance.randrange(STEPS // 2, STEPS - 1)]
    for moment in moments:
        process = start(*command)
        wait_for_steps(process, tmp_path, moment)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, error = finish(start(*command))
    assert code == 0, error
    assert "Going on with" in error, moments
    assert_same_weights(tmp_path, with_one)
    assert read_steps(tmp_path) == read_steps(with_one)


def test_two_processes_survive_whatever_happens_to_them(
    tree: Path, tmp_path: Path, with_two: Path
) -> None:
    command = ("pyconv.train", tree, *FLAGS, *TWO, "--output", tmp_path)
    # Asked to end, all save and leave together.
    launcher = start(*command)
    wait_for_steps(launcher, tmp_path, 4)
    launcher.terminate()
    code, error = finish(launcher)
    assert code == 143, error
    saved = len(read_steps(tmp_path))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["position"] == {"epoch": saved // 8, "step": saved % 8}
    # One of them killed: the other does not wait for ever.
    launcher = start(*command)
    wait_for_steps(launcher, tmp_path, saved + 2)
    first, second = children(launcher.pid)
    os.kill(second, signal.SIGKILL)
    code, error = finish(launcher)
    assert code == 1
    assert "was ended by SIGKILL, so all were. Run the same command again" in error
    assert "Traceback" not in error
    assert not is_alive(first)
    # All of them killed at once.
    launcher = start(*command)
    wait_for_steps(launcher, tmp_path, len(read_steps(tmp_path)) + 2)
    for pid in (*children(launcher.pid), launcher.pid):
        os.kill(pid, signal.SIGKILL)
    finish(launcher)
    code, error = finish(start(*command))
    assert code == 0, error
    assert "Going on with" in error
    assert_same_weights(tmp_path, with_two)


def test_one_and_two_processes_lose_alike(tree: Path, tmp_path: Path) -> None:
    flags = ("--model", "train_fixtures:frozen_norm_tiny", "--batch-size", 8, "--lr", 0.005,
             "--min-scale", 0.8, "--epochs", 3, "--device", "cpu", "--crop", 28)  # fmt: skip
    code, error = run(tree, *flags, *TWO, "--output", tmp_path / "two")
    assert code == 0, error
    recipe = dataclasses.replace(PAPER, batch_size=8, lr=0.005, min_scale=0.8, epochs=3, crop=28)
    options = TrainOptions(workers=0, device="cpu")
    train(tree, tmp_path / "one", model=str(flags[1]), recipe=recipe, options=options)
    one, two = read_steps(tmp_path / "one"), read_steps(tmp_path / "two")
    assert len(one) == len(two) == 24
    assert [row[2] for row in two] == pytest.approx([row[2] for row in one], abs=1e-5)
    assert one[-1][2] < one[0][2]


TURNS = (
    # flags, exit code, what the one line of the first process says
    (("--batch-size", 7), 2, "A batch of 7 cannot be shared equally by 2 processes"),
    (("--freeze", 9), 2, "stages 1 to 4"),
    (("--lr", 1e30), 1, "The loss is nan at step"),
    (("--model", "train_fixtures:greedy", "--crop", 28), 1, "Memory ran out"),
    (("--epochs", 1, "--milestones", ""), 0, "epoch 1/1"),
)


def in_turn(words: list[str]) -> int:
    """Train with some flags after the other, in processes that meet anew each time.

    Noted are the exit codes, and how many DDP modules there are when the processes part.
    """
    folder, *line = words
    leave, found = dist.destroy_process_group, []

    def counted() -> None:
        found.append(sum(type(each) is DistributedDataParallel for each in gc.get_objects()))
        leave()

    dist.destroy_process_group = counted
    codes = []
    for number, (flags, _, _) in enumerate(TURNS):
        os.environ[MEETING] = Path(folder, f"meeting{number}").as_uri()
        output = Path(folder, f"run{number}")
        try:
            codes.append(main([str(word) for word in (*line, "--output", output, *flags)]))
        except SystemExit as leaving:
            codes.append(leaving.code)
    Path(folder, os.environ["RANK"]).write_text(json.dumps([codes, found]))
    return 0


def test_what_two_processes_cannot_do_is_one_clear_error_and_nothing_of_a_run_is_left(
    tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What DDP keeps of the group may wait for ever at exit; so may it in an error's traceback."""
    words = [tmp_path, tree, *FLAGS, "--workers", 0]
    assert launch(in_turn, [str(word) for word in words], 2) == 0
    codes = [code for _, code, _ in TURNS]
    for rank in "01":
        assert json.loads((tmp_path / rank).read_text()) == [codes, [0] * len(TURNS)]
    lines = capfd.readouterr().err.splitlines()
    for _, _, told in TURNS:
        said = [line for line in lines if told in line]
        assert len(said) == (2 if told == "Memory ran out" else 1), told
        lines = [line for line in lines if line not in said]
    assert lines == []


@dataclasses.dataclass
class Hosts:
    """How to run a command on each of two hosts, and the address of the first."""

    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    interfaces: tuple[str, str]
    address: str


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two network namespaces joined by a cable, or one host twice where they are not allowed."""
    names = [f"pyconv{os.getpid()}{letter}" for letter in "ab"]
    commands = [f"ip netns add {name}" for name in names]
    commands += ["ip link add name {a} type veth peer name {b}"]
    for name, end, address in zip(names, "ab", ("10.213.0.1", "10.213.0.2"), strict=True):
        commands += [
            f"ip link set {{{end}}} netns {name}",
            f"ip -n {name} addr add {address}/24 dev {{{end}}}",
            f"ip -n {name} link set {{{end}}} up",
            f"ip -n {name} link set lo up",
        ]
    cables = {end: f"pyc{os.getpid() % 10**7}{end}" for end in "ab"}
    try:
        for command in commands:
            subprocess.run(command.format(**cables).split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield Hosts(((), ()), ("lo", "lo"), "127.0.0.1")
    else:
        inside = [("ip", "netns", "exec", name) for name in names]
        yield Hosts((inside[0], inside[1]), (cables["a"], cables["b"]), "10.213.0.1")
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_on(hosts: Hosts, tree: Path, outputs: list[Path], *flags: object) -> list[tuple[int, str]]:
    """The same command under torchrun on both hosts; each writes to a disk of its own."""
    port = free_port()
    agents = []
    for host in (0, 1):
        command: list[object] = [
            *hosts.prefixes[host], sys.executable, "-m", "torch.distributed.run",
            "--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"{hosts.address}:{port}", "--rdzv-id", "pyconv",
            "--rdzv-conf", f"is_host={int(host == 0)}", "--node-rank", host,
            "--local-addr", hosts.address if host == 0 else hosts.address[:-1] + "2",
            "-m", "pyconv.train", tree, *FLAGS, "--workers", 0, "--output", outputs[host], *flags,
        ]  # fmt: skip
        if not hosts.prefixes[host]:
            command[command.index("--local-addr") + 1] = hosts.address
        agents.append(
            subprocess.Popen(
                [str(word) for word in command],
                env=environment() | {"GLOO_SOCKET_IFNAME": hosts.interfaces[host]},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return [finish(agent) for agent in agents]


def test_two_hosts_train_and_go_on_together(
    hosts: Hosts, tree: Path, tmp_path: Path, with_two: Path
) -> None:
    outputs = [tmp_path / "first", tmp_path / "second"]
    ends = run_on(hosts, tree, outputs, "--time-limit", "0.001s")
    assert all(code != 0 for code, _ in ends), ends  # torchrun reports any early leave as 1
    state = torch.load(outputs[0] / "last.pt", weights_only=True)
    saved = state["position"]["step"]
    assert 1 <= saved <= 2
    ends = run_on(hosts, tree, outputs)
    assert [code for code, _ in ends] == [0, 0], ends
    assert f"Going on with step {saved + 1} of epoch 1" in ends[0][1]
    # The data lies on both hosts, the run only where the first process is.
    assert not (outputs[1] / "last.pt").exists()
    assert_same_weights(outputs[0], with_two)
