"""What a run knows of its images: what has changed of them is told, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from train_fixtures import make_tree

from pyconv.data import find_images
from pyconv.train import changes as module
from pyconv.train.changes import Changes, changes, describe, record


def look(place: Path) -> dict[str, object]:
    images = find_images(place)
    return record(place, images.samples, images.classes)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", classes=3, train=4, val=1) / "train"


def exchange(place: Path) -> None:
    (place / "class0").rename(place / "x")
    (place / "class1").rename(place / "class0")
    (place / "x").rename(place / "class1")


def same_size(place: Path) -> None:
    file = place / "class2" / "001.png"
    file.write_bytes(file.read_bytes()[::-1])


ALL = tuple(f"class{label}/{number:03d}.png" for label in (0, 1) for number in range(4))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda place: None, Changes()),
        (lambda place: (place / "class1/002.png").unlink(), Changes(removed=("class1/002.png",))),
        (
            lambda place: (place / "class1/new.png").write_bytes(b"new"),
            Changes(added=("class1/new.png",)),
        ),
        (
            lambda place: (place / "class0/000.png").write_bytes(b"other"),
            Changes(replaced=("class0/000.png",)),
        ),
        (same_size, Changes(replaced=("class2/001.png",))),
        (exchange, Changes(replaced=ALL)),  # names and sizes are as they were
        (
            lambda place: (place / "class0").rename(place.parent / "gone"),
            Changes(removed=ALL[:4]),
        ),
    ],
)
def test_what_has_changed_is_found(
    place: Path, change: Callable[[Path], object], found: Changes
) -> None:
    before = look(place)
    change(place)
    assert changes(before, look(place)) == found


def test_images_elsewhere_are_the_same(place: Path, tmp_path: Path) -> None:
    before = look(place)
    place.parent.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*.png"):
        os.utime(path, (0, 0))  # as of a copy
    assert not changes(before, look(tmp_path / "moved" / "train"))


def test_another_label_of_the_same_file_is_found(place: Path) -> None:
    images = find_images(place)
    named = [record(place, images.samples, names) for names in ("abc", "bac")]
    assert changes(*named) == Changes(moved=ALL)


def test_strange_names_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a\nb"
    folder.mkdir(parents=True)
    names = ["c\td.png", "e f.png", "\udcff.png"]
    for name in names:
        (folder / name).write_bytes(b"x")
    before = look(folder.parent)
    for name in names:
        (folder / name).unlink()
    (folder / "left.png").write_bytes(b"x")
    assert changes(before, look(folder.parent)).removed == tuple(sorted(f"a\nb/{n}" for n in names))


def test_of_many_images_some_are_looked_into_and_a_removed_one_blames_no_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUMMED", 4)  # of 12
    before = look(place)
    (place / "class0/001.png").unlink()
    assert changes(before, look(place)) == Changes(removed=("class0/001.png",))
    before = look(place)
    exchange(place)
    assert changes(before, look(place)).replaced  # some of each class


def test_changes_are_told_with_counts_and_examples() -> None:
    names = tuple(f"a/{number}.png" for number in range(1234))
    found = {"train": Changes(removed=names, moved=("b",)), "val": Changes(added=("c", "d"))}
    assert describe(found) == (
        "train/: 1,234 removed (a/0.png, a/1.png, a/2.png and 1,231 more), 1 of another class (b); "
        "val/: 2 added (c, d)"
    )
    assert describe({"train": Changes(), "val": Changes()}) == ""


def test_a_link_to_nothing_is_named(place: Path) -> None:
    (place / "class0" / "link.png").symlink_to("nothing")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*link\.png"):
        look(place)


def test_a_folder_by_another_way_is_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look(place)
    monkeypatch.chdir(place)
    assert look(Path())["digest"] == before["digest"] == look(Path("../train"))["digest"]
