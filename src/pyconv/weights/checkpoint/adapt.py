"""The entries of a state dict under the names, and in the dtypes, that a model has for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from .kind import CheckpointError

__all__ = ["BATCHES", "Shapes", "State", "adapt", "first", "is_stored", "whole_name"]

State = dict[str, Tensor]
Shapes = Mapping[str, Tensor]  # tensors, or tensors on the meta device, by their keys

BATCHES = "num_batches_tracked"  # norms that count batches and norms that do not exchange weights
COUNTERS = ("total_ops", "total_params", "n_averaged")  # what profilers and AveragedModel add
# What torch.compile, FSDP and activation checkpointing put before the names inside what they wrap.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def adapt(given: Shapes, expected: Shapes, classifier: str) -> tuple[State, list[str]]:
    """A state dict as a model names and keeps it, and what was changed for that, as predicates.

    Args:
        given: The state dict. What does not fit stays in it as it is, to be refused.
        expected: That of the model.
        classifier: The key of the weight of the model's classifier.

    Raises:
        CheckpointError: if it holds the model more than once.
    """
    changes: list[str] = []
    own, beside = _without_prefix(given, expected, changes)
    own = _unwrapped(own, expected)
    own = _without_counters(own, expected, changes)
    own = _joined(own, expected, changes)
    own = _converted(own, expected, changes)
    state = _with_classifier(beside | own, expected, classifier, changes)
    if left := [k for k in beside if k in own or (k in state and k not in expected)]:
        changes.append(f"holds more than the model ({first(left)}): that was left out.")
    return {k: v for k, v in state.items() if k in own or k not in left}, changes


def first(items: Iterable[str], count: int = 3) -> str:
    """The first few, for a message."""
    items = list(items)
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def is_stored(tensor: Tensor) -> bool:
    """Whether the elements that a tensor claims are there: a few bytes can claim many."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def _without_prefix(given: Shapes, expected: Shapes, changes: list[str]) -> tuple[State, State]:
    """The entries below the prefix under which most of the model is found, and the others."""
    anchor = "." + next(iter(expected), "")
    prefixes = {k[: 1 - len(anchor)] for k in map(whole_name, given) if k.endswith(anchor)}
    counts = {
        prefix: sum(whole_name(k[len(prefix) :]) in expected for k in given if k.startswith(prefix))
        for prefix in {"", *prefixes}
    }
    best = sorted(prefix for prefix, count in counts.items() if count == max(counts.values()))
    if best[0] == "":
        return dict(given), {}
    if len(best) > 1:
        raise CheckpointError(
            "The checkpoint holds the network more than once: under "
            f"{first(map(repr, best))}. Save one of them alone."
        )
    changes.append(f"has {best[0]!r} before its names: that was taken off.")
    own = {k.removeprefix(best[0]): v for k, v in given.items() if k.startswith(best[0])}
    return own, {k: v for k, v in given.items() if not k.startswith(best[0])}


def _unwrapped(state: State, expected: Shapes) -> State:
    """With the names of the model for what wrappers inside of it have renamed, or the reverse."""
    known = {WRAPPERS.sub("", key): key for key in expected}

    def name(key: str) -> str:
        plain = WRAPPERS.sub("", key)
        return key if key in expected else known.get(plain, plain)

    renamed = {name(key): tensor for key, tensor in state.items()}
    return renamed if len(renamed) == len(state) else state


def whole_name(key: str) -> str:
    """The name of the tensor that an entry is, or may be a part of."""
    key = re.sub(r"parametrizations\.(\w+)\.original[01]$", r"\1", key)
    return re.sub(r"_(g|v|orig|mask)$", "", key)


def _without_counters(state: State, expected: Shapes, changes: list[str]) -> State:
    """Without what counts batches or operations; where the model counts batches, from 0."""
    extras = [k for k in state if k not in expected and k.rpartition(".")[2] in COUNTERS]
    if extras:
        changes.append(f"holds counters ({first(extras)}): they were left out.")
    state = {
        key: tensor
        for key, tensor in state.items()
        if key in expected or not (key in extras or key.endswith(BATCHES))
    }
    for key in expected.keys() - state.keys():
        if key.endswith(BATCHES):
            state[key] = torch.zeros((), dtype=expected[key].dtype)
    return state


def _joined(state: State, expected: Shapes, changes: list[str]) -> State:
    """Weights that weight_norm or pruning keep in two tensors, as the one that the model has."""
    state, makers = dict(state), dict[str, None]()
    for key in [key for key in expected if key not in state]:
        for maker, scale, base in _parts(key):
            one, two, want = state.get(scale), state.get(base), expected[key]
            if one is None or two is None or not (is_stored(one) and is_stored(two)):
                continue
            if two.shape != want.shape or one.ndim not in (0, two.ndim):
                continue
            one, two = one.to(want.dtype), two.to(want.dtype)
            if maker == "weight_norm":
                apart = [dim for dim in range(one.ndim) if one.shape[dim] == 1]
                two = two / torch.linalg.vector_norm(two, dim=apart or None, keepdim=bool(apart))
            state[key] = two * one
            makers[f"keeps weights in two, as {maker} does: they were made one."] = None
            del state[scale], state[base]
    changes += makers
    return state


def _parts(key: str) -> Iterator[tuple[str, str, str]]:
    """Who keeps a tensor in two, and the names of what scales it and of what is scaled."""
    outer, dot, name = key.rpartition(".")
    new = f"{outer}{dot}parametrizations.{name}.original"
    yield "weight_norm", f"{key}_g", f"{key}_v"
    yield "weight_norm", f"{new}0", f"{new}1"
    yield "pruning", f"{key}_mask", f"{key}_orig"


def _converted(state: State, expected: Shapes, changes: list[str]) -> State:
    """Floating-point numbers of another width, in the model's; counted batches as whole numbers."""
    state, widths = dict(state), dict[str, None]()
    for key in expected.keys() & state.keys():
        have, want = state[key].dtype, expected[key].dtype
        if have == want or have not in FLOATS or not is_stored(state[key]):
            continue
        if want in FLOATS:
            state[key] = state[key].to(want)
            widths[f"is in {have} and the model in {want}: it was converted."] = None
        elif key.endswith(BATCHES):  # {key: tensor.half()} converts these as well, perhaps to inf
            state[key] = state[key].nan_to_num(0, 0, 0).to(want)
    changes += [width.replace("torch.", "") for width in sorted(widths)]
    return state


def _with_classifier(state: State, expected: Shapes, classifier: str, changes: list[str]) -> State:
    """A linear layer that the model has not, under the name of its classifier if it lacks that."""
    bias = f"{classifier.removesuffix('weight')}bias"
    pairs = [(k, f"{k.removesuffix('weight')}bias") for k in state if k.endswith(".weight")]
    loose = [
        (key, other)
        for key, other in pairs
        if key not in expected and other not in expected and other in state
        if _is_linear(state[key], state[other], expected.get(classifier))
    ]
    if len(loose) != 1 or classifier in state or bias in state:
        return state
    ((key, other),) = loose
    name, own = key.removesuffix(".weight"), classifier.removesuffix(".weight")
    if classifier in expected:
        changes.append(f"calls its classifier {name} and the model {own}: it was taken as that.")
        state = state | {classifier: state[key], bias: state[other]}
    else:
        changes.append(f"has a classifier ({name}) and the model none: it was left out.")
    return {k: v for k, v in state.items() if k not in (key, other)}


def _is_linear(weight: Tensor, bias: Tensor, classifier: Tensor | None) -> bool:
    """Whether two entries can be a classifier of the model, of however many classes."""
    if weight.ndim < 2 or bias.shape != weight.shape[:1]:
        return False
    return weight.ndim == 2 if classifier is None else weight.shape[1:] == classifier.shape[1:]
