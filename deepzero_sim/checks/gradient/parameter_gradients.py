"""The gradient of an oracle's loss by the network's parameters as the gradient under test."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.checks.gradient.subject import (
    SampleGradients,
    Subject,
    require_same_answer,
    require_same_step,
    require_twin,
)
from deepzero_sim.checks.gradient.sweep import Vector
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import NamedTensors, to_array
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.estimators.base import Estimator, differences, require_precision
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.parameters import trainable, unit_direction
from deepzero_sim.oracle.queries import Directions
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest


class ParameterGradients(Subject):
    """Gradient of an oracle's loss by the network's parameters, on every one of some batches.

    Along a unit direction `u` of the parameters, the slope of the loss is

        (l(theta + mu u) - l(theta - mu u)) / (2 mu)

    which must be `u.g`; `mu` is in units of `|theta|`.

    Args:
        oracle: Oracle whose loss it is; forward steps of its solver give the slopes.
        batches: Batches that the oracle takes.
        estimator: Method under test.
        seed: Seed of the estimator's own directions, if it draws any.
    """

    def __init__(self, oracle: Oracle, batches: Sequence[Any], estimator: Estimator | None = None, seed: int = 0) -> None:
        if not batches:
            raise ConfigError("a gradient is checked on one batch or more, but none were given: pass what the oracle takes.")
        self._oracle, self._batches, self._seed = oracle, batches, seed
        self._estimator = BackPropagation() if estimator is None else estimator
        self._parameters = trainable(oracle.model)
        self.samples = len(batches)
        # one batch at a time: all queries on it share the rollout of the unperturbed network
        self._preparation = functools.lru_cache(maxsize=1)(self._prepare)

    def _prepare(self, sample: int) -> Any:
        self.steps += self._oracle.preparation_steps(self._batches[sample])
        preparation = self._oracle.prepare(self._batches[sample])
        require_finite(preparation.loss)
        return preparation

    def estimate(self) -> SampleGradients:
        before, total, gradients = self._oracle.backward_steps, 0, []
        with preserve_state(self._oracle.model):
            for batch in self._batches:
                estimate = self._estimator.estimate(self._oracle, batch, seed=self._seed)
                total += estimate.solver_steps
                gradients.append(_flatten(estimate.grads))
        backward = self._oracle.backward_steps - before
        return SampleGradients(gradients, total - backward, backward)

    def exact_gradients(self, twin: DifferentiableSolver) -> list[Vector]:
        if not isinstance(self._oracle, LoopOracle):
            raise ConfigError(
                f"only the solver of a LoopOracle has a twin, but this is a {type(self._oracle).__name__}: leave twin out."
            )
        loop = self._oracle.loop
        require_twin(twin, loop.solver.spec)
        oracle = LoopOracle(loop.with_solver(twin, "exact"), self._oracle.loss_function)
        gradients = ParameterGradients(oracle, self._batches).estimate().gradients
        states, params = (None if part is None else torch.as_tensor(part)[:1] for part in self._batches[0][:2])
        assert states is not None
        at_rest = with_inputs_at_rest(twin)
        assert isinstance(at_rest, DifferentiableSolver)
        require_same_step(at_rest, with_inputs_at_rest(loop.solver), states, params)
        self.steps += 1
        return gradients

    def size(self, sample: int) -> float:
        first = self._preparation(sample).loss
        self._preparation.cache_clear()
        second = self._preparation(sample).loss
        require_same_answer(bool(first == second), "the oracle", f"losses of {first} and then {second}")
        return abs(float(second))

    def unit(self, sample: int) -> float:
        return float(np.linalg.norm(_flatten(self._parameters))) or 1.0

    def smallest_step(self) -> float:
        return 0.0  # differences are carried through the network, not taken of its rounded parameters

    def directions(self, seeds: Sequence[int]) -> Vector:
        return np.stack([_flatten(unit_direction(self._parameters, seed, None)) for seed in seeds])

    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        step = step_size * self.unit(sample)
        require_precision(self._parameters, step)
        queries = Directions(tuple(seed for seed in seeds for _ in range(2)), (step, -step) * len(seeds))
        answers = self._oracle.ask(self._preparation(sample), [queries])
        self.steps += answers.solver_steps
        return np.asarray(differences(answers.changes, step, "central").numpy())


def _flatten(tensors: NamedTensors) -> Vector:
    """Put all numbers into one vector, complex ones as their real and imaginary part."""
    parts = (torch.view_as_real(x.detach()) if x.is_complex() else x for x in tensors.values())
    return np.concatenate([to_array(part).reshape(-1).astype(np.float64) for part in parts])
