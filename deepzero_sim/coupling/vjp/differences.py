"""Finite differences of a solver's step: the length of a probe, and the derivatives that a batch of probes gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from deepzero_sim.common.requirements import is_positive, require, require_one_of, require_that
from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.errors import ConfigError

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


#: Seed of the signs of forward differences.
_SEED = 0


class Differences:
    """Directional derivatives of a step, `J v = (P(s + mu v) - P(s)) / mu`, or central, `(P(s + mu v) - P(s - mu v)) / (2 mu)`.

    Of many directions, forward differences take some along `-v`, by chance: the error of `P(s)`, which all have in common, and
    the curvature then add up to nothing in products with a whole Jacobian. On the wake that made them as good as central ones,
    for half the solver steps.

    Inputs of a step are moved by the square root of the share that suits states: what they do in a step is little next to the
    state, whose rounding hides it, and nearly linear. Of a forcing of the wake in float32, forward differences had a cosine of
    0.58 at the share of states, and 0.996 at its root. Inputs that lie at their bounds are moved inwards by the length of a
    probe first: a solver need not take others.

    Args:
        step_size: Length of a probe, `mu`, in units of the root mean square of the channel that is changed; None for the one
            that balances rounding with curvature: central, `eps^(1/3)` (Nocedal and Wright, Numerical Optimization, section
            8.1); forward, `eps^(2/5)`, above the `eps^(1/2)` of one direction, as curvature cancels over many.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """

    def __init__(self, step_size: float | None, scheme: Scheme) -> None:
        fits = step_size is None or is_positive(step_size)
        require(fits, "step_size must be a positive number, or None to be chosen", step_size)
        require_one_of(scheme, get_args(Scheme), "scheme")
        self.step_size = None if step_size is None else float(step_size)
        self.scheme: Scheme = scheme

    @property
    def identity(self) -> str:
        """Words that tell what these measure from what others do."""
        return f"{'central' if self.scheme == 'central' else 'forward, of both signs'} {self.step_size}"

    @property
    def steps_per_direction(self) -> int:
        """Number of solver steps that a direction takes, besides the one from the state itself."""
        return 2 if self.scheme == "central" else 1

    def jvp(self, probes: SolverProbe, state: Array, params: Array | None, advanced: Array, directions: Array) -> Array:
        """Measure Jacobian-vector products `J(s) v` along many directions at one state, `(n, C, *N)`.

        Args:
            probes: Means of asking the solver for steps, which it counts.
            state: Solver state `s`, `(C, *N)`.
            params: Scenario parameters, `(K,)`, or None.
            advanced: Solver state after its step, `P(s)`, `(C, *N)`.
            directions: Directions `v`, `(n, C, *N)`.
        """
        step = self._steps(probes, state, directions)
        many = None if params is None else np.repeat(params[None], len(directions), axis=0)
        bounds = probes.bounds
        moved = _leave_room(state, step * directions, bounds)
        if self.scheme == "forward":
            if moved is not state:
                advanced = probes(moved[None], None if params is None else params[None])[0]
            signs = np.random.default_rng(_SEED).choice(np.array([1, -1], state.dtype), len(directions))
            step = step * signs.reshape(step.shape)
            return np.asarray((probes(_clip(moved + step * directions, bounds), many) - advanced) / step)
        plus = probes(_clip(moved + step * directions, bounds), many)
        return np.asarray((plus - probes(_clip(moved - step * directions, bounds), many)) / (2 * step))

    def pairs(self, probes: SolverProbe, states: Array, params: Array | None, directions: Array) -> tuple[Array, Array]:
        """Measure one product at each state by central differences, whose two steps give the state's own step too.

        Args:
            probes: Means of asking the solver for steps, which it counts: two a state.
            states: Solver states `s`, `(P, C, *N)`.
            params: Scenario parameters, `(P, K)`, or None.
            directions: Direction at each state, `v`, `(P, C, *N)`.

        Returns:
            `P(s)` as the mean of the two steps, to second order in their distance, and `J(s) v`, each `(P, C, *N)`.
        """
        step = np.concatenate(
            [self._steps(probes, state, direction[None]) for state, direction in zip(states, directions, strict=True)]
        )
        both = None if params is None else np.concatenate([params, params])
        bounds, moves = probes.bounds, step * directions
        if bounds is not None:
            states = np.stack([_leave_room(state, move[None], bounds) for state, move in zip(states, moves, strict=True)])
        ahead, behind = np.split(probes(_clip(np.concatenate([states + moves, states - moves]), bounds), both), 2)
        return (ahead + behind) / 2, (ahead - behind) / (2 * step)

    def lengths(self, probes: SolverProbe, state: Array, directions: Array) -> Array:
        """Return the distance between the two states whose steps are compared along each direction, `(n, 1, ...)`."""
        steps = self._steps(probes, state, directions)
        return np.asarray(steps * (2 if self.scheme == "central" else 1))

    def _steps(self, probes: SolverProbe, state: Array, directions: Array) -> Array:
        """Choose `mu` for each direction, `(n, 1, ...)`: as far as the channel that it changes most, in its own size, allows.

        The steps are powers of two, so that none of their digits are lost when they are added to states of their dtype.
        """
        eps = float(np.finfo(state.dtype).eps)
        share = self.step_size or eps ** (2 / 5 if self.scheme == "forward" else 1 / 3)
        require_that(
            share >= 4 * eps,
            f"step_size {share:g} is below the noise floor of {state.dtype} states, {4 * eps:.2g} of their size: take a "
            "larger one, or None to have it chosen.",
        )
        sizes = channel_sizes(state)
        if self.step_size is None:
            sizes[probes.own_channels :] /= share**0.5
        lengths = np.stack([_size(direction) / sizes for direction in directions]).max(1)
        exponents = np.round(np.log2(share) - np.log2(np.where(lengths > 0, lengths, 1.0)))
        if not (np.abs(exponents) < np.log2(float(np.finfo(state.dtype).max)) - 1).all():
            raise ConfigError(
                f"step_size {share:g} of states whose channels have sizes {sizes} is beyond {state.dtype}: take a smaller one."
            )
        return np.asarray((2.0**exponents).astype(state.dtype).reshape(-1, *[1] * state.ndim))


def _leave_room(state: Array, moves: Array, bounds: tuple[Array, Array] | None) -> Array:
    """Move a state inwards, so that it can be moved by any of some moves, `(n, C, *N)`, either way; itself if it can be.

    Args:
        state: Solver state, `(C, *N)`.
        moves: Moves.
        bounds: Least and most of each channel, `(C, *1)`, or None.
    """
    if bounds is None:
        return state
    reach = np.minimum(np.abs(moves).max(0, initial=0), (bounds[1] - bounds[0]) / 2)
    moved = np.clip(state, bounds[0] + reach, bounds[1] - reach)
    return state if np.array_equal(moved, state) else moved


def _clip(states: Array, bounds: tuple[Array, Array] | None) -> Array:
    """Hold states within bounds, which rounding may pass."""
    return states if bounds is None else np.clip(states, *bounds)


def channel_sizes(state: Array) -> Array:
    """Compute the root mean square of each channel's non-zero values, `(C,)`, float64.

    A channel of zeros has the size of the smallest other one, for want of better; 1 if all are zero.
    """
    sizes = _size(state)
    known = sizes[sizes > 0]
    return np.where(sizes > 0, sizes, known.min() if len(known) else 1.0)


def _size(values: Array) -> Array:
    flat = values.reshape(len(values), -1).astype(np.float64)
    largest = np.abs(flat).max(1, keepdims=True)
    shares = flat / np.where(largest > 0, largest, 1.0)  # their squares neither overflow nor vanish
    return np.asarray(largest[:, 0] * np.sqrt(np.square(shares).sum(1) / np.maximum((flat != 0).sum(1), 1)))
