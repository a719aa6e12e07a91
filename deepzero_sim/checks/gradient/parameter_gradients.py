"""The gradient of an oracle's loss by the network's parameters, to be checked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.checks.gradient.subject import Found, Subject, Vector, require_same_step, require_twin, two_answers
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import NamedTensors, to_array
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import BackPropagation, Estimator
from deepzero_sim.estimators.base import require_precision, differences
from deepzero_sim.oracle.base import LoopOracle, Oracle, require_finite
from deepzero_sim.oracle.queries import Directions, trainable, unit_direction
from deepzero_sim.solver.contract import DifferentiableSolver


class ParameterGradients(Subject):
    """The gradient of an oracle's loss by the network's parameters, on every one of some batches.

    Along a unit direction `u` of the parameters, the slope of the loss is

        (l(theta + mu u) - l(theta - mu u)) / (2 mu)

    which must be `u.g`; `mu` is in units of `|theta|`.

    Args:
        oracle: whose loss; forward steps of its solver say the slopes.
        batches: what it takes.
        estimator: how the gradient is found.
        seed: of the estimator's own directions, if it draws any.
    """

    def __init__(self, oracle: Oracle, batches: Sequence[Any], estimator: Estimator | None = None, seed: int = 0) -> None:
        if not batches:
            raise ConfigError("a gradient is checked on one batch or more, but none were given: pass what the oracle takes.")
        self._oracle, self._batches, self._seed = oracle, batches, seed
        self._estimator = BackPropagation() if estimator is None else estimator
        self._parameters = trainable(oracle.model)
        self.samples = len(batches)
        # an oracle keeps what one batch has in common for its queries
        self._prepared = functools.lru_cache(maxsize=1)(self._prepare)

    def _prepare(self, sample: int) -> Any:
        self.steps += self._oracle.preparation_steps(self._batches[sample])
        prepared = self._oracle.prepare(self._batches[sample])
        require_finite(prepared.loss)
        return prepared

    def found(self) -> Found:
        before, total, gradients = self._oracle.backward_steps, 0, []
        with preserve_state(self._oracle.model):
            for batch in self._batches:
                estimate = self._estimator.estimate(self._oracle, batch, seed=self._seed)
                total += estimate.solver_steps
                gradients.append(_flat(estimate.grads))
        backward = self._oracle.backward_steps - before
        return Found(gradients, total - backward, backward)

    def exact(self, twin: DifferentiableSolver) -> list[Vector]:
        if not isinstance(self._oracle, LoopOracle):
            raise ConfigError(
                f"only the solver of a LoopOracle has a twin, but this is a {type(self._oracle).__name__}: leave twin out."
            )
        loop = self._oracle.loop
        require_twin(twin, loop.solver.spec)
        oracle = LoopOracle(SolverLoop(twin, loop.corrector, loop.unroll, "exact"), self._oracle.loss_function)
        found = ParameterGradients(oracle, self._batches).found().gradients
        states, params = (None if part is None else torch.as_tensor(part)[:1] for part in self._batches[0][:2])
        assert states is not None
        require_same_step(twin, loop.solver, states, params)
        self.steps += 1
        return found

    def size(self, sample: int) -> float:
        first = self._prepared(sample).loss
        self._prepared.cache_clear()
        second = self._prepared(sample).loss
        if first != second:
            raise two_answers("the oracle", f"losses of {first} and then {second}")
        return abs(float(second))

    def unit(self, sample: int) -> float:
        return float(np.linalg.norm(_flat(self._parameters))) or 1.0

    def smallest_step(self) -> float:
        return 0.0  # differences are carried through the network, not taken of its rounded parameters

    def directions(self, seeds: Sequence[int]) -> Vector:
        return np.stack([_flat(unit_direction(self._parameters, seed, None)) for seed in seeds])

    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        step = step_size * self.unit(sample)
        require_precision(self._parameters, step)
        queries = Directions(tuple(seed for seed in seeds for _ in range(2)), (step, -step) * len(seeds))
        answers = self._oracle.ask(self._prepared(sample), [queries])
        self.steps += answers.solver_steps
        return np.asarray(differences(answers.changes, step, "central").numpy())


def _flat(tensors: NamedTensors) -> Vector:
    """All numbers in one vector; of a complex one its real and imaginary part."""
    parts = (torch.view_as_real(x.detach()) if x.is_complex() else x for x in tensors.values())
    return np.concatenate([to_array(part).reshape(-1).astype(np.float64) for part in parts])
