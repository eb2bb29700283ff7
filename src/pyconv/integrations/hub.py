"""Hugging Face's Hub: a network as a folder of ``config.json`` and ``model.safetensors``.

For example::

    from pyconv.integrations import hub

    hub.save_pretrained(model, "flowers", classes=["daisy", "rose"])
    hub.push_to_hub(model, "me/flowers", classes=["daisy", "rose"])
    model = hub.from_pretrained("me/flowers")  # or the folder

``config.json`` holds the options of the network, and its row where it is not one of the zoo's, so
that a network of the user's own is built again wherever this library is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..architectures import ARCHITECTURES, Architecture, Stage, Stem
from ..data.preprocess import IMAGENET, Preprocess
from ..models.factories import build
from ..models.load import LoadedModel, Opened, finish
from ..models.registry import Registered, published_pixels
from ..resnet import ResNet
from ..system.files import expanded, replacing, write_json
from ..weights import checkpoint
from ..weights.drive import is_offline

try:
    from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from safetensors.torch import save
except ImportError as _error:
    raise ImportError(
        f"pyconv.integrations.hub needs huggingface_hub and safetensors ({_error}): "
        "pip install 'torch-pyconv[hub]'."
    ) from _error

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained", "save_weights"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LIBRARY = "pyconv"  # who wrote a config
OPTIONS = (
    "num_classes",
    "in_channels",
    "dropout",
    "output_stride",
    "replace_stride_with_dilation",
    "dilate_first_block",
)

CARD_TEXT = """
# {title}

Pyramidal convolution for images ([arXiv:2006.11538](https://arxiv.org/abs/2006.11538)),
{num_classes} classes. Load it with `pip install 'torch-pyconv[hub]'`:

```python
from pyconv.integrations import hub

model = hub.from_pretrained("{repo}")  # in eval mode
logits = model(model.transforms()(image).unsqueeze(0))
```
"""


def save_pretrained(
    model: nn.Module,
    save_directory: str | Path,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
) -> None:
    """Write a network to a folder: ``config.json``, ``model.safetensors`` and a model card.

    The weights are written in PyTorch's default order, whatever the memory format of the model.
    A ``README.md`` that is there stays.

    Args:
        model: A network of the zoo, or of a row of the user's own.
        save_directory: The folder, which is made if need be.
        classes: Names of the classes; default ``model.classes``, if it has that.
        preprocess: What the images pass through; default ``model.transforms()``, if it has that.

    Raises:
        ValueError: if the network cannot be built again from a row and options, as one that was
            optimised or converted, or the names are not as many as its classes.
    """
    config = _config(model, classes, preprocess)
    folder = expanded(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    if not (folder / CARD).exists():
        _write_card(folder, config, folder.name)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the weights of any model to a safetensors file, which ``weights=`` reads.

    safetensors takes no tensors in channels-last, and no two in one memory, as optimised models
    have them. So each is copied, in PyTorch's default order of elements.
    """
    state = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    with replacing(expanded(path)) as file:
        file.write(save(state, metadata={"format": "pt"}))


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    commit_message: str = "Upload model with pyconv",
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a network to the Hub in one commit; return its address.

    The repository is made if need be. A model card that it has stays.

    Args:
        model, classes, preprocess: As in :func:`save_pretrained`.
        repo_id: The repository, such as ``"me/flowers"``.
        commit_message: The first line of the commit.
        private: Whether a new repository is private; default as the account says.
        token: Default that of ``hf auth login``.
        revision: The branch; default ``main``.
        create_pr: Make a pull request of it.

    Raises:
        ValueError: as :func:`save_pretrained`, or if PYCONV_OFFLINE forbids it.
    """
    if is_offline():
        raise ValueError("PYCONV_OFFLINE forbids uploading. Unset it.")
    api = HfApi(token=token, library_name=LIBRARY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_pretrained(model, folder, classes=classes, preprocess=preprocess)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        _write_card(folder, json.loads((folder / CONFIG).read_text("utf-8")), repo_id)
        kept = [CARD] if api.file_exists(repo_id, CARD, revision=revision) else None
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            ignore_patterns=kept,
        )
    return str(commit.commit_url)


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    **options: Any,
) -> LoadedModel:
    """Build the network of a folder or of a repository on the Hub.

    As from :func:`pyconv.load`, it is in eval mode and knows ``model.classes``, the names of its
    classes in the order of its outputs, and ``model.transforms()``, its preprocessing.

    Args:
        pretrained_model_name_or_path: The folder, or the name of a repository.
        revision: A branch, tag or commit; default ``main``.
        cache_dir, token, force_download, local_files_only: As in
            ``huggingface_hub.hf_hub_download``.
        options: Of the network, in place of those in the config, such as ``num_classes``,
            ``in_channels``, ``dropout``, ``output_stride``.

    Raises:
        ValueError: if this library wrote no such folder or repository.
        CheckpointError: if the weights are not of the network.
        Errors of huggingface_hub: if the repository cannot be had.
    """

    def find(name: str) -> Path:
        if folder.is_dir():
            return folder / name
        path: str = hf_hub_download(
            str(pretrained_model_name_or_path),
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only or is_offline(),
            library_name=LIBRARY,
        )
        return Path(path)

    folder = expanded(pretrained_model_name_or_path)
    try:
        config = _read_config(find(CONFIG))
    except HFValidationError as error:
        raise ValueError(
            f"{str(folder)!r} is neither a folder nor the name of a repository, such as "
            "'me/flowers'."
        ) from error
    except LocalEntryNotFoundError as error:  # also for a folder whose name is misspelt
        why = "PYCONV_OFFLINE forbids its download." if is_offline() else str(error)
        raise LocalEntryNotFoundError(
            f"There is no folder {folder}, and its repository's files are not in the cache: {why}"
        ) from error
    except RepositoryNotFoundError as error:
        raise RepositoryNotFoundError(
            f"There is no folder {folder}, and no repository of that name: {error}",
            response=error.response,
        ) from error
    unknown = ", ".join(options.keys() - set(OPTIONS))
    if unknown:
        raise TypeError(f"from_pretrained() takes no {unknown}; options are {', '.join(OPTIONS)}.")
    return _load(config, find(WEIGHTS), options)


def _config(
    model: nn.Module, classes: Sequence[str] | None, preprocess: Preprocess | None
) -> dict[str, Any]:
    """What ``config.json`` says; proven to give the network again."""
    row = getattr(model, "row", None)
    if type(model) is not ResNet or not isinstance(row, Architecture):
        _refuse(model, "it is not built from a row alone")
    if any(is_parametrized(m) or hasattr(m, "weight_orig") for m in model.modules()):
        _refuse(model, "it keeps weights in parts, as pruning and spectral_norm do")
    options: dict[str, Any] = checkpoint.sizes(model.state_dict(), model)
    options["dropout"] = float(getattr(model.dropout, "p", 0))
    if model.dilate_first_block:
        options["dilate_first_block"] = True
    sampling, twin = _sampling(row, options, model.strides)
    options |= sampling
    parts, expected = _parts(model), _parts(twin)
    changed = [key for key in parts | expected if parts.get(key) != expected.get(key)]
    if changed:
        there = parts.get(changed[0], "not there")
        _refuse(model, f"its {changed[0]} is {there}, and by its row {expected.get(changed[0])}")
    name = next((name for name, known in ARCHITECTURES.items() if known == row), None)
    config = {"library_name": LIBRARY, "architecture": name or asdict(row), **options}
    names = getattr(model, "classes", None) if classes is None else classes
    if names:
        if len(names) != options["num_classes"]:
            raise ValueError(
                f"There are {len(names)} names of classes, and the network has "
                f"{options['num_classes']}. Give one for each, in the order of its outputs."
            )
        config["classes"] = list(names)
    if preprocess is None and callable(transforms := getattr(model, "transforms", None)):
        found = transforms()
        preprocess = found if isinstance(found, Preprocess) else None
    if preprocess is not None:
        config["images"] = asdict(preprocess)
    return config


def _sampling(
    row: Architecture, options: dict[str, Any], strides: tuple[int, ...]
) -> tuple[dict[str, Any], ResNet]:
    """The options by which a network has its strides, and one that is built by them."""
    dilate = [before == after for before, after in pairwise(strides)]
    choices: list[dict[str, Any]] = [{"output_stride": stride} for stride in (32, 16, 8)]
    for choice in [*choices, {"replace_stride_with_dilation": dilate}]:
        with torch.device("meta"):
            twin = ResNet(row, **options, **choice)
        if twin.strides == strides:
            break
    return choice, twin


def _parts(model: nn.Module) -> dict[str, str]:
    """What each module is, in words; SyncBatchNorm infers as what it was made from."""
    return {
        name: f"{type(part).__name__}({part.extra_repr()})".replace("SyncBatchNorm", "BatchNorm2d")
        for name, part in model.named_modules()
    }


def _refuse(model: nn.Module, why: str) -> NoReturn:
    raise ValueError(
        f"config.json cannot describe this {type(model).__name__}: {why}. Save the network that it "
        "was made from; or the weights alone, by pyconv.integrations.hub.save_weights(model, FILE)."
    )


def _read_config(path: Path) -> dict[str, Any]:
    """The checked content of a ``config.json``, its row built."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {CONFIG}, which save_pretrained writes.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Get the file again.") from error
    if not isinstance(config, dict) or config.get("library_name") != LIBRARY:
        raise ValueError(
            f"{path} was not written by this library. Load it with the one that wrote it, such as "
            "timm or transformers; its weights may fit a network by weights=FILE."
        )
    try:
        given = config["architecture"]
        row = ARCHITECTURES[given] if isinstance(given, str) else _row(given)
        return config | {"row": row, "num_classes": config["num_classes"]}
    except (KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__
        raise ValueError(
            f"{path} describes no network that is known here ({kind}: {error}). Get the file "
            "again, or a newer torch-pyconv."
        ) from error


def _row(content: dict[str, Any]) -> Architecture:
    """A row of what JSON keeps of it."""
    stages = tuple(
        Stage(**stage | {name: tuple(stage[name]) for name in ("kernels", "groups")})
        for stage in content["stages"]
    )
    return Architecture(**content | {"stages": stages, "stem": Stem(**content["stem"])})


def _load(config: dict[str, Any], weights: Path, given: dict[str, Any]) -> LoadedModel:
    if not weights.exists():
        raise ValueError(f"{weights.parent} has no {WEIGHTS}, which save_pretrained writes.")
    row, notes = config["row"], checkpoint.Notes.of(config)
    options = {name: config[name] for name in OPTIONS if name in config} | given
    if "output_stride" in given:  # instead of what the config says of it
        options.pop("replace_stride_with_dilation", None)
    network = Registered(row.title, ResNet, row=row)
    model = build(network, weights, checkpoint.read(weights), notes, options)
    known = isinstance(config["architecture"], str)
    pixels = notes.preprocess or (published_pixels(config["architecture"]) if known else IMAGENET)
    count = options["num_classes"]
    classes = notes.classes if notes.classes and len(notes.classes) == count else None
    return finish(Opened(model, row.title, weights, pixels, count, classes, notes), None)


def _write_card(folder: Path, config: dict[str, Any], repo: str) -> None:
    given = config["architecture"]
    title = ARCHITECTURES[given].title if isinstance(given, str) else given["title"]
    data = ModelCardData(library_name=LIBRARY, pipeline_tag="image-classification", tags=["pyconv"])
    text = CARD_TEXT.format(title=title, num_classes=config["num_classes"], repo=repo)
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / CARD)
