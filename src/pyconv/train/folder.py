"""The folder of a training run: taken for one run alone, with what lies there to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..system.files import remove_leftovers, replacing
from .recipe import differences
from .state import read_best, read_state

__all__ = ["Claim", "check_same", "is_best_of"]

FILES = ("last.pt", "best.pt", "log.csv", "steps.csv", "curves.png", "summary.json")
LOCK_WAIT = 20  # seconds: the loaders of a killed run live a little longer, and hold its lock


class Claim:
    """The claim of one run on its folder, from :meth:`take` to :meth:`release`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.lock = FileLock(output / ".lock")

    def take(self) -> None:
        """Make the folder, keep others out of it, and remove what a kill left half written.

        Raises:
            ValueError: if another run holds it, or there can be no such folder.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ValueError(
                f"{self.output} cannot be made a folder: {error.strerror}. Give another --output."
            ) from error
        try:
            self.lock.acquire(timeout=LOCK_WAIT)
        except Timeout:
            raise ValueError(
                f"Another run is writing into {self.output}. Wait for it, or give another --output."
            ) from None
        remove_leftovers(self.output, FILES)

    def release(self) -> None:
        self.lock.release()

    def source(self, resume: str | Path | None) -> Path | None:
        """The state to go on from: the one in the folder or the one asked for; None to begin.

        Raises:
            ValueError: if there are two.
        """
        own = self.output / "last.pt"
        if resume is None:
            return own if own.exists() else None
        source = Path(resume).expanduser()
        if own.exists() and source.resolve() != own.resolve():
            raise ValueError(
                f"{self.output} holds a run of its own and --resume names another. Leave --resume "
                "out, or give another --output."
            )
        return source

    def go_on(
        self, resume: str | Path | None, run: dict[str, Any], classes: Sequence[str]
    ) -> dict[str, Any] | None:
        """The state to go on from, if there is one; ``run`` is what it must be a state of.

        The best weights and the steps of a run that lay elsewhere are brought along.

        Raises:
            ValueError: if it is of another run, missing or damaged.
        """
        source = self.source(resume)
        if source is None:
            return None
        state = read_state(source)
        check_same(source, state, run, classes)
        if source.resolve().parent != self.output.resolve():
            best = source.with_name("best.pt")
            if is_best_of(best, state):
                _bring(best, self.output)
            _bring(source.with_name("steps.csv"), self.output)
        return state


def check_same(
    source: Path, state: dict[str, Any], run: dict[str, Any], classes: Sequence[str]
) -> None:
    """Prove that a saved state is of the run asked for.

    Raises:
        ValueError: spelling out what differs.
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
    """Whether a file holds, undamaged, the weights of an epoch of the run that ``state`` is of."""
    try:
        content = read_best(path)
    except (OSError, ValueError):
        return False
    # A kill between the two saves leaves a best.pt that is an epoch ahead, to be made again.
    ours, theirs = state["history"], content["history"]
    return bool(content["run"] == state["run"] and theirs[: len(ours)] == ours[: len(theirs)])


def _bring(path: Path, folder: Path) -> None:
    if path.is_file():
        with path.open("rb") as old, replacing(folder / path.name) as new:
            shutil.copyfileobj(old, new)
