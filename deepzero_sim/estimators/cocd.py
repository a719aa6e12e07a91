"""Cyclic coordinate descent: a few coordinates an update, and what was measured of the others before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.requirements import Words, is_count, require
from deepzero_sim.common.types import Mask, NamedTensors, Scheme, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    active_coordinates,
    as_gradient,
    ask_slopes,
    by_parameter,
    coordinate_queries,
    parameters_of,
    places_of,
    require_scheme,
)
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger


class CoCD(Estimator):
    """Gradients of which a part is measured at every update, and the rest is older (CoCD, arXiv 2605.14373):

        g_t = decay g_{t-1},   then g_t[j] = (l(theta + mu e_j) - l(theta)) / mu for the next coordinates j

    All active coordinates have their turn, in an order that is drawn once, before the first has its second. With a decay of 0
    it is the descent along blocks of coordinates.

    Args:
        budget: Number of coordinates that are measured at an update; one query each, central two.
        decay: Share of a slope that is left of it at each later update, from 0 to 1; the larger, the smaller the learning rate.
        step_size: Length of a step in units of the parameters, `mu`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
        seed: Seed of the order.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        budget: int = 64,
        decay: float = 0.5,
        step_size: float = 1e-3,
        scheme: Scheme = "central",
        *,
        seed: int = 0,
    ) -> None:
        require_scheme(step_size, scheme)
        require(is_count(budget), "budget must be a positive whole number of coordinates", budget)
        require(is_number(decay) and 0 <= decay <= 1, "decay must be a number from 0 to 1", decay)
        require(is_count(seed, least=0), "seed must be 0 or a positive whole number", seed)
        self.budget, self.decay, self.seed = int(budget), float(decay), int(seed)
        self.step_size = step_size
        self.scheme: Scheme = scheme
        self._slopes: torch.Tensor | None = None
        self._taken = 0

    def estimate(
        self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, ledger: Ledger | None = None
    ) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        active = active_coordinates(parameters, mask)
        count, kept = sum(p.numel() for p in parameters.values()), self._slopes
        if kept is None:
            kept = torch.zeros(count, dtype=torch.float64)
        remedy = "make another CoCD for another network"
        require(len(kept) == count, f"slopes are kept of {len(kept):,} coordinates", Words(f"{count:,}"), remedy)
        places = places_of(active, parameters)
        chosen = self._next(places)
        queries = coordinate_queries(by_parameter(chosen, parameters), self.step_size, self.scheme)
        found = ask_slopes(oracle, batch, queries, self.step_size, self.scheme, ledger)
        slopes = self.decay * kept
        slopes[chosen[found.known]] = found.values[found.known].double().cpu()
        self._slopes, self._taken = slopes, self._taken + len(chosen)
        return replace(found.estimate, grads=as_gradient(slopes[places], active, parameters))

    def _next(self, places: torch.Tensor) -> torch.Tensor:
        """Return the places whose turn it is, sorted, `(k,)`."""
        order = places[torch.randperm(len(places), generator=new_generator(self.seed))]
        turns = torch.arange(self._taken, self._taken + min(self.budget, len(places))) % len(places)
        return order[turns].sort().values

    def state_dict(self) -> NamedTensors:
        return {} if self._slopes is None else {"slopes": self._slopes, "taken": torch.tensor(self._taken)}

    def load_state_dict(self, state_dict: NamedTensors) -> None:
        if not state_dict:
            self._slopes, self._taken = None, 0
            return
        if set(state_dict) != {"slopes", "taken"}:
            names = ", ".join(sorted(state_dict))
            raise ConfigError(f"the state of a CoCD must hold slopes and taken, not {names}: take the estimator of the run.")
        self._slopes, self._taken = state_dict["slopes"], int(state_dict["taken"])
