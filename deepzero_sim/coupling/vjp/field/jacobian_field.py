"""Products with a Jacobian that depends on the state, fitted to a few dozen measured products."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from deepzero_sim.common.requirements import is_count, require, require_that
from deepzero_sim.common.types import Array, is_number
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.drift import (
    CHECK_EVERY,
    FACTOR,
    MENDED,
    PREFIX,
    UNSEEN,
    Drift,
    Units,
    count_failure,
    errors_of,
    factors_of,
    keep_some,
)
from deepzero_sim.coupling.vjp.field.field_report import FALLBACK, FieldReport, Reason, direction_error
from deepzero_sim.coupling.vjp.field.fitting import Field, FieldFit, Products
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.probing import CHAINS, LENGTH, Chains, Measurement
from deepzero_sim.coupling.vjp.field.saved_field import (
    field_from_tensors,
    field_tensors,
    product_tensors,
    products_from_tensors,
)
from deepzero_sim.coupling.vjp.field.state_features import StateFeatures
from deepzero_sim.coupling.vjp.jacobian_file import JacobianFile, identify, path_or_none
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import require_states

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

logger = logging.getLogger(__name__)

#: Probes of a round, and least probes a channel.
ROUND, LEAST = 32, 4

#: Radii of stencils that differ from point to point, tried where a uniform medium does not explain enough.
RADII = (1, 2)

#: Cosine through the chains' steps from which on a field is worth its name.
POOR = 0.9

#: Share by which another round, or a higher rank, must lower the error.
FALLS = 0.05

#: Share of the largest strength below which a feature may be noise, one below which it is, and points near an end of an axis.
NOISE, NEGLIGIBLE, NEAR_END = 0.15, 1e-12, 2

#: Least products, and equations on the whole, of the fits that tell which axes are periodic, and the radius of their kernels.
FEWEST, EQUATIONS, SMALL_KERNEL = 8, 2**17, 4


@final
class JacobianField(VectorJacobianProduct):
    """Jacobian that depends on the state, learnt from products with random directions at states of the data.

        J(s) = exp(A(s)) B,   A(s) = sum_r diag(psi_r(s)) G_r

    `psi_r` are a few features of the state and of its increment `P(s) - s` around each point, near and far; `G_r` and `B` are
    convolutions. That holds what a Jacobian at fixed states cannot: how a flow carries a change, and how a change
    carries the flow. Each measured product gives an equation for every point of the grid, so that a few dozen suffice on any
    grid. All are fitted by least squares; the features, by a singular value decomposition and one refinement.

    Chains of products that the fit has not seen tell its error. Products are measured in rounds until that is below
    `tolerance`, or no longer falls. A product of the field takes no solver steps.

    In use, the field is checked now and then: one product along a random direction, for two solver steps, is compared with
    the solver's. Where half of the last checks are off by twice as much as products that were not fitted at measuring, and by
    more than `tolerance` allows, the field has drifted, and is fitted again, to products at the states it was last used at
    and some of the first. All refits take at most as many solver steps as measuring did.

    Args:
        probes: Most products to measure, of two solver steps each, besides those of the chains.
        tolerance: Error of products through 8 steps, as a share, at which no more are measured.
        block: Points along each axis of the blocks in which the Jacobian at one state is measured, as the common part `B` of a
            medium that is not uniform, see :class:`~deepzero_sim.coupling.vjp.base_jacobian.BaseJacobian`; None for a `B`
            that is fitted.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        check_every: Number of states whose products are asked for from one check to the next; None never checks.
        seed: Seed of states and directions.
        file: File to store the field in, and to find it again. It is only used for a solver that gives the same steps.

    Attributes:
        report: Error bar of the field, :class:`FieldReport`, as of its last fit; None before it is measured.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        probes: int = 96,
        tolerance: float = 0.05,
        block: int | None = None,
        *,
        step_size: float | None = None,
        check_every: int | None = CHECK_EVERY,
        seed: int = 0,
        file: Path | str | None = None,
    ) -> None:
        require(is_count(probes), "probes must be a positive whole number", probes)
        require(is_number(tolerance) and tolerance > 0, "tolerance must be a positive share of a product", tolerance)
        require(block is None or is_count(block), "block must be a positive whole number of points, or None", block)
        fits = check_every is None or is_count(check_every)
        require(fits, "check_every must be a positive whole number of states, or None", check_every)
        require(is_count(seed, least=0), "seed must be 0 or a positive whole number", seed)
        self.probes = probes
        self.tolerance = float(tolerance)
        self.block = block
        self.check_every = check_every
        self.seed = int(seed)
        self.file = path_or_none(file)
        self.report: FieldReport | None = None
        self._differences = Differences(step_size, "central")
        self._tensors: dict[str, Array] = {}
        self._field: Field | None = None
        self._drift = self._no_drift()

    def _no_drift(self) -> Drift:
        return Drift(self.check_every or CHECK_EVERY, self.seed)

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Measure products at states of the data, and fit the field to them.

        Raises:
            ConfigError: There are fewer probes than a solver of so many channels needs.
            SolverError: The states are none of the solver's, or the solver failed.
        """
        require_states(probes.spec, states, params)
        self.bind(probes.solver)
        self._require_enough(probes.spec)
        file = JacobianFile(self.file)
        settings = [f"field 3 {self.probes} {self.tolerance} {self.block} {self._differences.step_size} {self.seed}"]
        identity = identify(states, params, probes, self._differences)
        with single_threaded():  # many small products of matrices, which several threads slow down
            self._tensors = file.get(settings, identity, probes, lambda: self._measure(states, params, probes))
        file.save()
        self._drift = self._no_drift()
        self._load()
        logger.info("JacobianField of solver %r: %s.", probes.spec.name, self.report)
        self._warn(probes.spec.name)

    def _measure(self, states: Array, params: Array | None, probes: SolverProbe) -> dict[str, Array]:
        before = probes.steps
        measurement = Measurement(states, params, probes, self._differences, np.random.default_rng(self.seed))
        chains, products = measurement.chain(), measurement.products(min(ROUND, self.probes))
        periodic, measured = find_periodic_axes(products, self.seed), None
        if self.block is not None:
            measured = MeasuredBase.measure(states, params, probes, self._differences, self.block, measurement.sizes)
        medium = _Medium(periodic, measured)
        field, report = self._search(measurement, chains, products, medium, self.probes)
        unseen = errors_of(field, measurement.products(UNSEEN))
        report = replace(report, steps=probes.steps - before, unseen=tuple(unseen))
        common = {"mean": measurement.mean} | product_tensors("kept", keep_some(products))
        return field_tensors(field, measurement.sizes, report) | common

    def _search(
        self, measurement: Measurement, chains: Chains, products: Products, medium: _Medium, most: int
    ) -> tuple[Field, FieldReport]:
        """Fit fields to ever more products, up to so many, and return the best of them with what chains tell of it."""
        judged = self._fit(products, medium, chains, 0)
        identity = chains.cosines_of_identity().mean(0)
        reason = self._reason_to_stop(judged, most)
        if judged.cosines[-1] < identity[-1]:
            reason = Reason.NO_USE
        while reason is None:
            products = products.join(measurement.products(min(ROUND, most - len(products.states))))
            new = self._fit(products, medium, chains, judged.rank)
            gains = new.error <= (1 - FALLS) * judged.error
            judged = min(judged, new, key=lambda one: one.error)
            reason = self._reason_to_stop(new, most) if gains else Reason.NO_GAIN
        cosines = tuple(judged.cosines), tuple(identity)
        return judged.field, FieldReport(judged.probes, 0, judged.rank, medium.periodic, *cosines, reason)

    def _fit(self, products: Products, medium: _Medium, chains: Chains, least: int) -> _Judged:
        """Fit fields, each less simple than the one before as long as errors are above the tolerance, and return the best.

        They have features that are linear in the state, of rank `least` at least; products of channels too; and stencils that
        differ from point to point.
        """
        fit = _begin_fit(products, medium, self.seed)
        judged = self._raise_rank(fit, chains, least)
        if judged.error > self.tolerance:
            other_fit = _begin_fit(products, medium, self.seed, squares=True)
            other = self._raise_rank(other_fit, chains, least)
            fit, judged = (other_fit, other) if other.error <= (1 - FALLS) * judged.error else (fit, judged)
        for radius in RADII if judged.error > self.tolerance else ():
            new = _judge(fit, judged.rank, chains, radius)
            judged = new if new.error <= (1 - FALLS) * judged.error else judged
        return judged

    def _raise_rank(self, fit: FieldFit, chains: Chains, least: int) -> _Judged:
        """Fit a constant field, one of the rank that stands out, at least `least`, and of twice that as long as errors fall."""
        judged, rank = _judge(fit, 0, chains), max(_rank(fit), min(least, _most(fit)))
        while judged.rank < rank <= _most(fit) and (judged.rank == 0 or judged.error > self.tolerance):
            new = _judge(fit, rank, chains)
            if new.error > (1 - FALLS) * judged.error:
                break
            judged, rank = new, 2 * rank
        return judged

    def _reason_to_stop(self, judged: _Judged, most: int) -> Reason | None:
        if judged.error <= self.tolerance:
            return Reason.TOLERANCE
        return None if judged.probes < most else Reason.ALL_USED

    def _load(self) -> None:
        self._field, self._sizes, self.report = field_from_tensors(self._tensors)

    def _warn(self, solver: str) -> None:
        if self._is_poor():
            warnings.warn(
                f"JacobianField found no Jacobian of solver {solver!r} that depends on the state as it expects: {self.report}. "
                f"Take {FALLBACK}.",
                stacklevel=3,
            )

    def _is_poor(self) -> bool:
        assert self.report is not None
        return self.report.cosines[-1] < max(self.report.identity[-1], POOR)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        self._begin(taken, probes)
        self._look_for_drift(taken, probes)
        field, sizes, params = self._begin(taken, probes), self._sizes, taken.params
        product = field.vjp(taken.states / sizes, taken.advanced / sizes, params, cotangents * sizes)
        return np.asarray(product / sizes, dtype=cotangents.dtype)

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        field, sizes = self._begin(taken, probes), self._sizes
        product = field.jvp(taken.states / sizes, taken.advanced / sizes, taken.params, directions / sizes)
        return np.asarray(product * sizes, dtype=directions.dtype)

    def _begin(self, taken: StepTaken, probes: SolverProbe) -> Field:
        """Return the field; measure or restore it if there is none yet."""
        if self._field is None:
            if self._tensors:
                self._load()
            else:
                self.prepare(taken.states, taken.params, probes)
        assert self._field is not None
        return self._field

    def _look_for_drift(self, taken: StepTaken, probes: SolverProbe) -> None:
        """Check at some of the states that products are asked for, and fit the field again if it has drifted."""
        if self.check_every is None or "mean" not in self._tensors:  # a field of the first versions has no such errors
            return
        for visit in self._drift.visit(taken):
            field, units = self._begin(taken, probes), Units(self._sizes, self._tensors["mean"])
            assert self.report is not None
            if self._drift.over:
                return
            errors = self._drift.check(visit, field, units, self._differences, probes)
            self._drift.record(visit, errors, self.report.unseen, self.tolerance)
            if self._drift.factor > FACTOR:
                self._refit(field, self.report, probes)

    def _refit(self, field: Field, report: FieldReport, probes: SolverProbe) -> None:
        """Fit a field anew, to products at the last states too, and take it if that mends it; else do not check again."""
        drift, before = self._drift, probes.steps
        off = (
            f"after {drift.seen:,} products, those of the JacobianField of solver {probes.spec.name!r} are off "
            f"{drift.factor:,.1f} times as far as expected"
        )
        most = (report.steps - 2 * drift.spent) // 2 - CHAINS * LENGTH - UNSEEN  # report.steps holds those of refits, too
        if most < min(ROUND, self.probes):
            drift.stop(f"{off}, and refits may take no more solver steps than measuring did", probes)
            return
        try:
            with single_threaded():
                refit = self._measure_again(field, report, min(most, self.probes), probes)
        except DeepZeroError as error:
            count_failure(error, probes)
            drift.stop(f"{off}, and a refit failed ({error})", probes)
            return
        steps = probes.steps - before
        if refit is None:
            drift.begin_anew()
        elif refit.now > MENDED * refit.was:
            drift.stop(f"{off}, and a refit of {steps} solver steps did not mend it", probes)
        else:
            self._tensors = refit.tensors
            self._load()
            drift.begin_anew(steps)
            errors = f"through {LENGTH} steps from {refit.was:.2g} to {refit.now:.2g}"
            mended = f"{off}: a refit of {steps} solver steps lowered their error {errors} ({self.report})"
            if self._is_poor():
                probes.warn(f"{mended}, which is poor: take {FALLBACK}.")
            else:
                probes.note(f"{mended}.")

    def _measure_again(self, field: Field, report: FieldReport, most: int, probes: SolverProbe) -> _Refit | None:
        """Fit a field to at most so many products at the last states, and those that were kept; None if that is not called for.

        A few products at the last states confirm first that the field has drifted, and chains from there judge the two.
        """
        before, generator = probes.steps, np.random.default_rng([self.seed, self._drift.seen, 1])
        measurement = Measurement(*self._drift.states(), probes, self._differences, generator, self._sizes)
        unseen = measurement.products(UNSEEN)
        if np.median(factors_of(errors_of(field, unseen), report.unseen, self.tolerance)) <= FACTOR:
            return None
        chains, kept = measurement.chain(), products_from_tensors("kept", self._tensors)
        products = kept.join(measurement.products(min(ROUND, most)))
        medium = _Medium(report.periodic, field.operators.measured)
        new, found = self._search(measurement, chains, products, medium, most + len(kept.states))
        steps, errors = report.steps + probes.steps - before, errors_of(new, unseen)
        found = replace(found, steps=steps, unseen=tuple(errors), refits=report.refits + 1, refitted_after=self._drift.seen)
        common = {"mean": measurement.mean} | product_tensors("kept", kept)
        was = direction_error(chains.cosines(field).mean(0)[-1])
        return _Refit(field_tensors(new, self._sizes, found) | common, was, found.error)

    def adopt_defaults(self, file: Path, most_steps: int) -> None:
        self.file = self.file or file

    def steps_to_measure(self, spec: SolverSpec) -> int:
        """Count the solver steps to measure a field of a solver, at most.

        Raises:
            ConfigError: There are fewer probes than a solver of so many channels needs.
        """
        self._require_enough(spec)
        products = self.probes + CHAINS * LENGTH + UNSEEN + 1  # the last tells the solver from others
        base = 0 if self.block is None else 1 + BaseJacobian(spec.active(), self.block).direction_count
        return 2 * products + base

    def _require_enough(self, spec: SolverSpec) -> None:
        channels = spec.state_shape[0]
        least = LEAST * channels
        require_that(
            self.probes >= least,
            f"a JacobianField of a solver with {count_of(channels, 'channel')}, {spec.name!r}, needs {least} probes or more, "
            f"not {self.probes}: raise probes, or take StraightThrough, which needs none.",
        )

    def state_dict(self) -> dict[str, Array]:
        return self._tensors | self._drift.state_dict()

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self._drift = self._no_drift()
        self._drift.load_state_dict(state_dict)
        self._tensors = {name: array for name, array in state_dict.items() if not name.startswith(PREFIX)}
        self._field = None


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
    fit = _begin_fit(products, _Medium(periodic), seed, SMALL_KERNEL)
    field = fit.fit(_rank(fit), 0)[0]
    return np.asarray(np.square(field.of(products) - products.answers).sum((0, 1)))


class _Medium(NamedTuple):
    """Facts of a medium that fits need: which axes are periodic, and its measured Jacobian, if there is one."""

    periodic: tuple[bool, ...]
    measured: MeasuredBase | None = None


def _begin_fit(products: Products, medium: _Medium, seed: int, radius: int | None = None, squares: bool = False) -> FieldFit:
    features = StateFeatures(products.states, products.advanced, products.params, medium.periodic, squares)
    grid = KernelGrid(products.states.shape[2:], medium.periodic, radius)
    return FieldFit(grid, features, products, seed, medium.measured)


def _rank(fit: FieldFit) -> int:
    """Choose the rank where strengths fall most, among those above noise and not more than products can tell apart."""
    strengths = fit.directions.strengths
    if not _most(fit) or not strengths[0] > 0:
        return 0
    clear = int((strengths > NOISE * strengths[0]).sum())
    candidates = strengths[: min(clear, _most(fit)) + 1]
    drops: Array = candidates[:-1] / np.maximum(candidates[1:], NEGLIGIBLE * candidates[0])
    return 1 + int(np.argmax(drops))


def _most(fit: FieldFit) -> int:
    """Bound the rank: `(r + 1) C` unknowns a point and output channel, and half as many products at most."""
    count, channels = fit.products.states.shape[:2]
    found: int = max(0, len(fit.directions.strengths) - 1)
    told: int = count // (2 * channels) - 1
    return min(found, max(1, told))


class _Refit(NamedTuple):
    """Arrays of a field that was fitted again, and the errors of the old and of the new one, through the steps of chains."""

    tensors: dict[str, Array]
    was: float
    now: float


class _Judged(NamedTuple):
    """Field, its rank, the number of products that it was fitted to, and the cosines of its chains."""

    field: Field
    rank: int
    probes: int
    cosines: Array

    @property
    def error(self) -> float:
        """Error of products through all steps of the chains."""
        return direction_error(self.cosines[-1])


def _judge(fit: FieldFit, rank: int, chains: Chains, radius: int = 0) -> _Judged:
    """Fit fields of a rank, and return the one that chains tell to be better; if little so, the cheaper one."""
    fields = fit.fit(rank, radius)
    first, *others = (_Judged(field, rank, len(fit.products.states), chains.cosines(field).mean(0)) for field in fields)
    return next((other for other in others if other.error < (1 - FALLS) * first.error), first)
