"""Lines of the contract that the very first step tells: shape, dtype, untouched input, memory; and what the spec says."""

from __future__ import annotations

import numpy as np

from deepzero_sim.checks.solver.trial import FirstStep, Trial
from deepzero_sim.checks.solver.verdict import Finding, broken, holds, told
from deepzero_sim.common.types import Array


def shape(trial: Trial, first: FirstStep) -> Finding:
    """An array of the shape of what came in."""
    answer, wanted = first.answer, (1, *trial.spec.state_shape)
    if not isinstance(answer, np.ndarray):
        return broken(f"a step must return a numpy array, not {type(answer).__name__}: convert it with numpy.asarray.")
    if answer.shape != wanted:
        return broken(f"a step from {wanted} must return {wanted}, not {answer.shape}: keep the batch and channel axes.")
    return holds(f"{wanted} in and out.")


def dtype(trial: Trial, first: FirstStep) -> Finding:
    """The dtype that the spec says."""
    if not isinstance(first.answer, np.ndarray):
        return Finding("not tested", "'shape' is broken: mend that first.")
    found, wanted = first.answer.dtype, trial.spec.dtype
    if found != np.dtype(wanted):
        return broken(f"a step must return {wanted}, as its spec says, not {found}: convert it with .astype('{wanted}').")
    return holds(f"{wanted} in and out.")


def input_unchanged(trial: Trial, first: FirstStep) -> Finding:
    """A step leaves what it is given as it was."""
    changed = [
        name
        for name, now, before in zip(("states", "params"), first.given, trial.row(0), strict=True)
        if not _same(now, before)
    ]
    if changed:
        return broken(f"a step changed the {' and '.join(changed)} it was given: work on a copy (states.copy()).")
    return holds("what a step is given is as it was.")


def _same(a: Array | None, b: Array | None) -> bool:
    return a is b is None or np.array_equal(a, b, equal_nan=True)  # type: ignore[arg-type]


def memory(trial: Trial, first: FirstStep) -> Finding:
    """Whether each result has memory of its own."""
    answer, again = first.answer, first.again
    assert isinstance(answer, np.ndarray) and isinstance(again, np.ndarray)
    if np.shares_memory(answer, again):
        return told("every step returns the same memory: the package copies it; keep no result of your own without a copy.")
    if np.shares_memory(answer, first.given[0]):
        return told("a step returns memory of its input: the package copies it.")
    return told("every result has memory of its own.")


def described(trial: Trial) -> Finding:
    """Whether the spec has names and units."""
    spec = trial.spec
    missing = [name for name in ("channels", "channel_units", "axes", "spacing") if not getattr(spec, name)]
    missing += ["parameter_units"] if spec.parameters and not spec.parameter_units else []
    if missing:
        return told(f"the spec leaves out {', '.join(missing)}: reports, data files and figures name them if it says them.")
    return told("channels, axes and parameters have names, units and spacing.")
