"""How far a solver's step carries information, found out by probes."""

from __future__ import annotations

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.types import Array
from deepzero_sim.vjp.differences import Differences

#: Points of each channel that are probed, and the share of a response's size that may lie farther than what is found.
POINTS, BEYOND = 8, 0.01


def reach(state: Array, params: Array | None, probes: Probes, differences: Differences) -> int:
    """The least radius within which a step answers to a change of one point, but for a hundredth of the answer's size.

    Args:
        state: where, `(C, *N)`.
        params: `(K,)` or None.
        probes: advances states: `POINTS` of each channel, twice that if central, and one.
        differences: how.

    Returns:
        In points, the largest along any axis, around the ends of axes too.

    Raises:
        ConfigError: over more than half of the longest axis.
        SolverError: the solver failed.
    """
    places = _places(probes.spec.active())
    directions = np.zeros((len(places), *state.shape), state.dtype)
    directions[(np.arange(len(places)), *places.T)] = 1
    advanced = probes(state[None], None if params is None else params[None])[0]
    answers = differences.along(probes, state, params, advanced, directions)
    found = max(_radius(answer, place[1:]) for answer, place in zip(answers, places, strict=True))
    longest = max(state.shape[1:])
    if 2 * (2 * found + 1) > longest > 1:
        raise ConfigError(
            f"a step of solver {probes.spec.name!r} carries information over {found} points or more of {longest}, too far for "
            "Coloured to be cheap: take ReferenceJacobian, or give Coloured a radius within which a step carries most."
        )
    return found


def _places(active: np.ndarray) -> np.ndarray:
    """Active points of every channel spread over the grid, `(n, 1 + axes)`."""
    found = []
    for channel in range(len(active)):
        points = np.argwhere(active[channel])
        # neither at an end of the grid, nor in step with it
        some = points[np.unique((np.arange(POINTS) + 0.5) * len(points) // POINTS).astype(int)] if len(points) else points
        found.append(np.insert(some, 0, channel, axis=1))
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
