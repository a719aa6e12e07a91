"""Stencil radius of a solver's step: the distance over which it carries information, measured by probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import require_states

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: States and, of each channel, points that are probed at each; and the share of an answer's size that may lie farther.
STATES, POINTS, BEYOND = 4, 8, 0.01

#: Rounding of a value of a step that touches all points, in units of its dtype's last digit at the largest value.
LAST_DIGITS = 4.0


class Reach(NamedTuple):
    """Distance over which a step carries a change of one point, in points.

    Args:
        most: Least radius within which all but a hundredth of every answer's size lies.
        farthest: Distance of the farthest point that answers at all, or beyond rounding where rounding reaches everywhere.
        beyond: Largest share of an answer's size that lies farther than `most`.
    """

    most: int
    farthest: int
    beyond: float


def local_radius(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> int:
    """Measure the stencil radius of a step as :func:`measure_radius` does, at least 1, as points at rest may answer alone.

    Raises:
        ConfigError: The radius covers more than half of the longest axis.
        SolverError: The states are none of the solver's, or the solver failed.
    """
    radius = measure_radius(states, params, probes, differences)
    require_that(
        not is_wide(radius, probes.spec),
        f"a step of solver {probes.spec.name!r} carries information over {radius} points or more of {max(states.shape[2:])}, "
        "too far for Coloured to be cheap: take ReferenceJacobian, or give Coloured a radius within which a step carries most.",
    )
    return max(radius, 1)


def is_wide(radius: int, spec: SolverSpec) -> bool:
    """Tell a radius over half of the longest axis, unless that is short: probes of many points at once save little then."""
    longest: int = max(spec.state_shape[1:])
    return 2 * (2 * radius + 1) > longest > POINTS


def measure_radius(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> int:
    """Measure the least radius within which a step answers to a change of one point, but for a hundredth of the answer's size.

    See :func:`measure_reach`.
    """
    return measure_reach(states, params, probes, differences).most


def measure_reach(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> Reach:
    """Measure over how many points along any axis, around the ends of axes too, a step carries a change of one point.

    Half of the probed points lie all over the grid, half of them where a state differs most from a channel's mean. For each of
    `STATES` states it takes one solver step and one for `POINTS` points of every channel, two with central differences.

    Args:
        states: Solver states of which some are probed, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        probes: Means of asking the solver for steps, which it counts.
        differences: Finite differences by which answers are measured.

    Raises:
        SolverError: The states are none of the solver's, or the solver failed.
    """
    require_states(probes.spec, states, params)
    some = np.unique(np.linspace(0, len(states) - 1, STATES, dtype=int))
    reaches = [_reach_at(states[b], None if params is None else params[b], probes, differences) for b in some]
    most, exact, rounded = (max(column) for column in zip(*((r.most, r.exact, r.rounded) for r in reaches), strict=True))
    farthest = max(most, rounded if is_wide(exact, probes.spec) else exact)
    return Reach(most, farthest, max(float(reach.shares[most]) for reach in reaches))


def steps_of_reach(spec: SolverSpec, differences: Differences) -> int:
    """Count the solver steps of :func:`measure_reach`, at most."""
    return STATES * (1 + differences.steps_per_direction * POINTS * spec.state_shape[0])


class _StateReach(NamedTuple):
    """Reach at one state.

    Args:
        most: Least radius within which all but a hundredth of every answer lies.
        exact: Distance of the farthest point that changes in a bit.
        rounded: Distance of the farthest point that changes by more than rounding.
        shares: Largest share of an answer's size beyond each radius, `(longest axis,)`.
    """

    most: int
    exact: int
    rounded: int
    shares: Array


def _reach_at(state: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> _StateReach:
    places = _places(state, probes.spec.active())
    directions = np.zeros((len(places), *state.shape), state.dtype)
    directions[(np.arange(len(places)), *places.T)] = 1
    advanced = probes(state[None], None if params is None else params[None])[0]
    answers = differences.jvp(probes, state, params, advanced, directions)
    noise = _rounding(advanced) / differences.lengths(probes, state, directions)
    radii = max(state.shape[1:])
    size, exact, rounded = np.zeros((len(places), radii)), 0, 0
    for row, (answer, place) in enumerate(zip(answers, places, strict=True)):
        distance = wrapped_distance(answer.shape[1:], place[1:])
        size[row] = np.bincount(distance.reshape(-1), np.square(answer, dtype=np.float64).sum(0).reshape(-1), radii)
        exact = max(exact, int(distance[(answer != 0).any(0)].max(initial=0)))
        rounded = max(rounded, int(distance[(np.abs(answer) > noise[row]).any(0)].max(initial=0)))
    beyond, whole = size.sum(1, keepdims=True) - size.cumsum(1), size.sum(1, keepdims=True)
    most = int((beyond > BEYOND**2 * whole).sum(1).max())
    shares = np.sqrt(np.maximum(beyond, 0.0) / np.where(whole > 0, whole, 1.0)).max(0)
    return _StateReach(most, exact, rounded, shares)


def _rounding(advanced: Array) -> Array:
    """Bound the rounding of a difference of two steps to a state, `(C, *1)`, in each channel."""
    axes = tuple(range(1, advanced.ndim))
    largest = np.abs(advanced).max(axes, keepdims=True).astype(np.float64)
    return np.asarray(LAST_DIGITS * float(np.finfo(advanced.dtype).eps) * largest)


def _places(state: Array, active: np.ndarray) -> np.ndarray:
    """Choose active points of every channel, `(n, 1 + axes)`."""
    places = []
    for channel in range(len(active)):
        points = np.argwhere(active[channel])
        values = state[channel][active[channel]]
        if not len(points):
            continue
        # neither at an end of the grid, nor in step with it
        over = (np.arange(POINTS // 2) + 0.5) * len(points) // (POINTS // 2)
        most = np.argsort(-np.abs(values - values.mean()), kind="stable")[: POINTS // 2]
        places.append(np.insert(points[np.unique([*over, *most]).astype(int)], 0, channel, axis=1))
    return np.concatenate(places)


def wrapped_distance(points: tuple[int, ...], place: np.ndarray) -> np.ndarray:
    """Compute the distance of each point from a place, along the axis where it is largest, `(*N)`."""
    distance = np.zeros(points, dtype=int)
    for axis, (size, at) in enumerate(zip(points, place, strict=True)):
        along = np.abs(np.arange(size) - at)
        shape = [-1 if other == axis else 1 for other in range(distance.ndim)]
        distance = np.maximum(distance, np.minimum(along, size - along).reshape(shape))
    return distance
