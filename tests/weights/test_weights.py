"""The published weights as data: recounted where they can be, traced to the authors where not."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from pyconv import (
    PyConvResNet50_Weights,
    PyConvResNet101_Weights,
    PyConvResNetTiny_Weights,
    ResNet50_Weights,
    get_model,
    get_model_weights,
    get_weight,
    list_models,
)
from pyconv.data.imagenet import class_names, synsets
from pyconv.weights.rows import ENUMS, WeightsEnum

EVERY = [member for enum in ENUMS for member in enum]
PUBLISHED = [weights for weights in EVERY if weights.file_id]

# README of https://github.com/iduta/pyconv: what the authors claim on ImageNet, and where it lies.
CLAIMS = {
    "ResNet50_Weights.IMAGENET1K_V1": ({224: 76.12}, "176TS0b6O0NALBbfzpz4mM1b47s4dwSVH"),
    "ResNet101_Weights.IMAGENET1K_V1": ({224: 78.00}, "1bermctRPLs5DIsHB0c4iDIGHvjfERPLG"),
    "ResNet152_Weights.IMAGENET1K_V1": ({224: 78.45}, "1FAggTH4m7Kec8MyRe8dx-ugI_yh-nLzL"),
    "PyConvHGResNet50_Weights.IMAGENET1K_V1": (
        {224: 78.48},
        "14x0uss32ASXr4FJTE7pip004XZpwNrZe",
    ),
    "PyConvHGResNet101_Weights.IMAGENET1K_V1": (
        {224: 79.22},
        "1Fm48GfOfn2Ivf5nBiR1SMhp66k67ePRh",
    ),
    "PyConvHGResNet152_Weights.IMAGENET1K_V1": (
        {224: 79.36},
        "1LRmdQWTceDkepnIxZ2mWbpEE2lFxy0QO",
    ),
    "PyConvResNet50_Weights.IMAGENET1K_V1": ({224: 77.88}, "128iMzBnHQSPNehgb8nUF5cJyKBIB7do5"),
    "PyConvResNet101_Weights.IMAGENET1K_V1": ({224: 79.01}, "1fn0eKdtGG7HA30O5SJ1XrmGR_FsQxTb1"),
    "PyConvResNet152_Weights.IMAGENET1K_V1": ({224: 79.52}, "1zR6HOTaHB0t15n6Nh12adX86AhBMo46m"),
    "PyConvResNet50_Weights.IMAGENET1K_V2": (
        {224: 79.44, 320: 80.59},
        "19RFyaDnJ34IeqwS8QOX29JWH9I0r_ewM",
    ),
    "PyConvResNet101_Weights.IMAGENET1K_V2": (
        {224: 80.58, 320: 81.49},
        "12PXOwgIF4eiApxDL5QrAMnjbiX69YQOi",
    ),
}


def test_the_published_sets_and_their_claims() -> None:
    found = {str(w): (w.meta["acc@1 by crop"], w.file_id) for w in PUBLISHED}
    assert found == CLAIMS
    assert len({weights.file_id for weights in PUBLISHED}) == 11
    assert all(weights.meta["claimed_by"] == "the authors" for weights in PUBLISHED)


@pytest.mark.parametrize("weights", EVERY, ids=str)
def test_parameters_and_multiply_adds_are_recounted(weights: WeightsEnum) -> None:
    with torch.device("meta"):
        model = get_model(weights.value.model).eval()
        crop = weights.meta["crop"]
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, model.conv1.in_channels, crop, crop))
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    gmacs = counter.get_total_flops() / 2e9  # a multiply-add is two operations
    assert gmacs == pytest.approx(weights.meta["gmacs"], abs=0.005)


@pytest.mark.parametrize("weights", PUBLISHED, ids=str)
def test_file_sizes_are_those_of_the_format_of_2020(weights: WeightsEnum) -> None:
    with torch.device("meta"):
        state = get_model(weights.value.model).state_dict()
    tensors = sum(t.numel() * t.element_size() for t in state.values())
    assert 0 < weights.meta["file_size"] - tensors < 400 * len(state)


def test_the_zoo_without_published_weights() -> None:
    without = set(list_models()) - {weights.value.model for weights in EVERY}
    assert without == {"resnet18", "resnet34", "pyconvresnet18", "pyconvresnet34"}
    for model in without:
        with pytest.raises(ValueError, match=f"no published weights for {model}.*pyconvresnet50"):
            get_model_weights(model)


def test_members_have_the_attributes_of_torchvisions() -> None:
    weights = PyConvResNet50_Weights.IMAGENET1K_V1
    assert PyConvResNet50_Weights.DEFAULT is PyConvResNet50_Weights.IMAGENET1K_V2
    assert ResNet50_Weights.DEFAULT is ResNet50_Weights.IMAGENET1K_V1
    assert get_weight("PyConvResNet50_Weights.DEFAULT") is PyConvResNet50_Weights.DEFAULT
    assert get_model_weights("pyconvresnet101") is PyConvResNet101_Weights
    assert str(weights) == "PyConvResNet50_Weights.IMAGENET1K_V1"
    assert get_weight(str(weights)) is weights
    assert weights.file_id is not None
    assert weights.file_id in weights.url
    assert weights.url.startswith("https://drive.google.com/")
    assert len(weights.meta["categories"]) == 1000
    assert weights.meta["acc@1"] == weights.meta["acc@1 by crop"][224]


def test_meta_has_the_keys_of_torchvisions() -> None:
    from torchvision.models import ResNet50_Weights as Theirs

    theirs = Theirs.IMAGENET1K_V1.meta
    keys = {"categories", "num_params", "min_size", "_metrics", "_ops", "_file_size"}
    assert keys <= theirs.keys()
    for weights in EVERY:
        meta = weights.meta
        assert keys <= meta.keys()
        dataset = "ImageNet-1K" if weights.file_id else "Fashion-MNIST"
        assert meta["_metrics"] == {dataset: {"acc@1": meta["acc@1"]}}
    ours = ResNet50_Weights.IMAGENET1K_V1.meta
    for key in ("_ops", "_file_size", "num_params"):  # the same network, so the same units
        assert ours[key] == pytest.approx(theirs[key], rel=0.001), key


@pytest.mark.parametrize("name", list_models())
def test_the_smallest_image_is_one_pixel(name: str) -> None:
    with torch.device("meta"):
        model = get_model(name).eval()
    model.to_empty(device="cpu")  # whatever values there are: it is the shapes that count
    for module in model.buffers():
        module.fill_(1)
    enum = {weights.value.model: weights for weights in EVERY}.get(name)
    height, width = (1, 1) if enum is None else enum.meta["min_size"]
    channels = model.conv1.in_channels
    with torch.inference_mode():
        assert model(torch.zeros(2, channels, height, width)).shape == (2, model.num_classes)


def test_nothing_is_pinned_that_nobody_has_seen() -> None:
    """The authors published no hashes; this one fails when a maintainer has pinned the files."""
    assert {weights.sha256 for weights in PUBLISHED} == {None}


def test_transforms_are_the_published_ones_and_can_be_changed() -> None:
    weights = PyConvResNet50_Weights.IMAGENET1K_V2
    default = weights.transforms()
    assert (default.crop, default.resize) == (224, 256)
    assert default.mean == (0.485, 0.456, 0.406)
    assert default.std == (0.229, 0.224, 0.225)
    assert (weights.transforms(crop=320).crop, weights.transforms(crop=320).resize) == (320, 366)
    assert weights.transforms(crop=320, resize=320).resize == 320
    with pytest.raises(ValueError, match="crop=320 does not fit into resize=256"):
        weights.transforms(crop=320, resize=256)


def test_transforms_are_the_originals_pipeline_to_the_bit() -> None:
    from torchvision import transforms as tv

    noise = torch.randint(256, (300, 401, 3), dtype=torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    image = Image.open(file).convert("RGB")
    weights = ResNet50_Weights.IMAGENET1K_V1
    original = tv.Compose(
        [
            tv.Resize(256),
            tv.CenterCrop(224),
            tv.ToTensor(),
            tv.Normalize(weights.transforms().mean, weights.transforms().std),
        ]
    )
    assert torch.equal(weights.transforms()(image), original(image))


def test_imagenets_classes() -> None:
    assert len(class_names()) == len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert (synsets()[0], class_names()[0]) == ("n01440764", "tench")
    assert (synsets()[999], class_names()[999]) == ("n15075141", "toilet tissue")


def test_class_names_are_torchvisions() -> None:
    from torchvision.models import ResNet50_Weights as Theirs

    assert list(class_names()) == Theirs.IMAGENET1K_V1.meta["categories"]


def test_the_sample_names_its_classes() -> None:
    weights = PyConvResNetTiny_Weights.FASHION_MNIST
    assert weights.meta["categories"][9] == "Ankle boot"
    assert weights.meta["claimed_by"] == "this project"
    assert weights.url.startswith("file://")
