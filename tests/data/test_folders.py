"""Folders as users have them: what is found in them, and what is said where nothing is."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import photos
import pytest

from pyconv.data import imagenet
from pyconv.data.folders import find_images

IMAGES = photos.photos(imagenet.synsets())


def touch(root: Path, *names: str) -> Path:
    for name in names:
        photos.write(root / name, b"pixels")
    return root


@pytest.mark.parametrize("layout", photos.LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_each_image_its_label(
    layout: Callable[[Path, list[photos.Photo]], list[str]], tmp_path: Path
) -> None:
    data, *labels = layout(tmp_path / "data", IMAGES)
    images = find_images(data, 1000, labels=labels[1] if labels else None)
    assert images.classes == imagenet.synsets()
    found = {images.read(index): label for index, (_, label) in enumerate(images.samples)}
    assert found == {photo.data: photo.label for photo in IMAGES}
    assert images.finding.startswith("23 images of 22 of 1,000 classes, labels from ")
    assert not images.skipped


def test_one_line_says_where_the_labels_come_from(tmp_path: Path) -> None:
    flat = find_images(photos.flat(tmp_path / "flat", IMAGES)[0])
    assert flat.finding == "23 images of 22 of 1,000 classes, labels from file names"
    folders = find_images(touch(tmp_path / "own", "a/1.jpg", "b/1.jpg", "b/2.PNG"))
    assert folders.finding == "3 images of 2 classes, labels from folder names"


def test_classes_of_ones_own_are_the_sorted_folder_names(tmp_path: Path) -> None:
    touch(tmp_path, "rose/b.jpg", "rose/deeper/a.jpg", "daisy/1.jpg", ".git/x.jpg", "daisy/._1.jpg")
    (tmp_path / "aster").mkdir()
    images = find_images(tmp_path)
    assert images.classes == ("aster", "daisy", "rose")  # one without images is still a class
    assert [(path.name, label) for path, label in images.samples] == [
        ("1.jpg", 1),
        ("b.jpg", 2),
        ("a.jpg", 2),
    ]


def test_a_subset_of_imagenet_has_its_own_order_for_a_model_of_that_many_classes(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "n01443537/1.JPEG", "n01440764/1.JPEG")
    assert find_images(tmp_path, 2).classes == ("n01440764", "n01443537")
    assert find_images(tmp_path).classes == ("n01440764", "n01443537")
    assert [label for _, label in find_images(tmp_path, 1000).samples] == [0, 1]


def test_classes_can_be_given_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg")
    images = find_images(tmp_path, ["a", "b", "c"])
    assert images.classes == ("a", "b", "c")
    assert [label for _, label in images.samples] == [1]
    with pytest.raises(ValueError, match="'b', which the model does not know"):
        find_images(tmp_path, ["a", "c"])


def test_imagenet_v2_is_not_sorted_as_text(tmp_path: Path) -> None:
    for label in range(1000):
        touch(tmp_path, f"{label}/x.jpeg")
    for wanted in (None, 1000):
        images = find_images(tmp_path, wanted)
        assert all(int(path.parent.name) == label for path, label in images.samples)
    wrong = sum(int(name) == place for place, name in enumerate(sorted(map(str, range(1000)))))
    assert wrong == 12  # what sorting would have left right


def test_kaggles_list_beats_the_table(tmp_path: Path) -> None:
    root = touch(tmp_path, "val/ILSVRC2012_val_00000001.JPEG")
    csv = b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 1 2 3 4\n"
    photos.write(root / "LOC_val_solution.csv", csv)
    assert find_images(root).samples[0][1] == 1


def test_what_has_no_label_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00050001.JPEG", "holiday.jpg")
    images = find_images(tmp_path)
    assert [label for _, label in images.samples] == [65]
    assert [path.name for path in images.skipped] == ["ILSVRC2012_val_00050001.JPEG", "holiday.jpg"]
    touch(tmp_path / "own", "a/1.jpg", "a/1.jpg.part", "a/photo")
    assert [path.name for path in find_images(tmp_path / "own").skipped] == ["1.jpg.part", "photo"]


def test_images_beside_the_class_folders_are_named_as_left_out(tmp_path: Path) -> None:
    """As where the unpacking into folders ended half-way."""
    touch(tmp_path, "n01440764/1.JPEG", "ILSVRC2012_val_00000002.JPEG", "notes.txt")
    images = find_images(tmp_path, 1000)
    assert len(images.samples) == 1
    assert [path.name for path in images.skipped] == ["ILSVRC2012_val_00000002.JPEG"]


def test_a_tar_is_read_as_tar_would_unpack_it(tmp_path: Path) -> None:
    name = "ILSVRC2012_val_00000001.JPEG"
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as archive:
        for member, data in {
            f"./val/{name}": b"the older pixels",
            f"val/{name}": b"pixels",
            f"val/._{name}": b"a Mac's own",
            "n01440764/._2.JPEG": b"a Mac's own",
            "__MACOSX/n01440764/3.JPEG": b"a Mac's own",
            "n01440764/4.JPEG": b"more pixels",
        }.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("val/ILSVRC2012_val_00000002.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, name
        archive.addfile(link)
    images = find_images(path)
    read = {place.name: images.read(n) for n, (place, _) in enumerate(images.samples)}
    assert read == {name: b"pixels", "4.JPEG": b"more pixels"}
    assert [place.name for place in images.skipped] == ["ILSVRC2012_val_00000002.JPEG"]


def test_a_tar_cut_off_or_in_a_folder_is_said(tmp_path: Path) -> None:
    (whole,) = photos.tar(tmp_path / "data", IMAGES)
    data = Path(whole).read_bytes()
    with tarfile.open(whole) as archive:
        second = archive.getmembers()[1].offset
    for end in (second, second + 100, second + 600):  # between two, in a header, in an image
        photos.write(tmp_path / "cut.tar", data[:end])
        with pytest.raises(ValueError, match="cut off: fetch or copy it again"):
            find_images(tmp_path / "cut.tar")
    with pytest.raises(ValueError, match=f"For the images in ILSVRC2012_img_val.tar, give {whole}"):
        find_images(tmp_path / "data")


WRITTEN = {
    "spaces": b"a b.jpg   0\nc.jpg 1\n",
    "tabs": b"a b.jpg\t0\nc.jpg\t1\n",
    "lines as on Windows": b"a b.jpg 0\r\nc.jpg 1\r\n",
    "commas and a header": b"image,label\na b.jpg,0\nc.jpg, 1\n",
    "quotes": b'"image","label"\n"a b.jpg","0"\n"c.jpg","1"\n',
    "a mark in front": b"\xef\xbb\xbfa b.jpg 0\nc.jpg 1\n",
}


@pytest.mark.parametrize("form", WRITTEN)
def test_a_list_can_be_written_in_any_usual_form(form: str, tmp_path: Path) -> None:
    touch(tmp_path, "a b.jpg", "c.jpg")
    photos.write(tmp_path / "val.txt", WRITTEN[form])
    images = find_images(tmp_path, 2, labels=tmp_path / "val.txt")
    assert [(path.name, label) for path, label in images.samples] == [("a b.jpg", 0), ("c.jpg", 1)]
    assert images.source == "val.txt"


def test_a_first_line_that_names_a_file_is_no_header(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "b.jpg")
    photos.write(tmp_path / "val.txt", b"a.gif 0\nb.jpg 1\n")
    assert len(find_images(tmp_path, 2, labels=tmp_path / "val.txt").samples) == 2


def test_a_list_of_numbers_leaves_room_for_the_models_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    photos.write(tmp_path / "val.txt", b"a.jpg 3\nb.jpg 10\ngone.jpg 12\n")
    images = find_images(tmp_path, 20, labels=tmp_path / "val.txt")
    assert [label for _, label in images.samples] == [3, 10]
    assert len(images.classes) == 20
    assert images.source == "val.txt (1 more that it names are not there)"


FAULTS: dict[str, tuple[tuple[str, ...], int | None, str]] = {
    "nothing": ((), None, "no images in .*empty"),
    "empty folders": (("a/.keep", "b/.keep"), None, "no images in the folders of"),
    "no images": (("notes.txt",), None, "no images in .*other files"),
    "one class": (("1.jpg", "2.jpg"), None, "whose names say no class, such as 1.jpg.*give"),
    "a level too high": (
        ("set/cat/1.jpg", "set/dog/1.jpg", "other/notes.txt"),
        None,
        "no images but folders. Give the folder one level down",
    ),
    "devkit ids": (tuple(f"{n}/x.jpg" for n in range(1, 1001)), 1000, "devkit are in another"),
    "another number": (("a/1.jpg", "b/1.jpg"), 1000, "holds 2 classes and the model has 1000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_evaluated_is_said_with_the_cure(fault: str, tmp_path: Path) -> None:
    names, wanted, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        find_images(touch(tmp_path, *names), wanted)


def test_a_missing_folder_and_a_packed_tar_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder"):
        find_images(tmp_path / "nowhere")
    photos.write(tmp_path / "val.tar.gz", b"\x1f\x8b packed")
    with pytest.raises(ValueError, match="neither a folder nor a plain tar"):
        find_images(tmp_path / "val.tar.gz")


LISTS = {
    "numbers alone": (b"490\n361\n", "Line 1 .* is not 'name label'.*devkit"),
    "devkit ids": (b"a.jpg 1\nb.jpg 1000\n", "ids 1 to 1000 of ImageNet's devkit"),
    "too large": (b"a.jpg 1\nb.jpg 1001\n", "'1001', which the model does not know"),
    "nothing there": (b"c.jpg 1\n", "names no image that is there: c.jpg"),
    "empty": (b"\n", "names no image that is there"),
    "no label": (b"a.jpg 1\nb.jpg -1\n", "'-1' is no position"),
    "names among positions": (b"a.jpg 1\nb.jpg cat\n", "'cat' is no position"),
    "another encoding": ("a.jpg 1\n".encode("utf-16"), "val.txt is no text in UTF-8"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_what_is_wrong_with_a_list_is_said(fault: str, tmp_path: Path) -> None:
    text, message = LISTS[fault]
    touch(tmp_path, "a.jpg", "b.jpg")
    photos.write(tmp_path / "val.txt", text)
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path, 1000, labels=tmp_path / "val.txt")


def test_every_picture_that_pillow_reads_is_counted(tmp_path: Path) -> None:
    names = [f"a/{n}{s}" for n, s in enumerate((".jfif", ".gif", ".JPE", ".jp2", ".pgm", ".tga"))]
    images = find_images(touch(tmp_path, "b/1.png", *names))
    assert len(images.samples) == len(names) + 1
    assert not images.left_out


def test_whatever_is_not_counted_is_named_with_count_and_example(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.heic", "b/2.HEIC", "b/3.jpg", "a/notes.txt", "c/1.svg")
    touch(
        tmp_path, "beside.png", "list.csv", ".cache/1.jpg", "a/.2.jpg", "a/._3.jpg", "a/.DS_Store"
    )
    images = find_images(tmp_path)
    assert images.classes == ("a", "b", "c")
    reason = "left out, which the installed Pillow does not read"
    assert images.left_out == (
        f"1 folder is left out, hidden: {tmp_path}/.cache",
        f"1 .jpg file is left out, hidden: {tmp_path}/a/.2.jpg",
        f"1 .txt file is {reason}: {tmp_path}/a/notes.txt",
        f"2 .heic files are {reason}; the first is {tmp_path}/b/1.heic",
        f"1 .svg file is {reason}: {tmp_path}/c/1.svg",
        f"1 .png file is left out, beside the folders of the classes: {tmp_path}/beside.png",
    )
    assert len(images.skipped) == 7


def test_folders_whose_names_nearly_match_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "n01440764/1.JPEG", "n0144353/2.JPEG", "n0144353/3.JPEG", "N01484850/4.JPEG")
    touch(tmp_path, "docs/readme.txt")
    images = find_images(tmp_path, 1000)
    assert len(images.samples) == 1
    one, two = images.left_out
    assert one.startswith("1 .jpeg file is left out, in a folder whose name is no synset (N01484")
    assert two.startswith("2 .jpeg files are left out, in a folder whose name is no synset (n014")


def test_folders_beside_images_in_one_folder_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "ILSVRC2012_val_00000001.JPEG", "rest/ILSVRC2012_val_00000002.JPEG")
    (told,) = find_images(tmp_path).left_out
    assert told.startswith("1 .jpeg file is left out, in a folder beside the images (rest)")


@pytest.mark.parametrize("name", ["Val", "VALIDATION", "valid"])
def test_the_validation_folder_is_found_in_any_letters(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/a/1.jpg", f"{name}/b/1.jpg", "Train/a/2.jpg", "Train/b/2.jpg")
    assert [path.parent.parent.name for path, _ in find_images(tmp_path, 2).samples] == [name] * 2


def test_a_class_may_be_called_valid(tmp_path: Path) -> None:
    assert find_images(touch(tmp_path, "valid/1.jpg", "void/1.jpg")).classes == ("valid", "void")


def test_of_several_splits_the_others_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "val/a/1.jpg", "validation/a/2.jpg", "Val/a/3.jpg", "Test/a/4.jpg", "train/x")
    images = find_images(tmp_path)
    assert [path.name for path, _ in images.samples] == ["1.jpg"]
    (told,) = images.left_out
    assert told.startswith("3 folders are left out, beside val, which holds the images; the first")


def test_a_test_split_is_proposed_rather_than_the_training_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/b/2.jpg")
    with pytest.raises(ValueError, match=f"one level down.* such as {tmp_path}/test"):
        find_images(tmp_path, 2)


def test_the_nearest_class_is_named(tmp_path: Path) -> None:
    touch(tmp_path, " Great-Dane/1.jpg")
    with pytest.raises(ValueError, match=r"does not know\. Did you mean 'great_dane'"):
        find_images(tmp_path, ["great_dane", "tench"])
    touch(tmp_path / "o", "N01443537/1.jpg", "n0144076/1.jpg")
    with pytest.raises(ValueError, match=r"'N01443537', .* Did you mean 'n01443537'"):
        find_images(tmp_path / "o", imagenet.synsets())
    with pytest.raises(ValueError, match="'n99999999', which the model does not know"):
        find_images(touch(tmp_path / "p", "n01443537/1.jpg", "n99999999/1.jpg"), 1000)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/deeper/1.jpg")
    (tmp_path / "b/deeper/again").symlink_to(tmp_path / "b")
    images = find_images(tmp_path)
    assert len(images.samples) == 2
    (told,) = images.left_out
    assert told.startswith("1 folder is left out, leading back to a folder above")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    (tmp_path / "a/x").symlink_to("../b")
    (tmp_path / "b/y").symlink_to("../a")
    (tmp_path / "c/me.jpg").symlink_to("me.jpg")
    (tmp_path / "c/.me").symlink_to(".me")
    images = find_images(tmp_path)
    assert {path.parent.name for path, _ in images.samples} == {"a", "b", "c", "x", "y"}
    assert len(images.samples) == 6  # b by a, and a by b; the link to itself is one nobody reads
    (told,) = images.left_out
    assert told.startswith("2 folders are left out, leading back to a folder above")


@pytest.mark.parametrize("folders", [("0", "1", "2"), ("0", "1"), ("2", "4")])
def test_folders_are_names_where_the_model_has_numbers_for_names(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    touch(tmp_path, *(f"{folder}/1.jpg" for folder in folders))
    with pytest.raises(ValueError, match=r"'[04]', which .* classes are called 1, 2, 3"):
        find_images(tmp_path, ["1", "2", "3"])
    by_position = find_images(tmp_path, [*"abcde"])
    assert [label for _, label in by_position.samples] == [int(folder) for folder in folders]


def test_no_images_but_others_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.heic", "b/2.heic")
    with pytest.raises(ValueError, match=r"no images in the folders of .* 2 \.heic files are left"):
        find_images(tmp_path)
