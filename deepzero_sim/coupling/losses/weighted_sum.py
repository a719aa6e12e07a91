"""Weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import Words, require
from deepzero_sim.common.types import is_number
from deepzero_sim.coupling.losses.base import Loss, Measure, residuals_of
from deepzero_sim.coupling.losses.named import build_loss
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: Entries of a term in settings.
_KEYS = ("name", "args", "weight")


@final
@dataclass(frozen=True)
class Sum(Loss):
    """Weighted sum of losses, `sum_i weight_i l_i`.

    Args:
        terms: Losses with their weights, `(loss, weight)`; or, as settings have them, mappings of `name`, `args` and `weight`,
            the last two of which may be left out.

    Raises:
        ConfigError: There are no terms, or one cannot be used.
    """

    terms: Sequence[Mapping[str, Any] | tuple[Loss, float]]

    def __post_init__(self) -> None:
        is_list = isinstance(self.terms, Sequence) and not isinstance(self.terms, str) and len(self.terms) > 0
        require(
            is_list, "terms of loss sum must be a list of losses", Words(type(self.terms).__name__), "write - name: rollout"
        )
        object.__setattr__(self, "terms", tuple(map(_term, self.terms)))

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        return _Sum([(loss.build(spec, data), weight) for loss, weight in self._terms])

    def require_sight(self, steps: int) -> None:
        for loss, _ in self._terms:
            loss.require_sight(steps)

    @property
    def takes_unobserved(self) -> bool:
        return all(loss.takes_unobserved for loss, _ in self._terms)

    @property
    def _terms(self) -> list[tuple[Loss, float]]:
        return [term for term in self.terms if isinstance(term, tuple)]


def _term(given: Any) -> tuple[Loss, float]:
    """Convert a term of the settings to a loss and its weight."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Loss):
        loss, weight = given
    else:
        fits = isinstance(given, Mapping) and "name" in given and set(given) <= set(_KEYS)
        require(fits, "a term of loss sum must have a name, and may have args and a weight", given)
        args = given.get("args")
        loss, weight = build_loss(Component(given["name"], {} if args is None else dict(args))), given.get("weight", 1.0)
    if not is_number(weight) or not 0 < weight < np.inf:
        raise ConfigError(f"the weight of a term of loss sum must be a positive number, not {weight!r}.")
    return loss, float(weight)


@dataclass(frozen=True)
class _Sum:
    """The loss of :class:`Sum`.

    Args:
        terms: Measures with their weights.
    """

    terms: Sequence[tuple[Measure, float]]

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return torch.stack([weight * measure(rollout, references) for measure, weight in self.terms]).sum()

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        parts = [weight**0.5 * residuals_of(measure)(rollout, references) for measure, weight in self.terms]
        return torch.cat(parts)
