"""The folder of a training run: locked by one run at a time, and the state saved in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ..system.files import expanded, remove_leftovers, replacing
from ..system.reading import unreadable
from ..system.streams import message
from ..weights.checkpoint import CheckpointError
from .resume import Records, agree_on_images, check_same, is_same_run, kept_name
from .state import read_best, read_state, write_state

__all__ = ["RunFolder", "is_best_of"]

FILES = ("last.pt", "best.pt", "log.csv", "steps.csv", "curves.png", "summary.json", "val.csv")
LOCK_WAIT = 20  # seconds: loader processes of a killed run live on a little and hold its lock


class RunFolder:
    """The folder of a run, which belongs to this run from :meth:`take` to :meth:`release`.

    Only the first process of the run takes it and writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: Path = path / "last.pt"
        self.best: Path = path / "best.pt"
        self.unreadable: Path = path / "unreadable.txt"
        self.images: Records = {}  # saved with each state
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

    def holds_run(self) -> bool:
        """Whether there is a ``last.pt``.

        Raises:
            OSError: if the system does not say, such as on a lost disk: a run is not overwritten.
        """
        try:
            self.last.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.last.is_symlink():  # to a disk that is not there
                raise unreadable(self.last, error) from error
            return False
        except OSError as error:
            raise unreadable(self.last, error) from error
        return True

    def source(self, resume: str | Path | None) -> Path | None:
        """The file to go on from: that of the folder, or ``resume``; None to begin.

        Raises:
            ValueError: if there are two.
        """
        if resume is None:
            return self.last if self.holds_run() else None
        source = expanded(resume)
        if self.holds_run() and source.resolve() != self.last.resolve():
            raise ValueError(
                f"{self.path} holds a run of its own and --resume names another. Leave --resume "
                "out, or give another --output."
            )
        return source

    def go_on(
        self,
        resume: str | Path | None,
        run: dict[str, Any],
        classes: Sequence[str],
        images: Records,
        accept: bool,
    ) -> dict[str, Any] | None:
        """The state to go on from; None to begin.

        From another folder, ``best.pt`` and ``steps.csv`` are copied into this one.

        Args:
            resume: A file to go on from; None for that of this folder, if there is one.
            run: The identity and the recipe that the state must have been saved with.
            classes: The names of the classes, likewise.
            images: What is known of the images, likewise.
            accept: Whether these may have changed.

        Raises:
            ValueError: if the state is of another run, missing or damaged.
            OSError: if the system does not read it.
        """
        self.images = images
        source = self.source(resume)
        if source is None:
            self.unreadable.unlink(missing_ok=True)  # of a run that is no longer here
            return None
        state = read_state(source)
        check_same(source, state, run, classes)
        noted = _read_names(source.with_name(self.unreadable.name))
        agreed = agree_on_images(source, state, run, images, noted, accept)
        if agreed.anew:
            state["compared_from"] = len(state["history"])
        if source.resolve().parent != self.path.resolve():
            best = source.with_name("best.pt")
            if is_best_of(best, state):
                _copy(best, self.path)
            _copy(source.with_name("steps.csv"), self.path)
        for line in agreed.lines:
            message(line)
        return state

    def note_unreadable(self, name: str) -> None:
        """Note an image, such as ``train/a/1.png``, that may be deleted before the run goes on."""
        with contextlib.suppress(OSError), self.unreadable.open("ab") as file:
            file.write(os.fsencode(name) + b"\n")

    def save(self, weights: dict[str, Any], rest: dict[str, Any], best: bool) -> None:
        """Write ``last.pt``, and before it ``best.pt`` if the weights are the best so far.

        The best weights on other validation images, which cannot be compared, are kept by a name.

        Args:
            weights: The weights to use, and what belongs to them.
            rest: What it takes besides to go on.
            best: Whether these are the best weights so far.

        Raises:
            OSError: if a file cannot be written; the one before is intact.
        """
        if best:
            begin = rest["compared_from"]
            kept = self.path / kept_name(begin)
            is_first = len(weights["history"]) == begin + 1 > 1
            if is_first and self.best.exists() and not kept.exists():
                self.best.rename(kept)
            write_state(self.best, weights)
        write_state(self.last, weights | rest | {"images_seen": dict(self.images)})


def _read_names(path: Path) -> set[str]:
    try:
        return {os.fsdecode(line) for line in path.read_bytes().split(b"\n")}
    except FileNotFoundError:  # every image could be read
        return set()


def is_best_of(path: Path, state: dict[str, Any]) -> bool:
    """Whether a file holds, undamaged, best weights of the run that ``state`` is of.

    Raises:
        OSError: if the system does not read it.
    """
    try:
        content = read_best(path)
    except (FileNotFoundError, CheckpointError):
        return False
    # A kill between the two saves leaves a best.pt that is an epoch ahead; it is written anew.
    ours, theirs = state["history"], content["history"]
    same = is_same_run(content["run"], state["run"])
    return same and bool(theirs[: len(ours)] == ours[: len(theirs)])


def _copy(path: Path, folder: Path) -> None:
    if path.is_file():
        with path.open("rb") as old, replacing(folder / path.name) as new:
            shutil.copyfileobj(old, new)
