"""What an optimised model is made of: convolutions prepared for inference, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from ..onednn import Conv, Geometry, conv, geometry_of
from ..system.processor import is_exporting
from .algorithms import Algorithm, apply, prepare
from .direct import direct
from .guard import is_open, is_recorded, is_transformed, runs_kernels

# One node each for symbolic tracing, which cannot follow sizes.
fx.wrap("_apply_prepared")
fx.wrap("_convolve_together")


class PreparedConv(nn.Module):
    """A grouped convolution for inference by the algorithm decided, its weight prepared for that.

    ``[N, in, *size]`` -> ``[N, out, *size / stride]``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: Conv, algorithm: Algorithm) -> None:
        super().__init__()
        self.geometry: Geometry = geometry_of(conv)
        self.algorithm = algorithm
        zeros = conv.padding_mode == "zeros"
        self.before: list[int] = [] if zeros else list(conv._reversed_padding_repeated_twice)
        self.padding_mode = conv.padding_mode
        weight, bias = prepare(conv.weight, conv.bias, self.geometry, algorithm)
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        self.weight = nn.Parameter(weight.contiguous(memory_format=layout), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.plain_weight: Tensor = conv.weight  # as they were
        self.plain_bias: Tensor | None = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = F.pad(x, self.before, self.padding_mode)
        prepared, plain = (self.weight, self.bias), (self.plain_weight, self.plain_bias)
        return _apply_prepared(x, prepared, plain, self.geometry, self.algorithm)

    def extra_repr(self) -> str:
        return f"{self.algorithm}, groups={self.geometry.groups}, stride={self.geometry.stride}"


def _apply_prepared(
    x: Tensor,
    prepared: tuple[Tensor, Tensor | None],
    plain: tuple[Tensor, Tensor | None],
    geometry: Geometry,
    algorithm: Algorithm,
) -> Tensor:
    if x.dim() < plain[0].dim():
        return _apply_prepared(x.unsqueeze(0), prepared, plain, geometry, algorithm).squeeze(0)
    # Tiles are laid out by the size of the map.
    varies = (algorithm.tile or is_recorded()) and is_open(x.shape[2:])
    # With other channels than wanted, PyTorch has something to say.
    if varies or is_transformed() or x.shape[1] != plain[0].shape[1] * geometry.groups:
        return conv(x, *plain, geometry)
    return apply(x, *prepared, geometry, algorithm)


class DirectPyramid(nn.Module):
    """A pyramid for inference whose levels are computed in one pass over the input, or some are.

    ``[N, in, H, W]`` -> ``[N, sum(out), H / stride, W / stride]``.
    """

    def __init__(self, levels: Sequence[nn.Module], together: Sequence[Conv]) -> None:
        super().__init__()
        self.apart: nn.ModuleList = nn.ModuleList(levels)  # the first ones of the pyramid
        self.together: nn.ModuleList = nn.ModuleList(together)

    def forward(self, x: Tensor) -> Tensor:
        convs: Any = self.together
        weights, biases = [conv.weight for conv in convs], [conv.bias for conv in convs]
        together = _convolve_together(x, weights, biases, [geometry_of(conv) for conv in convs])
        maps = [level(x) for level in self.apart]
        return torch.cat([*maps, together], -3) if maps else together


def _convolve_together(
    x: Tensor, weights: list[Tensor], biases: list[Tensor | None], geometries: list[Geometry]
) -> Tensor:
    """By the kernels, where they may run, else one after the other."""
    if x.dim() < 4:
        return _convolve_together(x.unsqueeze(0), weights, biases, geometries).squeeze(0)
    if runs_kernels(x):
        return direct(x, weights, biases, geometries)
    levels = zip(weights, biases, geometries, strict=True)
    return torch.cat([conv(x, *level) for level in levels], 1)


class Frozen(nn.Module):
    """A module run through ``torch.compile`` with its weights frozen; also after loading it."""

    def __init__(self, module: nn.Module, convert: Convert) -> None:
        super().__init__()
        self.module = module
        self.convert = convert
        self._renew()

    def _renew(self) -> None:
        """Begin a program anew, of which the weights as they are now will be a part."""
        self._run = _compiled(self.module, self.convert)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._renew()

    def _apply(self, *arguments: Any) -> Any:  # as in .to()
        moved = super()._apply(*arguments)  # type: ignore[no-untyped-call]
        self._renew()
        return moved

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        done = super().load_state_dict(*arguments, **options)
        self._renew()
        return done

    def __getattr__(self, name: str) -> Any:  # such as channels, which a detector asks for
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        return self._run


def _compiled(module: nn.Module, convert: Convert) -> Callable[..., Any]:
    """``module``, compiled when first called, as a function with code of its own.

    PyTorch keeps its programs with the code that they were made of, eight at most, and for each
    call looks for the one that fits: models that share their code would take them from each other.
    """

    def run(*inputs: Any, **options: Any) -> Any:
        return convert.back(module, inputs, module(*inputs, **options))

    code = run.__code__.replace(co_name=f"frozen_{next(_numbers)}")
    own = FunctionType(code, globals(), closure=run.__closure__)
    # Nobody asks whether the module has changed: its weights are part of the program.
    ask = torch.compiler.skip_guard_on_all_nn_modules_unsafe
    compiled = torch.compile(own, options={"guard_filter_fn": ask})
    # The calls from one kernel to the next in C++ as well.
    on_cpu = all(p.device.type == "cpu" for p in module.parameters())
    # Inductor packs what it freezes by oneDNN, which has no double precision.
    freezes = not (on_cpu and any(p.dtype == torch.float64 for p in module.parameters()))

    @wraps(module.forward)  # programs are exported with the names of its arguments
    def call(*inputs: Any, **options: Any) -> Any:
        from torch._inductor import config  # takes a second to import

        # Tracing has to see them as well: as options of torch.compile they do not take effect.
        with torch.no_grad(), config.patch(freezing=freezes, cpp_wrapper=on_cpu):
            compute = own if is_exporting() else compiled  # PyTorch 2.10 exports no compiled one
            return compute(*convert.all(inputs), **convert.all(options))

    return call


_numbers = count()


class Convert:
    """Brings floating inputs and outputs, nested ones as well, to a dtype.

    With ``images``, those are laid out channels-last. Called as a forward pre-hook and, by
    :meth:`back`, as a forward hook.
    """

    def __init__(
        self, dtype: torch.dtype | None = None, images: bool = False, outputs: Any = None
    ) -> None:
        self.dtype = dtype
        self.images = images
        self.outputs = outputs

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.all(inputs), self.all(options)

    def back(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        if self.outputs is None:
            return outputs
        return tree_map_only(Tensor, Convert(self.outputs).one, outputs)

    def all(self, inputs: Any) -> Any:
        """The same with its tensors converted; what holds none to convert is the very object."""
        if isinstance(inputs, Tensor):
            return self.one(inputs)
        if type(inputs) not in (tuple, list, dict):
            return inputs
        old = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        new = [self.all(each) for each in old]
        if all(a is b for a, b in zip(new, old, strict=True)):
            return inputs
        return dict(zip(inputs, new, strict=True)) if type(inputs) is dict else type(inputs)(new)

    def one(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        x = x.to(self.dtype or x.dtype)  # PyTorch is twice as fast at each as at both at once
        # vmap knows of no layouts.
        if self.images and x.dim() == 4 and x.shape[1] > 1 and not is_transformed():
            return x.contiguous(memory_format=torch.channels_last)
        return x
