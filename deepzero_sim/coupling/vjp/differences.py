"""Finite differences of a solver's step: how long a probe is, and what a batch of probes says."""

from __future__ import annotations

from typing import get_args

import numpy as np

from deepzero_sim.common.requirements import require_one_of
from deepzero_sim.common.types import Array, Scheme, is_number
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.errors import ConfigError


class Differences:
    """Directional derivatives of a step, `J v = (P(s + mu v) - P(s)) / mu`, or central, `(P(s + mu v) - P(s - mu v)) / (2 mu)`.

    Args:
        step_size: `mu`, in units of the root mean square of the channel that is changed; None for the one that balances
            rounding with curvature, `eps^(1/2)` or, central, `eps^(1/3)` (Nocedal and Wright, Numerical Optimization,
            section 8.1).
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: they are not usable.
    """

    def __init__(self, step_size: float | None, scheme: Scheme) -> None:
        if step_size is not None and (not is_number(step_size) or not 0 < step_size < float("inf")):
            raise ConfigError(f"step_size must be a positive number, or None to be chosen, not {step_size!r}.")
        require_one_of(scheme, get_args(Scheme), "scheme")
        self.step_size = step_size
        self.scheme: Scheme = scheme

    @property
    def steps_a_direction(self) -> int:
        """Solver steps that a direction takes, beside the one from the state itself."""
        return 2 if self.scheme == "central" else 1

    def along(self, probes: SolverProbe, state: Array, params: Array | None, advanced: Array, directions: Array) -> Array:
        """`J(s) v` for many directions at one state.

        Args:
            probes: advances states.
            state: `s`, `(C, *N)`.
            params: `(K,)` or None.
            advanced: `P(s)`, `(C, *N)`.
            directions: `v`, `(n, C, *N)`.

        Returns:
            `(n, C, *N)`.
        """
        step = self._steps(state, directions)
        count = len(directions)
        many = None if params is None else np.repeat(params[None], count, axis=0)
        plus = probes(state + step * directions, many)
        if self.scheme == "forward":
            return np.asarray((plus - advanced) / step)
        return np.asarray((plus - probes(state - step * directions, many)) / (2 * step))

    def _steps(self, state: Array, directions: Array) -> Array:
        """`mu` of each direction, `(n, 1, ...)`: as far as the channel that it changes most, in its own size, allows.

        They are powers of two, so that no digit of them is lost when they are added to states of their dtype.
        """
        eps = float(np.finfo(state.dtype).eps)
        share = self.step_size or eps ** (1 / 2 if self.scheme == "forward" else 1 / 3)
        if share < 4 * eps:
            raise ConfigError(
                f"step_size {share:g} is below the noise floor of {state.dtype} states, {4 * eps:.2g} of their size: take a "
                "larger one, or None to have it chosen."
            )
        sizes = channel_sizes(state)
        reach = np.stack([_size(direction) / sizes for direction in directions]).max(1)
        exponents = np.round(np.log2(share) - np.log2(np.where(reach > 0, reach, 1.0)))
        if not (np.abs(exponents) < np.log2(float(np.finfo(state.dtype).max)) - 1).all():
            raise ConfigError(
                f"step_size {share:g} of states whose channels have sizes {sizes} is beyond {state.dtype}: take a smaller one."
            )
        return np.asarray((2.0**exponents).astype(state.dtype).reshape(-1, *[1] * state.ndim))


def channel_sizes(state: Array) -> Array:
    """The root mean square of each channel's values that are not zero, `(C,)`, float64.

    A channel of zeros has that of the smallest other, for want of better; 1 if there is none.
    """
    sizes = _size(state)
    known = sizes[sizes > 0]
    return np.where(sizes > 0, sizes, known.min() if len(known) else 1.0)


def _size(values: Array) -> Array:
    flat = values.reshape(len(values), -1).astype(np.float64)
    largest = np.abs(flat).max(1, keepdims=True)
    shares = flat / np.where(largest > 0, largest, 1.0)  # their squares neither overflow nor vanish
    return np.asarray(largest[:, 0] * np.sqrt(np.square(shares).sum(1) / np.maximum((flat != 0).sum(1), 1)))
