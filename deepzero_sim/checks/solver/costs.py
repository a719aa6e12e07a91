"""Cost of a step by batch, and of one gradient by each method: solver steps, as the methods themselves count them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from deepzero_sim.checks.solver.results import BatchTime, GradientCost, GradientCosts, seconds_of
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.probes import TOGETHER
from deepzero_sim.coupling.vjp.auto.auto import Auto
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.coupling.vjp.coloured import Coloured
from deepzero_sim.coupling.vjp.field.jacobian_field import JacobianField
from deepzero_sim.coupling.vjp.reference.reference_jacobian import ReferenceJacobian
from deepzero_sim.coupling.vjp.stencil_radius import is_wide
from deepzero_sim.errors import ConfigError, SolverError
from deepzero_sim.estimators.base import query_steps
from deepzero_sim.estimators.cge import CGE
from deepzero_sim.estimators.rge import RGE
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.contract import DifferentiableSolver, Solver

#: Most states in a call and most bytes of them; least and most calls to time; seconds after which that is enough.
MOST_STATES, MOST_BYTES, LEAST_CALLS, MOST_CALLS, ENOUGH = 512, 2**27, 3, 25, 0.05


def measure_times(trial: Trial, most: int) -> Iterator[BatchTime]:
    """Time calls with 1, 2, 4, ... states, as far as spec and time allow; where they do not, take what other parts took.

    Args:
        trial: Trial after its survey.
        most: Number of states in a call that the solver is known to take.
    """
    sample, batch, expected = trial.samples[0], 1, trial.second_a_step
    most = min(most, trial.spec.max_batch or MOST_STATES, MOST_STATES, max(1, MOST_BYTES // sample.state.nbytes))
    if LEAST_CALLS * expected > 0.5 * trial.seconds_left:
        yield from (BatchTime(states, seconds) for states, seconds in trial.seconds_a_call.items() if states <= most)
        return
    while batch <= most and 0.5 * trial.seconds_left > LEAST_CALLS * expected:
        states = np.repeat(sample.state, batch, axis=0)
        params = None if sample.params is None else np.repeat(sample.params, batch, axis=0)
        try:
            calls = _time_calls(trial, states, params)
        except SolverError:  # another line says it
            break
        seconds = statistics.median(calls)
        yield BatchTime(batch, seconds)
        batch, expected = 2 * batch, 2 * seconds


def _time_calls(trial: Trial, states: np.ndarray, params: np.ndarray | None) -> list[float]:
    """Time calls of the same states, in seconds."""
    calls: list[float] = []
    while len(calls) < LEAST_CALLS or (sum(calls) < ENOUGH and len(calls) < MOST_CALLS):
        started = time.perf_counter()
        trial.step(states, params)
        calls.append(max(time.perf_counter() - started, 1e-9))
        if trial.seconds_left < calls[-1]:
            break
    return calls


class _Steps(NamedTuple):
    """Solver steps of a method.

    Args:
        forward: Steps of the rollouts.
        more: Steps that a gradient takes besides.
        once: Steps before all gradients, at most.
        at_once: Number of states in a call of `more`.
    """

    forward: int
    more: int = 0
    once: int = 0
    at_once: int = TOGETHER


class _Rollouts(NamedTuple):
    """Rollouts of a network in the loop of a solver, the first step of which is known.

    Args:
        oracle: Oracle of the loop.
        batch: Batch of the training's size, without values.
        radius: Distance over which a step carries information, in points, if it is known.
    """

    oracle: LoopOracle
    batch: tuple[np.ndarray, ...]
    radius: int | None

    @property
    def solver(self) -> Solver:
        return self.oracle.loop.solver

    @property
    def forward(self) -> int:
        """Number of steps of the rollouts."""
        return self.oracle.preparation_steps(self.batch)

    def queries(self, count: int) -> _Steps:
        """Count the steps of so many perturbed losses, each of which rolls out anew."""
        size = len(self.batch[0])
        return _Steps(self.forward, count * self.forward, at_once=size * self.oracle.queries_per_chunk)


def _count_cge(rollouts: _Rollouts) -> _Steps:
    active = {name: torch.arange(p.numel()) for name, p in trainable(rollouts.oracle.model).items()}
    return rollouts.queries(sum(map(len, CGE().queries(active))))


def _count_rge(rollouts: _Rollouts) -> _Steps:
    estimator = RGE()
    return rollouts.queries(estimator.num_directions * len(query_steps(estimator.step_size, estimator.scheme)))


def _count_coloured(rollouts: _Rollouts) -> _Steps:
    spec = rollouts.solver.spec
    radius = spec.stencil if spec.stencil is not None else rollouts.radius
    if radius is None:
        raise ConfigError("it needs a stencil in the spec, or a reach that was measured.")
    if is_wide(radius, spec):
        raise ConfigError(f"a step carries information over {radius} points, too far for it to be cheap.")
    return _Steps(rollouts.forward, rollouts.forward * Coloured().steps_per_product(spec, radius))  # a product of every step


def _count_measured(product: VectorJacobianProduct) -> Callable[[_Rollouts], _Steps]:
    """Count the steps with a product that takes steps once, and none afterwards."""
    return lambda rollouts: _Steps(rollouts.forward, once=product.steps_to_measure(rollouts.solver.spec))


def _count_exact(rollouts: _Rollouts) -> _Steps:
    if not isinstance(rollouts.solver, DifferentiableSolver):
        raise ConfigError("the solver is no DifferentiableSolver.")
    return _Steps(rollouts.forward)


_METHODS: Mapping[str, Callable[[_Rollouts], _Steps]] = {
    "NON": lambda rollouts: _Steps(0),  # the only step of its rollouts is known
    "DETACHED, STRAIGHT-THROUGH": lambda rollouts: _Steps(rollouts.forward),
    "SolverLayer, Auto": _count_measured(Auto()),
    "SolverLayer, ReferenceJacobian": _count_measured(ReferenceJacobian()),
    "SolverLayer, JacobianField": _count_measured(JacobianField()),
    "SolverLayer, Coloured": _count_coloured,
    "ZO-SOL, CGE central": _count_cge,
    f"ZO-SOL, RGE of {RGE().num_directions} directions, central": _count_rge,
    "FO-SOL": _count_exact,
}


def gradient_costs(
    solver: Solver, network: nn.Module, unroll: int, batch_size: int, radius: int | None, times: Sequence[BatchTime]
) -> GradientCosts:
    """Count what gradients will cost.

    Args:
        solver: Any solver.
        network: Corrector.
        unroll: Solver steps of a rollout.
        batch_size: Rollouts of a gradient.
        radius: Distance over which a step carries information, in points, if it is known.
        times: Times of calls, by batch.
    """
    state = np.empty((batch_size, 0))
    oracle = LoopOracle(SolverLoop(solver, network, unroll), lambda rollout, references: (rollout - references).abs().mean())
    rollouts = _Rollouts(oracle, (state,) * 4, radius)
    methods, left_out = {}, {}
    for name, count in _METHODS.items():
        try:
            methods[name] = _cost(count(rollouts), batch_size, times)
        except ConfigError as error:
            left_out[name] = str(error)
    parameters = sum(p.numel() for p in trainable(network).values())
    return GradientCosts(parameters, unroll, batch_size, methods, left_out)


def _cost(steps: _Steps, batch_size: int, times: Sequence[BatchTime]) -> GradientCost:
    total = steps.forward + steps.more
    if not times:
        return GradientCost(total, steps.once, None, None)
    seconds = seconds_of(steps.forward, batch_size, times) + seconds_of(steps.more, steps.at_once, times)
    return GradientCost(total, steps.once, seconds, seconds_of(steps.once, TOGETHER, times))
