from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2
from train_fixtures import make_tree

from pyconv.train import loading
from pyconv.train.loading import (
    StepSampler,
    TrainImages,
    UnreadableImageError,
    derive_seed,
    find_splits,
    shuffled,
)
from pyconv.train.recipe import AUGMENT, PAPER


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("images"), classes=2, train=6, val=2)


def collect(sampler: StepSampler) -> list[list[int]]:
    return [[index for _, index in part] for part in sampler]


@given(
    part=st.integers(1, 4),
    processes=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    steps=st.integers(1, 4),
    spare=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_any_division_trains_on_the_same_batches(
    part: int, processes: int, accumulate: int, steps: int, spare: int, epoch: int
) -> None:
    batch = part * processes * accumulate
    images = steps * batch + min(spare, batch - 1)
    shares = []
    for rank in range(processes):
        sampler = StepSampler(images, batch, 7, rank, processes, accumulate)
        sampler.start(epoch, 0)
        shares.append(collect(sampler))
    together = [
        [i for share in shares for part in share[s : s + accumulate] for i in part]
        for s in range(0, steps * accumulate, accumulate)
    ]
    expected = shuffled(images, 7, epoch)[: steps * batch].split(batch)
    assert together == [run.tolist() for run in expected]


def test_an_epoch_can_be_entered_anywhere_and_is_like_no_other() -> None:
    sampler = StepSampler(40, 8, 0, rank=1, processes=2, accumulate=2)
    whole = collect(sampler)
    sampler.start(0, 3)
    assert collect(sampler) == whole[3 * 2 :]
    sampler.start(1, 0)
    assert collect(sampler) != whole


def test_an_image_is_changed_alike_in_any_process_and_otherwise_in_each_epoch(tree: Path) -> None:
    samples = find_splits(tree).train
    images = TrainImages(samples, loading.augmentation(PAPER, 28), 1, seed=3)

    def epoch(number: int, workers: int) -> torch.Tensor:
        sampler = StepSampler(12, 4, 3, 0, 1, 1)
        sampler.start(number, 0)
        loader = loading.train_loader(images, sampler, workers, pin=False)
        return torch.cat([pixels for pixels, _ in loader])

    alone = epoch(0, workers=0)
    assert alone.dtype == torch.uint8
    assert torch.equal(alone, epoch(0, workers=2))
    by_index = torch.stack([images[0, int(i)][0] for i in shuffled(12, 3, 0)])
    assert torch.equal(alone, by_index)
    assert not torch.equal(images[0, 0][0], images[1, 0][0])


def test_seeds_do_not_collide_between_neighbours() -> None:
    seeds = {derive_seed(0, epoch, index) for epoch in range(30) for index in range(300)}
    assert len(seeds) == 9000


def test_cutmix_is_torchvisions_and_labels_follow_the_pixels() -> None:
    mixer = loading.make_mixer(dataclasses.replace(AUGMENT, mix_probability=1.0), classes=5)
    assert mixer is not None
    labels = torch.arange(5)
    images = labels.float().view(5, 1, 1, 1).expand(5, 1, 32, 32).contiguous()
    own = v2.CutMix(alpha=AUGMENT.cutmix, num_classes=5)
    mixed_any = False
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, targets = mixer(images, labels)
        # The share of pixels that show an image is the weight of its label.
        shares = torch.stack([(mixed == label).float().mean((1, 2, 3)) for label in labels], 1)
        torch.testing.assert_close(targets, shares)
        mixed_any |= bool((targets.max(1).values < 1).any())
        torch.manual_seed(seed)
        torch.rand(1), torch.multinomial(torch.ones(1), 1)  # whether to mix, and with which kind
        theirs, their_targets = own(images, labels)
        assert torch.equal(mixed, theirs)
        assert torch.equal(targets, their_targets)
    assert mixed_any


def test_mixup_and_cutmix_share_the_batches_and_nothing_is_mixed_unasked() -> None:
    assert loading.make_mixer(PAPER, 4) is None
    both = loading.make_mixer(dataclasses.replace(PAPER, cutmix=1.0, mixup=0.2), 4)
    half = loading.make_mixer(dataclasses.replace(PAPER, mixup=0.2, mix_probability=0.5), 4)
    assert both is not None and half is not None
    torch.manual_seed(0)
    images, labels = torch.rand(4, 1, 16, 16), torch.arange(4)
    blended = [bool((both(images, labels)[0] != images).all()) for _ in range(40)]
    assert 0 < sum(blended) < 40
    plain = [half(images, labels)[1].ndim == 1 for _ in range(40)]
    assert 0 < sum(plain) < 40


@pytest.mark.parametrize("channels", [1, 3])
def test_every_change_keeps_bytes_and_size(tree: Path, channels: int) -> None:
    recipe = dataclasses.replace(PAPER, randaugment=9, erase=1.0)
    images = TrainImages(find_splits(tree).train, loading.augmentation(recipe, 24), channels)
    for epoch in range(10):
        pixels, _ = images[epoch, 0]
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (channels, 24, 24)


def claiming(size: int, png: bytes) -> bytes:
    """A PNG that says it is ``size`` pixels wide and high."""
    header = b"IHDR" + struct.pack(">II", size, size) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize(("workers", "fault"), [(0, "cut"), (1, "cut"), (0, "huge"), (1, "huge")])
def test_an_image_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, workers: int, fault: str
) -> None:
    tree = make_tree(tmp_path, classes=1, train=2, val=1)
    bad = tree / "train" / "class0" / "001.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:60] if fault == "cut" else claiming(60_000, whole))
    images = TrainImages(find_splits(tree).train, loading.augmentation(PAPER, 28), 1)
    loader = loading.train_loader(images, StepSampler(2, 2, 0, 0, 1, 1), workers, pin=False)
    parts = iter(loader)
    try:
        next(parts)
    except UnreadableImageError as error:
        message = str(error)
    assert "001.png cannot be read" in message
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_system_does_not_read_is_its_error(tmp_path: Path, workers: int) -> None:
    tree = make_tree(tmp_path, classes=1, train=2, val=1)
    images = TrainImages(find_splits(tree).train, loading.augmentation(PAPER, 28), 1)
    loader = loading.train_loader(images, StepSampler(2, 2, 0, 0, 1, 1), workers, pin=False)
    (tree / "train" / "class0" / "001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*001\.png\.$"):
        next(iter(loader))


def test_missing_and_differing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere\. Give the folder of the images\.$"):
        find_splits(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no folder .*train"):
        find_splits(tmp_path)
    tree = make_tree(tmp_path / "t", classes=3, train=1, val=1)
    (tree / "val" / "class2").rename(tree / "val" / "other")
    with pytest.raises(ValueError, match=r"only in train/: class2; only in val/: other"):
        find_splits(tree)
    (tree / "val" / "other").rename(tree / "val" / "class2")
    for image in (tree / "val" / "class2").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=r"no images in the folders of .*val for: class2\."):
        find_splits(tree)


def test_images_are_held_out_by_their_names(tmp_path: Path) -> None:
    """The same ones each time; others that come later move none of them."""
    tree = make_tree(tmp_path / "t", classes=3, train=40, val=1) / "train"
    splits = find_splits(tree, 0.25, seed=1)
    assert splits.held_out and splits.classes == ("class0", "class1", "class2")
    assert {label for _, label in splits.val} == {label for _, label in splits.train} == {0, 1, 2}
    assert 15 <= len(splits.val) <= 45 and len(splits.val) + len(splits.train) == 120
    assert not {*splits.val} & {*splits.train}
    assert find_splits(tree, 0.25, seed=1) == splits != find_splits(tree, 0.25, seed=2)
    for path in [*(tree / "class0").iterdir()]:
        path.with_name("new" + path.name).write_bytes(path.read_bytes())
    after = find_splits(tree, 0.25, seed=1)
    assert {*splits.val} < {*after.val} and {*splits.train} < {*after.train}
    moved = tree.rename(tmp_path / "elsewhere")
    names = [path.relative_to(moved).as_posix() for path, _ in find_splits(moved, 0.25, 1).val]
    assert names == [path.relative_to(tree).as_posix() for path, _ in after.val]


def test_of_each_class_some_images_are_on_either_side(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, classes=4, train=2, val=1)
    shutil.rmtree(tree / "val")
    for fraction in (0.001, 0.999):
        splits = find_splits(tree, fraction)  # of train/, as there is no val/
        assert [label for _, label in splits.train] == [0, 1, 2, 3]
        assert [label for _, label in splits.val] == [0, 1, 2, 3]
    (tree / "train/class3/001.png").unlink()
    with pytest.raises(ValueError, match=r"class3 in .*train has 1 images: none can be held out"):
        find_splits(tree, 0.5)


def test_images_are_held_out_only_where_none_are_to_validate_on(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, classes=2, train=2, val=1)
    with pytest.raises(ValueError, match=r"There is a folder .*val to validate on\. Leave --val-f"):
        find_splits(tree, 0.5)
    with pytest.raises(
        ValueError, match=r"no folder .*train.* one folder of classes: --val-fracti"
    ):
        find_splits(tree / "train")


SPLITS = {
    "as asked": (("train", "val"), r"no folder .*none/train\. Give the folder that holds train"),
    "val alone": (("val",), r"data/train\. Rename the folder of the training images to .*/train\."),
    "longer": (
        ("training", "validation"),
        r"Rename .*/validation to val, and the folder of .* to .*/train\.",
    ),
    "as others call it": (("train", "valid"), r"no folder .*/val\. Rename .*/valid to val\.$"),
    "capitals": (("Train", "Val"), r"Rename .*/Val to val, and the folder of .* to .*/train\."),
    "deeper": (("Data/CLS-LOC/train", "Data/CLS-LOC/val"), r"Give .*/Data/CLS-LOC, which holds"),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_no_cure_sends_to_what_another_refuses(kind: str, tmp_path: Path) -> None:
    """Where there are images to validate on, none are held out of them in silence."""
    folders, message = SPLITS[kind]
    data, images = tmp_path / "data", make_tree(tmp_path / "t", classes=2, train=2, val=1)
    for folder in folders:
        shutil.copytree(images / "train", data / folder)
    place = data if kind != "as asked" else tmp_path / "none"
    place.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=message) as plain:
        find_splits(place)
    assert ("--val-fraction" in str(plain.value)) == (kind == "as asked")
    with pytest.raises(
        ValueError, match=r"a folder .* to validate on\. Leave --val-fraction out, or"
    ):
        find_splits(data, 0.5)
    assert len(find_splits(data / folders[0], 0.5).train) == 2


ORPHAN = """
import os, signal, sys, time
from pathlib import Path
from pyconv.train import loading
from pyconv import data
from pyconv.data import Preprocess
root, kind = Path(sys.argv[1]), sys.argv[2]
images = data.find_images(root / "val")
pixels = Preprocess(28, 28, (0.5,), (0.5,))
if kind == "eval":
    loader = data.make_loader(images, pixels, 4, 2)
else:
    loader = loading.val_loader(images.samples, pixels, 4, 2)
os.register_at_fork(after_in_child=lambda: time.sleep(1))  # busy machines take their time
kept = iter(loader)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("kind", ["eval", "train"])
def test_loaders_do_not_outlive_who_is_killed_right_after_it_started_them(
    kind: str, tmp_path: Path
) -> None:
    make_tree(tmp_path)
    command = [sys.executable, "-c", ORPHAN, str(tmp_path), kind]
    # It returns once nobody holds the pipes any more, the loaders included.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
