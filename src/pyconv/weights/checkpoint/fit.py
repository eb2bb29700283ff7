"""A state dict into a model: structure is proven before values are touched, then it is the model's.

What does not fit is refused in a sentence that says what it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...pyconvsegnet import SEGNETS
from .adapt import Shapes, State, adapt, first, is_stored
from .kind import CheckpointError
from .whose import whose

__all__ = ["check_structure", "check_values", "load", "sizes"]

logger: logging.Logger = logging.getLogger(__name__)

SAVED_FROM = "Choose the model that it was saved from."
PARTS = re.compile(r"((?<![^.])parametrizations\.)?(\w+?)(_orig|\.original)$")  # of spectral_norm
FIRST_CONV, CLASSIFIER = "conv1", "fc"  # where a network does not say how it names these modules


def sizes(state: Shapes, network: nn.Module | None = None) -> dict[str, int]:
    """The ``num_classes`` and ``in_channels`` of the network that a state dict was saved from.

    ``network`` is one of any sizes, into which the state dict is to be loaded; without it, the
    names are taken as they are, and those of the zoo. A size that the state dict does not show is
    left out, but for 0 classes of one that has none.
    """
    first_conv, classifier = _keys(network)
    if network is not None:
        state, _ = adapt(state, network.state_dict(), classifier)
    found: dict[str, int] = {}
    weight, stem = state.get(classifier), state.get(first_conv)
    if weight is None or (weight.ndim and is_stored(weight)):  # a few bytes can claim any size
        found["num_classes"] = 0 if weight is None else len(weight)
    if stem is not None and stem.ndim == 4 and is_stored(stem):
        found["in_channels"] = stem.shape[1]
    return found


def _keys(network: nn.Module | None) -> tuple[str, str]:
    """The keys of the weights of a network's first convolution and of its classifier."""
    first_conv = getattr(network, "first_conv", FIRST_CONV)
    classifier = getattr(network, "classifier", CLASSIFIER)
    names = (
        first_conv if isinstance(first_conv, str) else FIRST_CONV,
        classifier if isinstance(classifier, str) else CLASSIFIER,  # a module, in some networks
    )
    return f"{names[0]}.weight", f"{names[1]}.weight"


def _others(network: nn.Module) -> tuple[str, ...]:
    """The names of what else than the classifier has an output for each class."""
    others = getattr(network, "other_classifiers", ())
    return others if isinstance(others, tuple) else ()


def _count_classes(state: Shapes, classifier: str) -> int:
    """How many classes the classifier of a state dict has; 0 where it has none."""
    weight = state.get(classifier)
    return 0 if weight is None else len(weight)


def check_structure(state: Shapes, expected: Shapes, what: str = "The checkpoint") -> None:
    """Check that keys, shapes and dtypes are those of the model, before any value is touched.

    Raises:
        CheckpointError: naming the first few of what is missing, unexpected or misshapen, and
            how many there are.
    """
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes, kinds = {}, {}  # what is wrong with an entry that is there
    for key in expected.keys() & state.keys():
        got, want = state[key], expected[key]
        if got.shape != want.shape:
            shapes[key] = f"{key} {list(got.shape)} instead of {list(want.shape)}"
        elif got.dtype != want.dtype:
            kinds[key] = f"{key} {got.dtype} instead of {want.dtype}".replace("torch.", "")
        elif not is_stored(got):
            kinds[key] = f"{key} is not stored in full"
    wrong = sorted([*shapes.values(), *kinds.values()])
    named = {"missing": missing, "unexpected": unexpected, "wrong": wrong}
    faults = "; ".join(f"{len(keys)} {n} ({first(keys)})" for n, keys in named.items() if keys)
    if not faults:
        return
    entries = f"of {len(expected)} entries {faults}."
    if not kinds and _are_all_norms([*missing, *unexpected, *shapes], state, expected):
        lacks = not unexpected and not shapes  # parameters() have no statistics either
        raise CheckpointError(
            f"{what} has norms of another kind than the model{', or only parameters' * lacks}: "
            f"{entries} Give the norm_layer that it was trained with: nn.BatchNorm2d, the default, "
            f"for published weights.{' Or save the whole model.state_dict().' * lacks}"
        )
    if parts := [key for key in unexpected if PARTS.sub(r"\2", key) in missing]:
        raise CheckpointError(
            f"{what} keeps weights in parts, as spectral_norm does: {first(parts)}. Before saving, "
            "make them one: torch.nn.utils.parametrize.remove_parametrizations(module, name), or "
            "torch.nn.utils.remove_spectral_norm(module)."
        )
    name, wanted = whose(state), whose(expected)
    other = name is not None and name != wanted  # may be a part of the model, such as a ResNet-18
    if unexpected or shapes or other:
        cure = _fits(name, wanted) if name and other else SAVED_FROM
        raise CheckpointError(f"{what} is of another model: {entries} {cure}")
    part = "holds a part of the model only" if missing else "is not what a model saves"
    raise CheckpointError(f"{what} {part}: {entries} Save the whole model.state_dict().")


def _fits(name: str, wanted: str | None) -> str:
    """What a state dict is of, and what to do with it where that is another task."""
    if name in SEGNETS and wanted not in SEGNETS:
        return f"It fits {name}, a network for segmentation: it is no file of ImageNet's classes."
    if wanted in SEGNETS and name not in SEGNETS:
        return f"It fits {name}, which classifies images: give it as weights_backbone."
    return f"It fits {name}."


def _are_all_norms(keys: Sequence[str], state: Shapes, expected: Shapes) -> bool:
    """Whether entries belong to norms alone, and to every norm of the state dict and the model."""
    ending = ".running_mean"
    norms = {key.removesuffix(ending) for key in [*state, *expected] if key.endswith(ending)}
    owners = [{norm for norm in norms if key.startswith(f"{norm}.")} for key in keys]
    return bool(norms) and all(owners) and norms == set().union(*owners)


def check_values(state: Shapes, what: str = "The checkpoint") -> None:
    """Check that every value is finite and no running variance negative.

    Raises:
        CheckpointError: naming the first entry that is not.
    """
    for key, tensor in state.items():
        # The sum is finite only if all are; it may overflow, so the exact question comes second.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{what} holds values that are not finite, first in {key}: the training diverged "
                "or the file is damaged. Take an earlier checkpoint, or get the file again."
            )
        if key.endswith("running_var") and tensor.numel() and tensor.min() < 0:
            raise CheckpointError(
                f"{what} holds a negative variance in {key}: the file is damaged. Get it again."
            )


def load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    what: str = "The checkpoint",
    *,
    proven: bool = False,
) -> None:
    """Make the tensors of a state dict the model's own, without a copy where they fit as they are.

    The model may be on the meta device. The names and dtypes of the state dict may be others in
    the ways of :func:`adapt`. A classifier of another number of classes is left out; where the
    state dict has none, the model's starts untrained. Where the first convolution has another
    number of input channels, it is adapted: summed for one channel, else cycled and rescaled. Each
    change is one line in the log.
    The model names the two modules as ``classifier`` and ``first_conv``; default as in the zoo. It
    may name further classifiers of the same classes, as ``other_classifiers``.
    Values that are ``proven`` already are not looked at again.

    Raises:
        CheckpointError: if the state dict is of another model or holds impossible values.
    """
    first_conv, classifier = _keys(model)
    expected = model.state_dict()
    fitted, changes = adapt(state, expected, classifier)
    untrained: set[str] = set()
    for name in (classifier, *(f"{other}.weight" for other in _others(model))):
        fitted, left = _fit_classifier(fitted, expected, name, changes)
        untrained |= left
    fitted = _fit_stem(fitted, expected, first_conv, changes)
    check_structure(fitted, {k: v for k, v in expected.items() if k not in untrained}, what)
    if not proven:
        check_values(fitted, what)
    for change in dict.fromkeys(changes):
        logger.warning("%s %s", what, change)
    model.load_state_dict(_apart(fitted), strict=False, assign=True)


def _fit_classifier(
    state: State, expected: Shapes, classifier: str, changes: list[str]
) -> tuple[State, set[str]]:
    """Without a classifier of another number of classes; what then stays untrained of the model."""
    bias = f"{classifier.removesuffix('weight')}bias"
    have, want = state.get(classifier), expected.get(classifier)
    if have is None:
        if want is None or bias in state:
            return state, set()
        changes.append("has no classifier: the model's own starts untrained.")
    else:
        old, new = _count_classes(state, classifier), _count_classes(expected, classifier)
        if old == new or have.ndim != (2 if want is None else want.ndim):
            return state, set()
        if want is not None:
            changes.append(
                f"has a classifier of {old} classes and the model one of {new}: it was left out, "
                "and the model's own starts untrained."
            )
    return {k: v for k, v in state.items() if k not in (classifier, bias)}, {classifier, bias}


def _fit_stem(state: State, expected: Shapes, first_conv: str, changes: list[str]) -> State:
    """Bring the first convolution to the model's input channels, keeping the scale of its sums."""
    have, want = state.get(first_conv), expected.get(first_conv)
    if have is None or want is None or have.ndim != 4 or want.ndim != 4:
        return state
    old, new = have.shape[1], want.shape[1]
    if old in (0, new) or not is_stored(have):
        return state  # nothing to compute with; the structure is refused next
    changes.append(f"takes images of {old} channels and the model {new}: the stem was adapted.")
    if new == 1:
        return state | {first_conv: have.sum(1, keepdim=True)}
    return state | {first_conv: have[:, [channel % old for channel in range(new)]] * (old / new)}


def _apart(state: State) -> State:
    """The same values, each in memory of its own and in PyTorch's default order of the elements.

    Files keep tied weights, and the order of models that were trained channels-last.
    """
    done: State = {}
    seen: set[int] = set()
    for key, tensor in state.items():
        memory = tensor.untyped_storage()
        shared = memory.nbytes() > tensor.nbytes or memory.data_ptr() in seen
        if tensor.ndim >= 4 or not tensor.is_contiguous():
            # Copies where the order is another. 1x1 kernels have one order and the strides of
            # either, and by the strides PyTorch decides in which it computes.
            tensor = tensor.reshape(-1).view(tensor.shape)
        done[key] = tensor.clone() if shared else tensor
        seen.add(memory.data_ptr())
    return done
