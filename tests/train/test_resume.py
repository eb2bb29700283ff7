"""With which images a run may go on, decided from what is known of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from train_fixtures import make_tree

from pyconv.train import loading
from pyconv.train.changes import record
from pyconv.train.recipe import Recipe
from pyconv.train.resume import Agreed, agree_on_images, check_same, is_same_run

LAST = Path("run/last.pt")
PLAN = Recipe(epochs=3).as_dict()
RUN = {"identity": {"model": "m", "images": 8}, "recipe": PLAN}


def seen(tree: Path) -> dict[str, Any]:
    splits = loading.find_splits(tree)
    return {
        name: record(tree / name, samples, splits.classes)
        for name, samples in (("train", splits.train), ("val", splits.val))
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", classes=2, train=4, val=3)


def agree(
    state: dict[str, Any], images: dict[str, Any], *unreadable: str, accept: bool = False
) -> Agreed:
    return agree_on_images(LAST, state, RUN, images, set(unreadable), accept)


def state_of(tree: Path, epochs: int = 1) -> dict[str, Any]:
    return {"run": RUN, "images_seen": seen(tree), "history": [{}] * epochs}


def test_the_same_images_need_no_word(tree: Path) -> None:
    assert agree(state_of(tree), seen(tree)) == Agreed()
    assert agree(state_of(tree, epochs=3), seen(tree)) == Agreed()


def test_other_images_are_refused_with_what_differs_and_the_cure(tree: Path) -> None:
    state = state_of(tree)
    (tree / "val/class1/001.png").unlink()
    with pytest.raises(ValueError, match=r"val/: 1 removed \(class1/001.png\).*--accept-changed-"):
        agree(state, seen(tree))
    lines, anew = agree(state, seen(tree), accept=True)
    assert anew
    assert "bit for bit" not in lines[0]  # what is learned is as it would have been
    assert "from epoch 2 on, and best.pt is then kept as best-before-epoch-2.pt" in lines[1]
    assert agree(state | {"history": []}, seen(tree), accept=True).anew is False


def test_other_images_to_learn_from_leave_accuracies_comparable(tree: Path) -> None:
    state = state_of(tree)
    (tree / "train/class1/001.png").unlink()
    (line,), anew = agree(state, seen(tree), accept=True)
    assert "1 removed (class1/001.png). Not bit for bit" in line
    assert not anew


def test_what_could_not_be_read_may_be_gone_or_replaced_and_nothing_else(tree: Path) -> None:
    state, bad = state_of(tree), "train/class0/002.png"
    (tree / bad).write_bytes(b"whole again")
    assert agree(state, seen(tree), bad).lines
    (tree / bad).unlink()
    assert agree(state, seen(tree), bad, "val/class0/002.png").lines
    with pytest.raises(ValueError, match="other images"):
        agree(state, seen(tree), "val/class0/002.png")
    (tree / "train/class0/000.png").unlink()
    with pytest.raises(ValueError, match="2 removed"):
        agree(state, seen(tree), bad)


def test_a_complete_run_has_nothing_to_do_with_other_images(tree: Path) -> None:
    state = state_of(tree, epochs=3)
    (tree / "val/class1/001.png").unlink()
    for accept in (False, True):
        with pytest.raises(ValueError, match=r"complete run.*pyconv-eval; .* --weights run/last"):
            agree(state, seen(tree), accept=accept)


def test_a_state_that_knows_only_how_many_images_there_were(tree: Path) -> None:
    old = {"run": RUN, "history": [{}]}
    (line,), anew = agree(old, seen(tree))
    assert "does not say which images" in line and not anew
    fewer = old | {"run": {**RUN, "identity": {"model": "m", "images": 9}}}
    with pytest.raises(ValueError, match=r"train/: 9 there and 8 here.*--accept-changed-data"):
        agree(fewer, seen(tree))
    lines, anew = agree(fewer, seen(tree), accept=True)
    assert "Not bit for bit" in lines[0] and anew  # nobody knows about those of validation


def test_other_classes_or_another_recipe_are_another_run() -> None:
    state = {"run": RUN, "classes": ["cat", "dog"]}
    check_same(LAST, state, RUN, ("cat", "dog"))
    with pytest.raises(ValueError, match=r"classes dog there and fox here.*--weights run/last.pt"):
        check_same(LAST, state, RUN, ("cat", "fox"))
    with pytest.raises(ValueError, match="the order of the classes"):
        check_same(LAST, state, RUN, ("dog", "cat"))
    other = {**RUN, "recipe": PLAN | {"lr": 0.4}}
    with pytest.raises(ValueError, match=r"lr 0\.1 there and 0\.4 here"):
        check_same(LAST, state, other, ("cat", "dog"))
    assert not is_same_run(RUN, other)
    assert is_same_run(RUN, {**RUN, "identity": {"model": "m", "images": 7}})
    older = {**RUN, "recipe": {k: v for k, v in PLAN.items() if k != "val_fraction"}}
    assert is_same_run(RUN, older)  # saved before there was such a field


@pytest.mark.parametrize(
    ("schedule", "epochs", "step", "why"),
    [
        ("step", 9, 0, ""),
        ("step", 2, 0, ""),
        ("step", 2, 5, "3 epochs are begun there, and 2 are asked for"),
        ("step", 1, 0, "2 epochs are begun there, and 1 are asked for"),
        ("cosine", 9, 0, "epochs 3 there and 9 here, on which each rate of a cosine depends"),
    ],
)
def test_a_run_may_become_longer_where_no_rate_depends_on_it(
    schedule: str, epochs: int, step: int, why: str
) -> None:
    before = {**RUN, "recipe": PLAN | {"schedule": schedule}}
    now = {**RUN, "recipe": PLAN | {"schedule": schedule, "epochs": epochs}}
    position = {"epoch": 2, "step": step}
    state = {"run": before, "classes": [], "history": [{}] * 2, "position": position}
    with pytest.raises(ValueError, match=why) if why else nullcontext():
        check_same(LAST, state, now, ())
    assert is_same_run(before, now)
