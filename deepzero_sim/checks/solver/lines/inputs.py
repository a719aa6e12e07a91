"""Line of the contract on the fields that a step reads besides its state: whether the answer depends on each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepzero_sim.checks.solver.record import Finding, Sample
from deepzero_sim.checks.solver.trial import ShieldedSolver, Trial, call_step
from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverError
from deepzero_sim.solver.input_fields import InputField
from deepzero_sim.solver.stepped_inputs import InputsAtRest, inputs_at_rest


def check_inputs(trial: Trial, solver: InputsAtRest) -> Finding:
    """Expect that a change of each field, by its scale, changes the answer at one of the sample states.

    Args:
        trial: Trial after its survey.
        solver: Solver on trial, whose fields are at rest.
    """
    fields = solver.solver.spec.inputs
    trial.require_deterministic()
    trial.require_time(len(fields) * len(trial.samples))
    found = {field.name: _reaction(trial, solver, number) for number, field in enumerate(fields)}
    without = [name for name, reaction in found.items() if reaction == "nothing"]
    if without:
        return Finding(
            "fail",
            f"the answer does not depend on {', '.join(without)}, changed by its scale at every point of "
            f"{len(trial.samples)} sample states: is it read? A network that provides it would learn nothing.",
        )
    refused = [f"the step refuses {name} with a change of its scale: {said}" for name, said in found.items() if said]
    if refused:
        return Finding("info", " ".join(refused))
    return Finding("pass", f"a step reads {', '.join(found)}.")


def _reaction(trial: Trial, solver: InputsAtRest, number: int) -> str:
    """Change a field at sample states: empty if an answer changes, "nothing" if none does, or the step's refusal."""
    reaction = "nothing"
    for sample in trial.samples:
        for values in _changed(solver, number):
            try:
                answer = call_step(ShieldedSolver(solver.with_values(values)), sample.state, sample.params)
            except SolverError as error:
                reaction = str(error)
                continue
            if not _is_same(answer, sample):
                return ""
    return reaction


def _is_same(answer: object, sample: Sample) -> bool:
    return isinstance(answer, np.ndarray) and np.array_equal(answer, sample.answer)


def _changed(solver: InputsAtRest, number: int) -> Iterator[Array]:
    """Yield the values at rest with one field changed up, or down where its bounds allow no other."""
    spec = solver.solver.spec
    field, rest, active = spec.inputs[number], inputs_at_rest(spec), spec.active_inputs()[number]
    for value in (field.value + field.scale, field.value - field.scale):
        if _is_allowed(field, value):
            changed = rest.copy()
            changed[number] = value * active
            yield changed


def _is_allowed(field: InputField, value: float) -> bool:
    return (field.least is None or value >= field.least) and (field.most is None or value <= field.most)
