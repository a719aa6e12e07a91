"""Drift of a field in use: the states that it is asked for move away from those that it was fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import StepTaken
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.field_report import FALLBACK
from deepzero_sim.coupling.vjp.field.fitting import Field, Products
from deepzero_sim.coupling.vjp.field.probing import draw_directions, measure_products, norms, split_active
from deepzero_sim.coupling.vjp.field.rest_of_step import FieldOfInputs
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.errors import DeepZeroError, SolverError
from deepzero_sim.solver.failure_policy import account_of

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: States whose products are asked for from one check, of two solver steps, to the next: below 1 % of a training's steps.
CHECK_EVERY = 256

#: Products that a field is not fitted to, one of each kind of direction, and last checks that are compared with these.
UNSEEN, CHECKS = 8, 16

#: Factor by which errors of half the last checks exceed those at measuring where a field has drifted, and share of the error
#: through a chain that a refit may leave: one that leaves more is not worth what it loses where the first was good.
FACTOR, MENDED = 2.0, 0.8

#: States that are kept from one check to the next, and all that are; products that are; and bytes of either, beyond the least.
BETWEEN, STATES, PRODUCTS, LEAST, BYTES = 8, 64, 32, 8, 2**26

#: Error, as a share, that stands for all above it, and for what is not finite.
WORST = 1e6

#: Names of a drift's arrays begin so, among those of a field.
PREFIX = "drift."


class Visit(NamedTuple):
    """State that a field is checked at, `(C, *N)`, its parameters `(K,)` or None, and the number of the check."""

    number: int
    state: Array
    params: Array | None


class Units(NamedTuple):
    """Unit of each channel, `(C, *1)`, and the mean of the states that a field was measured at, `(C, *N)`."""

    sizes: Array
    mean: Array


class Drift:
    """States that a field is asked for, of which the last few are kept, and its errors at some of them.

    All is drawn by generators of the number of states so far, so that a run that is resumed draws the same.

    Args:
        every: Number of states from one check to the next.
        seed: Seed of what is kept and of directions.
        of_inputs: True for a field of changes of a solver's inputs.

    Attributes:
        seen: Number of states so far.
        spent: Solver steps of refits so far.
        over: Flag that no more is checked.
    """

    def __init__(self, every: int, seed: int, of_inputs: bool = False) -> None:
        self._gap = max(1, every // BETWEEN)
        self._kept_a_check = max(1, every // self._gap)
        self._seed, self._of_inputs = seed, of_inputs
        self.seen = self.spent = 0
        self.over = False
        self._failed = 0
        self._factors: list[float] = []
        self._states: list[Array] = []
        self._params: list[Array] = []

    def visit(self, taken: StepTaken) -> Iterator[Visit]:
        """Count states of a product, keep one of some, and pick those to check at."""
        if self.over:
            return
        first, self.seen = self.seen, self.seen + len(taken.states)
        for stretch in range(first // self._gap, -(-self.seen // self._gap)):
            b = stretch * self._gap + int(np.random.default_rng([self._seed, stretch]).integers(self._gap)) - first
            if not 0 <= b < len(taken.states):
                continue
            state, params, _ = taken.at(b)
            self._keep(state, params)
            if (stretch + 1) % self._kept_a_check == 0:
                yield Visit(stretch // self._kept_a_check, state, params)

    def _keep(self, state: Array, params: Array | None) -> None:
        most = max(LEAST, min(STATES, BYTES // state.nbytes))
        self._states = [*self._states, state.copy()][-most:]
        if params is not None:
            self._params = [*self._params, params.copy()][-most:]

    def states(self) -> tuple[Array, Array | None]:
        """Stack the states that were kept, `(R, C, *N)`, and their parameters, `(R, K)` or None."""
        return np.stack(self._states), np.stack(self._params) if self._params else None

    def check(
        self, visit: Visit, field: Field | FieldOfInputs, units: Units, differences: Differences, probes: SolverProbe
    ) -> Array:
        """Compute the error of one product at a state by two solver steps, `(1,)`; none, `(0,)`, if the solver fails."""
        params = None if visit.params is None else visit.params[None]
        state, generator = visit.state[None], np.random.default_rng([self._seed, visit.number, UNSEEN])
        mean, kind = units.mean / units.sizes, visit.number % UNSEEN
        own, inputs = split_active(probes.spec.active(), probes.own_channels)
        directions = draw_directions(generator, state / units.sizes, mean, inputs if self._of_inputs else own, kind)
        try:
            products = measure_products(probes, differences, state, params, directions, units.sizes)
        except DeepZeroError as error:
            count_failure(error, probes)
            self._failed += 1
            if self._failed == 1:
                probes.warn(
                    f"a check of a JacobianField's products failed, and is left out, as others that fail will be: {error}"
                )
            return np.empty(0)
        return errors_of(field, products)

    def record(self, visit: Visit, errors: Array, unseen: tuple[float, ...], tolerance: float) -> None:
        """Record the error of a check, or none, as a factor of what is expected; see :func:`factors_of`."""
        kind = visit.number % UNSEEN
        self._factors = [*self._factors, *factors_of(errors, unseen[kind : kind + 1], tolerance)][-CHECKS:]

    @property
    def factor(self) -> float:
        """Factor by which errors of the last checks exceed those at measuring, their median; 0 until there are enough."""
        return float(np.median(self._factors)) if len(self._factors) == CHECKS else 0.0

    def stop(self, sentence: str, probes: SolverProbe) -> None:
        """Check no more, and say why and what else there is."""
        self.over = True
        self._states, self._params = [], []
        probes.warn(f"{sentence}; it is not checked again: take {FALLBACK}.")

    def begin_anew(self, steps: int = 0) -> None:
        """Forget errors, after a refit of so many solver steps or a false alarm."""
        self.spent += steps
        self._factors = []

    def state_dict(self) -> dict[str, Array]:
        """Return all that checks to come depend on, as arrays by name; none if there was no state."""
        if not self.seen:
            return {}
        counts = {"counts": np.array([self.seen, self.spent, self.over, self._failed], dtype=np.float64)}
        lists = {"factors": self._factors, "states": self._states, "params": self._params}
        found = counts | {name: np.array(values) for name, values in lists.items() if values}
        return {PREFIX + name: array for name, array in found.items()}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        """Restore what :meth:`state_dict` gave."""
        found = {name.removeprefix(PREFIX): array for name, array in state_dict.items() if name.startswith(PREFIX)}
        self.seen, self.spent, over, self._failed = (int(count) for count in found.get("counts", np.zeros(4)))
        self.over = bool(over)
        self._factors = [float(factor) for factor in found.get("factors", ())]
        self._states, self._params = list(found.get("states", ())), list(found.get("params", ()))


def check_drift(drift: StoredArrays, shape: tuple[int, ...], params: int) -> None:
    """Refuse arrays that are not what :meth:`Drift.state_dict` gives, for states `(C, *N)` with so many parameters."""
    if "counts" in drift:
        drift.counts("counts", 4)
    if "factors" in drift:
        drift.numbers("factors", "factors")
    if "states" in drift:
        drift.numbers("states", "R", *shape)
        if params or "params" in drift:
            drift.numbers("params", "R", params)


def factors_of(errors: Array, unseen: tuple[float, ...], tolerance: float) -> list[float]:
    """Divide errors by those of the same kinds of directions at measuring, or by what the tolerance allows if that is more.

    Args:
        errors: Errors of products through one step, as shares.
        unseen: Errors at measuring.
        tolerance: Error of one product that is no drift.
    """
    return [float(error) / max(least, tolerance) for error, least in zip(errors, unseen, strict=False)]


def errors_of(field: Field | FieldOfInputs, products: Products) -> Array:
    """Compute the error of a field's products, as shares of those measured, `(P,)`."""
    with np.errstate(over="ignore", invalid="ignore"):
        differences = (field.of(products) - products.answers).astype(np.float64)
    sizes, errors = (norms(values).reshape(-1) for values in (products.answers, differences))
    shares = np.where(errors == 0, 0.0, errors / np.where(sizes > 0, sizes, 1 / WORST))
    return np.where(shares < WORST, shares, WORST)


def keep_some(products: Products) -> Products:
    """Pick the products of the data that a refit has besides its own."""
    size = sum(array[0].nbytes for array in (products.states, products.advanced, products.directions, products.answers))
    return products.first(max(LEAST, min(PRODUCTS, BYTES // size)))


def count_failure(error: DeepZeroError, probes: SolverProbe) -> None:
    """Count a failure of the solver that leaves something out."""
    if isinstance(error, SolverError):
        probes.count(account_of(error).with_incident(error, "dropped"))
