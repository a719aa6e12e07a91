"""The baseline of the engine: coordinate-wise differences by a loop over the coordinates, with reuse of whole blocks.

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
    """What the network consists of, to be called one after the other; the whole network if it is not known how."""
    if isinstance(model, ResNet):
        return [model.stem, *model.blocks, model.head]
    return list(model) if isinstance(model, nn.Sequential) else [model]


@dataclass(frozen=True)
class Prepared:
    """What queries on a batch share.

    Args:
        inputs: of every block.
        targets: of the loss.
        loss: of the network as it is.
    """

    inputs: list[torch.Tensor]
    targets: torch.Tensor
    loss: float


class PlainLoop:
    """Gradients by finite differences, one coordinate at a time.

    The network runs in the mode it is in (training mode: batch norm uses the batch's statistics), on as many threads as torch
    has; its weights and buffers are the same, bit for bit, after any number of queries. Its layers must not work in place,
    which would spoil the inputs that are kept.

    Args:
        model: the network.
        loss: `(outputs, targets) -> scalar`.
        step_size: `mu`.
        scheme: ``"forward"`` or ``"central"``.
        channels_last: run in this memory format, which is faster on some machines, on a copy of the network.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, step_size: float = 1e-3, scheme: Scheme = "forward", channels_last: bool = False
    ) -> None:
        require_scheme(step_size, scheme)
        self.model = _in_channels_last(model) if channels_last else model
        self.loss_function = loss
        self.step_size = step_size
        self.scheme: Scheme = scheme
        self.channels_last = channels_last
        self._blocks = blocks_of(self.model)
        self._parameters = trainable(self.model)
        self._first_block = _first_blocks(self._blocks, self._parameters)

    @torch.no_grad()
    def prepare(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Prepared:
        """The input of every block and the loss of the network as it is."""
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
        """The loss's slope along each coordinate, `(n,)`, float64."""
        with preserve_state(self.model):
            slopes = [self._slope(prepared, coordinate) for coordinate in coordinates]
        return torch.tensor(slopes, dtype=torch.float64)

    def estimate(self, batch: tuple[torch.Tensor, torch.Tensor], mask: Mask | None = None) -> NamedTensors:
        """The gradient on a batch for the active coordinates, zero elsewhere; `mask` is as in `CGE.estimate`."""
        require_mask(self._parameters, mask)
        prepared, grads = self.prepare(batch), {}
        for name, parameter in self._parameters.items():
            active = _active(parameter, name, mask)
            grad = torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
            grad[active] = self.slopes(prepared, [(name, int(index)) for index in active]).to(grad)
            grads[name] = grad.view(parameter.shape)
        return grads

    def _slope(self, prepared: Prepared, coordinate: Coordinate) -> float:
        moved = self._moved_loss(prepared, coordinate, self.step_size)
        if self.scheme == "forward":
            return (moved - prepared.loss) / self.step_size
        return (moved - self._moved_loss(prepared, coordinate, -self.step_size)) / (2 * self.step_size)

    def _moved_loss(self, prepared: Prepared, coordinate: Coordinate, step: float) -> float:
        name, index = coordinate
        start = self._first_block[name]
        with _moved(self._parameters[name], index, step):
            x = prepared.inputs[start]
            for block in self._blocks[start:]:
                x = block(x)
            return float(self.loss_function(x, prepared.targets))


def _in_channels_last(model: nn.Module) -> nn.Module:
    copied: nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def _first_blocks(blocks: Sequence[nn.Module], parameters: NamedTensors) -> dict[str, int]:
    """The number of the first block that uses each parameter."""
    found = {id(p): number for number in reversed(range(len(blocks))) for p in blocks[number].parameters()}
    return {name: found[id(parameter)] for name, parameter in parameters.items()}


def _active(parameter: torch.Tensor, name: str, mask: Mask | None) -> torch.Tensor:
    """Flat positions of a parameter's active coordinates."""
    if mask is None:
        return torch.arange(parameter.numel())
    return mask[name].cpu().reshape(-1).nonzero().view(-1) if name in mask else torch.arange(0)


@contextmanager
def _moved(parameter: torch.Tensor, index: int, step: float) -> Iterator[None]:
    """One weight moved inside, and put back as it was: adding and subtracting a step would leave rounding behind."""
    position = tuple(torch.unravel_index(torch.tensor(index), parameter.shape))
    kept = parameter[position].clone()
    parameter[position] = kept + step
    try:
        yield
    finally:
        parameter[position] = kept
