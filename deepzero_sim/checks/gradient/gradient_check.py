"""Whether a gradient that was estimated past a solver is the true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from deepzero_sim.checks.gradient.agreement import Agreement
from deepzero_sim.checks.gradient.layer_products import LayerProducts
from deepzero_sim.checks.gradient.parameter_gradients import ParameterGradients
from deepzero_sim.checks.gradient.subject import Found, Subject
from deepzero_sim.checks.gradient.sweep import Sweep
from deepzero_sim.checks.gradient.truth import Truth, measure_truth
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import Estimator
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.solver.contract import DifferentiableSolver


@dataclass(frozen=True)
class Steps:
    """States advanced by one step.

    Args:
        forward: by the forward passes of the gradients, or by queries.
        backward: for vector-Jacobian products.
        check: to find out how good the gradients are.
        once: before, and for all gradients to come, such as to measure Jacobians.
    """

    forward: int
    backward: int
    check: int
    once: int = 0


@dataclass(frozen=True)
class GradientCheck:
    """What a check found.

    Args:
        exact: whether the true gradient is known, from a twin; if not, cosine and norm ratio are estimates,
            with standard errors.
        agreements: of the found with the true gradient, at every sample.
        sweep: of difference quotients over their step size.
        steps: what it cost.
    """

    exact: bool
    agreements: tuple[Agreement, ...]
    sweep: Sweep
    steps: Steps

    @property
    def cosine(self) -> float | None:
        """The mean over samples, those left out where a gradient is zero; None if it is so at all of them."""
        return _mean([a.cosine for a in self.agreements])

    @property
    def cosine_min(self) -> float | None:
        """The least of all samples."""
        return min((a.cosine for a in self.agreements if a.cosine is not None), default=None)

    @property
    def cosine_error(self) -> float:
        """The standard error of :attr:`cosine`, of the directions drawn."""
        return _error_of_mean([a.cosine_error for a in self.agreements if a.cosine is not None])

    @property
    def norm_ratio(self) -> float | None:
        """The mean over samples, those left out where the true gradient is zero; None if it is so at all of them."""
        return _mean([a.norm_ratio for a in self.agreements])

    @property
    def norm_ratio_error(self) -> float:
        """The standard error of :attr:`norm_ratio`, of the directions drawn."""
        return _error_of_mean([a.norm_ratio_error for a in self.agreements if a.norm_ratio is not None])

    @property
    def steps_per_gradient(self) -> float:
        """Solver steps, forward and backward, of one sample."""
        return (self.steps.forward + self.steps.backward) / len(self.agreements)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        means = ("cosine", "cosine_min", "cosine_error", "norm_ratio", "norm_ratio_error", "steps_per_gradient")
        ceiling = {"cosine_ceiling": 1.0 if self.exact else self.sweep.cosine_ceiling}
        return {name: getattr(self, name) for name in means} | ceiling | asdict(self)


def check_gradient(
    subject: SolverLayer | Oracle,
    *batches: Any,
    twin: DifferentiableSolver | None = None,
    estimator: Estimator | None = None,
    directions: int = 64,
    seed: int = 0,
) -> GradientCheck:
    """Compare a gradient with the true one: cosine and norm ratio, and what it cost in solver steps.

    Of a layer that is `J^T w` at every state, for random `w`; of an oracle the gradient of its loss by the network's
    parameters, on every batch. The true one is that of a differentiable twin of the solver, by back-propagation. Without one,
    forward steps say its slopes along random directions, of which cosine and norm ratio are estimated
    (:func:`~.agreement.with_slopes`).

    Args:
        subject: a layer, or an oracle.
        batches: of a layer one, `(states, params)`, `(B, C, *N)` and `(B, K)` or None, or `states` alone; of an oracle what it
            takes, one or more.
        twin: a differentiable solver that takes the same step.
        estimator: of an oracle's gradient; BackPropagation if None, past the solver as its loop says.
        directions: along which slopes are measured, of every sample.
        seed: of cotangents and directions.

    Raises:
        ConfigError: something cannot be checked, or answers change from call to call.
        SolverError: the solver failed.
    """
    checked = _subject(subject, batches, estimator, seed)
    return held_against(measure_truth(checked, twin, directions, seed), checked.found())


def held_against(truth: Truth, found: Found, once: int = 0) -> GradientCheck:
    """Found gradients against the truth.

    Args:
        truth: of the samples.
        found: at the same ones.
        once: solver steps that were taken before.
    """
    steps = Steps(found.forward, found.backward, truth.steps, once)
    return GradientCheck(truth.exact is not None, tuple(truth.agreements(found.gradients)), truth.sweep, steps)


def _subject(subject: SolverLayer | Oracle, batches: Sequence[Any], estimator: Estimator | None, seed: int) -> Subject:
    if isinstance(subject, Oracle):
        return ParameterGradients(subject, batches, estimator, seed)
    if not isinstance(subject, SolverLayer):
        raise ConfigError(f"a dz.SolverLayer or an oracle has a gradient to be checked, not {type(subject).__name__}.")
    if estimator is not None:
        raise ConfigError("an estimator asks an oracle, not a layer, whose vjp estimates: leave it out.")
    if len(batches) != 1:
        raise ConfigError(f"a layer is checked at one batch, (states, params), not {len(batches)}: put its states together.")
    (batch,) = batches
    if isinstance(batch, torch.Tensor | np.ndarray):
        return LayerProducts(subject, batch, None, seed + 1)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ConfigError(f"a layer is checked at states or (states, params), not {type(batch).__name__} of another make.")
    states, params = batch
    return LayerProducts(subject, states, params, seed + 1)  # the directions have the seed itself


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _error_of_mean(errors: Sequence[float]) -> float:
    return float(sum(error**2 for error in errors) ** 0.5 / len(errors)) if errors else 0.0
