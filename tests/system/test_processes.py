"""Real processes that share a job: what they exchange, and how they fail together."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from pyconv.system import commands
from pyconv.system.launch import launch
from pyconv.system.processes import LostProcessError, joined
from pyconv.system.signals import noting


def exchange(words: list[str]) -> int:
    """Write what this process sees into a file of its own."""
    with joined() as world:
        own = torch.full((2,), float(world.rank))
        seen = {
            "gathered": world.gather(f"of {world.rank}"),
            "total": world.total(torch.tensor([world.rank + 1])).tolist(),
            "first": world.on_first(lambda: world.rank),
            "only": world.only_first(lambda: world.rank),
            "each": world.on_all(lambda: world.rank),
        }
        world.spread(iter([own]))
        content = json.dumps(seen | {"spread": own.tolist()})
        (Path(words[0]) / str(world.rank)).write_text(content)
    return commands.DONE


def test_processes_exchange_what_they_have(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(exchange, [str(tmp_path)], 2) == 0
    assert (
        capfd.readouterr().out == ""
    )  # it is for results; some versions of gloo say whom they met
    for rank in (0, 1):
        assert json.loads((tmp_path / str(rank)).read_text()) == {
            "gathered": ["of 0", "of 1"],
            "total": [3.0],
            "first": 0,
            "only": 0 if rank == 0 else None,
            "each": rank,
            "spread": [0.0, 0.0],
        }


def fail(words: list[str]) -> int:
    def command(argv: object) -> int:
        with joined() as world:
            act = {"all": world.on_all, "first": world.on_first, "only": world.only_first}[words[0]]
            act(lambda: int(words[1 + world.rank]))
        return commands.DONE

    return commands.run("job", command, None)


@pytest.mark.parametrize("words", [["all", "1", "x"], ["first", "x", "1"], ["only", "x", "1"]])
def test_a_failure_of_one_is_that_of_all_and_said_once(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(fail, words, 2) == commands.WRONG
    assert capfd.readouterr().err == "job: invalid literal for int() with base 10: 'x'\n"


def lose(words: list[str]) -> int:
    with joined() as world:
        if world.first:  # a launcher that sees both ends at once looks at it first
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            world.gather(None)
        except RuntimeError as error:
            raise SystemExit(commands.FAILED) from error
    return commands.DONE


def compile_within(words: list[str]) -> int:
    """Do what imports half of PyTorch, and write which threads are left in the end."""
    with joined() as world:
        torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
        from torch._inductor import codecache  # noqa: F401

        world.gather(None)
        rank = world.rank
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (Path(words[0]) / str(rank)).write_text(" ".join(threads))
    return commands.DONE


def meet(words: list[str]) -> int:
    def command(argv: object) -> int:
        with joined(patience=timedelta(seconds=1)):
            return commands.DONE

    return commands.run("job", command, None)


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"WORLD_SIZE": "2"}, commands.WRONG, "RANK is not. Start with torchrun, or unset it."),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            commands.FAILED,
            "the processes of this run do not meet: ",
        ),
    ],
)
def test_processes_that_do_not_meet_are_one_line(
    variables: dict[str, str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert meet([]) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("job: ")]
    assert len(lines) == 1 and told in lines[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists threads")
def test_no_thread_of_the_job_outlives_it(tmp_path: Path) -> None:
    """One that lets go of a tensor while Python ends aborts the process."""
    assert launch(compile_within, [str(tmp_path)], 2) == 0
    for rank in (0, 1):
        assert "gloo" not in (tmp_path / str(rank)).read_text()


def test_a_process_that_is_killed_ends_the_others() -> None:
    with pytest.raises(LostProcessError, match=r"process 0 of 2 was ended by SIGKILL.* Try again"):
        launch(lose, [], 2, "Try again.")


def rest(words: list[str]) -> int:
    return commands.run("job", lambda _: time.sleep(60) or commands.DONE, None)


def test_an_interruption_while_processes_start_ends_them_in_order(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupt() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert launch(rest, [], 2) == commands.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert "Traceback" not in capfd.readouterr().err


def look(words: list[str]) -> int:
    return commands.DONE if multiprocessing.get_start_method() == words[0] else commands.FAILED


def test_loaders_of_launched_processes_start_as_in_a_single_one() -> None:
    assert launch(look, [multiprocessing.get_start_method()], 1) == commands.DONE


def test_alone_the_same_calls_need_no_other_process() -> None:
    with joined() as world:
        assert (world.first, world.several, world.gather(7)) == (True, False, [7])
        assert world.on_first(lambda: 8) == world.on_all(lambda: 8) == 8
        with pytest.raises(ValueError, match="'x'"):
            world.on_all(lambda: int("x"))


def test_a_first_signal_is_noted_and_a_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), noting(signal.SIGINT) as noted:
        os.kill(os.getpid(), signal.SIGINT)
        assert noted == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
