"""Finite differences of a solver's step: how long a probe is, and what a batch of probes says."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.schemes import Scheme, require_scheme
from deepzero_sim.types import Array, is_number


class Differences:
    """Directional derivatives of a step, `J v = (P(s + mu v) - P(s)) / mu`, or central, `(P(s + mu v) - P(s - mu v)) / (2 mu)`.

    Args:
        step_size: `mu`, in units of the states' own root mean square; None for the one that balances rounding with
            curvature, `eps^(1/2)` or, central, `eps^(1/3)` (Nocedal and Wright, Numerical Optimization, section 8.1).
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: they are not usable.
    """

    def __init__(self, step_size: float | None, scheme: Scheme) -> None:
        if step_size is not None and (not is_number(step_size) or not 0 < step_size < float("inf")):
            raise ConfigError(f"step_size must be a positive number, or None to be chosen, not {step_size!r}.")
        require_scheme(scheme)
        self.step_size = step_size
        self.scheme: Scheme = scheme

    def along(self, probes: Probes, state: Array, params: Array | None, advanced: Array, directions: Array) -> Array:
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
        step = self._step(state)
        count = len(directions)
        many = None if params is None else np.repeat(params[None], count, axis=0)
        plus = probes(state + step * directions, many)
        if self.scheme == "forward":
            return np.asarray((plus - advanced) / step)
        return np.asarray((plus - probes(state - step * directions, many)) / (2 * step))

    def _step(self, state: Array) -> np.floating[Any]:
        """Of the states' own dtype, as it is added to them: a power of two, so that no digit of it is lost."""
        eps = float(np.finfo(state.dtype).eps)
        share = self.step_size or eps ** (1 / 2 if self.scheme == "forward" else 1 / 3)
        size = float(np.sqrt(np.mean(np.square(state, dtype=np.float64)))) or 1.0
        if share < 4 * eps:
            raise ConfigError(
                f"step_size {share:g} is below the noise floor of {state.dtype} states, {4 * eps:.2g} of their size: take a "
                "larger one, or None to have it chosen."
            )
        step: np.floating[Any] = state.dtype.type(2.0 ** round(np.log2(share * size)))
        return step
