"""Time of a step: of the coarse solver alone, of the corrected loop of each method, and of the reference solver of the data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.coupling.evaluation import Evaluation, roll_out
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.training.runs.computations import alike
from deepzero_sim.training.runs.reference import Reference, reference_of

#: Name of the reference solver among the methods.
REFERENCE = "reference"

#: Seconds that the calls with one number of states may take together, and least and most calls of each in that time. Two
#: numbers of states are timed: an evaluation takes about two seconds longer for it, and some ten if steps are slow.
BUDGET, LEAST_CALLS, MOST_CALLS = 1.0, 5, 51

#: Seconds that a call of the reference, or one of each loop, may take for there to be another one.
LONGEST = 0.5


@dataclass(frozen=True)
class StepTime:
    """Time of a step.

    Args:
        states: Number of states that a call advances.
        calls: Number of calls.
        seconds: Seconds of a call divided by the number of its states, the median over calls.
        quartiles: First and third quartile of the same; None where calls were not timed one by one.
    """

    states: int
    calls: int
    seconds: float
    quartiles: tuple[float, float] | None = None


@dataclass(frozen=True)
class Speed:
    """Times of steps on one thread, measured in turns.

    Args:
        times: Times by method, one state first: SRC is the solver alone, `reference` the data's, if it could be run.
        solver_steps: Number of states that the solver, and the reference, advanced to measure this.
        without_reference: Reason why the reference was not timed; empty if it was.
        shared: Methods whose steps are one computation, which share their calls, each group with two methods or more.
    """

    times: Mapping[str, Sequence[StepTime]]
    solver_steps: Mapping[str, int] = field(default_factory=dict)
    without_reference: str = ""
    shared: Sequence[Sequence[str]] = ()

    def seconds(self, name: str) -> float | None:
        """Return the seconds of a step of one state, or of the fewest that were timed together; None if it was not timed."""
        times = self.times.get(name)
        return times[0].seconds if times else None

    def is_noise(self, name: str) -> bool:
        """Tell whether a corrected step differs from the coarse one that it contains by no more than the timing varies."""
        ours, source = self.times[name][0], self.times["SRC"][0]
        if ours.seconds <= source.seconds:  # impossible but for noise
            return True
        return ours.quartiles is not None and source.quartiles is not None and ours.quartiles[0] < source.quartiles[1]

    def is_apart(self, name: str) -> bool:
        """Tell whether a method's time differs from the reference's by more than the timing varies: else a ratio says nothing.

        A corrected step contains a coarse one: where it was timed as the faster one of them, the coarse one has to differ, too.
        """
        noisy = name != "SRC" and "SRC" in self.times and self.times[name][0].seconds < self.times["SRC"][0].seconds
        return self._spans_differ(name, REFERENCE) and not (noisy and not self._spans_differ("SRC", REFERENCE))

    def _spans_differ(self, name: str, other: str) -> bool:
        """Tell whether the times between which half of the calls lie do not overlap; single times are taken as they are."""
        (low, high), (least, largest) = (
            one.quartiles or (one.seconds, one.seconds) for one in (self.times[name][0], self.times[other][0])
        )
        return high < least or largest < low


#: Function that takes one step of some states, and returns the number of states that its solver was called for.
_Step = Callable[[], int]


def measure_speed(
    loops: Mapping[str, SolverLoop],
    evaluations: Mapping[str, Evaluation],
    data: Trajectories,
    folders: Sequence[Path] = (),
) -> Speed:
    """Measure the time of a step from the first frames: of each loop, and of the reference that the data name.

    Loops so slow that a round of calls would take longer than half a second are not called again: the time of their rollouts is
    taken. A slow reference is called once.

    Args:
        loops: Loops by method; that of the solver alone has no correction.
        evaluations: Evaluations of the same loops.
        data: First frames, parameters and attributes.
        folders: Folders besides the current one where the data may have been made.
    """
    shared = alike(loops)
    stopwatch, simulations = _Stopwatch(shared), len(data.frames)
    steps_of: dict[str, Callable[[int], _Step]] = {name: partial(_step_of, loop, data) for name, loop in loops.items()}
    reference, why = _reference_or_reason(data, next(iter(loops.values())).solver.spec, folders)
    of_reference = {} if reference is None else {REFERENCE: reference.steps}
    with single_threaded(), torch.no_grad():
        for states in dict.fromkeys((1, simulations)):
            round_of_loops = states * sum(_seconds_in_rollout(evaluations[name]) for name in loops)
            stopwatch.measure({**(steps_of if round_of_loops <= LONGEST else {}), **of_reference}, states)
    for name in evaluations:
        times = stopwatch.times.setdefault(name, [])
        if simulations not in [one.states for one in times]:
            group = next((names for names in shared if name in names), [name])
            times.append(_time_in_rollouts([evaluations[one] for one in group]))
    without = "" if REFERENCE in stopwatch.times else why or stopwatch.failures[REFERENCE]
    return Speed(stopwatch.times, dict(stopwatch.solver_steps), without, shared)


def _reference_or_reason(data: Trajectories, spec: SolverSpec, folders: Sequence[Path]) -> tuple[Reference | None, str]:
    """Build the reference of the data, or say why there is none."""
    try:
        return reference_of(data, spec, folders), ""
    except DeepZeroError as error:
        return None, str(error)


def _step_of(loop: SolverLoop, data: Trajectories, states: int) -> _Step:
    """Return a step of a loop from the first frames, in the way of an evaluation; of the solver alone without a correction."""
    frames = torch.from_numpy(data.frames[:states, 0])
    params = torch.from_numpy(data.params[:states]) if data.params.shape[1] else None
    if isinstance(loop.corrector, NoCorrection):
        return lambda: step_all(loop.layer.solver, to_array(frames), to_array_or_none(params), loop.on_failure)[1].steps
    return lambda: roll_out(loop, frames, params, 1)[1].steps


def _seconds_in_rollout(evaluation: Evaluation) -> float:
    """Return the seconds of a step of one state in a rollout of many."""
    return evaluation.seconds / evaluation.solver_steps


def _time_in_rollouts(evaluations: Sequence[Evaluation]) -> StepTime:
    """Return the time of a step in rollouts of methods whose steps are one computation."""
    simulations, steps = evaluations[0].errors.shape
    seconds = float(np.mean([_seconds_in_rollout(one) for one in evaluations]))
    return StepTime(simulations, steps * len(evaluations), seconds)


def _summarise(seconds: Sequence[float], states: int) -> StepTime:
    """Return the median of calls, and their quartiles if there are several."""
    low, middle, high = (float(value) / states for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return StepTime(states, len(seconds), middle, (low, high) if len(seconds) > 1 else None)


class _Stopwatch:
    """Times of calls, taken in turns, so that a machine that is busy for a while slows all of them down."""

    def __init__(self, shared: Sequence[Sequence[str]] = ()) -> None:
        self._shared = shared
        self.times: dict[str, list[StepTime]] = {}
        self.solver_steps: Counter[str] = Counter()
        self.failures: dict[str, str] = {}

    def measure(self, steps_of: Mapping[str, Callable[[int], _Step]], states: int) -> None:
        """Time steps of so many states.

        The first call warms up, and counts only if it took so long that there is no second one.

        Args:
            steps_of: Functions that prepare a step of a number of states, by name.
            states: Number of states.
        """
        steps: dict[str, _Step] = {}
        samples: dict[str, list[float]] = {}
        for name, prepare in steps_of.items():
            if self._seconds(name) * states > LONGEST:
                continue
            with self._note_failure(name):
                step = prepare(states)
                first = self._time(name, step)
                samples[name] = [first] if first > LONGEST else []
                steps |= {} if first > LONGEST else {name: step}
        started, rounds = time.perf_counter(), 0
        while steps and (rounds < LEAST_CALLS or (rounds < MOST_CALLS and time.perf_counter() - started < BUDGET)):
            turn = list(steps.items()) if rounds % 2 else list(steps.items())[::-1]  # none is always the first one
            for name, step in turn:
                with self._note_failure(name):
                    samples[name].append(self._time(name, step))
            steps = {name: step for name, step in steps.items() if name not in self.failures}
            rounds += 1
        for name, seconds in self._pool(samples).items():
            if seconds:
                self.times.setdefault(name, []).append(_summarise(seconds, states))

    def _pool(self, samples: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """Give methods whose steps are one computation the calls of all of them."""
        groups = {name: group for group in self._shared for name in group}
        return {
            name: [second for one in groups.get(name, [name]) if one in samples for second in samples[one]] for name in samples
        }

    @contextmanager
    def _note_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except DeepZeroError as error:
            self.failures[name] = str(error)

    def _seconds(self, name: str) -> float:
        """Return the seconds of a step of one state, 0 if it is not known yet."""
        times = self.times.get(name)
        return times[-1].seconds if times else 0.0

    def _time(self, name: str, step: _Step) -> float:
        started = time.perf_counter()
        count = step()
        seconds = time.perf_counter() - started
        self.solver_steps["reference" if name == REFERENCE else "solver"] += count
        return seconds
