"""How well one gradient agrees with another: cosine and norm ratio, exactly or from slopes along random directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Of a found gradient `g` with the true one `t`.

    Args:
        cosine: `g.t / (|g| |t|)`; None if one of them is zero.
        cosine_error: its standard error, 0 if `t` is known.
        norm_ratio: `|g| / |t|`; None if `t` is zero.
        norm_ratio_error: its standard error.
    """

    cosine: float | None
    cosine_error: float
    norm_ratio: float | None
    norm_ratio_error: float


def with_gradient(found: NDArray[np.float64], true: NDArray[np.float64]) -> Agreement:
    """Of two gradients, `(d,)` each."""
    return Agreement(_cosine(found, true), 0.0, _ratio(found, true), 0.0)


def with_slopes(found: NDArray[np.float64], slopes: NDArray[np.float64]) -> Agreement:
    """Of slopes `b_i = v_i.g` with measured ones, `a_i = v_i.t`, along `n` random directions of no preference.

    Along Gaussian directions the pairs are Gaussian with means of zero and `E[a b] = t.g`, `E[a^2] = |t|^2`, `E[b^2] = |g|^2`;
    so the gradients' cosine and norm ratio are the pairs' correlation and ratio of standard deviations:

        cosine = sum a_i b_i / sqrt(sum a_i^2 sum b_i^2)          norm ratio = sqrt(sum b_i^2 / sum a_i^2)

    with standard errors `(1 - cosine^2) / sqrt(n)` and `ratio * sqrt((1 - cosine^2) / n)`, to leading order in `n`: of
    gradients that agree, few directions say so.

    Args:
        found: `b`, `(n,)`.
        slopes: `a`, `(n,)`.
    """
    cosine, ratio = _cosine(found, slopes), _ratio(found, slopes)
    apart = 1 - (cosine or 0.0) ** 2
    ratio_error = (ratio or 0.0) * (apart / len(slopes)) ** 0.5
    return Agreement(cosine, 0.0 if cosine is None else apart / len(slopes) ** 0.5, ratio, ratio_error)


def _cosine(found: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
    norms = float(np.linalg.norm(found) * np.linalg.norm(true))
    return None if norms == 0 else min(1.0, max(-1.0, float(found @ true) / norms))  # rounding may lead past 1


def _ratio(found: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
    norm = float(np.linalg.norm(true))
    return None if norm == 0 else float(np.linalg.norm(found)) / norm
