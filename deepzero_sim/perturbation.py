"""Perturbed copies of a network, named by coordinate or seed and step, and their forward pass in one batch.

`P` queries ask for a network at `theta + step_p * v_p`. Their inputs are stacked along the batch axis, `(P*B, ...)`,
one block of `B` a query. For single coordinates `v_p = e_j` of a convolution or a linear layer, all blocks run through
the *same* weights at once, and what one coordinate changes, one shifted input channel into one output channel,

    conv(x_p; W + mu e_j) = conv(x_p; W) + mu * shift(x_p[i])   in channel o,

is added to its own block. Anything else runs block by block.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from deepzero_sim.errors import ConfigError
from deepzero_sim.types import Mask, NamedTensors


@dataclass(frozen=True)
class Coordinates:
    """`P` perturbations of one coordinate each, all in the same parameter: `theta + steps[p] * e_indices[p]`.

    Args:
        name: the parameter, as in `named_parameters()`.
        indices: flat positions in it, `P` of them.
        steps: signed steps, `P` of them.
    """

    name: str
    indices: tuple[int, ...]
    steps: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Directions:
    """`P` perturbations along random unit directions: `theta + steps[p] * u(seeds[p])`, `u` zero outside the mask.

    Directions are drawn anew from their seeds wherever they are used, and never sent about.
    """

    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    mask: Mask | None = None

    def __len__(self) -> int:
        return len(self.seeds)


Perturbation: TypeAlias = Coordinates | Directions

#: The network as it is, as a perturbation of one query.
UNPERTURBED = Directions(seeds=(0,), steps=(0.0,))


def split(perturbation: Perturbation, size: int) -> list[Perturbation]:
    """The same queries in the same order, at most `size` at a time."""
    if isinstance(perturbation, Coordinates):
        return [
            Coordinates(perturbation.name, perturbation.indices[i : i + size], perturbation.steps[i : i + size])
            for i in range(0, len(perturbation), size)
        ]
    return [
        Directions(perturbation.seeds[i : i + size], perturbation.steps[i : i + size], perturbation.mask)
        for i in range(0, len(perturbation), size)
    ]


def trainable(model: torch.nn.Module) -> NamedTensors:
    """The parameters that are trained, by name.

    Raises:
        ConfigError: there are none.
    """
    parameters: NamedTensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError(f"the network {type(model).__name__} has no parameters to train: give it some with requires_grad.")
    return parameters


def unit_direction(parameters: Mapping[str, torch.Tensor], seed: int, mask: Mask | None) -> NamedTensors:
    """A Gaussian direction over the active coordinates, of unit norm; a seed gives the same one on every machine."""
    generator = torch.Generator().manual_seed(seed)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in parameters.items()}
    if mask is not None:
        direction = {name: u * mask[name] for name, u in direction.items() if name in mask}
    norm = torch.sqrt(sum((u.square().sum() for u in direction.values()), start=torch.zeros(())))
    return {name: (u / norm).to(parameters[name]) for name, u in direction.items()}


class PerturbedModel:
    """A network at `P` perturbed parameter vectors at once; its own weights are never written.

    Call it like the network, with every input's batch axis `P` times as long; the result's batch axis is, too.
    """

    def __init__(self, model: torch.nn.Module, perturbation: Perturbation) -> None:
        self._model = model
        self._perturbation = perturbation
        self._parameters = trainable(model)

    def __call__(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self._perturbation, Coordinates) and _shares_weights(self._model, self._perturbation, inputs):
            return self._batched(*inputs)
        return self._block_by_block(*inputs)

    def _batched(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        assert isinstance(self._perturbation, Coordinates)
        with _OneCoordinateEach(self._parameters[self._perturbation.name], self._perturbation):
            return self._call({}, inputs)

    def _block_by_block(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        count = len(self._perturbation)
        blocks = zip(*(x.chunk(count) if x is not None else [None] * count for x in inputs), strict=True)
        return torch.cat([self._call(self._changed(query), block) for query, block in enumerate(blocks)])

    def _call(self, changed: NamedTensors, inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        # buffers are copied because a network may update them (batch-norm statistics) while it is queried
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        result: torch.Tensor = functional_call(self._model, {**changed, **buffers}, inputs)
        return result

    def _changed(self, query: int) -> NamedTensors:
        """The parameters that query number `query` changes, as changed copies."""
        perturbation, step = self._perturbation, self._perturbation.steps[query]
        if step == 0.0:
            return {}
        if isinstance(perturbation, Coordinates):
            changed = self._parameters[perturbation.name].detach().clone(memory_format=torch.contiguous_format)
            changed.view(-1)[perturbation.indices[query]] += step
            return {perturbation.name: changed}
        direction = unit_direction(self._parameters, perturbation.seeds[query], perturbation.mask)
        return {name: self._parameters[name].detach() + step * u for name, u in direction.items()}


class _CannotShareError(Exception):
    """The perturbed parameter is used by an operation that has no one-coordinate rule."""


class _OneCoordinateEach(TorchFunctionMode):
    """While active, every use of `parameter` in a convolution or linear layer answers for all `P` perturbed copies of it."""

    def __init__(self, parameter: torch.Tensor, perturbation: Coordinates) -> None:
        super().__init__()
        self._parameter = parameter
        self._indices = torch.tensor(perturbation.indices, device=parameter.device)
        self._steps = torch.tensor(perturbation.steps, dtype=torch.float64).to(parameter)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not any(value is self._parameter for value in (*args, *kwargs.values())):
            return result
        if func.__name__ == "__get__":  # its shape, dtype and the like
            return result
        if func not in _RULES:
            raise _CannotShareError
        call = _LayerCall(**dict(zip(_ARGUMENTS[func], args, strict=False)), **kwargs)
        if call.bias is self._parameter:
            self._add(func, result, self._indices, self._steps.view(-1, *[1] * (result.dim() - 1)))
        if call.weight is self._parameter:
            channel, contribution = _RULES[func](func, call, self._indices, self._steps)
            self._add(func, result, channel, contribution)
        return result

    def _add(self, func: Callable[..., Any], result: torch.Tensor, channel: torch.Tensor, contribution: torch.Tensor) -> None:
        """Add `(P, B, ...)` to output channel `channel[p]` of block `p` of `result`."""
        count = len(self._indices)
        blocks = result.view(count, len(result) // count, *result.shape[1:])
        blocks = blocks.movedim(-1 if func is F.linear else 2, 1)
        blocks[torch.arange(count), channel] += contribution


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


def _linear_rule(
    func: Callable[..., Any], call: _LayerCall, indices: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    output, source = indices // call.weight.shape[1], indices % call.weight.shape[1]
    blocks = call.input.view(len(indices), -1, *call.input.shape[1:])
    picked = blocks[torch.arange(len(indices)), ..., source]
    return output, picked * steps.view(-1, *[1] * (picked.dim() - 1))


def _convolution_rule(
    func: Callable[..., Any], call: _LayerCall, indices: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The perturbed tap of each query on the one input channel it reads: a depthwise convolution with one-tap kernels."""
    count, (outputs, sources) = len(indices), call.weight.shape[:2]
    kernel = call.weight.shape[2:]
    output, source, tap = torch.unravel_index(indices, (outputs, sources, kernel.numel()))
    source = source + output // (outputs // call.groups) * sources
    blocks = call.input.view(count, -1, *call.input.shape[1:])
    picked = blocks[torch.arange(count), :, source].transpose(0, 1)
    kernels = torch.zeros(count, 1, kernel.numel(), dtype=steps.dtype, device=steps.device)
    kernels[torch.arange(count), 0, tap] = steps
    contribution = func(picked, kernels.view(count, 1, *kernel), None, call.stride, call.padding, call.dilation, count)
    return output, contribution.transpose(0, 1)


_Rule: TypeAlias = Callable[[Callable[..., Any], _LayerCall, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_RULES: dict[Callable[..., Any], _Rule] = {
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


def _shares_weights(model: torch.nn.Module, perturbation: Coordinates, inputs: Sequence[torch.Tensor | None]) -> bool:
    """Whether the one-coordinate rules are right for this parameter of this network: tried out once, then remembered.

    A network that mixes the samples of a batch, or moves the batch axis, is found out here and runs block by block.
    """
    known = _shared.setdefault(model, {})
    use = perturbation.name, tuple(module.training for module in model.modules())
    if use not in known:
        known[use] = _agrees(model, perturbation.name, inputs, len(perturbation))
        if not known[use]:
            warnings.warn(
                f"parameter {perturbation.name!r} of {type(model).__name__} is queried one perturbed network at a time, "
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
