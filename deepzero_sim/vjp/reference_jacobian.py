"""Jacobians that are measured at a few states, and taken to hold near them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.schemes import Scheme
from deepzero_sim.solver import SolverSpec
from deepzero_sim.types import Array, is_number, is_whole
from deepzero_sim.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.vjp.base_jacobian import BaseJacobian
from deepzero_sim.vjp.differences import Differences
from deepzero_sim.vjp.kept_jacobians import KeptJacobians
from deepzero_sim.vjp.medoids import medoids
from deepzero_sim.vjp.windows import Windows

#: Products from one check against the solver to the next, where there is a tolerance.
CHECK_EVERY = 64


class _Reference(NamedTuple):
    """A state, what its step gave, and by how much the transposed Jacobian there differs from the base's, within windows."""

    state: Array
    params: Array | None
    advanced: Array
    difference: csr_array


@final
class ReferenceJacobian(VectorJacobianProduct):
    """Jacobians measured by finite differences at a few states; a product is taken with the one nearest to its state.

    What couples far points (a pressure projection, an implicit step) is nearly the same at all states, and what changes from
    state to state (advection, reactions) is local. So one Jacobian is measured whole, and at every other reference only how it
    differs from that one within windows around the points, by probes of many points at once:

        J(s) ~ J_0 + D_r,   r the reference nearest to s,   D_r from  J(s_r) c - J_0 c  for the colours c

    For `n` points that hold values, `J_0` takes `n` solver steps and `n^2` numbers or, with blocks, a `b^2`-th of both on
    a plane, see :class:`~deepzero_sim.vjp.base_jacobian.BaseJacobian`; a reference takes as many steps as its windows have
    colours, see :class:`~deepzero_sim.vjp.windows.Windows`. Central differences take twice these. Products then take none.

    Args:
        references: at how many states, at most. They are those that all others are nearest to among the ones it is prepared
            with, or among those of its first product; see :func:`~deepzero_sim.vjp.medoids.medoids`.
        radius: of the windows within which references differ, in points. A step that differs locally over no more, such as one
            of stencil `radius`, is exact at every reference.
        block: `b`, points along each axis whose far effects are taken to be the same; 1 measures every point.
        step_size: as of :class:`~deepzero_sim.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.
        tolerance: of now and then a product, one random direction is compared with the solver, for a solver step or two; an
            error of more than this share of the answer measures another reference there. None never looks.
        secants: whether the nearest Jacobian is made to agree with the step that was taken, by Broyden's update
            `J + (P(s) - P(s_r) - J d) d^T / d^T d`, `d = s - s_r` (Math. Comp. 19, 1965, eq. 4.5), where both have the same
            parameters. It takes no solver steps and twice the time.
        memory: bytes that all of them may take.
        file: where to keep what is measured, and to find it again. It is only taken for a solver that gives the same steps.

    Raises:
        ConfigError: an argument that cannot be used.
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
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name} must be a positive whole number, not {value!r}.")
        if not is_whole(radius) or radius < 0:
            raise ConfigError(f"radius must be a whole number of points, 0 or more, not {radius!r}.")
        if tolerance is not None and (not is_number(tolerance) or not tolerance > 0):
            raise ConfigError(f"tolerance must be a positive share of a step's answer, or None, not {tolerance!r}.")
        self.references = references
        self.radius = radius
        self.block = block
        self.scheme: Scheme = scheme
        self.tolerance = tolerance
        self.secants = secants
        self.memory = memory
        self.file = None if file is None else Path(file)
        self._differences = Differences(step_size, scheme)
        self._measured: list[_Reference] = []
        self._products = 0
        self._known: dict[str, Array] = {}

    def prepare(self, states: Array, params: Array | None, probes: Probes) -> None:
        chosen = medoids(states, self.references)
        self._measure_at(states[chosen], None if params is None else params[chosen], probes)

    def measure(self, states: Array, params: Array | None, probes: Probes) -> None:
        """Measure at states of one's choice, in place of what was measured before.

        Args:
            states: `(R, C, *N)`; the Jacobian is measured whole at the one nearest to their mean.
            params: `(R, K)` or None.
            probes: advances states.

        Raises:
            ConfigError: they would not fit into memory.
            SolverError: the solver failed.
        """
        base = medoids(states, 1)[0]
        order = [base, *(r for r in range(len(states)) if r != base)]
        self._measure_at(states[order], None if params is None else params[order], probes)

    def _measure_at(self, states: Array, params: Array | None, probes: Probes) -> None:
        """The whole one at the first."""
        self._require_fits(len(states), probes.spec)
        self._measure(StepTaken(states, params, probes(states, params)), probes)

    def _measure(self, taken: StepTaken, probes: Probes) -> None:
        active = probes.spec.active()
        self._base, self._windows = BaseJacobian(active, self.block), Windows(active, self.radius)
        self._kept = KeptJacobians(self.file)
        self._measured = []
        self._facts = f"1 {probes.spec.name} {self.scheme} {self._differences.step_size} {self.block}"
        for r, (state, advanced) in enumerate(zip(taken.states, taken.advanced, strict=True)):
            self._add(state, None if taken.params is None else taken.params[r], advanced, probes)
        self._kept.save()

    def _add(self, state: Array, params: Array | None, advanced: Array, probes: Probes) -> None:
        """Measure at one state."""

        def whole() -> dict[str, Array]:
            self._base.measure(state, params, advanced, probes, self._differences)
            return self._base.tensors()

        def difference() -> dict[str, Array]:
            directions = self._windows.directions.astype(state.dtype)
            answers = self._differences.along(probes, state, params, advanced, directions)
            return {"difference": self._windows.transposed(self._base.left_of(answers, directions)).data}

        at = [state, advanced, *([] if params is None else [params])]
        if not self._measured:
            self._base.take(self._kept.get(self._facts, at, whole))
            self._of_base = at
        entries = self._kept.get(f"{self._facts} {self.radius}", [*self._of_base, *at], difference)["difference"]
        self._measured.append(_Reference(state, params, advanced, self._windows.filled(entries)))

    def product(self, taken: StepTaken, cotangents: Array, probes: Probes) -> Array:
        if not self._measured:
            self._begin(taken, probes)
        if self.tolerance is not None:
            self._check(taken, probes)
        active = probes.spec.active()
        w = cotangents[:, active]
        found = self._base.transposed(w)
        nearest = [self._nearest(state) for state in taken.states]
        for b, reference in enumerate(nearest):
            found[b] += reference.difference @ w[b]
        if self.secants:
            found += self._by_secants(taken, w, nearest, active)
        result = np.zeros_like(cotangents)
        result[:, active] = found
        return result

    def _begin(self, taken: StepTaken, probes: Probes) -> None:
        if self._known:
            known = self._known
            self._measure(StepTaken(known["states"], known.get("params"), known["advanced"]), probes)
        else:
            self.prepare(taken.states, taken.params, probes)

    def _nearest(self, state: Array) -> _Reference:
        return min(self._measured, key=lambda reference: float(np.square(reference.state - state).sum()))

    def _by_secants(self, taken: StepTaken, w: Array, nearest: list[_Reference], active: np.ndarray) -> Array:
        """What Broyden's updates add to products of cotangents, `(B, n)`."""
        added = np.zeros_like(w)
        for b, reference in enumerate(nearest):
            d = (taken.states[b] - reference.state)[active]
            same = taken.params is None or reference.params is None or np.array_equal(taken.params[b], reference.params)
            if same and d.any():
                change = (taken.advanced[b] - reference.advanced)[active]
                added[b] = ((change - self._along(reference, d)) @ w[b] / (d @ d)) * d
        return added

    def _along(self, reference: _Reference, direction: Array) -> Array:
        """`J v`, `(n,)`, of the estimate."""
        return np.asarray(self._base.along(direction[None])[0] + reference.difference.T @ direction)

    def _check(self, taken: StepTaken, probes: Probes) -> None:
        """Now and then, look whether the estimate has drifted, and measure anew if so."""
        assert self.tolerance is not None
        self._products += 1
        if self._products % CHECK_EVERY:
            return
        generator = np.random.default_rng(self._products)  # the same whenever a run goes on
        b, active = int(generator.integers(len(taken.states))), probes.spec.active()
        state, advanced, params = taken.states[b], taken.advanced[b], None if taken.params is None else taken.params[b]
        direction = np.where(active, generator.choice([-1, 1], size=active.shape), 0).astype(state.dtype)
        answer = self._differences.along(probes, state, params, advanced, direction[None])[0, active]
        error = np.linalg.norm(answer - self._along(self._nearest(state), direction[active]))
        if error > self.tolerance * np.linalg.norm(answer):
            self._require_fits(len(self._measured) + 1, probes.spec)
            self._add(state, params, advanced, probes)
            self._kept.save()

    def learnt(self) -> dict[str, Array]:
        if not self._measured:
            return self._known
        params = [reference.params for reference in self._measured if reference.params is not None]
        known = {
            "states": np.stack([reference.state for reference in self._measured]),
            "advanced": np.stack([reference.advanced for reference in self._measured]),
            "products": np.array(self._products, dtype=np.float64),
        }
        return known | ({"params": np.stack(params)} if params else {})

    def relearn(self, learnt: dict[str, Array]) -> None:
        self._known, self._measured = learnt, []  # measured when first asked: a run may have ended
        self._products = int(learnt["products"].item()) if learnt else 0

    def numbers(self, spec: SolverSpec, references: int | None = None) -> int:
        """That it takes to hold so many references, or all that were asked for, of a solver."""
        active, count = spec.active(), self.references if references is None else references
        return BaseJacobian(active, self.block).numbers + count * Windows(active, self.radius).entries

    def _require_fits(self, references: int, spec: SolverSpec) -> None:
        needed = self.numbers(spec, references) * np.dtype(spec.dtype).itemsize
        if needed > self.memory:
            raise ConfigError(
                f"the Jacobian of solver {spec.name!r} and {references} references would take {needed / 2**30:.3g} GiB, more "
                f"than the {self.memory / 2**30:.3g} GiB of memory: take block={2 * self.block}, which needs a fourth on a "
                "plane, fewer references, a smaller radius, more memory, or Coloured."
            )
