"""pyconv-segment as users call it: photographs, and what is counted on labelled ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import segmentation_data
import torch
from photos import one_thread  # noqa: F401
from PIL import Image
from segmentation_data import small

from pyconv.data import ade20k
from pyconv.data.preprocess import WholeImage
from pyconv.evaluate.__main__ import main as evaluate_main
from pyconv.segmentation import PixelMetrics, find_labelled_photos, predict
from pyconv.segmentation.__main__ import main
from pyconv.train.__main__ import main as train_main

ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}
MODEL = "segmentation_data:small"
HOW = ("--window", "33", "--scales", "0.1,0.125")  # of 512 pixels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that sees many classes."""
    model = small()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # takes the statistics of the next batch
    pictures = [photos.picture(n, 65, 49) for n in range(8)]
    with torch.no_grad():
        model.train()(torch.stack([WholeImage()(picture) for picture in pictures]))
        model.cls[-1].bias.zero_()
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmentation_data.ade20k(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def counted(checkpoint: Path, data: Path) -> dict[str, list[int]]:
    """Pixels rightly found, found and labelled of each class, counted one by one."""
    model = small().eval()
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): t for key, t in state.items()})
    counts = {name: [0, 0, 0] for name in ade20k.class_names()}
    for image, labels in find_labelled_photos(data).samples:
        found = predict(model, Image.open(image), window=33, scales=(0.1, 0.125)).numpy()
        true = np.asarray(Image.open(labels)).astype(int) - 1
        for n, name in enumerate(counts):
            counts[name][0] += int(((found == n) & (true == n)).sum())
            counts[name][1] += int(((found == n) & (true >= 0)).sum())
            counts[name][2] += int((true == n).sum())
    right, found, _ = np.array(list(counts.values())).T
    assert right.sum() > 20 and (found > 0).sum() > 20  # or a wrong class would not be seen
    return counts


def counts_of(result: dict[str, Any]) -> dict[str, list[int]]:
    rows = result["per_class"].items()
    return {name: [row["right"], row["found"], row["labelled"]] for name, row in rows}


def run(out: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The command in this process; its exit code and what it wrote as JSON."""
    code = main([*map(str, arguments), "--model", MODEL, *HOW, "--json", str(out)])
    return code, json.loads(out.read_text("utf-8")) if out.exists() else {}


def test_pixels_are_counted_as_one_by_one(
    data: Path, checkpoint: Path, counted: dict[str, list[int]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, result = run(tmp_path / "r.json", "--data", data, "--checkpoint", checkpoint)
    assert code == 0
    assert counts_of(result) == counted
    right, found, labelled = np.array(list(counted.values())).T
    iou = right / (found + labelled - right + 1e-10)
    assert result["mean_iou"] == pytest.approx(100 * iou.mean())
    assert result["mean_iou_present"] == pytest.approx(100 * iou[labelled > 0].mean())
    assert result["pixel_accuracy"] == pytest.approx(100 * right.sum() / labelled.sum())
    assert (result["images"], result["partial"], result["published"]) == (7, False, None)
    assert result["weights_file"]["trust"] == "a file of the user's"
    told = capsys.readouterr()
    assert f"mean IoU  {result['mean_iou']:.2f} %, of all 150 classes" in told.out
    assert "7 images with label maps of 150 classes, numbered from 1" in told.err


@pytest.mark.parametrize(
    "start",
    [
        ("pyconv.segmentation", "--nproc-per-node", "3"),
        pytest.param(
            (
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
                "-m",
                "pyconv.segmentation",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["3 of its own", "2 of torchrun's"],
)
def test_processes_share_the_images_and_count_as_one(
    start: tuple[str, ...],
    data: Path,
    checkpoint: Path,
    counted: dict[str, list[int]],
    tmp_path: Path,
) -> None:
    """Broken images, and labels that are no class, are named by one and counted by none."""
    copy, out = tmp_path / "data", tmp_path / "r.json"
    shutil.copytree(data, copy)
    wrong = {"a": b"broken", "b": photos.encode(photos.picture(1))}
    for name, image in wrong.items():
        photos.write(copy / f"images/validation/{name}.jpg", image)
        labels = segmentation_data.label_map(1, 64, 48, [151, 200, 3])
        photos.write(copy / f"annotations/validation/{name}.png", photos.encode(labels, "PNG"))
    command = [
        *(sys.executable, "-m", *start, "--data", copy, "--model", MODEL, *HOW),
        *("--checkpoint", checkpoint, "--json", out),
    ]
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    assert counts_of(result) == counted
    assert result["processes"] in (2, 3)
    broken, beyond = result["unreadable"]
    assert "a.jpg cannot be read: it is no image" in broken
    assert "b.png holds 151, 200, and the classes are 1 to 150" in beyond
    assert "b.png holds 151" in done.stderr
    assert "not counted  2 images; the first: " in done.stdout


def test_an_interruption_leaves_a_partial_result(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    for n in range(200):
        for path in (f"images/validation/ADE_val_{n % 7 + 1:08d}.jpg",
                     f"annotations/validation/ADE_val_{n % 7 + 1:08d}.png"):  # fmt: skip
            target = (many / path).with_stem(f"{n}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(data / path)
    out = tmp_path / "r.json"
    command = [
        *(sys.executable, "-m", "pyconv.segmentation", "--data", many, "--model", MODEL),
        *("--checkpoint", checkpoint, "--json", out, "--window", "33", "--scales", "0.5"),
    ]
    with subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        told = b""
        while b"| 1/200" not in told and b"| 2/200" not in told:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, told.decode()
            told += piece
        process.send_signal(signal.SIGINT)
        table, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"Traceback" not in told + errors
    result = json.loads(out.read_text("utf-8"))
    assert result["partial"] is True
    assert 0 < result["images"] < 200
    assert b"a partial result" in table


def test_classes_of_ones_own(tmp_path: Path, checkpoint: Path) -> None:
    """Label maps count them from 0; the checkpoint says how many there are."""
    model = small(3)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    for n in range(2):
        photos.write(tmp_path / f"images/{n}.png", photos.encode(photos.picture(n), "PNG"))
        labels = segmentation_data.label_map(n, 64, 48, [0, 1, 2, 255])
        photos.write(tmp_path / f"masks/{n}.png", photos.encode(labels, "PNG"))
    (tmp_path / "names.txt").write_text("road\nsky\ntree\n")
    words = ("--data", tmp_path, "--names", tmp_path / "names.txt")
    code, result = run(tmp_path / "r.json", *words, "--checkpoint", tmp_path / "own.pth")
    assert code == 0
    assert list(result["per_class"]) == ["road", "sky", "tree"]
    assert sum(row["labelled"] for row in result["per_class"].values()) < 2 * 64 * 48
    code, _ = run(tmp_path / "no.json", *words, "--checkpoint", checkpoint)
    assert code == 2


def test_photographs_become_pictures_and_shares(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "deep" / "output"
    for mode, kind in (("RGB", "jpg"), ("L", "jpg"), ("P", "png"), ("RGBA", "png")):
        data = photos.encode(photos.picture(1).convert(mode), {"jpg": "JPEG"}.get(kind, "PNG"))
        photos.write(folder / f"{mode}.{kind}", data)
    photos.write(folder / "notes.txt", b"no photograph")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = tmp_path / "turned.jpg"
    photos.picture(2).save(turned, exif=exif)
    code, result = run(
        tmp_path / "r.json", folder, turned, "--output", output, "--checkpoint", checkpoint
    )
    assert code == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{name}-segmented.{kind}"
        for name in ("L", "P", "RGB", "RGBA", "turned")
        for kind in ("json", "png")
    )
    assert [row["photo"] for row in result["photos"]] == [
        *(str(folder / name) for name in ("L.jpg", "P.png", "RGB.jpg", "RGBA.png")),
        str(turned),
    ]
    for row in result["photos"]:
        alone = json.loads(Path(row["picture"]).with_suffix(".json").read_text("utf-8"))
        assert alone["classes"] == row["classes"]
        assert sum(seen["pixels"] for seen in row["classes"].values()) == 64 * 48
        assert sum(seen["share"] for seen in row["classes"].values()) == pytest.approx(100)
        size = Image.open(row["picture"]).size
        assert size > ((48, 64) if row["photo"] == str(turned) else (64, 48))
    first = next(iter(result["photos"][0]["classes"]))
    assert f"{folder / 'L.jpg'}  {first} " in capsys.readouterr().out


def test_a_photograph_that_cannot_be_read_costs_no_other(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos.write(tmp_path / "broken.jpg", b"broken")
    photos.write(tmp_path / "fine.jpg", photos.encode(photos.picture(1)))
    code, result = run(
        tmp_path / "r.json",
        *(tmp_path / "broken.jpg", tmp_path / "fine.jpg", "--output", tmp_path),
        *("--checkpoint", checkpoint),
    )
    assert code == 2
    assert "broken.jpg: it is no image" in capsys.readouterr().err
    assert len(result["photos"]) == len(result["unreadable"]) == 1
    assert (tmp_path / "fine-segmented.png").exists()


def test_what_was_seen_is_told_where_it_cannot_be_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        photos.write(tmp_path / name, photos.encode(photos.picture(1)))
    (tmp_path / "a-segmented.json").mkdir()  # in the place of a file
    words = (tmp_path / "a.jpg", tmp_path / "b.jpg", "--output", tmp_path)
    code, result = run(tmp_path / "r.json", *words, "--checkpoint", checkpoint)
    assert code == 1
    captured = capsys.readouterr()
    assert all(str(tmp_path / name) in captured.out for name in ("a.jpg", "b.jpg"))
    assert len(result["photos"]) == 2 and result["unreadable"] == []
    (error,) = result["unwritten"]
    assert error in captured.err and str(tmp_path / "a-segmented.json") in error
    assert (tmp_path / "b-segmented.json").is_file()


def test_optimised_and_in_bfloat16(checkpoint: Path, tmp_path: Path) -> None:
    import pyconv

    data = segmentation_data.ade20k(tmp_path / "data", 2)
    words = ("--data", data, "--checkpoint", checkpoint)
    _, plain = run(tmp_path / "a.json", *words)
    _, half = run(tmp_path / "b.json", *words, "--dtype", "bfloat16")
    assert half["dtype"] == "bfloat16"
    assert half["pixel_accuracy"] == pytest.approx(plain["pixel_accuracy"], abs=2)
    if hasattr(pyconv, "optimize"):
        _, fast = run(tmp_path / "c.json", *words, "--optimize")
        assert fast["optimize"] is True
        assert fast["pixel_accuracy"] == pytest.approx(plain["pixel_accuracy"], abs=0.2)


WRONG = [
    ([], "give either photographs or --data"),
    (["a.jpg", "--data", "."], "give either photographs or --data"),
    (["a.jpg"], "--output is missing"),
    (["a.jpg", "--output", "o"], "There is no file or folder a.jpg"),
    (["--data", ".", "--output", "o"], "--data writes no pictures"),
    (["--data", ".", "--published", "--scales", "1"], "--published has its own scales"),
    (["--data", ".", "--scales", "1,x"], "'1,x' is no list of scales such as 0.75,1,1.25"),
    (["--data", ".", "--checkpoint", "none.pth"], "there is no file none.pth"),
    (["--data", "nowhere"], "There is no folder nowhere"),
    (["--data", ".", "--weights", "ADE20K_V3"], "Did you mean 'ADE20K_V1'"),
    (["--data", ".", "--device", "cpux"], "There is no device 'cpux' here"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(segmentation_data.ade20k(tmp_path, 1))
    try:
        code = main([*words, "--model", "pyconvsegnet_resnet50"])
    except SystemExit as leaving:
        code = leaving.code
    told = capsys.readouterr()
    assert code == 2 and told.out == ""
    assert message in told.err
    assert len(told.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (main, ["--data", "."], "to each image, not to each pixel: that is for pyconv-eval"),
        (main, [__file__, "--output", "o"], "that is for pyconv-predict. Or give one such as p"),
        (evaluate_main, ["."], "pyconvsegnet_resnet50 gives a class to each pixel"),
        (train_main, [".", "--output", "o"], "pyconvsegnet_resnet50 gives a class to each pixel"),
    ],
)
def test_each_command_knows_the_networks_of_the_other(
    command: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "resnet50" if command is main else "pyconvsegnet_resnet50"
    assert command([*words, "--model", name]) == 2
    assert message in capsys.readouterr().err


def test_two_photographs_of_one_name_are_not_written_over_each_other(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a/x.jpg", "b/x.png"):
        photos.write(tmp_path / place, b"")
    code, _ = run(
        tmp_path / "r.json",
        *(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "o", "--checkpoint", checkpoint),
    )
    assert code == 2 and not (tmp_path / "o").exists()
    assert "would both become" in capsys.readouterr().err


def test_figures_of_a_class_that_is_nowhere() -> None:
    metrics = PixelMetrics(1, ((3, 4, 5), (0, 0, 0)), 1.0)
    assert metrics.iou == (pytest.approx(50.0), 0.0)
    assert (metrics.mean_iou, metrics.mean_iou_present) == (pytest.approx(25), pytest.approx(50))
    assert metrics.pixel_accuracy == pytest.approx(60)
