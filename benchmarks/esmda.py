"""Ensemble smoother with multiple data assimilation, by the package `iterative-ensemble-smoother` (GPL-3.0-or-later).

What a user of ensembles would take who has none of ours: Emerick and Reynolds, Computers & Geosciences 55 (2013) 3. It is asked
for one assimilation a batch; nothing of the package is copied or shipped, and it is imported only here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.errors import MissingExtraError
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    active_coordinates,
    as_gradient,
    displacements_of,
    parameters_of,
    places_of,
)
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.parameters import root_mean_square
from deepzero_sim.oracle.residuals import ResidualRequest


class ESMDA(Estimator):
    """Steps of an ensemble smoother, to be subtracted from the parameters as they are.

    The covariance of the data is that of independent errors as large as the residuals now are, times the number of
    assimilations, as the method prescribes for data that are assimilated so many times.

    Args:
        members: Number of members.
        spread: Standard deviation of a coordinate in the first ensemble, in root mean squares of the parameters.
        assimilations: Number of updates that there will be.
    """

    gives_steps = True

    def __init__(self, members: int, spread: float, assimilations: int) -> None:
        self.members, self.spread, self.assimilations = members, spread, assimilations
        self._deviations: torch.Tensor | None = None

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        try:
            import iterative_ensemble_smoother  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtraError("ESMDA", "iterative_ensemble_smoother", "bench") from error
        parameters = parameters_of(oracle, mask)
        active = active_coordinates(parameters, mask)
        prepared = oracle.prepare(batch)
        y = oracle.residuals(prepared).numpy()
        places = places_of(active, parameters)
        deviations = self._first(parameters, len(places), seed) if self._deviations is None else self._deviations
        answers = oracle.ask(prepared, [displacements_of(deviations, places, parameters)], request=ResidualRequest())
        assert answers.residuals is not None
        errors = np.full(len(y), max(float(np.mean(y**2)), 1e-30) * self.assimilations)
        smoother = iterative_ensemble_smoother.ESMDA(covariance=errors, observations=-y, alpha=np.array([1.0]), seed=seed)
        smoother.prepare_assimilation(Y=answers.residuals.double().numpy().T)
        moved = torch.from_numpy(smoother.assimilate_batch(X=np.ascontiguousarray(deviations.numpy().T)).T)
        step = moved.mean(0)
        self._deviations = moved - step
        account = prepared.account + answers.account
        return GradientEstimate(as_gradient(-step, active, parameters), prepared.loss, 1 + self.members, account.steps)

    def _first(self, parameters: NamedTensors, count: int, seed: int) -> torch.Tensor:
        drawn = (
            self.spread
            * root_mean_square(parameters)
            * torch.randn(self.members, count, generator=new_generator(seed), dtype=torch.float64)
        )
        return drawn - drawn.mean(0)

    def state_dict(self) -> NamedTensors:
        return {} if self._deviations is None else {"deviations": self._deviations.contiguous()}

    def load_state_dict(self, state_dict: NamedTensors) -> None:
        self._deviations = state_dict.get("deviations")
