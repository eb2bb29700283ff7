"""The folder of a training run: locked by one run at a time, and the state saved in it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ..system.files import remove_leftovers, replacing
from .recipe import differences
from .state import read_best, read_state, write_state

__all__ = ["RunFolder", "check_same", "is_best_of"]

FILES = ("last.pt", "best.pt", "log.csv", "steps.csv", "curves.png", "summary.json")
LOCK_WAIT = 20  # seconds: loader processes of a killed run live on a little and hold its lock


class RunFolder:
    """The folder of a run, which belongs to this run from :meth:`take` to :meth:`release`.

    Only the first process of the run takes it and writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: Path = path / "last.pt"
        self.best: Path = path / "best.pt"
        self.lock: BaseFileLock = FileLock(path / ".lock")

    def take(self) -> None:
        """Make the folder, lock it, and remove files that a kill left half written.

        Raises:
            ValueError: if another run holds it, or there can be no such folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ValueError(
                f"{self.path} cannot be made a folder: {error.strerror}. Give another --output."
            ) from error
        try:
            self.lock.acquire(timeout=LOCK_WAIT)
        except Timeout:
            raise ValueError(
                f"Another run is writing into {self.path}. Wait for it, or give another --output."
            ) from None
        remove_leftovers(self.path, FILES)

    def release(self) -> None:
        """Unlock the folder, if it is locked."""
        self.lock.release()

    def source(self, resume: str | Path | None) -> Path | None:
        """The file to go on from: that of the folder, or ``resume``; None to begin.

        Raises:
            ValueError: if there are two.
        """
        if resume is None:
            return self.last if self.last.exists() else None
        source = Path(resume).expanduser()
        if self.last.exists() and source.resolve() != self.last.resolve():
            raise ValueError(
                f"{self.path} holds a run of its own and --resume names another. Leave --resume "
                "out, or give another --output."
            )
        return source

    def go_on(
        self, resume: str | Path | None, run: dict[str, Any], classes: Sequence[str]
    ) -> dict[str, Any] | None:
        """The state to go on from; None to begin.

        From another folder, ``best.pt`` and ``steps.csv`` are copied into this one.

        Args:
            resume: A file to go on from; None for that of this folder, if there is one.
            run: The identity and the recipe that the state must have been saved with.
            classes: The names of the classes, likewise.

        Raises:
            ValueError: if the state is of another run, missing or damaged.
        """
        source = self.source(resume)
        if source is None:
            return None
        state = read_state(source)
        check_same(source, state, run, classes)
        if source.resolve().parent != self.path.resolve():
            best = source.with_name("best.pt")
            if is_best_of(best, state):
                _copy(best, self.path)
            _copy(source.with_name("steps.csv"), self.path)
        return state

    def save(self, weights: dict[str, Any], rest: dict[str, Any], best: bool) -> None:
        """Write ``last.pt``, and before it ``best.pt`` if the weights are the best so far.

        Args:
            weights: The weights to use, and what belongs to them.
            rest: What it takes besides to go on.
            best: Whether these are the best weights so far.

        Raises:
            OSError: if a file cannot be written; the one before is intact.
        """
        if best:
            write_state(self.best, weights)
        write_state(self.last, weights | rest)


def check_same(
    source: Path, state: dict[str, Any], run: dict[str, Any], classes: Sequence[str]
) -> None:
    """Check that a saved state is of the run asked for.

    Raises:
        ValueError: if it is not; it says what differs.
    """
    there = state["run"]
    wrong = differences(there["identity"] | there["recipe"], run["identity"] | run["recipe"])
    if not wrong and state["classes"] != list(classes):
        wrong = "the names of the classes"
    if wrong:
        raise ValueError(
            f"{source} is of another run: {wrong}. Ask for the same, or give another --output "
            f"(with --weights {source} to start from its weights)."
        )


def is_best_of(path: Path, state: dict[str, Any]) -> bool:
    """Whether a file holds, undamaged, best weights of the run that ``state`` is of."""
    try:
        content = read_best(path)
    except (OSError, ValueError):
        return False
    # A kill between the two saves leaves a best.pt that is an epoch ahead; it is written anew.
    ours, theirs = state["history"], content["history"]
    return bool(content["run"] == state["run"] and theirs[: len(ours)] == ours[: len(theirs)])


def _copy(path: Path, folder: Path) -> None:
    if path.is_file():
        with path.open("rb") as old, replacing(folder / path.name) as new:
            shutil.copyfileobj(old, new)
