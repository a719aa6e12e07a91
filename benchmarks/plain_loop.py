"""Baseline of the engine: coordinate-wise differences by a loop over the coordinates, with reuse of whole blocks.

This is DeepZero's way as its paper describes it (Chen et al., ICLR 2024), in ordinary torch modules: the input of every
residual block is computed once a batch; then, one coordinate at a time, the weight is moved in place, the network runs from
that weight's block onwards, and the weight is put back. It is written to be as fast as that way allows, and follows the
method's description, not anyone's code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.estimators.base import require_mask, require_scheme
from deepzero_sim.models import ResNet
from deepzero_sim.oracle.base import Loss
from deepzero_sim.oracle.parameters import trainable

#: A parameter's name and a flat position in it.
Coordinate = tuple[str, int]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Split a network into parts that are called one after the other; one part if its structure is not known."""
    if isinstance(model, ResNet):
        return [model.stem, *model.blocks, model.head]
    return list(model) if isinstance(model, nn.Sequential) else [model]


@dataclass(frozen=True)
class Prepared:
    """Results on a batch that its queries share.

    Args:
        inputs: Inputs of every block.
        targets: Targets of the loss.
        loss: Loss of the unperturbed network.
    """

    inputs: list[torch.Tensor]
    targets: torch.Tensor
    loss: float


class PlainLoop:
    """Estimator of gradients by finite differences, one coordinate at a time.

    The network runs in the mode it is in (training mode: batch norm uses the batch's statistics), on as many threads as torch
    has; its weights and buffers are the same, bit for bit, after any number of queries. Its layers must not work in place,
    which would spoil the stored inputs.

    Args:
        model: Network.
        loss: Loss, `(outputs, targets) -> scalar`.
        step_size: Size of a displacement, `mu`.
        scheme: Scheme, ``"forward"`` or ``"central"``.
        channels_last: True to run a copy of the network in this memory format, which is faster on some machines.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, step_size: float = 1e-3, scheme: Scheme = "forward", channels_last: bool = False
    ) -> None:
        require_scheme(step_size, scheme)
        self.model = _copy_channels_last(model) if channels_last else model
        self.loss_function = loss
        self.step_size = step_size
        self.scheme: Scheme = scheme
        self.channels_last = channels_last
        self._blocks = blocks_of(self.model)
        self._parameters = trainable(self.model)
        self._first_block = _first_blocks(self._blocks, self._parameters)

    @torch.no_grad()
    def prepare(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Prepared:
        """Compute the input of every block and the loss of the unperturbed network."""
        x, targets = batch
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        inputs = []
        with preserve_state(self.model):
            for block in self._blocks:
                inputs.append(x)
                x = block(x)
        return Prepared(inputs, targets, float(self.loss_function(x, targets)))

    @torch.no_grad()
    def slopes(self, prepared: Prepared, coordinates: Sequence[Coordinate]) -> torch.Tensor:
        """Compute the loss's slope along each coordinate, `(n,)`, float64."""
        with preserve_state(self.model):
            slopes = [self._slope(prepared, coordinate) for coordinate in coordinates]
        return torch.tensor(slopes, dtype=torch.float64)

    def estimate(self, batch: tuple[torch.Tensor, torch.Tensor], mask: Mask | None = None) -> NamedTensors:
        """Estimate the gradient on a batch for the active coordinates, zero elsewhere; `mask` is as in `CGE.estimate`."""
        require_mask(self._parameters, mask)
        prepared, grads = self.prepare(batch), {}
        for name, parameter in self._parameters.items():
            active = _active(parameter, name, mask)
            grad = torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
            grad[active] = self.slopes(prepared, [(name, int(index)) for index in active]).to(grad)
            grads[name] = grad.view(parameter.shape)
        return grads

    def _slope(self, prepared: Prepared, coordinate: Coordinate) -> float:
        loss = self._displaced_loss(prepared, coordinate, self.step_size)
        if self.scheme == "forward":
            return (loss - prepared.loss) / self.step_size
        return (loss - self._displaced_loss(prepared, coordinate, -self.step_size)) / (2 * self.step_size)

    def _displaced_loss(self, prepared: Prepared, coordinate: Coordinate, step: float) -> float:
        name, index = coordinate
        start = self._first_block[name]
        with _displace(self._parameters[name], index, step):
            x = prepared.inputs[start]
            for block in self._blocks[start:]:
                x = block(x)
            return float(self.loss_function(x, prepared.targets))


def _copy_channels_last(model: nn.Module) -> nn.Module:
    same: nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return same


def _first_blocks(blocks: Sequence[nn.Module], parameters: NamedTensors) -> dict[str, int]:
    """Find the first block that uses each parameter."""
    first = {id(p): number for number in reversed(range(len(blocks))) for p in blocks[number].parameters()}
    return {name: first[id(parameter)] for name, parameter in parameters.items()}


def _active(parameter: torch.Tensor, name: str, mask: Mask | None) -> torch.Tensor:
    """List the flat positions of a parameter's active coordinates."""
    if mask is None:
        return torch.arange(parameter.numel())
    return mask[name].cpu().reshape(-1).nonzero().view(-1) if name in mask else torch.arange(0)


@contextmanager
def _displace(parameter: torch.Tensor, index: int, step: float) -> Iterator[None]:
    """Displace one weight inside, then restore its value: adding and subtracting a step would leave rounding behind."""
    position = tuple(torch.unravel_index(torch.tensor(index), parameter.shape))
    before = parameter[position].clone()
    parameter[position] = before + step
    try:
        yield
    finally:
        parameter[position] = before
