"""Lists of names and labels as people and programs write them; nothing they name is lost."""

from __future__ import annotations

from pathlib import Path

import photos
import pytest

from pyconv.data.folders import find_images

NAMES = ["golden retriever", "great white shark", "tench"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("1.jpg", "2.jpg", "3.jpg", "a b.jpg", "sub/4.jpg"):
        photos.write(tmp_path / name, b"pixels")
    return tmp_path


def read(root: Path, text: str | bytes, classes: list[str] | int) -> dict[str, str]:
    """The class of each image by a list of this text."""
    data = text if isinstance(text, bytes) else text.encode()
    photos.write(root / "list.txt", data)
    images = find_images(root, classes, labels=root / "list.txt")
    return {str(path.relative_to(root)): images.classes[n] for path, n in images.samples}


THREE = {"1.jpg": "golden retriever", "2.jpg": "great white shark", "3.jpg": "tench"}
BY_NAME = {
    "commas": '1.jpg,golden retriever\n2.jpg,"great white shark"\n3.jpg,tench\n',
    "a header": "image,label\n1.jpg,golden retriever\n2.jpg,great white shark\n3.jpg,tench\n",
    "semicolons": "1.jpg;golden retriever\n2.jpg; great white shark\n3.jpg;tench\n",
    "tabs": "1.jpg\tgolden retriever\r\n2.jpg\tgreat white shark\r\n3.jpg\ttench",
    "blanks": "1.jpg golden retriever\n2.jpg  great white shark\n\n3.jpg tench\n",
    "the index of pandas": (
        ",image,label\n0,1.jpg,golden retriever\n1,2.jpg,great white shark\n2,3.jpg,tench\n"
    ),
    "the index and more columns": (
        ",image,label,width\n0,1.jpg,golden retriever,1\n1,2.jpg,great white shark,2\n"
        "2,3.jpg,tench,3\n"
    ),
    "a frame without names": (
        ",0,1\n0,1.jpg,golden retriever\n1,2.jpg,great white shark\n2,3.jpg,tench\n"
    ),
    "the label first": "label,file\ngolden retriever,1.jpg\ngreat white shark,2.jpg\ntench,3.jpg\n",
    "more columns": (
        "file,split,label,width\n1.jpg,val,golden retriever,10\n2.jpg,val,great white shark,11\n"
        "3.jpg,val,tench,12\n"
    ),
    "empty columns": "1.jpg,golden retriever,,\n2.jpg,great white shark,,\n3.jpg,tench,,\n",
    "old Macs": "1.jpg,golden retriever\r2.jpg,great white shark\r3.jpg,tench\r",
}


@pytest.mark.parametrize("form", BY_NAME)
def test_labels_with_blanks_are_read_whole(form: str, root: Path) -> None:
    assert read(root, BY_NAME[form], NAMES) == THREE


BY_NUMBER = {
    "floats of pandas": ("image,label\n1.jpg,3.0\n2.jpg,5.0\n", {"1.jpg": "3", "2.jpg": "5"}),
    "an index as well": (",image,label\n0,1.jpg,3.0\n1,2.jpg,5\n", {"1.jpg": "3", "2.jpg": "5"}),
    "paths of Windows": ("sub\\4.jpg 3\r\na b.jpg 4\r\n", {"sub/4.jpg": "3", "a b.jpg": "4"}),
    "quoted names": ('"a b.jpg" 3\n"sub/4.jpg" 4\n', {"a b.jpg": "3", "sub/4.jpg": "4"}),
    "commas and blanks": ("a b.jpg , 3\nsub/4.jpg , 4\n", {"a b.jpg": "3", "sub/4.jpg": "4"}),
    "a mark in front": ("\ufeffimage,label\n1.jpg,3\n2.jpg,4\n", {"1.jpg": "3", "2.jpg": "4"}),
    "one line": ("1.jpg,3\n", {"1.jpg": "3"}),
    "a frame without names": (",0,1\n0,1.jpg,3\n1,2.jpg,4\n", {"1.jpg": "3", "2.jpg": "4"}),
    "quotes and blanks": ('"1.jpg" , "3" \n"a b.jpg" , "4" \n', {"1.jpg": "3", "a b.jpg": "4"}),
    "comments": ("# my list\n# image label\n1.jpg 3\n2.jpg 4\n", {"1.jpg": "3", "2.jpg": "4"}),
}


@pytest.mark.parametrize("form", BY_NUMBER)
def test_positions_are_read_however_they_are_written(form: str, root: Path) -> None:
    text, expected = BY_NUMBER[form]
    assert read(root, text, 10) == expected


def test_a_class_may_be_called_as_a_column(root: Path) -> None:
    text = "name,label\n1.jpg,label\n2.jpg,tench\n"
    assert read(root, text, ["label", "tench"]) == {"1.jpg": "label", "2.jpg": "tench"}
    assert find_images(root, ["label", "tench"], labels=root / "list.txt").missing == ()


def test_names_with_the_mark_between_columns_are_found(root: Path) -> None:
    photos.write(root / "x,y.jpg", b"pixels")
    assert read(root, "x,y.jpg 3\n", 10) == {"x,y.jpg": "3"}
    assert read(root, '"x,y.jpg",3\n1.jpg,4\n', 10) == {"x,y.jpg": "3", "1.jpg": "4"}


def test_absolute_paths_are_taken(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "list.csv").write_text(f"{root / 'a b.jpg'},3\n{root / '1.jpg'},4\n")
    images = find_images(elsewhere, 10, labels=elsewhere / "list.csv")
    assert [path for path, _ in images.samples] == [root / "a b.jpg", root / "1.jpg"]
    assert [path.name for path in images.skipped] == ["2.jpg", "3.jpg"]  # beside the listed ones


def test_names_and_numbers_of_classes_are_not_mixed_up(root: Path) -> None:
    """Where classes are called by numbers, a label is a name, as pandas writes it too."""
    assert read(root, "1.jpg,01\n2.jpg,02\n", ["01", "02", "03"]) == {"1.jpg": "01", "2.jpg": "02"}
    for one, two in (("1", "2"), ("1.0", "2.0")):
        found = read(root, f"1.jpg,{one}\n2.jpg,{two}\n", ["1", "2", "3"])
        assert found == {"1.jpg": "1", "2.jpg": "2"}
    with pytest.raises(ValueError, match=r"of '0', which .* Its classes are called 1, 2, 3\.$"):
        read(root, "1.jpg,0\n2.jpg,1\n", ["1", "2", "3"])
    one = ["cat", "dog", "2024"]  # only one of them is: that takes no positions away
    assert read(root, "1.jpg,0\n2.jpg,1\n", one) == {"1.jpg": "cat", "2.jpg": "dog"}
    assert read(root, "1.jpg,-1\n2.jpg,0\n", ["-1", "0"]) == {"1.jpg": "-1", "2.jpg": "0"}


def test_an_image_that_is_named_twice_counts_once(root: Path) -> None:
    text = "1.jpg,3\n1.jpg,3\n./1.jpg,3.0\n2.jpg,4\n"
    assert read(root, text, 10) == {"1.jpg": "3", "2.jpg": "4"}
    images = find_images(root, 10, labels=root / "list.txt")
    assert len(images.samples) == 2 and "1.jpg" not in str(images.skipped)
    assert images.finding.endswith("list.txt (2 of its lines name an image again)")
    with pytest.raises(
        ValueError, match=r"1\.jpg twice, with the labels '3' and '4'\. Keep one line"
    ):
        read(root, "1.jpg 3\n2.jpg 4\n1.jpg 4\n", 10)


def test_what_a_list_names_in_vain_is_told(root: Path) -> None:
    photos.write(root / "list.txt", b"1.jpg 3\ngone.jpg 4\nalso gone.jpg 5\n")
    images = find_images(root, 10, labels=root / "list.txt")
    assert images.missing == ("gone.jpg", "also gone.jpg")
    assert images.finding.endswith("list.txt (2 more that it names are not there)")
    assert [path.name for path in images.skipped] == ["2.jpg", "3.jpg", "a b.jpg", "4.jpg"]
    (told,) = images.left_out
    assert told.startswith("4 .jpg files are left out, not named in list.txt; the first is ")


FAULTS: dict[str, tuple[str | bytes, list[str] | int, str]] = {
    "a misspelt class": ("1.jpg,Golden_Retreiver\n", NAMES, "Did you mean 'golden retriever'"),
    "another case": ("1.jpg,Tench\n", NAMES, "'Tench', which the model does not know.*'tench'"),
    "an unknown class": ("1.jpg,zebra\n", NAMES, "'zebra', which the model does not know"),
    "no label": ("1.jpg,tench\n2.jpg,\n", NAMES, "Leave out the images without a label"),
    "half a number": ("1.jpg,2.5\n2.jpg,3.0\n", 10, "'2.5' is no position"),
    "names for a model without": ("1.jpg,tench\n", 10, "gives their positions, from 0, or names"),
    "a quote left open": ('1.jpg,tench\n2.jpg,"tench\n', NAMES, "Line 2 of .*close them"),
    "a label with a comma": ("1.jpg,tench, fish\n2.jpg,tench\n", NAMES, "Line 2 .* 3 columns"),
    "many columns": ("1.jpg,a,b\n2.jpg,c,d\n", NAMES, "has 3 columns.*Keep two"),
    "bytes of value 0": ("1.jpg 1\n".encode("utf-16-le"), 10, "is no text in UTF-8"),
    "Latin-1": ("1.jpg,caf\xe9\n".encode("latin-1"), NAMES, "is no text in UTF-8.*Save it"),
    "a number beyond all": ("1.jpg,1700000000\n2.jpg,3\n", 10, "'1700000000' is no position"),
    "numbers beyond all": ("1.jpg,99999999999999999999\n", 10, "gives their positions"),
    "JSON": ('{"1.jpg": 3, "2.jpg": 4}\n', 10, "Line 1 of .* is no row: .* into quotes"),
    "a header alone": ("image,label\n", NAMES, "names no image that is there: image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_with_the_cure(fault: str, root: Path) -> None:
    text, classes, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        read(root, text, classes)
