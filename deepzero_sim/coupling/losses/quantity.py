"""Loss of a quantity of the user's own: a force, a flux, a probability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from deepzero_sim.common.components import load
from deepzero_sim.common.requirements import Words, require
from deepzero_sim.common.types import is_number
from deepzero_sim.coupling.losses.base import Loss, Measure
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.solver.spec import SolverSpec

#: Most simulations that tell how much a quantity varies.
SIMULATIONS = 16


@final
@dataclass(frozen=True)
class Quantity(Loss):
    """Mean squared error of a quantity `q` of rollouts, `1/n sum ((q(rollout) - q(references)) / scale)^2`.

    Args:
        function: Function from states `(B, T, C, *N)`, a tensor, to a tensor `(B, ...)`, by torch's operations; or its name,
            `file.py:Name` or an import path.
        scale: Unit of the quantity; its standard deviation over the training data if None.

    Raises:
        ConfigError: The function is none, or the scale is not positive.
    """

    function: str | Callable[[torch.Tensor], torch.Tensor]
    scale: float | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.function, str) or callable(self.function)
        require(named, "function of loss quantity must be a function or its name", Words(type(self.function).__name__))
        fits = self.scale is None or (is_number(self.scale) and 0 < self.scale < np.inf)
        require(fits, "scale of loss quantity must be a positive number, or left out", Words(self.scale))

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        function = load(self.function) if isinstance(self.function, str) else self.function
        require(callable(function), f"{self.function} must be a function", Words(type(function).__name__))
        quantity = _Quantity(function, str(self.function))
        return _QuantityLoss(quantity, self._spread(quantity, data) if self.scale is None else float(self.scale))

    def _spread(self, quantity: _Quantity, data: Trajectories) -> float:
        """Compute how much the quantity varies over simulations that are taken as rollouts, and within them."""
        frames = np.stack([data.frames[s] for s in range(min(SIMULATIONS, data.frames.shape[0]))])
        with torch.no_grad():
            spread = float(quantity(torch.from_numpy(frames[:, 1:])).double().std(correction=0))
        require(
            0 < spread < np.inf,
            f"{quantity.name} must vary over the training data, or have a scale",
            Words(f"a standard deviation of {spread:g}"),
            "give scale, the size of an error that matters",
        )
        return spread


@dataclass(frozen=True)
class _Quantity:
    """A user's function, held to what it must return.

    Args:
        function: Function of states.
        name: Name for messages.
    """

    function: Callable[[torch.Tensor], Any]
    name: str

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        try:
            found = self.function(states)
        except DeepZeroError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{self.name} raised {type(error).__name__} on states (B, T, C, *N) of shape {tuple(states.shape)}: {error}; "
                "run it alone to find out why."
            ) from error
        is_tensor = isinstance(found, torch.Tensor) and found.is_floating_point() and found.dim() > 0
        came = Words(f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, torch.Tensor) else type(found).__name__)
        expected = f"{self.name} must return a tensor of real numbers with a row for each of {len(states)} rollouts"
        require(is_tensor and len(found) == len(states), expected, came, "use torch's operations")
        result: torch.Tensor = found
        return result


@dataclass(frozen=True)
class _QuantityLoss:
    """The loss of :class:`Quantity`.

    Args:
        quantity: Function of states.
        scale: Its unit.
    """

    quantity: _Quantity
    scale: float

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return ((self.quantity(rollout) - self.quantity(references)) / self.scale).square().mean()

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        errors: torch.Tensor = ((self.quantity(rollout) - self.quantity(references)) / self.scale).flatten()
        return errors / math.sqrt(len(errors))
