"""pyconv-eval as users call it: every layout, every result file, one process or many."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import torch
from photos import one_thread  # noqa: F401
from PIL import Image

import pyconv.data
from pyconv import get_model, resnet18
from pyconv.data import imagenet
from pyconv.evaluate.__main__ import main
from pyconv.evaluate.evaluation import Metrics
from pyconv.evaluate.report import agrees
from pyconv.weights.rows import PyConvResNetTiny_Weights

IMAGES = photos.photos(imagenet.synsets())  # 23, which neither 2 nor 3 divides
MODEL = "pyconvresnet_tiny"
PREPROCESS = PyConvResNetTiny_Weights.DEFAULT.transforms()
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


def pixels(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return PREPROCESS(image)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A network for 1000 classes that knows about half of the images."""
    inputs = torch.stack([pixels(photo.data) for photo in IMAGES])
    labels = torch.tensor([photo.label for photo in IMAGES])
    return photos.knowing(MODEL, inputs, labels, 1000)


@pytest.fixture(scope="module")
def checkpoint(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def plain(model: torch.nn.Module) -> dict[str, float]:
    """What a plain loop over PIL images counts."""
    correct1 = correct5 = 0
    loss = 0.0
    with torch.inference_mode():
        for photo in IMAGES:
            logits = model(pixels(photo.data)[None])[0]
            order = logits.argsort(descending=True).tolist()
            correct1 += order[0] == photo.label
            correct5 += photo.label in order[:5]
            loss -= float(logits.log_softmax(0)[photo.label])
    assert 3 < correct1 < correct5 < len(IMAGES)  # or a wrong label would not be seen
    counts = {"images": len(IMAGES), "correct1": correct1, "correct5": correct5}
    return counts | {"loss": pytest.approx(loss / len(IMAGES), rel=1e-4)}


def counted(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("images", "correct1", "correct5", "loss")}


def run(out: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The command in this process; its exit code and what it wrote as JSON."""
    code = main([*map(str, arguments), "--json", str(out), "--batch-size", "5"])
    return code, json.loads(out.read_text("utf-8")) if out.exists() else {}


@pytest.mark.parametrize("layout", photos.LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_counts_of_a_plain_loop(
    layout: Callable[[Path, list[photos.Photo]], list[str]],
    checkpoint: Path,
    plain: dict[str, float],
    tmp_path: Path,
) -> None:
    data = layout(tmp_path / "data", IMAGES)
    code, result = run(tmp_path / "r.json", *data, "--model", MODEL, "--checkpoint", checkpoint)
    assert code == 0
    assert counted(result) == plain


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(photos.flat(tmp_path_factory.mktemp("flat"), IMAGES)[0])


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(
            ("pyconv.evaluate", "--nproc-per-node", "3"),
            marks=pytest.mark.slow,
        ),
        (
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "pyconv.evaluate",
        ),
    ],
    ids=["3 of its own", "2 of torchrun's"],
)
def test_processes_share_the_images_and_count_as_one(
    start: tuple[str, ...], flat: Path, checkpoint: Path, plain: dict[str, float], tmp_path: Path
) -> None:
    out, predictions = tmp_path / "r.json", tmp_path / "p.csv"
    (copy := tmp_path / "data").mkdir()
    for path in flat.iterdir():
        (copy / path.name).symlink_to(path)
    photos.write(copy / "ILSVRC2012_val_00000099.JPEG", b"broken")
    command = [
        *(sys.executable, "-m", *start, str(copy), "--model", MODEL, "--checkpoint", checkpoint),
        *("--batch-size", "5", "--json", out, "--predictions", predictions),
    ]
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    assert counted(result) == plain
    assert result["processes"] in (2, 3)
    assert [Path(path).name for path in result["unreadable"]] == ["ILSVRC2012_val_00000099.JPEG"]
    assert len(done.stdout.splitlines()) == 9  # one table, of the first process
    rows = list(csv.DictReader(predictions.open()))
    assert [Path(row["path"]).name for row in rows] == [photo.name for photo in IMAGES]
    assert sum(row["label"] == row["top1"] for row in rows) == result["correct1"]


def test_what_fails_on_all_processes_is_said_once(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "pyconv.evaluate", str(tmp_path / "nowhere")),
        *("--model", MODEL, "--checkpoint", "none.pth", "--nproc-per-node", "2"),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("none.pth") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("processes", "workers"), [(1, 1), (2, 0)])
def test_an_interruption_leaves_a_partial_result_marked_as_one(
    processes: int, workers: int, checkpoint: Path, tmp_path: Path
) -> None:
    names = photos.repeated(tmp_path / "many", IMAGES, 500)
    out = tmp_path / "r.json"
    command = [
        *(sys.executable, "-m", "pyconv.evaluate", names.parent, "--labels", names),
        *("--model", MODEL, "--checkpoint", checkpoint, "--batch-size", "8", "--json", out),
        *("--workers", workers, "--nproc-per-node", processes),
    ]
    with subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        watchdog_text = b""
        while b"| 0/" not in watchdog_text:  # the bar stands, so the evaluation has begun
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, watchdog_text.decode()
            watchdog_text += piece
        process.send_signal(signal.SIGINT)
        table, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"Traceback" not in watchdog_text + errors
    result = json.loads(out.read_text("utf-8"))
    assert result["partial"] is True
    assert 0 < result["images"] < 500 * len(IMAGES)
    assert b"a partial result" in table


def test_the_result_can_be_trusted_later(
    flat: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", MODEL, "--checkpoint", checkpoint, "--fast-decode"]
    _, result = run(tmp_path / "r.json", flat, *options)
    assert {"model", "weights", "images", "correct1", "correct5", "top1", "top5", "loss"} <= {
        *result
    }
    assert result["weights_file"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert result["weights_file"]["trust"] == "a file of the user's"
    assert result["preprocessing"]["crop"] == 28
    assert result["preprocessing"]["decoder"] == "torchvision's JPEG"
    assert result["versions"]["torch"] == torch.__version__
    assert (result["dtype"], result["processes"], result["partial"]) == ("float32", 1, False)
    assert sum(row["images"] for row in result["per_class"].values()) == 23
    assert sum(row["correct1"] for row in result["per_class"].values()) == result["correct1"]
    captured = capsys.readouterr()
    assert f"top-1    {result['top1']:.2f} %" in captured.out
    assert "23 images of 22 of 1,000 classes, labels from file names" in captured.err


def test_csv_grows_by_a_row_a_run(flat: Path, checkpoint: Path, tmp_path: Path) -> None:
    table = tmp_path / "all.csv"
    options = [flat, "--model", MODEL, "--checkpoint", checkpoint, "--csv", table]
    for crop in (28, 24):
        code, result = run(tmp_path / "r.json", *options, "--crop", crop)
        assert code == 0
    first, second = csv.DictReader(table.open())
    assert (first["crop"], second["crop"]) == ("28", "24")
    assert float(second["top1"]) == result["top1"]
    assert second["unreadable"] == "0"
    table.write_text("another,table\n")
    assert run(tmp_path / "r.json", *options)[0] == 2
    assert table.read_text() == "another,table\n"


def test_a_row_is_never_appended_to_half_a_line(
    flat: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = tmp_path / "all.csv"
    options = [flat, "--model", MODEL, "--checkpoint", checkpoint, "--csv", table]
    run(tmp_path / "r.json", *options)
    table.write_bytes(table.read_bytes().rstrip())
    run(tmp_path / "r.json", *options)
    assert [row["images"] for row in csv.DictReader(table.open())] == ["23", "23"]


def test_a_result_that_cannot_be_written_costs_no_other(
    flat: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(flat), "--model", MODEL, "--checkpoint", str(checkpoint)]
    table, rows = tmp_path / "all.csv", tmp_path / "p.csv"
    places = ["--json", "/dev/full", "--csv", str(table), "--predictions", str(rows)]
    assert main([*options, *places]) == 1
    assert "/dev/full could not be written: No space left" in capsys.readouterr().err
    assert len(list(csv.DictReader(table.open()))) == 1
    assert len(list(csv.DictReader(rows.open()))) == 23


def test_names_that_are_no_utf8_are_written_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    name = b"caf\xe9_" + IMAGES[0].synset.encode() + b".JPEG"
    (tmp_path / "data").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "data") + b"/" + name)).write_bytes(IMAGES[0].data)
    options = [tmp_path / "data", "--model", MODEL, "--checkpoint", checkpoint]
    code, result = run(tmp_path / "r.json", *options, "--predictions", tmp_path / "p.csv")
    assert (code, result["images"]) == (0, 1)
    assert name in (tmp_path / "p.csv").read_bytes()


def test_a_batch_of_any_size_takes_the_memory_of_its_images(
    flat: Path, checkpoint: Path, tmp_path: Path
) -> None:
    options = [str(flat), "--model", MODEL, "--checkpoint", str(checkpoint)]
    assert main([*options, "--batch-size", "1000000000"]) == 0


def test_predictions_name_path_label_and_top_five(
    flat: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    options = ["--model", MODEL, "--checkpoint", checkpoint, "--predictions", out]
    _, result = run(tmp_path / "r.json", flat, *options)
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["path", "label", "top1", "top2", "top3", "top4", "top5"]
    assert [row["label"] for row in rows] == [photo.synset for photo in IMAGES]
    five = sum(row["label"] in list(row.values())[2:] for row in rows)
    assert (sum(row["label"] == row["top1"] for row in rows), five) == (
        result["correct1"],
        result["correct5"],
    )


def test_dtype_and_layout_are_applied_and_recorded(
    flat: Path, checkpoint: Path, plain: dict[str, float], tmp_path: Path
) -> None:
    options = [flat, "--model", MODEL, "--checkpoint", checkpoint]
    _, half = run(tmp_path / "r.json", *options, "--dtype", "bfloat16", "--no-channels-last")
    assert (half["dtype"], half["channels_last"]) == ("bfloat16", False)
    assert half["images"] == plain["images"]
    assert half["loss"] != plain["loss"]  # rounding to 8 bits is to be seen
    assert half["loss"] == pytest.approx(plain["loss"].expected, rel=0.1)  # type: ignore[attr-defined]


def faulty(folder: Path) -> tuple[int, set[str], set[str]]:
    """A tree of 100 images in two classes; how many can be read, and the names that cannot."""
    image, unreadable, skipped = photos.picture(7, 40, 40), set(), set()
    odd = {
        "cmyk.JPEG": photos.encode(image.convert("CMYK")),
        "grey.JPEG": photos.encode(image.convert("L")),
        "deep.png": photos.encode(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG"),
        "palette.png": photos.encode(image.quantize(8), "PNG"),
        "png in disguise.JPEG": photos.encode(image, "PNG"),
        "jpeg in disguise.png": photos.encode(image),
    }
    exif = Image.Exif()
    exif[0x0112] = 8
    odd["rotated.JPEG"] = photos.encode(image, exif=exif)
    broken = {
        "empty.JPEG": b"",
        "cut.JPEG": photos.encode(image)[:300],
        "text.JPEG": b"a file of words",
    }
    lost = {"photo without suffix": photos.encode(image), "photo.jpeg.part": b"\xff\xd8\xff"}
    for n in range(100 - len(odd) - len(broken)):
        photos.write(folder / "ab"[n % 2] / f"{n}.JPEG", photos.encode(photos.picture(n, 40, 40)))
    for name, data in (odd | broken | lost).items():
        photos.write(folder / "a" / name, data)
    unreadable |= broken.keys()
    skipped |= lost.keys()
    return 100 - len(broken), unreadable, skipped


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_tree_with_three_percent_of_faults_is_counted_to_the_end(
    decode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readable, unreadable, skipped = faulty(tmp_path / "data")
    torch.manual_seed(0)
    checkpoint = tmp_path / "two.pth"
    model = resnet18(num_classes=2).eval()
    torch.save(model.state_dict(), checkpoint)
    options = ["--model", "resnet18", "--checkpoint", checkpoint, "--crop", 32, "--resize", 36]
    fast = ["--fast-decode"] if decode == "fast" else []
    code, result = run(tmp_path / "r.json", tmp_path / "data", *options, *fast)
    assert code == 0
    assert {Path(path).name for path in result["unreadable"]} == unreadable
    assert {Path(path).name for path in result["skipped"]} == skipped
    assert result["images"] == readable
    captured = capsys.readouterr()
    assert "unreadable  3 images, not counted above" in captured.out
    assert all(f"{name} cannot be read" in captured.err for name in unreadable)
    code, _ = run(tmp_path / "strict.json", tmp_path / "data", *options, "--strict")
    assert code == 2
    assert not (tmp_path / "strict.json").exists()


def trained(path: Path, classes: list[str], **images: object) -> Path:
    """A checkpoint as pyconv-train writes it, of a network that answers by the brightness."""
    torch.manual_seed(0)
    state = get_model(MODEL, num_classes=len(classes)).state_dict()
    about = {"crop": 20, "resize": 24, "mean": [0.5], "std": [0.25]} | images
    torch.save({"state_dict": state, "classes": classes, "images": about}, path)
    return path


def test_a_trained_checkpoint_brings_its_preprocessing_and_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["ant", "bee", "cat"]
    for n, name in enumerate(["bee", "cat"] * 4):
        photos.write(tmp_path / "data" / name / f"{n}.png", photos.encode(photos.picture(n), "PNG"))
    path = trained(tmp_path / "best.pt", names)
    options = [tmp_path / "data", "--model", MODEL, "--checkpoint", path]
    code, result = run(tmp_path / "r.json", *options)
    assert code == 0
    seen = result["preprocessing"]
    assert (seen["crop"], seen["resize"], seen["mean"], seen["std"]) == (20, 24, [0.5], [0.25])
    assert result["finding"].startswith("8 images of 2 of 3 classes")
    assert {name: row["images"] for name, row in result["per_class"].items()} == {
        "ant": 0, "bee": 4, "cat": 4,
    }  # fmt: skip
    assert f"those that {path} was trained with" in capsys.readouterr().err
    trained(path, names, mean=[0], std=[1])  # whole numbers are numbers as well
    assert run(tmp_path / "r.json", *options)[1]["preprocessing"]["std"] == [1.0]
    code, result = run(tmp_path / "r.json", *options, "--crop", 10)
    assert (result["preprocessing"]["crop"], result["preprocessing"]["resize"]) == (10, 12)
    (tmp_path / "data" / "cat").rename(tmp_path / "data" / "dog")
    assert main([str(option) for option in options]) == 2
    assert "'dog', which the model does not know" in capsys.readouterr().err


def test_a_checkpoint_says_of_which_network_it_is(
    flat: Path,
    checkpoint: Path,
    plain: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, result = run(tmp_path / "r.json", flat, "--checkpoint", checkpoint)
    assert (code, result["model"], counted(result)) == (0, MODEL, plain)  # told by its tensors
    content = {"state_dict": torch.load(checkpoint), "run": {"identity": {"model": "nets:mine"}}}
    torch.save(content, tmp_path / "mine.pt")
    assert main([str(flat), "--checkpoint", str(tmp_path / "mine.pt")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is of nets:mine, a network of your own" in last and "(--model nets:mine)" in last


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_checkpoint_is_evaluated_with_its_own_stem(
    channels: int, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = resnet18(in_channels=channels).eval()
    path = tmp_path / "r.pth"
    torch.save(model.state_dict(), path)
    options = [flat, "--model", "resnet18", "--checkpoint", path, "--crop", 32]
    if channels == 4:
        assert main([str(option) for option in options]) == 2
        assert "takes 4 channels, and image files give 1 or 3" in capsys.readouterr().err
        return
    code, result = run(tmp_path / "r.json", *options)
    assert code == 0
    assert len(result["preprocessing"]["mean"]) == channels


def test_a_loader_that_dies_is_said_in_one_line(
    flat: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decode, here = pyconv.data.decode, os.getpid()

    def dies(*arguments: Any) -> Any:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*arguments)

    monkeypatch.setattr("pyconv.data.loading.decode", dies)
    options = [str(flat), "--model", MODEL, "--checkpoint", str(checkpoint)]
    assert main([*options, "--workers", "1"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("pyconv-eval: A loader process is lost (DataLoader worker")
    assert last.endswith("lower --workers.")


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["--model", MODEL], "give either a folder of images or --sample"),
    "no model": (["{flat}"], "--model is missing"),
    "a misspelt model": (["{flat}", "--model", "pyconvresnet5"], "Did you mean"),
    "no such checkpoint": (["{flat}", "--model", MODEL, "--checkpoint", "no.pth"], "no.pth"),
    "no such folder": (["/nowhere", "--model", MODEL, "--checkpoint", "{ckpt}"], "no folder"),
    "no such device": (
        ["{flat}", "--model", MODEL, "--checkpoint", "{ckpt}", "--device", "gpu"],
        "no device 'gpu' here",
    ),
    "no such dtype": (["{flat}", "--model", MODEL, "--dtype", "int8"], "invalid choice: 'int8'"),
    "a sample of another network": (["--sample", "--model", MODEL], "leave out --model"),
    "a sample of other weights": (["--sample", "--checkpoint", "{ckpt}"], "leave out --checkpoint"),
    "a sample of another size": (["--sample", "--crop", "14"], "leave out --crop"),
    "no such labels": (["{flat}", "--model", MODEL, "--labels", "no.txt"], "no file no.txt"),
    "a batch of none": (["{flat}", "--model", MODEL, "--batch-size", "0"], "not a positive whole"),
    "half a batch": (["{flat}", "--model", MODEL, "--batch-size", "1.5"], "not a positive whole"),
    "nowhere to write": (
        ["{flat}", "--model", MODEL, "--csv", "/nowhere/all.csv"],
        "no folder /nowhere to write all.csv into",
    ),
    "a folder to write": (
        ["{flat}", "--model", MODEL, "--json", "{flat}"],
        "cannot be written: it is a folder",
    ),
    "a place to write that takes no files": (
        ["{flat}", "--model", MODEL, "--predictions", "/proc/p.csv"],
        "/proc/p.csv cannot be written",
    ),
    "a crop too large": (
        ["{flat}", "--model", MODEL, "--checkpoint", "{ckpt}", "--crop", "40", "--resize", "30"],
        "crop=40 does not fit into resize=30",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_usage_is_said_in_one_line(
    fault: str, flat: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[fault]
    try:
        code = main([text.format(flat=flat, ckpt=checkpoint) for text in arguments])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not captured.out


def test_some_classes_are_compared_alone_as_well(
    flat: Path, model: torch.nn.Module, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    present = sorted({photo.label for photo in IMAGES})
    with torch.inference_mode():
        logits = model(torch.stack([pixels(photo.data) for photo in IMAGES]))[:, present]
    labels = torch.tensor([present.index(photo.label) for photo in IMAGES])
    hits = int((logits.argmax(1) == labels).sum())
    options = [flat, "--model", MODEL, "--checkpoint", checkpoint, "--csv", tmp_path / "all.csv"]
    code, result = run(tmp_path / "r.json", *options, "--subset-classes")
    assert code == 0
    assert result["present_classes"] == len(present)
    assert (result["subset"]["classes"], result["subset"]["correct1"]) == (len(present), hits)
    assert hits >= result["correct1"]
    assert f"subset   top-1 {100 * hits / 23:.2f} %" in capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "all.csv").open())
    assert float(row["subset_top1"]) == result["subset"]["top1"]
    assert run(tmp_path / "r.json", *options)[1]["subset"] is None


def test_one_class_is_nothing_to_compare(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos.by_synset(tmp_path / "data", IMAGES[:1])
    options = ["--model", MODEL, "--checkpoint", str(checkpoint), "--subset-classes"]
    assert main([str(tmp_path / "data"), *options]) == 2
    assert "all are of one. Leave it out." in capsys.readouterr().err


def test_what_is_left_out_is_told_and_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    photos.by_synset(data, IMAGES)
    photos.write(data / IMAGES[0].synset / "1.heic", b"pixels")
    photos.write(data / "n0144076" / "2.JPEG", IMAGES[0].data)
    options = ["--model", MODEL, "--checkpoint", checkpoint]
    code, result = run(tmp_path / "r.json", data, *options)
    assert code == 0
    assert len(result["left_out"]) == len(result["skipped"]) == 2
    err = capsys.readouterr().err
    assert all(f"{line}\n" in err for line in result["left_out"])
    assert "(n0144076)" in err and "1 .heic file" in err
    photos.write(tmp_path / "l.csv", b"image,label\ngone.JPEG,1.0\n" + b"".join(
        f"{photo.synset}\\{photo.name},{photo.label}.0\n".encode() for photo in IMAGES[:12]
    ))  # fmt: skip
    code, result = run(tmp_path / "r.json", data, *options, "--labels", tmp_path / "l.csv")
    assert (code, result["images"], result["missing"]) == (0, 12, ["gone.JPEG"])
    err = capsys.readouterr().err
    assert "Names of the list that are not there: 1, as gone.JPEG" in err
    assert "12 .jpeg files are left out, not named in l.csv" in err


def test_images_that_the_system_does_not_read_make_the_command_fail(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    photos.by_synset(data, IMAGES)
    (path := data / IMAGES[3].synset / IMAGES[3].name).unlink()
    path.symlink_to("/proc/self/mem")  # whose first byte gives EIO
    code, result = run(tmp_path / "r.json", data, "--model", MODEL, "--checkpoint", checkpoint)
    assert (code, result["images"], result["unreadable"]) == (1, 22, [str(path)])
    (told,) = result["system_errors"]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Images that the system did not read: 1; the result is that of the")
    assert last.endswith(told)


def test_a_print_that_fails_costs_no_file(flat: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, table, rows = tmp_path / "r.json", tmp_path / "all.csv", tmp_path / "p.csv"
    command = [
        *(sys.executable, "-m", "pyconv.evaluate", flat, "--model", MODEL),
        *("--checkpoint", (copy := tmp_path / "größe.pth"), "--json", out),
        *("--csv", table, "--predictions", rows),
    ]
    copy.write_bytes(checkpoint.read_bytes())
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    assert json.loads(out.read_text("utf-8"))["weights"] == str(copy)
    assert len(table.read_text("utf-8").splitlines()) == 2
    assert len(rows.read_text("utf-8").splitlines()) == 24


def test_without_a_compiler_it_is_one_line_and_the_cure(
    flat: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "pyconv.evaluate", flat, "--model", MODEL),
        *("--checkpoint", checkpoint, "--compile"),
    ]
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300,
        env={k: v for k, v in ENVIRONMENT.items() if k != "CXX"} | {"PATH": str(tmp_path / "bin")},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = "pyconv-eval: There is no C++ compiler to compile with. Install g++, or leave"
    assert done.stderr.count(told) == 1
    assert len(done.stderr.strip().splitlines()) == 2  # with what was found


FIRST: dict[str, tuple[list[str], str]] = {
    "a misspelt model before a missing folder": (
        ["/nowhere", "--model", "pyconvresnet5", "--checkpoint", "{ckpt}"],
        "Did you mean",
    ),
    "weights that nobody published before a missing folder": (
        ["/nowhere", "--model", "resnet18"],
        "no published weights for resnet18",
    ),
    "no such home": (
        ["{flat}", "--model", "pyconvresnet50", "--checkpoint", "~nobody-of-this-name/best.pt"],
        "~nobody-of-this-name/best.pt has no home folder behind its ~. Give the full path.",
    ),
    "a missing folder before a download": (["/nowhere", "--model", "resnet50"], "no folder"),
    "a crop too large before a download": (
        ["{flat}", "--model", "pyconvresnet50", "--crop", "40", "--resize", "30"],
        "crop=40 does not fit into resize=30",
    ),
    "no such device before a download": (
        ["{flat}", "--model", "pyconvresnet50", "--device", "meta"],
        "no device 'meta' here",
    ),
}


@pytest.mark.parametrize("fault", FIRST)
def test_the_most_helpful_error_comes_first(
    fault: str, flat: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    arguments, message = FIRST[fault]
    assert main([text.format(flat=flat, ckpt=checkpoint) for text in arguments]) == 2
    assert message in capsys.readouterr().err


def test_weights_without_a_classifier_are_called_so(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "body.pth"
    torch.save(get_model("pyconvresnet_tiny", num_classes=0).state_dict(), path)
    assert main([str(flat), "--model", "pyconvresnet_tiny", "--checkpoint", str(path)]) == 2
    assert "holds weights without a classifier" in capsys.readouterr().err


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "pyconv-eval --sample" in capsys.readouterr().out


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sample of 20 images with the record that its network has in truth."""
    inputs = [(n, photos.picture(n, 28, 28).convert("L")) for n in range(20)]
    for n, image in inputs:
        photos.write(tmp_path / f"images/{n % 10}-class/{n}.png", photos.encode(image, "PNG"))
    labels = torch.tensor([n % 10 for n, _ in inputs])
    pictures = torch.stack([PREPROCESS(image) for _, image in inputs])
    model = photos.knowing(MODEL, pictures, labels, 10)
    torch.save(model.state_dict(), tmp_path / f"{MODEL}.pth")
    with torch.inference_mode():
        hits = model(pictures).topk(5).indices == labels[:, None]
    correct1, correct5 = int(hits[:, 0].sum()), int(hits.sum())
    assert 0 < correct1 < correct5
    record = {"images": 20, "correct1": correct1, "correct5": correct5, "top1": 5.0 * correct1}
    (tmp_path / "record.json").write_text(json.dumps(record))
    for module in ("evaluate.job", "weights.rows"):
        monkeypatch.setattr(f"pyconv.{module}.sample_file", lambda name: tmp_path / name)
    return tmp_path


def test_the_sample_agrees_with_its_record_or_fails(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(sample / "r.json", "--sample")
    assert (code, result["agrees"]) == (0, True)
    assert result["weights_file"]["trust"] == "comes with the library"
    record = json.loads((sample / "record.json").read_text())
    out = capsys.readouterr().out
    assert f"on record  top-1 {record['top1']:.2f} %: agrees" in out
    assert "images/s" in out
    record["correct1"] += 1
    (sample / "record.json").write_text(json.dumps(record))
    assert run(sample / "r.json", "--sample")[0] == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_a_record_is_met_but_for_one_image_in_a_thousand() -> None:
    record = {"images": 1000, "correct1": 900, "correct5": 990}
    for correct1, expected in ((900, True), (901, True), (898, False)):
        assert agrees(record, Metrics(1000, correct1, 990, 0.1, 1.0)) is expected
    assert not agrees(record, Metrics(999, 900, 990, 0.1, 1.0))
