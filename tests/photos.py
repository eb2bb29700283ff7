"""Labelled JPEGs, the layouts that such images come in, and a network that knows half of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pyconv import get_model

DATA = Path(__file__).with_name("goldens")
SOURCES = json.loads((DATA / "imagenet_sources.json").read_text("utf-8"))
LABELS = next(source["first"] for source in SOURCES if source["table"] == "labels")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Imported by tests of small tensors, whose threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth random picture in colour."""
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Photo:
    """The n-th image of ImageNet's validation, as far as its name and its label go."""

    number: int  # from 1
    label: int
    synset: str
    data: bytes

    @property
    def name(self) -> str:
        return f"ILSVRC2012_val_{self.number:08d}.JPEG"


def photos(synsets: tuple[str, ...], count: int = 23) -> list[Photo]:
    """Pictures under the first validation images' names and labels."""
    return [
        Photo(n + 1, LABELS[n], synsets[LABELS[n]], encode(picture(n, 60 + n, 48), quality=90))
        for n in range(count)
    ]


def knowing(name: str, images: torch.Tensor, labels: torch.Tensor, classes: int) -> nn.Module:
    """A network whose classifier answers rightly for about every other of the images given.

    Its convolutions are random. Each class's weights point to the features of its image, and where
    a neighbour's image is put in place of its own, it is wrong.
    """
    torch.manual_seed(0)
    model = get_model(name, num_classes=classes).eval()
    features: list[torch.Tensor] = []
    hook = model.fc.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        model(images)
        hook.remove()
        points = nn.functional.normalize(features[0] - features[0].mean(0))
        model.fc.weight.zero_()
        model.fc.bias.fill_(-2.0)
        for n, label in enumerate(labels.tolist()):
            known = points[n] if n % 2 else 0.9 * points[(n + 1) % len(points)]  # no ties
            model.fc.weight[label] = 20 * known
            model.fc.bias[label] = -20 * known @ features[0].mean(0)
    return model


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def repeated(folder: Path, images: list[Photo], times: int) -> Path:
    """Many images in a folder from few, as links; returns a list of their names and labels."""
    lines = []
    for photo in images:
        write(folder / photo.name, photo.data)
        for number in range(times):
            (folder / f"{number}-{photo.name}").symlink_to(photo.name)
            lines.append(f"{number}-{photo.name} {photo.label}\n")
    names = folder / "list.txt"
    names.write_text("".join(lines))
    return names


def by_synset(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / photo.synset / photo.name, photo.data)
    return [str(root)]


def by_synset_in_val(root: Path, images: list[Photo]) -> list[str]:
    by_synset(root / "val", images)
    write(root / "train" / "n99999999" / "not an image.txt", b"an evaluation needs no train/")
    return [str(root)]


def all_synsets(root: Path, images: list[Photo]) -> list[str]:
    from pyconv.data.imagenet import synsets

    for synset in synsets():
        (root / synset).mkdir(parents=True)
    (root / "lost+found").mkdir()
    (root / "notes").mkdir()
    return by_synset(root, images)


def flat(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / photo.name, photo.data)
    write(root / "ILSVRC2012_validation_ground_truth.txt", b"490\n361\n171\n")
    return [str(root)]


def flat_in_val(root: Path, images: list[Photo]) -> list[str]:
    flat(root / "val", images)
    return [str(root)]


def kaggle(root: Path, images: list[Photo]) -> list[str]:
    rows = [f"photo_{p.number},{p.synset} 1 2 3 4 {p.synset} 5 6 7 8 " for p in images]
    for photo in images:
        write(root / f"ILSVRC/Data/CLS-LOC/val/photo_{photo.number}.JPEG", photo.data)
    table = "\n".join(["ImageId,PredictionString", *rows]) + "\n"
    write(root / "LOC_val_solution.csv", table.encode())
    return [str(root)]


def kaggle_from_inside(root: Path, images: list[Photo]) -> list[str]:
    kaggle(root, images)
    return [str(root / "ILSVRC/Data/CLS-LOC/val")]


def hugging_face(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / f"any_{photo.number}_{photo.synset}.JPEG", photo.data)
    return [str(root)]


def caffe_list(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / "some" / f"photo {photo.number}.jpg", photo.data)
    lines = [f"some/photo {photo.number}.jpg {photo.label}" for photo in images]
    write(root / "val.txt", "\n".join(lines).encode())
    return [str(root), "--labels", str(root / "val.txt")]


def list_of_synsets(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / f"{photo.number}.jpg", photo.data)
    lines = ["image,label", *(f"{photo.number}.jpg,{photo.synset}" for photo in images)]
    write(root / "labels.csv", "\n".join(lines).encode())
    return [str(root), "--labels", str(root / "labels.csv")]


def imagenet_v2(root: Path, images: list[Photo]) -> list[str]:
    for label in range(1000):
        (root / str(label)).mkdir(parents=True)
    return imagenet_v2_subset(root, images)


def imagenet_v2_subset(root: Path, images: list[Photo]) -> list[str]:
    for photo in images:
        write(root / str(photo.label) / f"{photo.number:040x}.jpeg", photo.data)
    return [str(root)]


def tar(root: Path, images: list[Photo]) -> list[str]:
    root.mkdir(parents=True)
    path = root / "ILSVRC2012_img_val.tar"
    with tarfile.open(path, "w") as archive:
        for photo in reversed(images):
            member = tarfile.TarInfo(photo.name)
            member.size = len(photo.data)
            archive.addfile(member, io.BytesIO(photo.data))
    return [str(path)]


# Each writes the images into an empty folder and gives the arguments that name them.
LAYOUTS: tuple[Callable[[Path, list[Photo]], list[str]], ...] = (
    by_synset,
    by_synset_in_val,
    all_synsets,
    flat,
    flat_in_val,
    kaggle,
    kaggle_from_inside,
    hugging_face,
    caffe_list,
    list_of_synsets,
    imagenet_v2,
    imagenet_v2_subset,
    tar,
)
