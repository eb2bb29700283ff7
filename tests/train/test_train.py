"""Training in this very process: what it learns, keeps, refuses, and how it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from photos import one_thread  # noqa: F401
from torch.nn import SyncBatchNorm
from train_fixtures import (
    Interrupting,
    assert_same_weights,
    environment,
    make_tree,
    read_steps,
    real_tree,
    weights_of,
)

from pyconv import get_model
from pyconv.data import Preprocess
from pyconv.evaluate import evaluate
from pyconv.evaluate.__main__ import main as evaluate_main
from pyconv.system.failures import explain
from pyconv.train import DivergedError, Summary, TrainOptions, loading, train
from pyconv.train.__main__ import _kept_memory, main
from pyconv.train.recipe import AUGMENT, PAPER, Recipe
from pyconv.train.step import freeze_stages, join_norms
from pyconv.weights import checkpoint

TINY = "pyconvresnet_tiny"
LITTLE = "train_fixtures:little"
RECIPE = dataclasses.replace(
    PAPER, epochs=2, batch_size=16, lr=0.02, milestones=(1,), min_scale=0.8, ema=0.5, clip=5.0
)
OPTIONS = TrainOptions(workers=0, device="cpu", watch_every=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("images") / "tree")


def go(
    tree: Path,
    output: Path,
    recipe: Recipe = RECIPE,
    options: TrainOptions = OPTIONS,
    model: str = TINY,
    **more: Any,
) -> Summary:
    return train(tree, output, model=model, recipe=recipe, options=options, **more)


@pytest.fixture(scope="module")
def finished(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    assert go(tree, output).finished
    return output


def refuse(capsys: pytest.CaptureFixture[str], tree: Path, output: Path, *flags: object) -> str:
    """The one line that the command leaves with when it is asked for the impossible."""
    line = [tree, "--model", TINY, "--output", output, "--workers", 0, "--device", "cpu", *flags]
    assert main([str(word) for word in line]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyconv-train: ")
    assert error.count("\n") == 1
    return error


def test_a_run_writes_what_its_owner_needs(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if path.name != ".lock"}
    assert names == {
        "last.pt", "best.pt", "log.csv", "steps.csv", "curves.png", "summary.json",
    }  # fmt: skip
    log = (finished / "log.csv").read_text().splitlines()
    assert log[0].startswith("epoch,lr,train_loss,train_top1,val_loss,val_top1,val_top5,")
    assert [line.split(",")[0] for line in log[1:]] == ["1", "2"]
    assert [float(line.split(",")[1]) for line in log[1:]] == pytest.approx([0.02, 0.002])
    assert [row[:2] for row in read_steps(finished)] == [
        (e, s) for e in (1, 2) for s in range(1, 5)
    ]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["finished"] is True
    assert summary["epochs"] == 2
    assert summary["recipe"] == json.loads(json.dumps(RECIPE.as_dict()))
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["images_per_second"] > 0
    assert summary["best_top1"] >= summary["last_top1"]


def test_best_holds_the_averaged_weights_and_scores_what_the_summary_says(
    finished: Path, tree: Path
) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    content = torch.load(finished / "best.pt", weights_only=True)
    assert content["classes"] == ["class0", "class1", "class2", "class3"]
    model = get_model(TINY, weights=finished / "best.pt", num_classes=4)
    preprocess = Preprocess(**{k: tuple(v) if isinstance(v, list) else v
                               for k, v in content["images"].items()})  # fmt: skip
    val = loading.val_loader(loading.find_splits(tree).val, preprocess, 5, 0)
    assert evaluate(model, val, normalise=preprocess.normalise).top1 == summary["best_top1"]
    last = torch.load(finished / "last.pt", weights_only=True)
    live = last["training"]["model"]
    assert not torch.equal(last["state_dict"]["fc.weight"], live["fc.weight"])
    assert checkpoint.read(finished / "last.pt").keys() == live.keys()


def test_stopped_after_every_step_it_ends_with_the_same_bits(
    tree: Path, tmp_path: Path, finished: Path
) -> None:
    at_once = dataclasses.replace(OPTIONS, time_limit=1e-9)
    codes = []
    while not codes or codes[-1]:
        codes.append(go(tree, tmp_path, options=at_once).exit_code)
        assert len(codes) < 20
    assert codes == [124] * 8 + [0]
    assert_same_weights(tmp_path, finished)
    assert read_steps(tmp_path) == read_steps(finished)
    timeless = [re.sub(r"(,[^,]*){3}$", "", (place / "log.csv").read_text(), flags=re.M)
                for place in (tmp_path, finished)]  # fmt: skip
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_run_goes_on(
    tree: Path, tmp_path: Path, finished: Path, number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set() and not (tmp_path / "steps.csv").is_file():
            time.sleep(0.002)
        if not ended.is_set():
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        summary = go(tree, tmp_path)
    finally:
        ended.set()
        sender.join()
    assert summary.exit_code == code
    assert not json.loads((tmp_path / "summary.json").read_text())["finished"]
    assert signal.getsignal(number) is before
    assert go(tree, tmp_path).finished
    assert_same_weights(tmp_path, finished)


def test_a_signal_while_it_validates_saves_and_leaves_at_once(tree: Path, tmp_path: Path) -> None:
    network = "train_fixtures:interrupting_tiny"
    recipe = dataclasses.replace(RECIPE, batch_size=8, crop=28)  # validated in two batches
    Interrupting.sent = True
    assert go(tree, tmp_path / "undisturbed", recipe, model=network).finished
    Interrupting.sent = False
    assert go(tree, tmp_path / "interrupted", recipe, model=network).exit_code == 143
    state = torch.load(tmp_path / "interrupted" / "last.pt", weights_only=True)
    assert state["position"] == {"epoch": 0, "step": 8}  # behind the last step of the first epoch
    assert state["history"] == []
    assert go(tree, tmp_path / "interrupted", recipe, model=network).finished
    assert_same_weights(tmp_path / "interrupted", tmp_path / "undisturbed")


def test_tables_that_a_kill_left_behind_the_save_are_made_good(
    tree: Path, tmp_path: Path, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    log = (finished / "log.csv").read_bytes()
    (tmp_path / "run" / "log.csv").write_bytes(b"".join(log.splitlines(True)[:-1]))
    (tmp_path / "run" / "curves.png").unlink()
    assert go(tree, tmp_path / "run").finished
    assert (tmp_path / "run" / "log.csv").read_bytes() == log
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_goes_on_elsewhere_takes_its_files_along(
    tree: Path, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go(tree, tmp_path / "moved", resume=finished / "last.pt").finished
    for name in ("best.pt", "log.csv", "steps.csv"):
        assert (tmp_path / "moved" / name).read_bytes() == (finished / name).read_bytes()
    assert "best.pt" not in capsys.readouterr().err
    # Weights of another run, or damaged ones, are none of this one's.
    place = tmp_path / "loose"
    place.mkdir()
    shutil.copy(finished / "last.pt", place)
    whole = (finished / "best.pt").read_bytes()
    (place / "best.pt").write_bytes(whole[:-9000] + bytes(9000))
    assert go(tree, tmp_path / "without", resume=place / "last.pt").finished
    assert not (tmp_path / "without" / "best.pt").exists()
    assert "best.pt is missing or damaged" in capsys.readouterr().err


def test_norms_that_are_joined_and_frozen_keep_their_statistics() -> None:
    network = join_norms(get_model(TINY))
    frozen = freeze_stages(network, 1)
    network.train()
    for part in frozen:
        part.eval()
    kept = [m for m in (network.bn1, *network.layer1.modules()) if isinstance(m, SyncBatchNorm)]
    assert len(kept) > 2
    assert not any(norm.training for norm in kept)
    assert network.layer2[0].bn1.training


def test_a_lost_loader_and_a_lack_of_memory_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path
) -> None:
    def kill_loader() -> None:
        while not (tmp_path / "lost" / "steps.csv").is_file():
            time.sleep(0.01)
        while not (loaders := multiprocessing.active_children()):
            time.sleep(0.01)
        loaders[0].kill()

    killer = threading.Thread(target=kill_loader)
    killer.start()
    recipe = dataclasses.replace(RECIPE, epochs=500)
    with pytest.raises(OSError, match=r"A loader process is lost .*--workers.*same command"):
        go(tree, tmp_path / "lost", recipe, options=dataclasses.replace(OPTIONS, workers=1))
    killer.join()
    with pytest.raises(OSError, match=r"Memory ran out.*--accumulate 2 goes on"):
        go(
            tree,
            tmp_path / "greedy",
            dataclasses.replace(RECIPE, crop=28),
            model="train_fixtures:greedy",
        )


def test_an_error_inside_a_loader_process_is_no_lost_process() -> None:
    told = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."
    assert explain(RuntimeError(told), "cure") is None
    lost = "DataLoader worker (pid 7) is killed by signal: Killed. "
    assert "(DataLoader worker (pid 7) is killed" in (explain(RuntimeError(lost), "cure") or "")


def test_a_finished_run_is_left_as_it_is(tree: Path, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    again = go(tree, tmp_path / "copy")
    assert again.finished
    assert again.epochs == 2
    assert (tmp_path / "copy" / "last.pt").read_bytes() == (finished / "last.pt").read_bytes()


def test_parts_of_a_batch_teach_what_the_batch_does(tree: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, milestones=(), lr=0.002, crop=28)
    network = "train_fixtures:frozen_norm_tiny"
    parted = dataclasses.replace(OPTIONS, accumulate=4)
    go(tree, tmp_path / "whole", recipe, model=network)
    go(tree, tmp_path / "parts", recipe, model=network, options=parted)
    whole, parts = (read_steps(tmp_path / name) for name in ("whole", "parts"))
    assert [row[:2] for row in whole] == [row[:2] for row in parts]
    assert [row[2] for row in parts] == pytest.approx([row[2] for row in whole], abs=1e-5)


def test_the_recipe_of_the_best_weights_learns_real_images_in_mixed_precision(
    tmp_path: Path,
) -> None:
    tree = real_tree(tmp_path / "tree", train=40, val=10)
    recipe = dataclasses.replace(
        AUGMENT, epochs=4, batch_size=40, lr=0.05, warmup=1.0, min_scale=0.6
    )
    assert recipe.cutmix and recipe.precision == "bfloat16"
    summary = go(tree, tmp_path / "run", recipe, options=dataclasses.replace(OPTIONS, accumulate=2))
    losses = [loss for _, _, loss in read_steps(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert summary.best_top1 is not None
    assert summary.best_top1 > 30  # of ten classes


def test_a_compiled_network_learns_the_same_and_saves_an_ordinary_one(
    tree: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, milestones=(), crop=28)
    for compiled in (False, True):
        options = dataclasses.replace(OPTIONS, watch_every=1, compile=compiled)
        assert go(tree, tmp_path / str(compiled), recipe, options, LITTLE).finished
    plain, ours = (read_steps(tmp_path / str(compiled)) for compiled in (False, True))
    for (*step, loss), (*same, target) in list(zip(ours, plain, strict=True))[:3]:
        assert step == same and loss == pytest.approx(target, rel=1e-3)  # before roundings grow
    assert set(weights_of(tmp_path / "True")) == set(weights_of(tmp_path / "False"))
    get_model(LITTLE, weights=tmp_path / "True" / "best.pt", num_classes=4)


def test_half_precision_scales_the_loss_and_saves_the_scale(tree: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, precision="float16", epochs=1, milestones=())
    at_once = dataclasses.replace(OPTIONS, time_limit=1e-9)
    assert go(tree, tmp_path, recipe, options=at_once).exit_code == 124
    scaler = torch.load(tmp_path / "last.pt", weights_only=True)["training"]["scaler"]
    assert scaler["scale"] > 1
    assert go(tree, tmp_path, recipe).finished


def test_fine_tuning_to_other_classes_keeps_what_is_frozen(tmp_path: Path, finished: Path) -> None:
    tree = make_tree(tmp_path / "tree", classes=3, train=8)
    recipe = dataclasses.replace(RECIPE, epochs=1, milestones=(), batch_size=8, ema=0.0)
    start = finished / "best.pt"
    assert go(tree, tmp_path / "run", recipe, weights=str(start), freeze=2).finished
    before, after = checkpoint.read(start), checkpoint.read(tmp_path / "run" / "last.pt")
    assert after["fc.weight"].shape[0] == 3
    frozen = [key for key in before if key.startswith(("conv1", "bn1", "layer1", "layer2"))]
    learning = [key for key in before if key.startswith(("layer3", "layer4"))]
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert not any(torch.equal(before[key], after[key]) for key in learning)


def test_a_run_that_diverges_says_where_and_keeps_the_last_good_state(
    tree: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, lr=1e-30, warmup=0.0, clip=0.0, ema=0.0)
    leap = dataclasses.replace(recipe, lr=1e30)
    with pytest.raises(DivergedError, match=r"at step \d of epoch 1 .*1e\+30.*Nothing was saved"):
        go(tree, tmp_path / "none", leap)
    # A first step that overshoots has a finite loss still, and must not be saved.
    at_once = dataclasses.replace(OPTIONS, time_limit=1e-9)
    with pytest.raises(DivergedError, match=r"weights are not finite at step 1 of epoch 1"):
        go(tree, tmp_path / "over", dataclasses.replace(leap, weight_decay=1e30), options=at_once)
    assert not (tmp_path / "over" / "last.pt").exists()
    late = dataclasses.replace(recipe, lr=1e-3, decay=1.0, milestones=())
    go(tree, tmp_path / "some", late, options=at_once)
    state = torch.load(tmp_path / "some" / "last.pt", weights_only=True)
    state["training"]["model"]["fc.bias"].fill_(3e38)  # finite, and too large to go on with
    state["training"]["model"]["fc.weight"].fill_(1e38)
    torch.save(state, tmp_path / "some" / "last.pt")
    kept = (tmp_path / "some" / "last.pt").read_bytes()
    with pytest.raises(DivergedError, match=r"last\.pt holds the last good state.*--weights"):
        go(tree, tmp_path / "some", late)
    assert (tmp_path / "some" / "last.pt").read_bytes() == kept


def test_another_recipe_or_network_is_refused_with_the_difference(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    flags = ["--epochs", 2, "--batch-size", 16, "--lr", 0.5, "--milestones", 1, "--ema", 0.5]
    flags += ["--min-scale", 0.8, "--clip", 5]
    error = refuse(capsys, tree, tmp_path / "run", *flags)
    assert "of another run: lr 0.02 there and 0.5 here. Ask for the same" in error
    flags[5] = 0.02
    error = refuse(capsys, tree, tmp_path / "run", *flags, "--freeze", 1)
    assert "freeze 0 there and 1 here" in error
    fewer = make_tree(tmp_path / "fewer", classes=3)
    error = refuse(capsys, fewer, tmp_path / "run", *flags)
    assert "classes 4 there and 3 here" in error


def test_one_folder_of_classes_is_enough(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is held out is listed, and counts outside of the training as it did in it."""
    data, output, result = tree / "train", tmp_path / "run", tmp_path / "result.json"
    recipe = dataclasses.replace(RECIPE, epochs=1, milestones=(), val_fraction=0.25, seed=3)
    summary = go(data, output, recipe)
    held = (output / "val.csv").read_text("utf-8").splitlines()
    assert held[0] == "name,label" and re.fullmatch(r"class\d/\d{3}\.png,class\d", held[1])
    assert f"{len(held) - 1} of 64 images are held out for validation: " in capsys.readouterr().err
    line = f"{data} --model {TINY} --checkpoint {output / 'best.pt'} --labels {output / 'val.csv'}"
    assert evaluate_main([*line.split(), "--workers", "0", "--json", str(result)]) == 0
    found = json.loads(result.read_text("utf-8"))
    assert found["images"] == len(held) - 1 and found["top1"] == summary.best_top1
    assert go(data, output, recipe).finished  # and the run knows its images


def test_a_name_that_is_no_utf8_is_held_out_like_others(tree: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tree / "train", tmp_path / "data")
    for image in (data / "class0").iterdir():
        image.rename(os.fsdecode(os.fsencode(image.with_suffix("")) + b"\xe9.png"))
    recipe = dataclasses.replace(RECIPE, epochs=1, milestones=(), val_fraction=0.25)
    assert go(data, tmp_path / "run", recipe).finished
    assert b"\xe9.png,class0\n" in (tmp_path / "run/val.csv").read_bytes()
    line = f"{data} --checkpoint {tmp_path / 'run/best.pt'} --labels {tmp_path / 'run/val.csv'}"
    assert evaluate_main([*line.split(), "--workers", "0"]) == 0


def test_a_run_made_longer_ends_as_if_begun_so(
    tree: Path, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "longer")
    longer = dataclasses.replace(RECIPE, epochs=3)
    assert go(tree, tmp_path / "longer", longer).epochs == 3
    assert "It ends after 3 epochs instead of 2" in (told := capsys.readouterr().err)
    assert "missing or damaged" not in told
    assert go(tree, tmp_path / "whole", longer).epochs == 3
    assert_same_weights(tmp_path / "longer", tmp_path / "whole")


def test_bad_input_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path, finished: Path
) -> None:
    output = tmp_path / "run"
    assert "There is no folder" in refuse(capsys, tmp_path / "nowhere", output)
    other = make_tree(tmp_path / "other", classes=2, train=1, val=1)
    (other / "val" / "class1").rename(other / "val" / "extra")
    assert "only in train/: class1" in refuse(capsys, other, output)
    assert "fewer than one batch of 256" in refuse(capsys, tree, output)
    error = refuse(capsys, tree, output, "--batch-size", 16, "--accumulate", 3)
    assert "batch of 16 cannot be shared equally" in error
    assert "--lr -1.0 must be positive" in refuse(capsys, tree, output, "--lr", -1)
    small = ("--batch-size", 16)
    assert "--sync-bn needs GPUs" in refuse(capsys, tree, output, *small, "--sync-bn")
    assert "stages 1 to 4" in refuse(capsys, tree, output, *small, "--freeze", 9)
    assert "nothere" in refuse(capsys, tree, output, *small, "--weights", "nothere.pth")
    assert "module:function" in refuse(capsys, tree, output, *small, "--model", "no_such:thing")
    assert "Did you mean" in refuse(capsys, tree, output, *small, "--model", "pyconvresnet_tony")
    error = refuse(capsys, tree, output, *small, "--json", tmp_path / "none" / "result.json")
    assert f"no folder {tmp_path / 'none'}" in error
    assert "it is a folder" in refuse(capsys, tree, output, *small, "--json", tmp_path)
    for inside in ("train/run", "val/class0/run"):
        assert "each folder is a class of images. Give a folder" in refuse(
            capsys, tree, tree / inside, *small
        )
    flat = (tree / "train", tree / "train/run", *small, "--val-fraction", 0.2)
    assert "each folder is a class of images. Give a folder" in refuse(capsys, *flat)
    (tmp_path / "file").touch()
    assert "cannot be made a folder" in refuse(capsys, tree, tmp_path / "file", *small)
    error = refuse(capsys, tree, output, *small, "--resume", tmp_path / "gone.pt")
    assert "no checkpoint" in error
    output.mkdir(exist_ok=True)
    whole = (finished / "last.pt").read_bytes()
    (output / "last.pt").write_bytes(whole[: len(whole) // 2])
    assert "last.pt is damaged or cut short" in refuse(capsys, tree, output, *small)


def test_the_first_mistake_to_mend_is_named_first(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path
) -> None:
    nowhere, output = tmp_path / "nowhere", tmp_path / "run"
    wrong = ("--model", "pyconvresnet_tony", "--batch-size", 7, "--accumulate", 3)
    assert "Did you mean" in refuse(capsys, nowhere, output, *wrong)
    wrong = ("--weights", "nothere.pth", *wrong[2:])
    assert "nothere.pth" in refuse(capsys, nowhere, output, *wrong)
    assert "cannot be shared equally" in refuse(capsys, nowhere, output, *wrong[2:])
    assert not output.exists()


def test_a_part_of_one_image_is_refused_where_norms_need_more_and_the_cures_work(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path
) -> None:
    line = (tree, "--model", "resnet18", "--crop", 32, "--epochs", 1, "--output", tmp_path / "run")
    line += ("--workers", 0, "--device", "cpu", "--time-limit", "0.000001s")
    alone = ("--batch-size", 4, "--accumulate", 4)
    assert main([str(word) for word in (*line, *alone)]) == 2
    error = capsys.readouterr().err
    assert "a batch norm sees one pixel" in error and error.count("\n") == 1
    assert "Choose --batch-size 8 or --accumulate 2." in error
    for cure in (("--batch-size", 8), ("--accumulate", 2), ("--crop", 64)):
        words = [str(word) for word in (*line, *alone, *cure, "--output", tmp_path / cure[0])]
        assert main(words) == 124, cure
        saved = torch.load(tmp_path / cure[0] / "last.pt", weights_only=True)
        assert saved["position"]["step"] == 1


def test_a_network_that_cannot_be_tried_beforehand_trains(tree: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=1, crop=28, ema=0.0)
    at_once = dataclasses.replace(OPTIONS, time_limit=1e-9)
    assert go(tree, tmp_path, recipe, at_once, "train_fixtures:uncopied").exit_code == 124


def test_a_rate_for_other_batches_is_pointed_out_when_a_run_begins(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path
) -> None:
    line = [tree, "--model", TINY, "--output", tmp_path, "--workers", 0, "--device", "cpu"]
    line += ["--batch-size", 16, "--epochs", 1, "--time-limit", "0.000001s"]
    for told in (True, False):
        assert main([str(word) for word in line]) == 124
        assert ("in proportion, it would be --lr 0.0063" in capsys.readouterr().err) == told


def test_a_network_that_gives_no_logits_of_the_classes_is_refused(
    tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"gives \[16, 10\] for 16 images of 4 classes.*\[16, 4\]"):
        go(tree, tmp_path, model="train_fixtures:of_ten_classes")


@pytest.mark.skipif(os.name == "nt", reason="the compiler is found otherwise")
def test_without_a_compiler_torch_compile_is_one_line(tree: Path, tmp_path: Path) -> None:
    command = [tree, "--model", LITTLE, "--output", tmp_path / "run", "--batch-size", 16]
    command += ["--device", "cpu", "--workers", 0, "--crop", 28, "--compile"]
    none = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pyconv.train", *map(str, command)],
        env=environment() | none, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("pyconv-train: There is no C++ compiler")
    assert last.endswith("Install g++, or leave --compile out.")
    assert "Traceback" not in done.stderr


def test_a_result_is_written_before_it_is_printed_and_few_open_files_are_enough(
    tree: Path, tmp_path: Path
) -> None:
    output, result = tmp_path / "größe", tmp_path / "result.json"
    command = ["-m", "pyconv.train", tree, "--model", TINY, "--output", output, "--json", result]
    command += ["--batch-size", 32, "--epochs", 1, "--workers", 4, "--device", "cpu"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 40; exec "$0" "$@"', sys.executable, *map(str, command)],
        env=environment() | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(result.read_text("utf-8"))["finished"] is True, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="links that lead in a circle are those of Unix")
def test_a_run_that_the_system_does_not_show_is_not_overwritten(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").symlink_to("last.pt")
    with pytest.raises(OSError, match=r"last\.pt cannot be read: Too many levels of symbolic"):
        go(tree, tmp_path)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").symlink_to("disk/that/is/gone/last.pt")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*last\.pt"):
        go(tree, tmp_path)
    assert (tmp_path / "last.pt").is_symlink()


def test_two_runs_never_write_into_one_folder(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("pyconv.train.folder.LOCK_WAIT", 0)
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="Another run is writing"):
        go(tree, tmp_path)


def test_the_command_needs_no_matplotlib(tree: Path, tmp_path: Path) -> None:
    hidden = (
        "import sys; sys.modules['matplotlib'] = None; from pyconv.train.__main__ import main; "
    )
    line = f"[{str(tree)!r}, '--model', {TINY!r}, '--output', {str(tmp_path)!r}, '--epochs', '1', "
    line += "'--batch-size', '32', '--workers', '1', '--device', 'cpu']"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden} sys.exit(main({line}))"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "curves.png is left out: it needs matplotlib" in done.stderr
    assert "best top-1" in done.stdout
    assert not (tmp_path / "curves.png").exists()
    assert weights_of(tmp_path)


def test_training_needs_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyconv.speed", None)  # as if its folder were removed
    with _kept_memory():
        pass


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can grow beyond ``limit`` bytes, as on a disk without more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    recipe = dataclasses.replace(RECIPE, ema=0.0)
    go(tree, output, recipe, options=dataclasses.replace(OPTIONS, time_limit=1e-9))
    kept = (output / "last.pt").read_bytes()
    with full_disk(1_500_000):
        with pytest.raises(OSError, match=r"Cannot save .*last\.pt: .*before is intact") as caught:
            go(tree, output, recipe)
        assert "\n" not in str(caught.value)
        assert (output / "last.pt").read_bytes() == kept
        assert not [path for path in output.iterdir() if path.name.startswith(".last")]
    assert go(tree, output, recipe).finished
