"""Restrictions from a file's grid to a solver's: linear maps along each axis, from rows of weights.

`restricted[j] = sum_i weights[j, i] values[i]`, one axis after the other. Every restriction by name is of this form:

block_mean             the mean of `k` neighbouring cells
face_mean              staggered fields: every `k`-th face along the normal, the mean of `k` along tangents
spectral               the Fourier series up to the solver's shortest wave, at the solver's points; periodic axes only
interpolation          linear, between the two nearest points
cubic_interpolation    a cubic spline through all points
injection              the values of those points that both grids have

Weights are sparse matrices even where they are full: the product is then the same, bit for bit, for any number of states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, sparse

from deepzero_sim.datasets.times import ROUNDING, rounding_of

#: Sparse matrix of weights `(coarse, fine)`.
Weights: TypeAlias = Any

#: Weight that is 0 up to rounding.
_NOTHING = 1e-14

#: Most weights of an axis of which every one counts, and most points of a spline.
_MOST_WEIGHTS, _MOST_POINTS = 2**25, 2**13


class UnsuitableError(ValueError):
    """Reason why a restriction does not suit two grids, as the end of a sentence."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Points of one channel along one axis.

    Args:
        count: Number of points.
        positions: Positions, rising or falling; None if nobody says.
        has_origin: True if positions tell where the first point lies, False if they tell only distances.
        periodic: True for an axis that wraps around, False for one that does not, None if nobody says.
        on_faces: True for points on the faces between cells, False for points in cells, None if nobody says.
    """

    count: int
    positions: NDArray[np.float64] | None = None
    has_origin: bool = True
    periodic: bool | None = None
    on_faces: bool | None = None

    def reverse(self) -> Points:
        """Return the same points in the opposite order."""
        return self if self.positions is None else replace(self, positions=self.positions[::-1])

    @property
    def falling(self) -> bool:
        """True if positions fall."""
        return self.positions is not None and len(self.positions) > 1 and bool(self.positions[0] > self.positions[-1])

    @property
    def rounding(self) -> float:
        """Distance between positions that are equal up to rounding."""
        return 0.0 if self.positions is None else rounding_of(self.positions)

    @property
    def spacing(self) -> float | None:
        """Distance of neighbours, None if it is unknown or not the same everywhere."""
        if self.positions is None or len(self.positions) < 2:
            return None
        mean = float(self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)
        even = self.positions[0] + mean * np.arange(self.count)
        return mean if np.abs(self.positions - even).max() <= 2 * self.rounding else None

    @property
    def period(self) -> float | None:
        """Length of the axis if it wraps around, the last point's distance to the first one included."""
        return None if self.spacing is None else self.count * self.spacing


def _restriction(make: Callable[[Points, Points], Weights]) -> Callable[[Points, Points], Weights]:
    """Let a function of rising points take falling ones, too; points whose positions nobody says run as the others do."""

    def weights(fine: Points, coarse: Points) -> Weights:
        made = make(fine.reverse() if fine.falling else fine, coarse.reverse() if coarse.falling else coarse)
        made = made[:, ::-1] if (coarse if fine.positions is None else fine).falling else made
        made = sparse.csr_array(made[::-1] if (fine if coarse.positions is None else coarse).falling else made)
        made.data[np.abs(made.data) < _NOTHING] = 0.0
        made.eliminate_zeros()
        return made

    weights.__doc__ = make.__doc__
    weights.__name__ = make.__name__
    return weights


@_restriction
def same(fine: Points, coarse: Points) -> Weights:
    """Return the weights of values that are on the solver's grid: the identity."""
    _require(fine.count == coarse.count, f"has {fine.count} points, not {coarse.count}")
    if fine.positions is not None:
        _require_at(fine.positions, fine, coarse)
    return sparse.eye_array(fine.count, format="csr")


@_restriction
def block_mean(fine: Points, coarse: Points) -> Weights:
    """Return the weights of means over `k` neighbouring cells, `k` the ratio of their numbers."""
    _require(fine.count % coarse.count == 0, f"has {fine.count} points, no whole multiple of {coarse.count}")
    factor = fine.count // coarse.count
    if fine.positions is not None:
        even = fine.spacing is not None or fine.count < 3 or factor == 1
        _require(even, "has cells of different sizes, whose plain mean is no mean over the block")
        _require_at(fine.positions.reshape(coarse.count, factor).mean(axis=1), fine, coarse)
    return _block_weights(coarse.count, factor)


@_restriction
def face_mean(fine: Points, coarse: Points) -> Weights:
    """Return the weights of `k` means along tangents, and of every `k`-th face along the normal."""
    ways = (
        {False: _cells, True: _faces} if coarse.on_faces is None else {coarse.on_faces: _faces if coarse.on_faces else _cells}
    )
    reasons, found = [], []
    for way in ways.values():
        try:
            found.append(way(fine, coarse))
        except UnsuitableError as error:
            reasons.append(str(error))
    _require(bool(found), " and ".join(dict.fromkeys(reasons)))
    told = fine.positions is not None and coarse.positions is not None and fine.has_origin and coarse.has_origin
    ambiguous = len(found) > 1 and not told and fine.count != coarse.count
    _require(not ambiguous, "may be of cells or of faces: give the solver's spec offsets, 0.5 for cells and 0 for faces")
    return found[0]


def _cells(fine: Points, coarse: Points) -> Weights:
    return block_mean(fine, coarse)


def _faces(fine: Points, coarse: Points) -> Weights:
    """Return the weights of every `k`-th face: a wall at either end, or none at the end where the axis wraps around."""
    closed = fine.count > 1 and coarse.count > 1 and (fine.count - 1) % (coarse.count - 1) == 0
    open_ = fine.count % coarse.count == 0
    _require(closed or open_, f"has {fine.count} faces, whose blocks are no whole multiple of those between {coarse.count}")
    factors = [(fine.count - 1) // (coarse.count - 1)] * closed + [fine.count // coarse.count] * open_
    reasons = []
    for factor in factors:
        places = np.arange(coarse.count) * factor
        try:
            if fine.positions is not None:
                _require_at(fine.positions[places], fine, coarse)
        except UnsuitableError as error:
            reasons.append(error)
            continue
        return _selection(places, fine.count)
    raise reasons[0]


@_restriction
def injection(fine: Points, coarse: Points) -> Weights:
    """Return the weights of the points that both grids have."""
    if fine.positions is None or coarse.positions is None:
        return _faces(fine, coarse)
    wanted = coarse.positions + _shift(fine, coarse)
    nearest = np.abs(fine.positions[None, :] - wanted[:, None]).argmin(axis=1)
    _require_at(fine.positions[nearest], fine, coarse)
    return _selection(nearest, fine.count)


@_restriction
def spectral(fine: Points, coarse: Points) -> Weights:
    """Return the weights of the truncated Fourier series at the solver's points.

    With `L` the period, the value at `x` is `(1/n) sum_i f(x_i) sum_k w_k cos(2 pi k (x - x_i) / L)` over the waves `k` from 0
    that the coarse grid resolves, `2 k <= m`. Weights `w_k` are 2, and 1 for the mean and for the wave that alternates from
    point to point on the fine grid itself, which is there once. The wave that alternates on the coarse grid is sampled.
    """
    _require(fine.periodic is not False, "does not wrap around")
    _require(coarse.count <= fine.count, f"has {fine.count} points, fewer than {coarse.count}")
    even = fine.positions is None or fine.spacing is not None or fine.count < 2
    _require(even, "has points at uneven distances")
    _require(fine.count * coarse.count <= _MOST_WEIGHTS, f"has {fine.count} points, too many for weights of each on each")
    places, points = _places_in_period(fine, coarse)
    distances = 2 * np.pi * (points[:, None] - places[None, :])
    weights = np.ones_like(distances)
    for wave in range(1, coarse.count // 2 + 1):
        weights += (1.0 if 2 * wave == fine.count else 2.0) * np.cos(wave * distances)
    return weights / fine.count


def _places_in_period(fine: Points, coarse: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points of both grids as shares of the period; from the first points on where nobody says where they lie."""
    places, points = (np.arange(one.count) / one.count for one in (fine, coarse))
    if fine.period is None or coarse.positions is None:
        return places, points
    period = coarse.period if coarse.period is not None else fine.period
    _require(_near(period, fine.period), f"has the period {fine.period:.9g}, not {period:.9g}")
    assert fine.positions is not None  # it has a period
    points = (coarse.positions + _shift(fine, coarse) - fine.positions[0]) / period
    return places, points


@_restriction
def interpolation(fine: Points, coarse: Points) -> Weights:
    """Return the weights of linear interpolation."""
    nodes, points, count = _nodes(fine, coarse)
    knots = np.concatenate([nodes[:1], nodes, nodes[-1:]])
    weights = sparse.csr_array(interpolate.BSpline.design_matrix(points, knots, 1))
    return _fold(weights, count)


@_restriction
def cubic_interpolation(fine: Points, coarse: Points) -> Weights:
    """Return the weights of a cubic spline: not-a-knot at the ends, or periodic."""
    nodes, points, count = _nodes(fine, coarse)
    _require(count <= _MOST_POINTS, f"has {count} points, too many for a spline through all of them")
    if len(nodes) > count:  # the first point again, a period later
        values = np.concatenate([np.eye(count), np.eye(count)[:1]])
        return interpolate.CubicSpline(nodes, values, bc_type="periodic")(points)
    return interpolate.CubicSpline(nodes, np.eye(count))(points)


def _nodes(fine: Points, coarse: Points) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the points to interpolate between and those to interpolate at; the first point is there twice if it wraps."""
    if fine.positions is None or coarse.positions is None or not (fine.has_origin and coarse.has_origin):
        whose = "the solver's spec must say spacing and offsets" if fine.positions is not None else "the file must say them"
        raise UnsuitableError(f"has points whose positions are not known, and {whose}")
    _require(fine.count > 1, "has one point only")
    nodes, points = fine.positions, coarse.positions
    if fine.periodic:
        period = coarse.period if coarse.period is not None else fine.period
        fits = period is not None and (fine.period is None or _near(period, fine.period)) and nodes[-1] - nodes[0] < period
        _require(fits, "wraps around after another length than the solver's")
        assert period is not None
        nodes = np.append(nodes, nodes[0] + period)
        return nodes, _clip(nodes[0] + np.mod(points - nodes[0], period), nodes, fine), fine.count
    outside = (points < nodes[0] - fine.rounding) | (points > nodes[-1] + fine.rounding)
    _require(
        not outside.any(),
        f"reaches from {nodes[0]:.9g} to {nodes[-1]:.9g}, and {int(outside.sum())} of the solver's points, from "
        f"{points[0]:.9g} to {points[-1]:.9g}, lie outside",
    )
    return nodes, _clip(points, nodes, fine), fine.count


def _clip(points: NDArray[np.float64], nodes: NDArray[np.float64], fine: Points) -> NDArray[np.float64]:
    """Take points for nodes that they are up to rounding, so that values there are the file's own."""
    nearest = np.clip(np.searchsorted(nodes, points), 1, len(nodes) - 1)
    nearest -= points - nodes[nearest - 1] < nodes[nearest] - points
    return np.where(np.abs(points - nodes[nearest]) <= fine.rounding, nodes[nearest], points)


def _fold(weights: Weights, count: int) -> Weights:
    """Add the weights of points that are there a second time, one period later, to those of the points themselves."""
    if weights.shape[1] == count:
        return weights
    places = np.arange(weights.shape[1]) % count
    return weights @ _selection(places, count)


def _selection(places: NDArray[Any], count: int) -> Weights:
    rows = np.arange(len(places))
    return sparse.csr_array((np.ones(len(places)), (rows, places)), shape=(len(places), count))


def _block_weights(count: int, factor: int) -> Weights:
    rows = np.repeat(np.arange(count), factor)
    shape = (count, count * factor)
    return sparse.csr_array((np.full(count * factor, 1.0 / factor), (rows, np.arange(count * factor))), shape=shape)


def _shift(fine: Points, coarse: Points) -> float:
    """Return how much further along the axis the file's first point lies, where one of the two tells only distances."""
    if fine.has_origin and coarse.has_origin:
        return 0.0
    assert fine.positions is not None
    assert coarse.positions is not None
    return float(fine.positions[0] - coarse.positions[0])


def _require_at(found: NDArray[np.float64], fine: Points, coarse: Points) -> None:
    """Refuse restricted values whose points are not the solver's, as far as positions are known."""
    if coarse.positions is None:
        return
    wanted = coarse.positions
    moved = found if fine.has_origin and coarse.has_origin else found - (found[0] - wanted[0])
    off = float(np.abs(moved - wanted).max())
    _require(
        off <= fine.rounding + coarse.rounding,
        f"would give values at {_ends(found)}, but the solver has them at {_ends(wanted)}",
    )


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= ROUNDING * max(abs(one), abs(other))


def _ends(positions: NDArray[np.float64]) -> str:
    shown = [f"{value:.6g}" for value in positions]
    return ", ".join(shown) if len(shown) < 4 else f"{shown[0]}, {shown[1]} ... {shown[-1]}"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnsuitableError(otherwise)


#: Restrictions by name.
RESTRICTIONS: dict[str, Callable[[Points, Points], Weights]] = {
    "block_mean": block_mean,
    "face_mean": face_mean,
    "spectral": spectral,
    "interpolation": interpolation,
    "cubic_interpolation": cubic_interpolation,
    "injection": injection,
}


def restrict_axis(values: NDArray[Any], weights: Weights, axis: int) -> NDArray[np.float64]:
    """Apply weights along an axis.

    Args:
        values: Array with `fine` points along the axis.
        weights: Weights `(coarse, fine)`.
        axis: Axis.

    Returns:
        Array with `coarse` points along the axis, in float64.
    """
    first = np.moveaxis(values, axis, 0)
    rest = first.shape[1:]
    product = np.asarray(weights @ np.ascontiguousarray(first.reshape(len(first), -1), dtype=np.float64))
    return np.moveaxis(product.reshape(-1, *rest), 0, axis)
