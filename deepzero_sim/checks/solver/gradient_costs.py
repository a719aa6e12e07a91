"""What one gradient will cost by each method: solver steps, as the methods themselves count them, and their seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from deepzero_sim.checks.solver.timing import BatchTime, seconds_of
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.probes import TOGETHER
from deepzero_sim.coupling.vjp import Coloured, ReferenceJacobian
from deepzero_sim.coupling.vjp.stencil_radius import is_wide
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import CGE, RGE
from deepzero_sim.estimators.base import query_steps
from deepzero_sim.oracle.base import LoopOracle
from deepzero_sim.oracle.queries import trainable
from deepzero_sim.solver.contract import DifferentiableSolver, Solver


@dataclass(frozen=True)
class GradientCost:
    """Of one gradient by a method.

    Args:
        steps: states advanced by one step for it.
        once: and once before all gradients.
        seconds: that the steps take, in one process; None if that was not measured.
        seconds_once: likewise.
    """

    steps: int
    once: int
    seconds: float | None
    seconds_once: float | None


@dataclass(frozen=True)
class GradientCosts:
    """By method, for a training of some setting.

    Args:
        parameters: of the network.
        unroll: solver steps of a rollout.
        batch_size: rollouts of a gradient.
        methods: by name.
        left_out: methods that do not suit the solver, and why.
    """

    parameters: int
    unroll: int
    batch_size: int
    methods: dict[str, GradientCost]
    left_out: dict[str, str]


class _Steps(NamedTuple):
    """Of a gradient and once, and states in a call of each."""

    forward: int
    more: int = 0
    once: int = 0
    at_once: int = TOGETHER


class _Rollouts(NamedTuple):
    """What is counted: rollouts of a network in the loop of a solver, the first step of which is known."""

    oracle: LoopOracle
    batch: tuple[np.ndarray, ...]
    reach: int | None

    @property
    def solver(self) -> Solver:
        return self.oracle.loop.solver

    @property
    def forward(self) -> int:
        """Steps of the rollouts."""
        return self.oracle.preparation_steps(self.batch)

    def queries(self, count: int) -> _Steps:
        """Of so many losses beside the base one: each rolls out anew."""
        size = len(self.batch[0])
        return _Steps(self.forward, count * self.forward, at_once=size * self.oracle.queries_per_chunk)


def _cge(rollouts: _Rollouts) -> _Steps:
    active = {name: torch.arange(p.numel()) for name, p in trainable(rollouts.oracle.model).items()}
    return rollouts.queries(sum(map(len, CGE().queries(active))))


def _rge(rollouts: _Rollouts) -> _Steps:
    estimator = RGE()
    return rollouts.queries(estimator.num_directions * len(query_steps(estimator.step_size, estimator.scheme)))


def _coloured(rollouts: _Rollouts) -> _Steps:
    spec = rollouts.solver.spec
    reach = spec.stencil if spec.stencil is not None else rollouts.reach
    if reach is None:
        raise ConfigError("it needs a stencil in the spec, or a reach that was measured.")
    if is_wide(reach, spec):
        raise ConfigError(f"a step carries information over {reach} points, too far for it to be cheap.")
    return _Steps(rollouts.forward, rollouts.forward * Coloured().steps_per_product(spec, reach))  # a product of every step


def _reference_jacobian(rollouts: _Rollouts) -> _Steps:
    return _Steps(rollouts.forward, once=ReferenceJacobian().steps_to_measure(rollouts.solver.spec))


def _exact(rollouts: _Rollouts) -> _Steps:
    if not isinstance(rollouts.solver, DifferentiableSolver):
        raise ConfigError("the solver is no DifferentiableSolver.")
    return _Steps(rollouts.forward)


_METHODS: Mapping[str, Callable[[_Rollouts], _Steps]] = {
    "NON": lambda rollouts: _Steps(0),  # the only step of its rollouts is known
    "DETACHED, STRAIGHT-THROUGH": lambda rollouts: _Steps(rollouts.forward),
    "SolverLayer, ReferenceJacobian": _reference_jacobian,
    "SolverLayer, Coloured": _coloured,
    "ZO-SOL, CGE central": _cge,
    f"ZO-SOL, RGE of {RGE().num_directions} directions, central": _rge,
    "FO-SOL": _exact,
}


def gradient_costs(
    solver: Solver, network: nn.Module, unroll: int, batch_size: int, reach: int | None, times: Sequence[BatchTime]
) -> GradientCosts:
    """What gradients will cost.

    Args:
        solver: any.
        network: the corrector.
        unroll: solver steps of a rollout.
        batch_size: rollouts of a gradient.
        reach: of a step, in points, if it is known.
        times: of calls, by batch.
    """
    state = np.empty((batch_size, 0))
    oracle = LoopOracle(SolverLoop(solver, network, unroll), lambda rollout, references: (rollout - references).abs().mean())
    rollouts = _Rollouts(oracle, (state,) * 4, reach)
    found, left_out = {}, {}
    for name, count in _METHODS.items():
        try:
            found[name] = _cost(count(rollouts), batch_size, times)
        except ConfigError as error:
            left_out[name] = str(error)
    parameters = sum(p.numel() for p in trainable(network).values())
    return GradientCosts(parameters, unroll, batch_size, found, left_out)


def _cost(steps: _Steps, batch_size: int, times: Sequence[BatchTime]) -> GradientCost:
    total = steps.forward + steps.more
    if not times:
        return GradientCost(total, steps.once, None, None)
    seconds = seconds_of(steps.forward, batch_size, times) + seconds_of(steps.more, steps.at_once, times)
    return GradientCost(total, steps.once, seconds, seconds_of(steps.once, TOGETHER, times))
