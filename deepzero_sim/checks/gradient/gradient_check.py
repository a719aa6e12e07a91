"""Check of a gradient that was estimated past a solver: does it agree with the true one, and what did it cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from deepzero_sim.checks.gradient.layer_products import LayerProducts, ParameterProducts
from deepzero_sim.checks.gradient.parameter_gradients import ParameterGradients
from deepzero_sim.checks.gradient.subject import SampleGradients, Subject
from deepzero_sim.checks.gradient.sweep import Sweep
from deepzero_sim.checks.gradient.truth import Agreement, Truth, measure_truth
from deepzero_sim.common.requirements import require, require_one_of, require_that
from deepzero_sim.common.types import to_array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.base import Estimator
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.stepped_inputs import count_inputs
from deepzero_sim.solver.validation import check_states

#: Arguments of a step that a layer gives gradients of.
Argument: TypeAlias = Literal["states", "inputs", "params"]


@dataclass(frozen=True)
class Steps:
    """Solver steps of a check: states advanced by one step.

    Args:
        forward: Steps of the gradients' forward passes, or queries.
        backward: Steps for vector-Jacobian products.
        check: Steps to find out how good the gradients are.
        once: Steps before, and for all gradients to come, such as to measure Jacobians.
    """

    forward: int
    backward: int
    check: int
    once: int = 0


@dataclass(frozen=True)
class GradientCheck:
    """Result of a check.

    Args:
        exact: True if the true gradient is known, from a twin; if not, cosine and norm ratio are estimates, with standard
            errors.
        agreements: Agreement with the true gradient at every sample.
        sweep: Difference quotients over their step size.
        steps: Cost of gradients and check.
    """

    exact: bool
    agreements: tuple[Agreement, ...]
    sweep: Sweep
    steps: Steps

    @property
    def cosine(self) -> float | None:
        """Mean over samples, without those where a gradient is zero; None if it is zero at all of them."""
        return _mean([a.cosine for a in self.agreements])

    @property
    def cosine_min(self) -> float | None:
        """Smallest cosine of all samples."""
        return min((a.cosine for a in self.agreements if a.cosine is not None), default=None)

    @property
    def cosine_error(self) -> float:
        """Standard error of :attr:`cosine`, from the random choice of directions."""
        return _error_of_mean([a.cosine_error for a in self.agreements if a.cosine is not None])

    @property
    def norm_ratio(self) -> float | None:
        """Mean over samples, without those where the true gradient is zero; None if it is zero at all of them."""
        return _mean([a.norm_ratio for a in self.agreements])

    @property
    def norm_ratio_error(self) -> float:
        """Standard error of :attr:`norm_ratio`, from the random choice of directions."""
        return _error_of_mean([a.norm_ratio_error for a in self.agreements if a.norm_ratio is not None])

    @property
    def steps_per_gradient(self) -> float:
        """Solver steps, forward and backward, of one sample."""
        return (self.steps.forward + self.steps.backward) / len(self.agreements)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
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
    of: Argument = "states",
) -> GradientCheck:
    """Compare a gradient with the true one: cosine and norm ratio, and what it cost in solver steps.

    For a layer that is `J^T w` at every state, with random `w`; for an oracle the gradient of its loss by the network's
    parameters, on every batch. The true one is that of a differentiable twin of the solver, by back-propagation. Without one,
    forward steps give its slopes along random directions, from which cosine and norm ratio are estimated
    (:func:`~.truth.compare_slopes`).

    Args:
        subject: Layer or oracle whose gradient is checked.
        batches: One batch of a layer, `(states, params)`, `(B, C, *N)` and `(B, K)` or None, or `states` alone, or with the
            fields that the solver reads as a third, `(B, U, *N)`; one or more batches of an oracle, as it takes them.
        twin: Differentiable solver that takes the same step.
        estimator: Estimator of an oracle's gradient; BackPropagation if None, past the solver as its loop says.
        directions: Number of directions along which slopes are measured, at every sample.
        seed: Seed of cotangents and directions.
        of: Argument of a layer that its gradient is taken with respect to: ``"states"``, ``"inputs"``, the fields that the
            solver reads besides them, or ``"params"``, in units of each.

    Raises:
        ConfigError: An argument cannot be used, or answers change from call to call.
        SolverError: The solver failed.
    """
    tested = _as_subject(subject, batches, estimator, seed, of)
    return compare_with_truth(measure_truth(tested, twin, directions, seed), tested.estimate())


def compare_with_truth(truth: Truth, gradients: SampleGradients, once: int = 0) -> GradientCheck:
    """Compare gradients with the true ones.

    Args:
        truth: True gradients.
        gradients: Gradients at the same samples.
        once: Solver steps that were taken before.
    """
    steps = Steps(gradients.forward, gradients.backward, truth.steps, once)
    return GradientCheck(truth.exact is not None, tuple(truth.agreements(gradients.gradients)), truth.sweep, steps)


def _as_subject(
    subject: SolverLayer | Oracle, batches: Sequence[Any], estimator: Estimator | None, seed: int, of: Argument
) -> Subject:
    require_one_of(of, get_args(Argument), "of")
    if isinstance(subject, Oracle):
        require(of == "states", "the gradient of an oracle is that of its network, so of must be left out", of)
        return ParameterGradients(subject, batches, estimator, seed)
    if not isinstance(subject, SolverLayer):
        raise ConfigError(f"a dz.SolverLayer or an oracle has a gradient to be checked, not {type(subject).__name__}.")
    if estimator is not None:
        raise ConfigError("an estimator asks an oracle, not a layer, whose vjp estimates: leave it out.")
    expected = "a layer is checked at one batch, (states, params)"
    require(len(batches) == 1, expected, len(batches), "put its states together")
    (batch,) = batches
    parts = (batch,) if isinstance(batch, torch.Tensor | np.ndarray) else batch
    most = 3 if count_inputs(subject.solver) else 2
    if not isinstance(parts, tuple | list) or not 1 <= len(parts) <= most:
        raise ConfigError(f"a layer is checked at states or (states, params), not {type(batch).__name__} of another make.")
    states, params, inputs = (*parts, None, None)[:3]
    taken = subject.with_inputs(torch.as_tensor(states), None if inputs is None else torch.as_tensor(inputs))
    spec = subject.solver.spec
    check_states(spec, to_array(taken), "the states at which a gradient is checked", "check the data")
    require_that(len(taken) > 0, "a gradient is checked at one state or more, but none were given: pass states (B, C, *N).")
    if of == "inputs" and not count_inputs(subject.solver):
        raise ConfigError(f"solver {spec.name!r} reads no inputs, so that there is no gradient of them: leave out of.")
    if of != "params":
        return LayerProducts(subject, taken, params, seed + 1, of == "inputs")  # the directions have the seed itself
    if params is None:
        raise ConfigError("a gradient of params needs some: pass (states, params) with params (B, K).")
    return ParameterProducts(subject, taken, torch.as_tensor(params), seed + 1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _error_of_mean(errors: Sequence[float]) -> float:
    return float(sum(error**2 for error in errors) ** 0.5 / len(errors)) if errors else 0.0
