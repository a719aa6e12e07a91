"""Products with Jacobians that are measured at a few states and used near them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from deepzero_sim.common.requirements import LARGEST_COUNT, is_count, is_positive, require, require_flag, require_that
from deepzero_sim.common.types import Array, Scheme, read_only_copy
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.jacobian_file import JacobianFile, fingerprint_direction, path_or_none
from deepzero_sim.coupling.vjp.reference.measured_jacobians import MeasuredJacobians, Reference
from deepzero_sim.coupling.vjp.state_metric import Metric, medoids
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.coupling.vjp.windows import Windows, count_colours
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import require_states

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: Products from one check against the solver to the next, where there is a tolerance.
CHECK_EVERY = 64

#: A state, its parameters or None, and what its step gave.
_Step: TypeAlias = tuple[Array, Array | None, Array]


@final
class ReferenceJacobian(VectorJacobianProduct):
    """Jacobians measured by finite differences at a few states; each product uses the one nearest to its state.

    What couples far points (a pressure projection, an implicit step) is nearly the same at all states, and what changes from
    state to state (advection, reactions) is local. So one Jacobian is measured whole, and at every other reference only its
    difference from that one within windows around the points, by probes of many points at once:

        J(s) ~ J_0 + D_r,   r the reference nearest to s,   D_r from  J(s_r) c - J_0 c  for the colours c

    For `n` points that hold values, `J_0` takes `n` solver steps and `n^2` numbers or, with blocks, a `b^2`-th of both on
    a plane, see :class:`BaseJacobian`; a reference takes as many steps as its windows have colours, see :class:`Windows`.
    Central differences take twice these. Products then take none.

    Args:
        references: Number of states, at most. They are chosen among the states that it is prepared with, or among those of its
            first product, so that all others are near to one of them; see :func:`medoids` and :class:`Metric`.
        radius: Radius of the windows within which references differ, in points. A step that differs locally over no more, such
            as one of stencil `radius`, is exact at every reference.
        block: Points along each axis whose far effects are assumed to be the same, `b`; 1 measures every point.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
        tolerance: Error, as a share of the answer, above which another reference is measured. Now and then, one random
            direction of a product is compared with the solver, for a solver step or two. None never looks.
        secants: Flag to make the nearest Jacobian agree with the step that was taken, by Broyden's update
            `J + (P(s) - P(s_r) - J d) d^T / d^T d`, `d = s - s_r` (Math. Comp. 19, 1965, eq. 4.5), where both have the same
            parameters. It takes no solver steps and twice the time.
        memory: Bytes that all of them may take.
        file: File to store what is measured in, and to find it again. It is only used for a solver that gives the same steps.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        references: int = 24,
        radius: int = 1,
        block: int = 1,
        *,
        step_size: float | None = None,
        scheme: Scheme = "central",
        tolerance: float | None = None,
        secants: bool = False,
        memory: int = 4 * 2**30,
        file: Path | str | None = None,
    ) -> None:
        for name, value in (("references", references), ("block", block), ("memory", memory)):
            require(is_count(value, most=LARGEST_COUNT), f"{name} must be a positive whole number", value)
        require(is_count(radius, least=0), "radius must be a whole number of points, 0 or more", radius)
        fits = tolerance is None or is_positive(tolerance)
        require(fits, "tolerance must be a positive share of a step's answer, or None", tolerance)
        require_flag(secants, "secants")
        self.references = references
        self.radius = radius
        self.block = block
        self.scheme: Scheme = scheme
        self.tolerance = tolerance
        self.secants = secants
        self.memory = memory
        self.file = path_or_none(file)
        self._differences = Differences(step_size, scheme)
        self._measured: MeasuredJacobians | None = None
        self._products = 0
        self._known: dict[str, Array] = {}

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        require_states(probes.spec, states, params)
        metric = Metric.of(states, params)
        chosen = medoids(metric.coordinates(states, params), self.references)
        self._measure_at(states[chosen], None if params is None else params[chosen], metric, probes)

    def measure(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Measure at states of one's choice, in place of what was measured before.

        Args:
            states: Solver states, `(R, C, *N)`; the Jacobian is measured whole at the one nearest to their mean.
            params: Scenario parameters, `(R, K)`, or None.
            probes: Means of asking the solver for steps, which it counts.

        Raises:
            ConfigError: The Jacobians would not fit into memory.
            SolverError: The states are none of the solver's, or the solver failed.
        """
        require_states(probes.spec, states, params)
        metric = Metric.of(states, params)
        base = medoids(metric.coordinates(states, params), 1)[0]
        order = [base, *(r for r in range(len(states)) if r != base)]
        self._measure_at(states[order], None if params is None else params[order], metric, probes)

    def _measure_at(self, states: Array, params: Array | None, metric: Metric, probes: SolverProbe) -> None:
        """Take the step of every state, fingerprint the solver, and measure: the whole Jacobian at the first state."""
        self.bind(probes.solver)
        self._require_fits(len(states), probes.spec)
        taken = StepTaken(states, params, probes(states, params))
        first = None if params is None else params[0]
        direction = fingerprint_direction(probes.spec)
        answer = self._differences.jvp(probes, states[0], first, taken.advanced[0], direction[None])
        self._measure(taken, metric, answer, probes)

    def _measure(
        self, taken: StepTaken, metric: Metric, fingerprint: Array, probes: SolverProbe, *, count_found: bool = True
    ) -> None:
        file = JacobianFile(self.file, count_found=count_found)
        measured = MeasuredJacobians(probes, self._differences, self.block, self.radius, file, metric, fingerprint)
        try:
            for b in range(len(taken.states)):
                measured.add(*taken.at(b))
                if b == 0:
                    file.save()  # the one that takes long
        finally:
            file.save()
        self._file, self._measured = file, measured  # a solver that failed leaves what was there before

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        measured = self._measured or self._begin(taken, probes)
        if self.tolerance is not None:
            self._check(taken, probes, measured)
        active = probes.spec.active()
        nearest = measured.nearest(taken.states, taken.params)
        products = measured.vjp(nearest, cotangents[:, active])
        if self.secants:
            for b, reference in enumerate(nearest):
                products[b] += _secant_term(taken.at(b), cotangents[b], reference, measured, active)
        result = np.zeros_like(cotangents)
        result[:, active] = products
        return result

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        measured, active = self._measured or self._begin(taken, probes), probes.spec.active()
        result = np.zeros_like(directions)
        for b, reference in enumerate(measured.nearest(taken.states, taken.params)):
            result[b, active] = measured.jvp(reference, directions[b, active])
        return result

    def adopt_defaults(self, file: Path, most_steps: int) -> None:
        self.file = self.file or file

    def _begin(self, taken: StepTaken, probes: SolverProbe) -> MeasuredJacobians:
        if self._known:
            known = self._known
            _check_state(StoredArrays.of_state(known, "ReferenceJacobian"), probes.spec)
            references = StepTaken(known["states"], known.get("params"), known["advanced"])
            metric = Metric(known["sizes"], known["spans"])
            # this run was resumed: it counted what the file holds when it measured it
            self._measure(references, metric, known["fingerprint"], probes, count_found=False)
        else:
            self.prepare(taken.states, taken.params, probes)
        assert self._measured is not None
        return self._measured

    def _check(self, taken: StepTaken, probes: SolverProbe, measured: MeasuredJacobians) -> None:
        """Compare a product with the solver now and then, and measure at another state if it has drifted."""
        assert self.tolerance is not None
        self._products += 1
        if self._products % CHECK_EVERY:
            return
        generator = np.random.default_rng(self._products)  # the same in a run that is resumed
        b = int(generator.integers(len(taken.states)))
        state, params, advanced = taken.at(b)
        active = probes.spec.active()
        direction = np.where(active, generator.choice([-1, 1], size=active.shape), 0).astype(state.dtype)
        answer = self._differences.jvp(probes, state, params, advanced, direction[None])[0, active]
        error = np.linalg.norm(answer - measured.jvp(measured.nearest(taken.states, taken.params)[b], direction[active]))
        if error > self.tolerance * np.linalg.norm(answer):
            self._add_if_it_fits(measured, (state, params, advanced), probes)

    def _add_if_it_fits(self, measured: MeasuredJacobians, step: _Step, probes: SolverProbe) -> None:
        try:
            self._require_fits(len(measured.references) + 1, probes.spec)
        except ConfigError as error:
            warnings.warn(f"products are off by more than tolerance, and no more is measured: {error}", stacklevel=2)
            return
        measured.add(*step)
        self._file.save()

    def state_dict(self) -> dict[str, Array]:
        if self._measured is None:
            return {name: array.copy() for name, array in self._known.items()}
        references = self._measured.references
        params = [reference.params for reference in references if reference.params is not None]
        known = {
            "states": np.stack([reference.state for reference in references]),
            "advanced": np.stack([reference.advanced for reference in references]),
            "products": np.array(self._products, dtype=np.float64),
            "references": np.array(len(references), dtype=np.float64),
            "sizes": self._measured.metric.sizes.copy(),
            "spans": self._measured.metric.spans.copy(),
            "fingerprint": self._measured.fingerprint.copy(),
        }
        return known | ({"params": np.stack(params)} if params else {})

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        stored = StoredArrays.of_state(state_dict, "ReferenceJacobian")
        products = 0
        if state_dict:
            _check_state(stored, None if self._solver is None else self._solver.spec)
            (products,) = stored.counts("products")
        stored.require_no_others()
        self._known = {name: read_only_copy(array) for name, array in state_dict.items()}
        self._measured = None  # measured when first asked: a run may have ended
        self._products = products

    def value_count(self, spec: SolverSpec, references: int | None = None) -> int:
        """Count the stored values of so many references, or of all that were asked for, of a solver."""
        active, count = spec.active(), self.references if references is None else references
        return BaseJacobian(active, self.block).value_count + count * Windows(active, self.radius).entries

    def steps_to_measure(self, spec: SolverSpec) -> int:
        """Count the solver steps to measure all references of a solver, if it is prepared with as many states or more.

        Raises:
            ConfigError: The Jacobians would not fit into memory.
        """
        self._require_fits(self.references, spec)
        active = spec.active()
        of_references = self.references * count_colours(active, self.radius)
        directions = 1 + BaseJacobian(active, self.block).direction_count + of_references  # the first tells solvers apart
        return self.references + self._differences.steps_per_direction * directions

    def _require_fits(self, references: int, spec: SolverSpec) -> None:
        needed = self.value_count(spec, references) * np.dtype(spec.dtype).itemsize
        require_that(
            needed <= self.memory,
            f"the Jacobian of solver {spec.name!r} and {references} references would take {needed / 2**30:.3g} GiB, more "
            f"than the {self.memory / 2**30:.3g} GiB of memory: take block={2 * self.block}, which needs a fourth on a "
            "plane, fewer references, a smaller radius, more memory, or Coloured.",
        )


def _check_state(stored: StoredArrays, spec: SolverSpec | None) -> None:
    """Refuse arrays that are not what `state_dict` gives, for a solver or, where that is not known yet, for any."""
    axes = range(max(2, stored.dimensions("states") - 1))
    shape: tuple[int | str, ...] = tuple(f"N{axis}" for axis in axes) if spec is None else spec.state_shape
    params = len(spec.parameters) if spec is not None and spec.parameters else "K" if "params" in stored else 0
    count = len(stored.numbers("states", "R", *shape))
    stored.numbers("advanced", "R", *shape)
    stored.numbers("fingerprint", 1, *shape)
    stored.numbers("sizes", shape[0], positive=True)
    stored.numbers("spans", params, positive=True)
    if params:
        stored.numbers("params", "R", params)
    stored.counts("products")
    known = stored.counts("references")[0] if "references" in stored else count  # there was none in the first versions
    stored.require(known == count > 0, f"have {max(1, known)} states", count)


def _secant_term(step: _Step, w: Array, reference: Reference, measured: MeasuredJacobians, active: np.ndarray) -> Array | float:
    """Compute the term that Broyden's update adds to the product of a cotangent, `(n,)`."""
    state, params, advanced = step
    d = (state - reference.state)[active]
    same = params is None or reference.params is None or np.array_equal(params, reference.params)
    if not same or not d.any():
        return 0.0
    change = (advanced - reference.advanced)[active]
    return np.asarray(((change - measured.jvp(reference, d)) @ w[active] / (d @ d)) * d)
