"""Perturbed copies of a network, and their forward pass in one batch.

`P` queries ask for a network at `theta + step_p * v_p`. Their inputs are stacked along the batch axis, `(P*B, ...)`,
one block of `B` a query. For single coordinates `v_p = e_j` of a convolution or a linear layer, all blocks run through
the *same* weights at once, and what one coordinate changes, one shifted input channel into one output channel,

    conv(x_p; W + mu e_j) = conv(x_p; W) + mu * shift(x_p[i])   in channel o,

is added to its own block. Anything else runs block by block.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from deepzero_sim.perturbation import Coordinates, Directions, Perturbation, parts_of, trainable, unit_direction
from deepzero_sim.types import NamedTensors


class PerturbedModel:
    """A network at `P` perturbed parameter vectors at once; its own weights are never written.

    Call it like the network, with every input's batch axis `P` times as long; the result's batch axis is, too.
    """

    def __init__(self, model: torch.nn.Module, perturbation: Perturbation) -> None:
        self._model = model
        self._perturbation = perturbation
        self._parameters = trainable(model)
        self._in_one_batch: bool | None = None  # found out at the first call

    def __call__(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        if self._in_one_batch is None:
            count = len(self._perturbation)
            shared = [_shares_weights(self._model, part.name, inputs, count) for part in parts_of(self._perturbation)]
            self._in_one_batch = bool(shared) and all(shared)
        return self._batched(*inputs) if self._in_one_batch else self._block_by_block(*inputs)

    @functools.cached_property
    def _perturbed(self) -> list[_Perturbed]:
        perturbed, start = [], 0
        for part in parts_of(self._perturbation):
            parameter = self._parameters[part.name]
            indices = torch.tensor(part.indices, device=parameter.device)
            steps = torch.tensor(part.steps, dtype=torch.float64).to(parameter)
            perturbed.append(_Perturbed(parameter, indices, steps, slice(start, start + len(part))))
            start += len(part)
        return perturbed

    def _batched(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        with _buffers_put_back(self._model), _OneCoordinateEach(self._perturbed, len(self._perturbation)):
            result: torch.Tensor = self._model(*inputs)
        return result

    def _block_by_block(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        count = len(self._perturbation)
        blocks = zip(*(x.chunk(count) if x is not None else [None] * count for x in inputs), strict=True)
        return torch.cat([self._call(changed, block) for changed, block in zip(self._changes(), blocks, strict=True)])

    def _call(self, changed: NamedTensors, inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        with _buffers_put_back(self._model):
            result: torch.Tensor = functional_call(self._model, changed, inputs)
        return result

    def _changes(self) -> Iterator[NamedTensors]:
        """For each query the parameters that it changes, as changed copies."""
        if isinstance(self._perturbation, Directions):
            for seed, step in zip(self._perturbation.seeds, self._perturbation.steps, strict=True):
                yield self._along(seed, step) if step else {}
        for part in parts_of(self._perturbation):
            for index, step in zip(part.indices, part.steps, strict=True):
                changed = self._parameters[part.name].detach().clone(memory_format=torch.contiguous_format)
                changed.view(-1)[index] += step
                yield {part.name: changed}

    def _along(self, seed: int, step: float) -> NamedTensors:
        direction = unit_direction(self._parameters, seed, self._perturbation.mask)  # type: ignore[union-attr]
        return {name: self._parameters[name].detach() + step * u for name, u in direction.items()}


@contextmanager
def _buffers_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Undo whatever a network does to its buffers inside, in place (running statistics) or by assignment."""
    kept = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, values in kept:
            buffers[name] = buffer
            buffer.copy_(values)  # always: batch norm writes its statistics without raising their version


class _CannotShareError(Exception):
    """The perturbed parameter is used by an operation that has no one-coordinate rule."""


@dataclass(frozen=True, eq=False)
class _Perturbed:
    """A parameter, and the queries that perturb it.

    Args:
        parameter: which.
        indices: `(p,)`, flat positions in it.
        steps: `(p,)`.
        blocks: which of the `P` blocks of the batch are theirs.
    """

    parameter: torch.Tensor
    indices: torch.Tensor
    steps: torch.Tensor
    blocks: slice

    @functools.cached_property
    def position(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Output channel, input channel and tap of each index into a weight `(O, I, *kernel)`."""
        outputs, sources, *kernel = self.parameter.shape
        output, source, tap = torch.unravel_index(self.indices, (outputs, sources, math.prod(kernel)))
        return output, source, tap

    @functools.cached_property
    def taps(self) -> list[list[int]]:
        """The place of each index in the kernel of a convolution's weight, one number for each spatial axis."""
        kernel = self.parameter.shape[2:]
        taps: list[list[int]] = torch.stack(torch.unravel_index(self.position[2], kernel), dim=1).tolist()
        return taps


class _OneCoordinateEach(TorchFunctionMode):
    """While active, every use of a perturbed parameter in a convolution or linear layer answers for all `P` queries."""

    def __init__(self, perturbed: list[_Perturbed], count: int) -> None:
        super().__init__()
        self._perturbed = perturbed
        self._count = count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.__name__ == "__get__":  # shape, dtype and the like
            return result
        for perturbed in self._perturbed:
            if any(value is perturbed.parameter for value in (*args, *kwargs.values())):
                if func not in _RULES:
                    raise _CannotShareError
                call = _LayerCall(**dict(zip(_ARGUMENTS[func], args, strict=False)), **kwargs)
                self._answer(func, call, result, perturbed)
        return result

    def _answer(self, func: Callable[..., Any], call: _LayerCall, result: torch.Tensor, perturbed: _Perturbed) -> None:
        """Add what the perturbed coordinates change to the blocks of `result` that ask for them."""
        blocks = self._blocks(result)[perturbed.blocks].movedim(-1 if func is F.linear else 2, 1)
        queries = torch.arange(len(perturbed.indices))
        if call.bias is perturbed.parameter:
            blocks[queries, perturbed.indices] += perturbed.steps.view(-1, *[1] * (blocks.dim() - 2))
        if call.weight is perturbed.parameter:
            inputs = self._blocks(call.input)[perturbed.blocks]
            channel, contribution = _RULES[func](call, inputs, perturbed)
            blocks[queries, channel] += contribution

    def _blocks(self, batch: torch.Tensor) -> torch.Tensor:
        """`(P*B, ...)` as `(P, B, ...)`."""
        return batch.view(self._count, len(batch) // self._count, *batch.shape[1:])


@dataclass(frozen=True, kw_only=True)
class _LayerCall:
    """The arguments of one call of a convolution or a linear layer."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1


#: For `(p, B, ...)` inputs: which output channel each query changes, and by what, `(p, B, ...)`.
_Change: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def _linear_rule(call: _LayerCall, inputs: torch.Tensor, perturbed: _Perturbed) -> _Change:
    output, source, _ = perturbed.position
    picked = inputs[torch.arange(len(inputs)), ..., source]
    return output, picked * perturbed.steps.view(-1, *[1] * (picked.dim() - 1))


def _convolution_rule(call: _LayerCall, inputs: torch.Tensor, perturbed: _Perturbed) -> _Change:
    """What the perturbed tap of each query sees of the one input channel that it reads: a shifted window of it."""
    output, source, _ = perturbed.position
    outputs, sources, *kernel = call.weight.shape
    group = output // (outputs // call.groups)
    stride, dilation = (_for_each(value, len(kernel)) for value in (call.stride, call.dilation))
    padding = _padding(call.padding, kernel, dilation)
    picked = inputs[torch.arange(len(inputs)), :, source + group * sources]
    padded = F.pad(picked, [side for pair in reversed(padding) for side in pair])
    reach = [
        size + sum(pair) - d * (k - 1) for size, pair, d, k in zip(picked.shape[2:], padding, dilation, kernel, strict=True)
    ]
    windows = [
        block[(..., *(slice(d * t, d * t + r, s) for d, t, r, s in zip(dilation, tap, reach, stride, strict=True)))]
        for block, tap in zip(padded, perturbed.taps, strict=True)
    ]
    return output, torch.stack(windows) * perturbed.steps.view(-1, *[1] * (padded.dim() - 1))


def _for_each(value: Any, dims: int) -> list[int]:
    """A hyperparameter for each spatial axis, as convolutions take it: one number or one for each."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * dims if len(numbers) == 1 else numbers


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after, for each spatial axis."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(side, side) for side in _for_each(0 if padding == "valid" else padding, len(kernel))]


_RULES: dict[Callable[..., Any], Callable[[_LayerCall, torch.Tensor, _Perturbed], _Change]] = {
    F.linear: _linear_rule,
    F.conv1d: _convolution_rule,
    F.conv2d: _convolution_rule,
    F.conv3d: _convolution_rule,
}
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_ARGUMENTS = {func: ("input", "weight", "bias") if func is F.linear else _CONVOLUTION_ARGUMENTS for func in _RULES}

#: For each network: a parameter, and which modules are in training mode.
_Use: TypeAlias = tuple[str, tuple[bool, ...]]

#: For each network, which uses of its parameters were seen to give the same answers in one batch as block by block.
_shared: weakref.WeakKeyDictionary[torch.nn.Module, dict[_Use, bool]] = weakref.WeakKeyDictionary()


def _shares_weights(model: torch.nn.Module, name: str, inputs: Sequence[torch.Tensor | None], count: int) -> bool:
    """Whether the one-coordinate rules are right for this parameter of this network: tried out once, then remembered.

    A network that mixes the samples of a batch, or moves the batch axis, is found out here and runs block by block.
    `inputs` are those of `count` queries.
    """
    known = _shared.setdefault(model, {})
    use = name, tuple(module.training for module in model.modules())
    if use not in known:
        known[use] = _agrees(model, name, inputs, count)
        if not known[use]:
            warnings.warn(
                f"parameter {name!r} of {type(model).__name__} is queried one perturbed network at a time, "
                "which is slower: it is not the weight or bias of a convolution or linear layer, or the network mixes "
                "the samples of a batch.",
                stacklevel=2,
            )
    return known[use]


def _agrees(model: torch.nn.Module, name: str, inputs: Sequence[torch.Tensor | None], count: int) -> bool:
    """Compare both ways on two queries of parameter `name`, with a step of the parameter's own size."""
    # two different blocks, so that a mix-up between them shows
    pair = [None if x is None else torch.cat([_varied(x.chunk(count)[0], seed) for seed in (0, 1)]) for x in inputs]
    try:
        trial = _trial(model, name)
        batched = trial._batched(*pair)
    except Exception:  # whatever a network may raise on more samples than it is used to
        return False
    single = trial._block_by_block(*pair)
    tolerance = 1e3 * torch.finfo(single.dtype).eps * float(single.abs().max())
    return batched.shape == single.shape and bool((batched - single).abs().max() <= tolerance)


def _varied(block: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise in place of numbers, which may be NaN by now; anything else, such as token indices, as it is."""
    if not block.is_floating_point():
        return block
    return torch.randn(block.shape, generator=torch.Generator().manual_seed(seed)).to(block)


@torch.no_grad()
def _trial(model: torch.nn.Module, name: str) -> PerturbedModel:
    """Two queries of a copy with noise for weights: a layer of zeros, as in untrained correctors, hides all before it."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        fan_in = math.prod(parameter.shape[1:])
        parameter.copy_(noise / math.sqrt(max(1, fan_in)))
    perturbed = trainable(model)[name]
    step = float(perturbed.abs().max().clamp(min=0.1))
    return PerturbedModel(model, Coordinates(name, (0, perturbed.numel() - 1), (step, -step)))
