"""Loader processes where memory to share is small, few files may be open, or the parent is gone."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pyconv.data.workers import (
    data_loader,
    stack_pairs,
    start_lasting_worker,
    start_worker,
    workers_for,
)

ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}
EVALUATION = [sys.executable, "-m", "pyconv.evaluate", "--sample", "--batch-size", "250"]


@pytest.fixture(scope="module")
def no_room(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which shared memory, or also semaphores, find no room: for any user."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux")
    folder, made = tmp_path_factory.mktemp("shim"), {}
    for function in ("shm_open", "sem_open"):
        failed = "-1" if function == "shm_open" else "0"  # as they say that they failed
        source = f"#include <errno.h>\nlong {function}() {{ errno = ENOSPC; return {failed}; }}\n"
        made[function] = str(folder / f"{function}.so")
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", made[function]]
        subprocess.run(command, input=source, text=True, check=True)
    return made


def evaluation(*options: str, start: tuple[str, ...] = (), **more: str) -> Any:
    return subprocess.run(
        [*start, *EVALUATION, *options],
        env=ENVIRONMENT | more, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_no_shared_memory_is_needed(no_room: dict[str, str]) -> None:
    """A container's 64 MB made PyTorch drop a batch, for which the loader waited for ever."""
    done = evaluation("--workers", "2", LD_PRELOAD=no_room["shm_open"])
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout


def test_a_small_shared_memory_is_enough() -> None:
    """The real thing."""
    small = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*small, "true"]).returncode:
        pytest.skip("needs the right to mount, as root has")
    done = evaluation("--workers", "2", start=small)
    assert done.returncode == 0, done.stderr


def test_without_processes_one_decodes_and_says_so(no_room: dict[str, str]) -> None:
    done = evaluation("--workers", "2", LD_PRELOAD=no_room["sem_open"])
    assert done.returncode == 0, done.stderr
    assert "No space left on device: 0 instead of 2 loader processes." in done.stderr
    assert "Traceback" not in done.stderr


def test_few_open_files_mean_fewer_processes_and_a_line() -> None:
    done = evaluation("--workers", "4", start=("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"))
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout
    assert "Too few files may be open ('ulimit -n 1024' allows more): " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [(4, None, 4), (4, 1000, 4), (0, 1000, 0), (4, 30, 1), (4, 29, 0), (16, 80, 9), (2, -5, 0)],
)
def test_workers_fit_the_files_that_may_be_open(
    wanted: int, free: int | None, expected: int
) -> None:
    assert workers_for(wanted, free) == expected


def pair(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((3, 2, 2), number, dtype=torch.uint8), torch.tensor(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_as_they_were_made(workers: int) -> None:
    loader = data_loader(
        list(map(pair, range(5))),  # type: ignore[arg-type]
        collate_fn=stack_pairs,
        num_workers=workers,
        batch_size=2,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )
    for _ in range(2):
        batches = list(loader)
        assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
        assert torch.equal(torch.cat([pixels for pixels, _ in batches])[4], pair(4)[0])
        assert not any(pixels.is_shared() for pixels, _ in batches)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="Windows has no such signals")
def test_a_signal_to_the_whole_job_lets_a_long_step_end() -> None:
    """PyTorch ends whoever has a loader process that dies, but not of one that is done."""
    loader = data_loader(
        list(map(pair, range(100))),  # type: ignore[arg-type]
        collate_fn=stack_pairs,
        num_workers=1,
        batch_size=1,
        worker_init_fn=functools.partial(start_lasting_worker, grace=1),
    )
    batches = iter(loader)
    assert next(batches)[1].tolist() == [0]
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    time.sleep(0.5)
    assert next(batches)[1].tolist() == [1] and worker.is_alive()
    worker.join(30)
    assert worker.exitcode == 0


class Unsendable:
    def __reduce__(self) -> Any:
        raise MemoryError("no room for it")


def test_a_batch_that_cannot_be_sent_is_not_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    loader: DataLoader[Any] = DataLoader(
        [0],  # type: ignore[arg-type]
        collate_fn=lambda items: Unsendable(),
        num_workers=1,
        worker_init_fn=start_worker,
        timeout=60,
    )
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(loader))
    assert "A loader process cannot send a batch: no room for it" in capfd.readouterr().err


ORPHANS = """
import multiprocessing, os, sys
from pyconv.data.workers import data_loader, start_worker
class Numbers:
    def __len__(self): return 1 << 30
    def __getitem__(self, index): return os.getpid()
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    loader = data_loader(Numbers(), collate_fn=list, num_workers=1, worker_init_fn=start_worker)
    for batch in loader:
        print(batch[0], flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_end_with_a_parent_that_is_killed(method: str, tmp_path: Path) -> None:
    (tmp_path / "orphans.py").write_text(ORPHANS)
    with subprocess.Popen(
        [sys.executable, tmp_path / "orphans.py", method],
        env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = Path(f"/proc/{worker}").exists()
    if left:
        os.kill(worker, signal.SIGKILL)
    assert not left
