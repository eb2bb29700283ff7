"""Photographs in, names of classes out: predict(), and pyconv-predict as users call it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import photos
import pytest
import torch
from photos import one_thread  # noqa: F401
from PIL import Image

from pyconv import get_model, load
from pyconv.data.imagenet import class_names, synsets
from pyconv.models.load import LoadedModel
from pyconv.predict import predict
from pyconv.predict.__main__ import main
from pyconv.weights.rows import sample_file

TINY = "pyconvresnet_tiny"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of several formats, in folders."""
    picture = photos.picture(3, 90, 60)
    files = {
        "a.jpg": photos.encode(picture),
        "b.png": photos.encode(picture.convert("RGBA"), "PNG"),
        "deep/er/c.webp": photos.encode(picture, "WEBP", lossless=True),
        "deep/d.gif": photos.encode(picture.convert("L"), "GIF"),
        "deep/notes.txt": b"no image",
        ".hidden.png": photos.encode(picture, "PNG"),
    }
    for name, data in files.items():
        photos.write(tmp_path / "photos" / name, data)
    return tmp_path / "photos"


def test_the_function_answers_as_a_plain_loop(model: LoadedModel) -> None:
    paths = [min(place.iterdir()) for place in sorted(sample_file("images").iterdir())]
    expected = []
    for path in paths:
        with torch.inference_mode(), Image.open(path) as image:
            shares = model(model.transforms()(image)[None])[0].softmax(0)
        expected.append([(int(i), float(shares[i])) for i in shares.argsort(descending=True)[:3]])
    found = predict(model, paths, topk=3, batch_size=4)
    assert [[each.index for each in best] for best in found] == [
        [index for index, _ in best] for best in expected
    ]
    for best, right in zip(found, expected, strict=True):
        assert [each.name for each in best] == [model.classes[index] for index, _ in right]
        assert [each.probability for each in best] == pytest.approx([p for _, p in right], abs=1e-5)
    assert sum(best[0].index == n for n, best in enumerate(found)) >= 8  # it was trained for them
    assert len(predict(model, paths[0], topk=100)[0]) == 10


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_is_taken(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "m.pth"
    torch.save(get_model(TINY, in_channels=channels, num_classes=4).state_dict(), path)
    model = load(path)
    colour = photos.picture(1, 28, 28)
    for picture in (colour, colour.convert("L")):
        file = tmp_path / f"{picture.mode}.png"
        file.write_bytes(photos.encode(picture, "PNG"))
        tensor = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        tensor = tensor.view(28, 28, -1).permute(2, 0, 1)
        batch = tensor[None].expand(2, -1, -1, -1)
        found = predict(model, [str(file), file, picture, tensor, tensor / 255])
        found += predict(model, batch) + predict(model, picture) + predict(model, tensor)
        assert len(found) == 9
        for best in found:  # PIL and tensors round the grey of a colour in their own way
            assert [each.name for each in best] == [each.name for each in found[0]]
            assert best[0].probability == pytest.approx(found[0][0].probability, abs=2e-3)
    with pytest.raises(ValueError, match=rf"\[4, 9, 9\] and the network takes {channels} channels"):
        predict(model, torch.zeros(4, 9, 9, dtype=torch.uint8))


def test_what_the_function_cannot_do_is_said(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("a file of words")
    with pytest.raises(ValueError, match=r"words\.jpg cannot be read: it is no image of a kind"):
        predict(model, [tmp_path / "words.jpg"])
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        predict(model, tmp_path / "none.jpg")
    plain = load(TINY)
    plain.reset_classifier(3)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"3 outputs, and model\.classes names 10"):
        predict(plain, photos.picture(1))
    plain.classes = []
    with pytest.raises(ValueError, match=r"does not know its classes.*pyconv\.load"):
        predict(plain, photos.picture(1))


def test_synsets_have_their_english_names(tmp_path: Path) -> None:
    """A network that was trained on ImageNet's folders has their names for its classes."""
    state = get_model(TINY, num_classes=2).state_dict()
    names = [synsets()[999], "my own"]
    torch.save({"state_dict": state, "classes": names}, tmp_path / "best.pt")
    (best,) = predict(load(tmp_path / "best.pt"), photos.picture(1))
    assert {each.name for each in best} == {class_names()[999], "my own"}
    assert class_names()[999] == "toilet tissue"


# The command.


def test_the_sample_shows_real_words_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    assert main(["--sample", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("/")[-2] for line in lines[::2]] == ["1-trouser", "5-sandal", "9-ankle-boot"]
    assert [line.split("%  ")[1] for line in lines[1::2]] == ["Trouser", "Sandal", "Ankle boot"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is Linux's")
def test_answers_are_printed_where_the_file_is_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "a.jpg"), "--model", TINY, "--json", "/dev/full"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(str(folder / "a.jpg"))
    assert "/dev/full could not be written: No space left" in captured.err


def test_folders_are_answered_whole_and_what_is_left_out_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    options = ["--model", TINY, "--batch-size", "3", "--top", "2", "--json", str(out)]
    assert main([str(folder), *options]) == 0
    captured = capsys.readouterr()
    result = json.loads(out.read_text("utf-8"))
    names = ["a.jpg", "b.png", "deep/d.gif", "deep/er/c.webp"]
    assert [answer["path"] for answer in result["predictions"]] == [
        str(folder / name) for name in names
    ]
    assert (result["images"], result["unreadable"], result["partial"]) == (4, [], False)
    model = load(TINY)
    for answer, best in zip(
        result["predictions"], predict(model, [folder / name for name in names], 2), strict=True
    ):
        for each, right in zip(answer["classes"], best, strict=True):
            share = pytest.approx(right.probability, abs=1e-5)
            assert each == {"name": right.name, "probability": share, "index": right.index}
            assert f"{100 * right.probability:5.1f} %  {right.name}" in captured.out
    assert len(result["left_out"]) == 2
    assert all(f"{line}\n" in captured.err for line in result["left_out"])
    assert "1 .txt file is left out" in captured.err and ".hidden.png" in captured.err
    assert "4/4" in captured.err  # a bar, as there is more than a batch
    weights = sample_file(f"{TINY}.pth")
    assert result["weights_file"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_checkpoint_says_its_network_and_its_classes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "state_dict": get_model(TINY, num_classes=2).state_dict(),
        "classes": ["ant", "bee"],
        "images": {"crop": 20, "resize": 24, "mean": [0.5], "std": [0.25]},
        "run": {"identity": {"model": TINY}},
    }
    torch.save(content, tmp_path / "best.pt")
    out = tmp_path / "r.json"
    options = ["--checkpoint", str(tmp_path / "best.pt"), "--json", str(out)]
    assert main([str(folder / "a.jpg"), *options]) == 0
    result = json.loads(out.read_text("utf-8"))
    assert result["preprocessing"] == {"crop": 20, "resize": 24, "mean": [0.5], "std": [0.25]}
    assert {each["name"] for each in result["predictions"][0]["classes"]} == {"ant", "bee"}
    assert "2 classes, resize 24, crop 20" in capsys.readouterr().err
    assert main([str(folder / "a.jpg"), *options, "--crop", "10"]) == 0
    assert json.loads(out.read_text("utf-8"))["preprocessing"]["resize"] == 12


def test_what_cannot_be_read_is_named_and_the_rest_answered(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "words.jpg").write_text("a file of words")
    (folder / "wire.png").symlink_to("/proc/self/mem")  # whose first byte gives EIO
    out = tmp_path / "r.json"
    assert main([str(folder), "--model", TINY, "--json", str(out)]) == 1
    result = json.loads(out.read_text("utf-8"))
    assert result["images"] == 4
    assert result["unreadable"] == [str(folder / "wire.png"), str(folder / "words.jpg")]
    captured = capsys.readouterr()
    assert "words.jpg cannot be read: it is no image of a kind that PIL knows" in captured.err
    assert "Input/output error" in captured.err
    assert captured.err.endswith("2 of 6 photographs could not be read.\n")
    assert captured.out.count("\n") == 4 * 6


WRONG: dict[str, tuple[list[str], int, str]] = {
    "nothing": ([], 2, "give either photographs or --sample"),
    "both": (["{words}", "--sample"], 2, "give either photographs or --sample"),
    "a sample of another network": (["--sample", "--model", TINY], 2, "leave out --model"),
    "no such photograph": (["no.jpg", "--model", TINY], 2, "There is no file or folder no.jpg."),
    "no image": (["{words}", "--model", TINY], 2, "{words} cannot be read: it is no image of a"),
    "no images": (
        ["{words}", "{words}", "--model", TINY],
        2,
        "None of the 2 photographs could be read; {words} cannot be read: it is no image",
    ),
    "an empty folder": (["{empty}", "--model", TINY], 2, "There are no images in the folder {e"),
    "a misspelt model": (["{words}", "--model", "pyconvresnet5"], 2, "Did you mean 'pyconvres"),
    "a model without weights": (["{words}", "--model", "resnet18"], 2, "no published weights for"),
    "no such checkpoint": (["{words}", "--checkpoint", "no.pt"], 2, "there is no file no.pt"),
    "no such device": (["{words}", "--model", TINY, "--device", "gpu"], 2, "no device 'gpu' here"),
    "no classes": (["{words}", "--checkpoint", "{body}"], 2, "holds weights without a classifier"),
    "a top of none": (["{words}", "--top", "0"], 2, "'0' is not a positive whole number"),
    "nowhere to write": (["{words}", "--json", "/nowhere/r.json"], 2, "no folder /nowhere to"),
    "no weights to be had": (
        ["{words}"],
        1,
        "--sample, or --model pyconvresnet_tiny, which knows ten",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_use_is_said_with_its_cure(
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    monkeypatch.setenv("PYCONV_HOME", str(tmp_path / "home"))
    places = {name: tmp_path / name for name in ("words", "empty", "body")}
    places["words"].write_text("a file of words")
    places["empty"].mkdir()
    torch.save(get_model(TINY, num_classes=0).state_dict(), places["body"])
    arguments, expected, message = WRONG[fault]
    try:
        code = main([text.format(**places) for text in arguments])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == expected
    assert message.replace("{e", "{empty}").format(**places) in captured.err.splitlines()[-1]
    assert not captured.out and "Traceback" not in captured.err


def test_an_interruption_leaves_what_is_answered(tmp_path: Path) -> None:
    photos.write(tmp_path / "one.jpg", photos.encode(photos.picture(1)))
    out = tmp_path / "r.json"
    command = [
        *(sys.executable, "-m", "pyconv.predict", *["one.jpg"] * 1500, "--model", TINY),
        *("--batch-size", "4", "--workers", "0", "--top", "1", "--json", str(out)),
    ]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        seen = b""
        while b"| 0/" not in seen:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, seen.decode()
            seen += piece
        process.send_signal(signal.SIGINT)
        table, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"photographs were not looked at" in errors and b"Traceback" not in errors
    result = json.loads(out.read_text("utf-8"))
    assert result["partial"] is True and 0 < result["images"] < 1500
    assert len(table.splitlines()) == 2 * result["images"]


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "pyconv-predict --sample" in capsys.readouterr().out
