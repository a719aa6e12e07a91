"""Gradients with respect to scenario parameters: differences of steps, two for each parameter of each state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import StepTaken

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


class Differentiated(NamedTuple):
    """Scenario parameters that gradients are wanted of, and the bounds of all of them.

    Args:
        columns: Numbers of the parameters.
        least: Least value of every parameter of the solver, `(K,)`, minus infinity for none.
        most: Largest value, likewise.
    """

    columns: Sequence[int]
    least: Array
    most: Array


def parameter_products(
    taken: StepTaken, cotangents: Array, probes: SolverProbe, wanted_of: Differentiated | None = None
) -> Array:
    """Compute `(dP/dp)^T w` of every state, `(B, K)`, by central differences:

        g_k = <w, P(s, p + h_k e_k) - P(s, p - h_k e_k)> / (2 h_k),   h_k = eps^(1/3) max(|p_k|, r_k)

    with `r_k` the root mean square of the parameter over the batch, 1 if that is zero, and `eps` the rounding of the solver's
    type: the step that balances rounding and curvature (Nocedal and Wright 2006, section 8.1); half the way to a bound if that
    is less.

    Args:
        taken: Steps with their states and parameters.
        cotangents: Cotangents `w`, `(B, C, *N)`, zero in padding.
        probes: Means of asking the solver for steps, which it counts.
        wanted_of: Parameters that it is wanted of, zero for all others; all of them, without bounds, if None.

    Raises:
        SolverError: The solver failed.
    """
    assert taken.params is not None
    states, params = taken.states, taken.params
    wanted = range(params.shape[1]) if wanted_of is None else wanted_of.columns
    count = len(wanted)
    sizes = np.sqrt(np.mean(np.square(params, dtype=np.float64), axis=0))
    lengths = np.finfo(states.dtype).eps ** (1 / 3) * np.maximum(np.abs(params), np.where(sizes > 0, sizes, 1.0))
    if wanted_of is not None:
        room = np.minimum(params - wanted_of.least, wanted_of.most - params)
        lengths = np.minimum(lengths, np.maximum(room / 2, np.finfo(params.dtype).tiny))
    shifted = np.stack([_shift(params, lengths, k, sign) for k in wanted for sign in (1, -1)], axis=1)  # (B, 2 count, K)
    repeated = np.repeat(states, 2 * count, axis=0)
    advanced = probes(repeated, shifted.reshape(-1, params.shape[1]))
    differences = np.subtract(*np.split(advanced.reshape(len(states), count, 2, -1).astype(np.float64), 2, axis=2))[:, :, 0]
    exact = shifted.astype(np.float64)
    apart = np.stack([exact[:, 2 * i, k] - exact[:, 2 * i + 1, k] for i, k in enumerate(wanted)], axis=1)  # as it was rounded
    products = np.zeros(params.shape)
    products[:, list(wanted)] = (
        np.einsum("bkn,bn->bk", differences, cotangents.reshape(len(states), -1).astype(np.float64)) / apart
    )
    return np.asarray(products, params.dtype)


def _shift(params: Array, lengths: Array, k: int, sign: int) -> Array:
    """Return parameters with one of them changed, `(B, K)`."""
    shifted = params.copy()
    shifted[:, k] += (sign * lengths[:, k]).astype(params.dtype)
    return shifted
