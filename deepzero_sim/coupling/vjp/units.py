"""Units of quantities: how much they vary."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array

#: Deviation, in units of rounding, up to which values are the same: means and differences round several times.
ROUNDINGS = 8


def units_of(deviations: Array, sizes: Array, dtype: np.dtype[np.floating]) -> Array:
    """Return deviations as units; the sizes of what varies by no more than rounding, and 1 where those are zero too.

    Args:
        deviations: Root mean square deviations from the mean.
        sizes: Root mean squares of the same.
        dtype: Floating-point type that the quantities have.
    """
    varies = deviations > ROUNDINGS * np.finfo(dtype).eps * sizes
    return np.where(varies, deviations, np.where(sizes > 0, sizes, 1.0))


def root_mean_squares(values: Array) -> Array:
    """Compute the root mean square of each channel of arrays, `(P, C, *N)` to `(P, C)`, float64."""
    return np.asarray(np.sqrt(np.square(values, dtype=np.float64).reshape(*values.shape[:2], -1).mean(2)))
