"""How far a solver's step carries information, found out by probes."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec, require_states

#: States and, of each channel, points that are probed at each; and the share of an answer's size that may lie farther.
STATES, POINTS, BEYOND = 4, 8, 0.01


def reach(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> int:
    """The least radius within which a step answers to a change of one point, but for a hundredth of the answer's size.

    Half of the points lie all over the grid, half of them where a state differs most from a channel's mean.

    Args:
        states: some of which are probed, `(B, C, *N)`.
        params: `(B, K)` or None.
        probes: advances states: for each of `STATES` one and `POINTS` of every channel, twice that if central.
        differences: how.

    Returns:
        In points, the largest along any axis, around the ends of axes too; at least 1, for points at rest may answer alone.

    Raises:
        ConfigError: over more than half of the longest axis.
        SolverError: they are none of the solver's states, or the solver failed.
    """
    found = farthest(states, params, probes, differences)
    if too_far(found, probes.spec):
        raise ConfigError(
            f"a step of solver {probes.spec.name!r} carries information over {found} points or more of "
            f"{max(states.shape[2:])}, too far for "
            "Coloured to be cheap: take ReferenceJacobian, or give Coloured a radius within which a step carries most."
        )
    return max(found, 1)


def too_far(radius: int, spec: SolverSpec) -> bool:
    """Whether probes of many points at once save little: over more than half of the longest axis, unless that is short."""
    longest: int = max(spec.state_shape[1:])
    return 2 * (2 * radius + 1) > longest > POINTS


def farthest(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> int:
    """What :func:`reach` finds, however far or near it is.

    Raises:
        SolverError: they are none of the solver's states, or the solver failed.
    """
    require_states(probes.spec, states, params)
    some = np.unique(np.linspace(0, len(states) - 1, STATES, dtype=int))
    return max(_at(states[b], None if params is None else params[b], probes, differences) for b in some)


def _at(state: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> int:
    places = _places(state, probes.spec.active())
    directions = np.zeros((len(places), *state.shape), state.dtype)
    directions[(np.arange(len(places)), *places.T)] = 1
    advanced = probes(state[None], None if params is None else params[None])[0]
    answers = differences.along(probes, state, params, advanced, directions)
    return max(_radius(answer, place[1:]) for answer, place in zip(answers, places, strict=True))


def _places(state: Array, active: np.ndarray) -> np.ndarray:
    """Active points of every channel, `(n, 1 + axes)`."""
    found = []
    for channel in range(len(active)):
        points = np.argwhere(active[channel])
        values = state[channel][active[channel]]
        if not len(points):
            continue
        # neither at an end of the grid, nor in step with it
        over = (np.arange(POINTS // 2) + 0.5) * len(points) // (POINTS // 2)
        most = np.argsort(-np.abs(values - values.mean()), kind="stable")[: POINTS // 2]
        found.append(np.insert(points[np.unique([*over, *most]).astype(int)], 0, channel, axis=1))
    return np.concatenate(found)


def _radius(answer: Array, place: np.ndarray) -> int:
    """The least radius around a place beyond which an answer, `(C, *N)`, is small."""
    distance = np.zeros(answer.shape[1:], dtype=int)
    for axis, (size, at) in enumerate(zip(answer.shape[1:], place, strict=True)):
        along = np.abs(np.arange(size) - at)
        shape = [-1 if other == axis else 1 for other in range(distance.ndim)]
        distance = np.maximum(distance, np.minimum(along, size - along).reshape(shape))
    size_at = np.bincount(distance.reshape(-1), np.square(answer, dtype=np.float64).sum(0).reshape(-1))
    beyond = size_at.sum() - size_at.cumsum()
    return int(np.flatnonzero(beyond <= BEYOND**2 * size_at.sum())[0])
