"""Whether a run may go on from a saved state: the same network, recipe, classes and images.

All of it is decided here, from plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .changes import Changes, changes, describe, first_names
from .recipe import Recipe, differences

__all__ = ["Agreed", "Records", "agree_on_images", "check_same", "is_same_run", "kept_name"]

Records = Mapping[str, Mapping[str, Any]]  # of each split, by changes.record()


def check_same(
    source: Path, state: Mapping[str, Any], run: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Check that a saved state is of the run asked for.

    Args:
        source: The file of the state.
        state: The saved state.
        run: The identity and the recipe of now.
        classes: The names of the classes of now.

    Raises:
        ValueError: if it is not; it says what differs.
    """
    wrong = differences(_asked(state["run"]), _asked(run)) or _why_not_as_long(state, run)
    if not wrong and state["classes"] != list(classes):
        there = [name for name in state["classes"] if name not in classes]
        here = [name for name in classes if name not in state["classes"]]
        wrong = f"classes {first_names(there)} there and {first_names(here)} here"
        if not there:
            wrong = "the order of the classes"
    if wrong:
        raise ValueError(
            f"{source} is of another run: {wrong}. Ask for the same, or give another --output "
            f"(with --weights {source} to start from its weights)."
        )


def is_same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two saved runs were asked for the same."""
    return _asked(one) == _asked(other)


def _asked(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was asked for, but for what may change while it lasts."""
    asked = run["identity"] | Recipe().as_dict() | run["recipe"]  # which may be older than a field
    # How many images there were is a matter of the images.
    return {key: value for key, value in asked.items() if key not in ("images", "epochs")}


def _why_not_as_long(state: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Why a run cannot go on to another number of epochs; empty if it can."""
    before, now = state["run"]["recipe"]["epochs"], run["recipe"]["epochs"]
    if now == before:
        return ""
    if run["recipe"]["schedule"] == "cosine":
        return f"epochs {before} there and {now} here, on which each rate of a cosine depends"
    begun = len(state["history"]) + bool(state["position"]["step"])
    return f"{begun} epochs are begun there, and {now} are asked for" if now < begun else ""


class Agreed(NamedTuple):
    """How a run goes on with the images of now."""

    lines: tuple[str, ...] = ()  # to tell
    anew: bool = False  # whether accuracies from here on have nothing to compare with before


def agree_on_images(
    source: Path,
    state: Mapping[str, Any],
    run: Mapping[str, Any],
    images: Records,
    unreadable: set[str],
    accept: bool,
) -> Agreed:
    """How a run goes on if its images may have changed.

    Args:
        source: The file of the state.
        state: The saved state.
        run: The identity and the recipe of now.
        images: What is known of the images of now.
        unreadable: Images that could not be read, such as ``train/a/1.png``: these may be gone or
            replaced, since that is what their error asked for.
        accept: Whether any may have changed.

    Raises:
        ValueError: if they have changed and may not; it says what.
    """
    there, epochs = state.get("images_seen"), len(state["history"])
    found: dict[str, Changes] = {}
    if there is not None:
        found = {split: changes(there[split], images[split]) for split in images}
        told = describe(found)
    else:  # saved before a run knew its images: only how many there were to learn from
        counts = [each["identity"].get("images") for each in (state["run"], run)]
        told = "" if counts[0] == counts[1] else f"train/: {counts[0]} there and {counts[1]} here"
        if not told:
            line = f"{source} does not say which images it has seen: they are taken to be these."
            return Agreed((line,))
    if not told:
        return Agreed()
    if epochs >= run["recipe"]["epochs"]:
        raise ValueError(
            f"{source} is of a complete run, and its images have changed: {told}. Evaluate its "
            "weights on others with pyconv-eval; to train on, give another --output and "
            f"--weights {source}."
        )
    held_out = bool(run["recipe"].get("val_fraction"))  # both splits lie in train/, if there is one
    excused = found and all(
        each.are_of(_of("train" if held_out else split, unreadable))
        for split, each in found.items()
    )
    if not accept and not excused:
        raise ValueError(
            f"{source} was trained on other images: {told}. Put these back, or go on with the "
            "images of now: --accept-changed-data. To start anew, give another --output."
        )
    lines = [f"The images have changed: {told}."]
    if found.get("train", True):
        lines[0] += " Not bit for bit what the run would have been."
    anew = bool(found.get("val", True)) and epochs > 0
    if anew:
        lines.append(
            "Accuracies on other validation images are not compared: the best epoch is looked for "
            f"from epoch {epochs + 1} on, and best.pt is then kept as {kept_name(epochs)}."
        )
    return Agreed(tuple(lines), anew)


def _of(folder: str, names: set[str]) -> set[str]:
    return {name.removeprefix(f"{folder}/") for name in names}


def kept_name(compared_from: int) -> str:
    """The name that keeps the best weights on the validation images before an epoch, from 0."""
    return f"best-before-epoch-{compared_from + 1}.pt"
