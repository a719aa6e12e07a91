"""Lines of the contract about single states: form of an answer, finite, zero in padding, the same again, how far it reaches."""

from __future__ import annotations

import warnings

import numpy as np

from deepzero_sim.checks.solver.record import Finding, NotApplicableError, SkippedError, discrepancy
from deepzero_sim.checks.solver.results import at_states
from deepzero_sim.checks.solver.trial import FirstStep, Trial, stack
from deepzero_sim.common.types import Array
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.probes import TOGETHER, SolverProbe
from deepzero_sim.coupling.vjp.auto.search import MOST_A_STATE
from deepzero_sim.coupling.vjp.coloured import Coloured
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.stencil_radius import POINTS, STATES, Reach, is_wide, measure_reach
from deepzero_sim.errors import SolverError
from deepzero_sim.solver.spec import SolverSpec

#: Factor that makes a state extreme, and seconds to wait for a step from there, besides some times a usual one, and at least.
EXTREME, WAIT_EXTREME, LEAST_EXTREME = 1e6, 5.0, 1.0


# ---- form, from the very first step


def check_shape(trial: Trial, first: FirstStep) -> Finding:
    """Expect an array of the shape of what came in."""
    answer, wanted = first.answer, (1, *trial.spec.state_shape)
    if not isinstance(answer, np.ndarray):
        kind = type(answer).__name__
        return Finding("fail", f"a step must return a numpy array, not {kind}: convert it with numpy.asarray.")
    if answer.shape != wanted:
        return Finding(
            "fail", f"a step from {wanted} must return {wanted}, not {answer.shape}: keep the batch and channel axes."
        )
    return Finding("pass", f"{wanted} in and out.")


def check_dtype(trial: Trial, first: FirstStep) -> Finding:
    """Expect the spec's dtype."""
    if not isinstance(first.answer, np.ndarray):
        return Finding("skipped", "'shape' failed: mend that first.")
    dtype, wanted = first.answer.dtype, trial.spec.dtype
    if dtype != np.dtype(wanted):
        return Finding(
            "fail", f"a step must return {wanted}, as its spec says, not {dtype}: convert it with .astype('{wanted}')."
        )
    return Finding("pass", f"{wanted} in and out.")


def check_input_unchanged(trial: Trial, first: FirstStep) -> Finding:
    """Expect states and parameters as they were before the step."""
    changed = [
        name
        for name, now, before in zip(("states", "params"), first.given, trial.row(0), strict=True)
        if not _is_same(now, before)
    ]
    if changed:
        return Finding("fail", f"a step changed the {' and '.join(changed)} it was given: work on a copy (states.copy()).")
    return Finding("pass", "what a step is given is as it was.")


def _is_same(a: Array | None, b: Array | None) -> bool:
    return a is b is None or np.array_equal(a, b, equal_nan=True)  # type: ignore[arg-type]


def describe_memory(trial: Trial, first: FirstStep) -> Finding:
    """Tell whether each result has memory of its own."""
    answer, again = first.answer, first.again
    assert isinstance(answer, np.ndarray) and isinstance(again, np.ndarray)
    if np.shares_memory(answer, again):
        words = "every step returns the same memory: the package copies it; keep no result of your own without a copy."
    elif np.shares_memory(answer, first.given[0]):
        words = "a step returns memory of its input: the package copies it."
    else:
        words = "every result has memory of its own."
    return Finding("info", words)


def describe_spec(trial: Trial) -> Finding:
    """Tell which names and units the spec leaves out."""
    spec = trial.spec
    missing = [name for name in ("channels", "channel_units", "axes", "spacing") if not getattr(spec, name)]
    missing += ["parameter_units"] if spec.parameters and not spec.parameter_units else []
    if missing:
        return Finding(
            "info", f"the spec leaves out {', '.join(missing)}: reports, data files and figures name them if it says them."
        )
    return Finding("info", "channels, axes and parameters have names, units and spacing.")


# ---- values


def check_sample_states(trial: Trial) -> Finding:
    """Count the sample states that are advanced, and those where the failure is raised."""
    if trial.raised:
        place, error = next(iter(trial.raised.items()))
        return Finding(
            "info",
            f"the step fails for {len(trial.raised)} of {trial.looked_at} sample states, and raises that, as it should; the "
            f"first, number {place + 1}: {error}",
        )
    return Finding("pass", f"no failure at {trial.looked_at} sample states, spread over all that there are.")


def check_failures_raised(trial: Trial) -> Finding:
    """Expect that no failure comes back as numbers."""
    if trial.returned:
        place, error = next(iter(trial.returned.items()))
        return Finding("fail", f"a failure was returned as numbers for sample state {place + 1}: {error}")
    return Finding("pass", "what is returned is finite.")


def check_padding(trial: Trial) -> Finding:
    """Expect zero where the mask is False."""
    if trial.spec.mask is None:
        raise NotApplicableError("the spec has no mask: all points hold values.")
    largest = max(float(np.abs(sample.answer[:, ~trial.spec.mask]).max(initial=0.0)) for sample in trial.samples)
    if largest:
        return Finding(
            "fail", f"padding must stay zero, but holds values up to {largest:.3g} after a step: set it to 0 before returning."
        )
    return Finding("pass", "padding is zero after a step.")


def check_determinism(trial: Trial) -> Finding:
    """Expect the same answer to the same state, twice in a row."""
    trial.require_time(3)
    sample = trial.samples[0]
    _, first, second = (trial.step(sample.state, sample.params) for _ in range(3))  # two that follow the same one
    difference = discrepancy(second, first)
    if not trial.spec.deterministic:
        return Finding("info", f"its spec says that it is not; answers to the same state are {difference.words}.")
    if difference.apart:
        return Finding(
            "fail",
            f"the same state has two answers, {difference.words}: fix seeds and take out what is kept between calls, or set "
            "deterministic=False in the spec, which leaves DETACHED, STRAIGHT-THROUGH and NON.",
        )
    return Finding("pass", "the same to the same, bit for bit.")


def check_hidden_state(trial: Trial) -> Finding:
    """Expect the same answer to the same state after another one was advanced."""
    trial.require_deterministic()
    sample, other = trial.pair()
    trial.require_time(3)
    before = trial.step(sample.state, sample.params)
    trial.step(other.state, other.params)
    difference = discrepancy(trial.step(sample.state, sample.params), before)
    if difference.apart:
        return Finding(
            "fail",
            f"answers to the same state, before and after another one was advanced, are {difference.words}: keep nothing "
            "between calls (a first guess, a clock, a history), or make it part of the state.",
        )
    return Finding("pass", "the same to the same after other states, bit for bit.")


# ---- stencil


def measure_stencil(trial: Trial) -> tuple[Reach, int]:
    """Measure how far a step carries a change of one point, at as many states as there is time for; returns their number, too.

    Raises:
        SkippedError: There is no time, or the solver failed at a state that was changed at one point.
    """
    trial.require_deterministic()
    probes = 2 * POINTS * trial.spec.state_shape[0]
    at_once = min(probes, TOGETHER)
    trial.require_time(1 + probes, 0.4, at_once)
    samples = trial.samples[: min(STATES, trial.affordable(0.4, at_once) // (1 + probes))]
    try:
        reach = measure_reach(*stack(samples), SolverProbe(trial.shielded), Differences(None, "central"))
    except SolverError as error:
        raise SkippedError(f"a state that was changed at one point could not be advanced: {error}") from error
    return reach, len(samples)


def check_stencil(trial: Trial, reach: Reach, looked_at: int) -> Finding:
    """Expect that a step carries information no farther than the spec says.

    Args:
        trial: Trial after its survey.
        reach: Reach that was measured.
        looked_at: Number of sample states at which it was.
    """
    stencil, longest = trial.spec.stencil, max(trial.spec.state_shape[1:])
    at = at_states(looked_at, len(trial.samples))
    less = reach.farthest > reach.most
    if stencil is None:
        nearer = f" (all but {reach.beyond:.1g} of it over {reach.most})" if less else ""
        return Finding(
            "info",
            f"the spec has no stencil. A step carries a change of a point over {count_of(reach.farthest, 'point')} of "
            f"{longest}{nearer}, {at}; {_stencil_advice(trial.spec, reach)}.",
        )
    if reach.most > stencil:
        right = None if is_wide(reach.farthest, trial.spec) else reach.farthest
        return Finding(
            "fail",
            f"the spec's stencil is {stencil}, but a step carries information over {count_of(reach.most, 'point')}: Coloured "
            f"and its like would find wrong gradients. Say stencil={right}.",
        )
    if reach.farthest > stencil:
        return Finding(
            "info",
            f"the spec's stencil is {stencil}, but a step carries a little over {count_of(reach.farthest, 'point')} (all but "
            f"{reach.beyond:.1g} of a change over {reach.most}): gradients by Coloured are approximate.",
        )
    return Finding(
        "pass",
        f"a step carries information over {count_of(reach.farthest, 'point')}, no farther than the stencil of {stencil}, {at}.",
    )


def _stencil_advice(spec: SolverSpec, reach: Reach) -> str:
    """Say what to write into a spec without a stencil, the whole reach, as less of it is an approximation; and what suits."""
    if not is_wide(reach.farthest, spec):
        less = reach.farthest > reach.most
        fewer = f", while {reach.most} would make its gradients approximate" if less else ""
        return f"say stencil={reach.farthest} if that holds for all states: {_worth_of_coloured(spec, reach.farthest)}{fewer}"
    suits = "ReferenceJacobian suits it, or JacobianField if the medium is nearly uniform"
    if is_wide(reach.most, spec):
        return suits
    return f"{suits}; Coloured with radius {reach.most} would be an approximation"


def _worth_of_coloured(spec: SolverSpec, radius: int) -> str:
    """Say whether Coloured suits a local step: it does within the solver steps a product at which Auto tries it."""
    steps = Coloured().steps_per_product(spec, radius)
    if steps <= MOST_A_STATE:
        return "Coloured suits it"
    return (
        f"Coloured is exact then, but takes {steps:,} solver steps for every product, where JacobianField and "
        "ReferenceJacobian measure once"
    )


# ---- extreme states


def react_to_extreme(trial: Trial, scale: float) -> str:
    """Take a step from a sample state times a number, far too large or NaN, and say what comes of it."""
    sample = trial.samples[0]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = np.asarray(sample.state * scale, dtype=sample.state.dtype)
        try:
            answer = np.asarray(trial.shielded.step(states, sample.params))
        except (Exception, SystemExit) as error:  # whatever the solver raises
            return f"raised ({getattr(error, 'kind', None) or type(error).__name__})"
    if answer.dtype.kind != "f" or not np.isfinite(answer).all():
        return "returned as NaN or infinity, which the package finds"
    hidden = ", as if nothing were wrong: look whether failures go unseen" if np.isnan(states).any() else ""
    return f"finite numbers are returned{hidden}"
