"""Contract of a loss: what of a rollout is compared with what of its references."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from deepzero_sim.common.requirements import Words, require
from deepzero_sim.common.types import is_number
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: `(rollout, references) -> scalar`, of tensors `(B, T, C, *N)` each.
Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: The same to residuals `(m,)`, of which a loss is the sum of squares.
Residuals: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def residuals_of(measure: Callable[..., Any]) -> Residuals:
    """Return the residuals of which a loss is the sum of squares: its method `residuals(rollout, references)`.

    Raises:
        ConfigError: It has none.
    """
    found: Residuals | None = getattr(measure, "residuals", None)
    if found is None or not callable(found):
        name = getattr(measure, "__name__", type(measure).__name__)
        raise ConfigError(
            f"loss {name} has no residuals, whose changes this method needs: give it a method residuals(outputs, targets), "
            "of whose numbers it is the sum of squares, or take CGE, which needs none."
        )
    return found


class Loss(abc.ABC):
    """A loss of rollouts, as settings name it: it knows neither solver nor data until it is built for them."""

    @property
    def takes_unobserved(self) -> bool:
        """True if references may be NaN where a value was not observed, and the loss leaves these out."""
        return False

    @abc.abstractmethod
    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        """Build the function that training minimises.

        Args:
            spec: Spec of the solver.
            data: Training data, which say how much each channel varies.

        Raises:
            ConfigError: The loss does not suit the solver or the data.
        """

    def require_sight(self, steps: int) -> None:  # noqa: B027 - most see every step
        """Refuse rollouts of which the loss sees nothing.

        Args:
            steps: Number of steps of a rollout, `T`.

        Raises:
            ConfigError: It sees none of the steps.
        """


def error_scales(spec: SolverSpec, data: Trajectories, noise: Sequence[float] | None) -> torch.Tensor:
    """Return the unit of each channel's error, `(C,)`: its level of noise, or how much it varies in the data.

    Args:
        spec: Spec of the solver.
        data: Training data.
        noise: Standard deviation of the noise in each channel; None for that of the data.

    Raises:
        ConfigError: There is no positive number for each channel.
    """
    if noise is None:
        return torch.from_numpy(data.scales()[0])
    channels = spec.state_shape[0]
    fits = len(noise) == channels and all(is_number(level) and 0 < level < np.inf for level in noise)
    require(fits, f"noise must be {channels} positive numbers, one a channel ({', '.join(spec.channel_names)})", Words(noise))
    return torch.tensor(list(noise), dtype=torch.float64)
