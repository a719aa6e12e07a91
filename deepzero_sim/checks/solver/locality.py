"""The line of the contract about how far a step carries information."""

from __future__ import annotations

from deepzero_sim.checks.solver.trial import Trial, together
from deepzero_sim.checks.solver.verdict import Finding, NotTestedError, broken, holds, told
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.stencil_radius import POINTS, STATES, is_wide, measure_radius
from deepzero_sim.errors import SolverError


def measured_reach(trial: Trial) -> int:
    """How far a step carries all but a hundredth of a change, in points; at as many states as there is time for.

    Raises:
        NotTestedError: there is not, or the solver failed at a state that was changed at one point.
    """
    trial.require_deterministic()
    of_state = 1 + 2 * POINTS * trial.spec.state_shape[0]
    trial.require_time(of_state, 0.4)
    samples = trial.samples[: min(STATES, trial.affordable(0.4) // of_state)]
    try:
        return measure_radius(*together(samples), SolverProbe(trial.shielded), Differences(None, "central"))
    except SolverError as error:
        raise NotTestedError(f"a state that was changed at one point could not be advanced: {error}") from error


def stencil(trial: Trial, found: int) -> Finding:
    """A step carries information no farther than the spec says."""
    said, longest = trial.spec.stencil, max(trial.spec.state_shape[1:])
    far = is_wide(found, trial.spec)
    if said is None:
        advice = "ReferenceJacobian suits it" if far else f"say stencil={found} if that holds for all states: Coloured suits it"
        return told(
            f"the spec has no stencil. A step carries all but 1 % of a change over {found} points of {longest}; {advice}."
        )
    if found > said:
        return broken(
            f"the spec's stencil is {said}, but a step carries information over {found} points: Coloured and its like would "
            f"find wrong gradients. Say stencil={None if far else found}."
        )
    return holds(f"a step carries information over {found} points, no farther than the stencil of {said}.")
