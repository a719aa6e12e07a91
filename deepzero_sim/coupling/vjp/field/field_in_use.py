"""A field in use: it is checked now and then, and fitted again where the states that it is asked for have drifted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepzero_sim.common.types import Array
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.vjp.base import StepTaken
from deepzero_sim.coupling.vjp.field.drift import (
    CHECK_EVERY,
    FACTOR,
    MENDED,
    PREFIX,
    UNSEEN,
    Drift,
    Units,
    check_drift,
    count_failure,
)
from deepzero_sim.coupling.vjp.field.field_report import FALLBACK, FieldReport
from deepzero_sim.coupling.vjp.field.measuring import Recipe, measure_again
from deepzero_sim.coupling.vjp.field.probing import CHAINS, LENGTH, chain_length
from deepzero_sim.coupling.vjp.field.rest_of_step import RestOfStep, with_rest
from deepzero_sim.coupling.vjp.field.saved_field import check_field, field_from_tensors
from deepzero_sim.coupling.vjp.field.scaled_field import ScaledField
from deepzero_sim.coupling.vjp.field.search import ROUND
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


class FieldInUse:
    """A field of changes of the state, or of the inputs of a solver, with the drift of the states that it is asked for.

    Args:
        recipe: Arguments of its measurement.
        tensors: Arrays of the field, and those of its drift if it was in use before.
        check_every: Number of states whose products are asked for from one check to the next; None never checks.
        of_states: Field of changes of the state, which those of inputs go through; None for that field itself.

    Attributes:
        scaled: Field with its units.
        report: Error bar of the field, as of its last fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        tensors: dict[str, Array],
        check_every: int | None,
        of_states: FieldInUse | None = None,
    ) -> None:
        self._recipe, self._of_states = recipe, of_states
        self._tensors = {name: array for name, array in tensors.items() if not name.startswith(PREFIX)}
        self._drift = Drift(check_every or CHECK_EVERY, recipe.seed, recipe.of_inputs)
        self._drift.load_state_dict(tensors)
        self._checked = check_every is not None and "mean" in tensors  # a field of the first versions has no such errors
        self.scaled, self.report = self._load()
        self._refits_of_states = 0 if of_states is None else of_states.report.refits

    def _load(self) -> tuple[ScaledField, FieldReport]:
        field, units, report = field_from_tensors(self._tensors)
        return ScaledField(field, units), report

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays of the field and of its drift."""
        return self._tensors | self._drift.state_dict()

    def look_for_drift(self, taken: StepTaken, probes: SolverProbe) -> None:
        """Check at some of the states that products are asked for, and fit the field again if it has drifted."""
        if not self._checked:
            return
        if self._of_states is not None and self._of_states.report.refits != self._refits_of_states:
            self._refits_of_states = self._of_states.report.refits
            self._drift.begin_anew()  # errors so far were those with another rest of the step
        for visit in self._drift.visit(taken):
            if self._drift.over:
                return
            units, field = Units(self.scaled.units, self._tensors["mean"]), with_rest(self.scaled.field, self._rest(probes))
            errors = self._drift.check(visit, field, units, self._recipe.differences, probes)
            self._drift.record(visit, errors, self.report.unseen, self._recipe.tolerance / self._length)
            if self._drift.factor > FACTOR:
                self._refit(probes)

    def _rest(self, probes: SolverProbe) -> RestOfStep | None:
        """Return the rest of the step that changes of inputs go through, by the field of states as it is now."""
        if self._of_states is None:
            return None
        of_states = self._of_states.scaled
        return RestOfStep(of_states.field, self.scaled.units / of_states.units, probes.own_channels, self.report.share)

    @property
    def _length(self) -> int:
        """Steps of the chains that judge the field."""
        return chain_length(self._recipe.of_inputs)

    def _refit(self, probes: SolverProbe) -> None:
        """Fit a field anew, to products at the last states too, and take it if that mends it; else do not check again."""
        drift, before = self._drift, probes.steps
        whose = f"{'the inputs of ' if self._recipe.of_inputs else ''}solver {probes.spec.name!r}"
        off = (
            f"after {drift.seen:,} products, those of the JacobianField of {whose} are off "
            f"{drift.factor:,.1f} times as far as expected"
        )
        most = (self.report.steps - 2 * drift.spent) // 2 - CHAINS * LENGTH - UNSEEN  # steps hold those of refits, too
        limit = self._recipe.probes
        if most < min(ROUND, limit):
            drift.stop(f"{off}, and refits may take no more solver steps than measuring did", probes)
            return
        try:
            with single_threaded():
                refit = measure_again(self._recipe, drift, self._tensors, min(most, limit), probes, self._rest(probes))
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
            self.scaled, self.report = self._load()
            drift.begin_anew(steps)
            errors = f"through {count_of(self._length, 'step')} from {refit.was:.2g} to {refit.now:.2g}"
            mended = f"{off}: a refit of {steps} solver steps lowered their error {errors} ({self.report})"
            if self.report.is_poor:
                probes.warn(f"{mended}, which is poor: take {FALLBACK}.")
            else:
                probes.note(f"{mended}.")


def check_field_in_use(stored: StoredArrays, spec: SolverSpec | None, of_inputs: bool = False) -> None:
    """Refuse arrays that are not those of a field, with or without those of its drift."""
    shape, params = check_field(stored, spec, chain_length(of_inputs))
    check_drift(stored.part(PREFIX), shape, params)
