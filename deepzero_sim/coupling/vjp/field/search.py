"""Search for the field that explains measured products: its features, its rank, stencils of its own, the number of products."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.field_report import FieldReport, Reason, direction_error
from deepzero_sim.coupling.vjp.field.fitting import Field, FieldFit, Products
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.probing import Chains, Measurement
from deepzero_sim.coupling.vjp.field.rest_of_step import FieldOfInputs, RestOfStep, with_rest
from deepzero_sim.coupling.vjp.field.state_features import StateFeatures

logger = logging.getLogger(__name__)

#: Products of a round.
ROUND = 32

#: Radii of stencils that differ from point to point, tried where a uniform medium does not explain enough.
RADII = (1, 2)

#: Shares by which another round, or a field less simple, must lower the error, and one of twice the rank, whose products take
#: twice the time.
FALLS, FALLS_OF_RANK = 0.05, 0.2

#: Ratio of error to tolerance beyond which fields of other kinds are tried, whose products take longer, and ratio of errors
#: beyond which such a kind is not tried again with more products.
FAR, HOPELESS = 3, 1.5

#: Share of the largest strength below which a feature may be noise, one below which it is, and points near an end of an axis.
NOISE, NEGLIGIBLE, NEAR_END = 0.15, 1e-12, 2

#: Least products, and equations on the whole, of the fits that tell which axes are periodic, and the radius of their kernels.
FEWEST, EQUATIONS, SMALL_KERNEL = 8, 2**17, 4

#: Kind of fields with products of channels as features.
_SQUARES = "squares"


class Medium(NamedTuple):
    """Facts of a medium that fits need: which axes are periodic, and its measured Jacobian, if there is one."""

    periodic: tuple[bool, ...]
    measured: MeasuredBase | None = None


class Judged(NamedTuple):
    """Field, its rank, the number of products that it was fitted to, and what :meth:`Chains.compare` tells of it."""

    field: Field
    rank: int
    probes: int
    cosines: Array
    alignment: float

    @property
    def error(self) -> float:
        """Error of transposed products through all steps of the chains."""
        return direction_error(self.cosines[-1])

    @property
    def score(self) -> float:
        """Geometric mean of that error and the forward products', by which fields are compared: it scatters less."""
        return math.sqrt(self.error * direction_error(self.alignment))

    def is_beaten_by(self, other: Judged, falls: float = FALLS) -> bool:
        """Tell whether another field is better by more than a share."""
        return other.score <= (1 - falls) * self.score


class Begun(NamedTuple):
    """Search that has begun: the products so far, as they are fitted, and the best field that is fitted to them."""

    products: Products
    judged: Judged


class FieldSearch:
    """Search for the best field by chains of products that no fit has seen.

    Args:
        measurement: Means of measuring further products.
        chains: Chains that judge.
        medium: Facts of the medium.
        tolerance: Error of products through the chains' steps at which the search ends.
        seed: Seed of the points at which features are compared.
        rest: Rest of the step that changes go through before they are seen, or None.
    """

    def __init__(
        self,
        measurement: Measurement,
        chains: Chains,
        medium: Medium,
        tolerance: float,
        seed: int,
        rest: RestOfStep | None = None,
    ) -> None:
        self._measurement, self._chains, self._medium = measurement, chains, medium
        self._tolerance, self._seed, self.rest = tolerance, seed, rest
        self._identity = chains.cosines_of_identity()
        self._no_use = direction_error(self._identity[-1])
        self._hopeless: set[str] = set()

    def begin(self, products: Products) -> Begun:
        """Fit the first field."""
        carried = self._carry_back(products)
        return Begun(carried, self._fit(carried, 0))

    def run(self, begun: Begun, most: int) -> tuple[Field, FieldReport]:
        """Fit fields to ever more products, up to so many, and return the best of them with what chains tell of it."""
        products, judged = begun
        reason = self._reason_to_stop(judged, most)
        if judged.cosines[-1] < self._identity[-1]:
            reason = Reason.NO_USE
        while reason is None:
            further = self._measurement.products(min(ROUND, most - len(products.states)))
            products = products.join(self._carry_back(further))
            new = self._fit(products, judged.rank)
            reason = self._reason_to_stop(new, most) if judged.is_beaten_by(new, 0) else Reason.NO_GAIN
            judged = min(judged, new, key=lambda one: one.score)
            logger.info(
                "%d products measured: cosine %.4f through %d steps.", new.probes, judged.cosines[-1], len(judged.cosines)
            )
        cosines = tuple(judged.cosines), tuple(self._identity)
        return judged.field, FieldReport(judged.probes, 0, judged.rank, self._medium.periodic, *cosines, reason)

    def _carry_back(self, products: Products) -> Products:
        return products if self.rest is None else self.rest.carry_back(products)

    def whole(self, field: Field) -> Field | FieldOfInputs:
        """Return a fitted field together with the rest of the step, if there is any."""
        return with_rest(field, self.rest)

    def _reason_to_stop(self, judged: Judged, most: int) -> Reason | None:
        if judged.error <= self._tolerance:
            return Reason.TOLERANCE
        return None if judged.probes < most else Reason.ALL_USED

    def _fit(self, products: Products, least: int) -> Judged:
        """Fit fields linear in the state, of rank `least` at least, and others if their errors are far from tolerable."""
        fit = _begin_fit(products, self._medium, self._seed)
        judged = self._raise_rank(fit, least)
        return judged if judged.error <= FAR * self._tolerance else self._try_others(fit, judged, least)

    def _try_others(self, fit: FieldFit, judged: Judged, least: int) -> Judged:
        """Fit fields of products of channels, unless all so far are worse than the identity, as where the medium is not
        uniform; then fields with stencils that differ from point to point. Return the best.
        """
        products = fit.products
        if judged.error <= self._no_use and _SQUARES not in self._hopeless:
            other_fit = _begin_fit(products, self._medium, self._seed, squares=True)
            other = self._raise_rank(other_fit, least)
            judged = self._better(judged, other, _SQUARES)
            fit = other_fit if judged is other else fit
        for radius in self._radii(products):
            judged = self._better(judged, self._judge(fit, judged.rank, radius), f"radius {radius}")
        return judged

    def _better(self, judged: Judged, other: Judged, kind: str) -> Judged:
        """Return the better field, and note a kind that is far from being the better one."""
        if other.score > HOPELESS * judged.score:
            self._hopeless.add(kind)
        return other if judged.is_beaten_by(other) else judged

    def _radii(self, products: Products) -> list[int]:
        """List the radii of stencils that there are products for, one for each weight of an output at least."""
        count, channels = products.states.shape[:2]
        axes = products.states.ndim - 2
        told = [radius for radius in RADII if channels * (2 * radius + 1) ** axes <= count]
        return [radius for radius in told if f"radius {radius}" not in self._hopeless]

    def _raise_rank(self, fit: FieldFit, least: int) -> Judged:
        """Fit a constant field, one of the rank that stands out, at least `least`, and of twice that as long as errors fall."""
        judged, rank = self._judge(fit, 0), max(_rank(fit), min(least, _most(fit)))
        while judged.rank < rank <= _most(fit) and (judged.rank == 0 or judged.error > self._tolerance):
            new = self._judge(fit, rank)
            if not judged.is_beaten_by(new, FALLS_OF_RANK if judged.rank else FALLS):
                break
            judged, rank = new, 2 * rank
        return judged

    def _judge(self, fit: FieldFit, rank: int, radius: int = 0) -> Judged:
        """Fit fields of a rank, of first and second order, and return the better one; if little so, the cheaper one.

        No second order mends a first that is worse than the identity.
        """
        best: Judged | None = None
        for field in fit.fit(rank, radius):
            judged = Judged(field, rank, len(fit.products.states), *self._chains.compare(self.whole(field)))
            best = judged if best is None or best.is_beaten_by(judged) else best
            if judged.error > self._no_use:
                break
        assert best is not None
        return best


def find_periodic_axes(products: Products, seed: int) -> tuple[bool, ...]:
    """Find the axes whose ends meet: those where a fit that joins them explains products near the ends better.

    The fits have kernels of few points, which need few products on large grids.
    """
    size = products.states[0, 0].size
    some, axes = products.first(max(FEWEST, EQUATIONS // size)), products.states.ndim - 2
    together = (True,) * axes
    joined = _errors_of(some, together, seed)
    found = []
    for axis in range(axes):
        apart = tuple(other != axis for other in range(axes))
        points = products.states.shape[2 + axis]
        ends = np.r_[0 : min(NEAR_END, points), max(0, points - NEAR_END) : points]
        meeting, ending = (np.take(errors, ends, axis).sum() for errors in (joined, _errors_of(some, apart, seed)))
        found.append(bool(meeting <= ending))
    return tuple(found)


def _errors_of(products: Products, periodic: tuple[bool, ...], seed: int) -> Array:
    """Compute the sum of squared errors of a fit with small kernels at each point, `(*N)`."""
    fit = _begin_fit(products, Medium(periodic), seed, SMALL_KERNEL)
    field = next(iter(fit.fit(_rank(fit), 0)))
    return np.asarray(np.square(field.of(products) - products.answers).sum((0, 1)))


def _begin_fit(products: Products, medium: Medium, seed: int, radius: int | None = None, squares: bool = False) -> FieldFit:
    features = StateFeatures(products.states, products.advanced, products.params, medium.periodic, squares)
    grid = KernelGrid(products.states.shape[2:], medium.periodic, radius)
    return FieldFit(grid, features, products, seed, medium.measured)


def _rank(fit: FieldFit) -> int:
    """Choose the rank where strengths fall most, among those above noise and not more than products can tell apart."""
    strengths = np.append(fit.directions.strengths, 0.0)
    if not _most(fit) or not strengths[0] > 0:
        return 0
    clear = int((strengths > NOISE * strengths[0]).sum())
    candidates = strengths[: min(clear, _most(fit)) + 1]
    drops: Array = candidates[:-1] / np.maximum(candidates[1:], NEGLIGIBLE * candidates[0])
    return 1 + int(np.argmax(drops))


def _most(fit: FieldFit) -> int:
    """Bound the rank: `(r + 1) C` unknowns a point and output channel, and half as many products at most."""
    count, channels = fit.products.states.shape[:2]
    told: int = count // (2 * channels) - 1
    return min(len(fit.directions.strengths), max(1, told))
