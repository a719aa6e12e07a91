"""Simulations as tasks of an executor, each with a finished part on disk, and the frames of these parts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.bars import PoolReport
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames as frames_module
from deepzero_sim.datasets.frames import LazyFrames, runs
from deepzero_sim.datasets.generation.batch import Batch
from deepzero_sim.datasets.generation.ensembles import Member
from deepzero_sim.datasets.generation.restrictions import restriction_of
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.hdf5 import open_to_read, open_to_write
from deepzero_sim.errors import DeepZeroError, SolverError
from deepzero_sim.execution.tasks import SerialExecutor, outcome, submit
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import NOTHING as NO_COST
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, with_place
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest


@dataclass(frozen=True)
class Task:
    """Simulations of a batch, in plain values that can be sent to any worker.

    Args:
        simulations: Settings of all simulations.
        members: Simulations of the batch.
        parts: Paths of their frames; those that are there already are not written.
        policy: Response to a step that fails.
    """

    simulations: Simulations
    members: Sequence[Member]
    parts: Sequence[Path]
    policy: FailurePolicy

    @property
    def missing(self) -> int:
        """Number of simulations whose frames are not there."""
        return sum(not part.exists() for part in self.parts)

    def describe(self, spec: SolverSpec) -> str:
        """Name the simulations."""
        first, last = self.members[0], self.members[-1]
        return first.describe(spec) if first is last else f"simulations {first.number} to {last.number}"


class _Outcome(NamedTuple):
    """Cost of a batch, and the error of each simulation that failed, by its place."""

    account: Account
    failures: Mapping[int, DeepZeroError]


def run_missing(tasks: Sequence[Task], executor: Executor, report: Callable[[str], None], spec: SolverSpec) -> Account:
    """Simulate what is not there yet.

    Args:
        tasks: All batches.
        executor: Executor of them.
        report: Function that is called with a word for each simulation.
        spec: Spec of the source solver.

    Returns:
        Cost of all steps.

    Raises:
        DeepZeroError: A simulation failed; those that are finished stay.
    """
    missing = [task.missing for task in tasks]
    for _ in range(sum(len(task.members) for task in tasks) - sum(missing)):
        report("found")
    if isinstance(report, PoolReport):
        report.expect([count for count in missing if count])
    account = NO_COST
    for task, count, result in _outcomes(tasks, missing, executor):
        if isinstance(result, Exception):
            raise _name_simulation(result, task.describe(spec)) from result.__cause__
        for place in sorted(result.failures):
            raise _name_simulation(result.failures[place], task.members[place].describe(spec))
        account += result.account
        for _ in range(count):
            report("made")
    return account


def _outcomes(
    tasks: Sequence[Task], missing: Sequence[int], executor: Executor
) -> Iterator[tuple[Task, int, _Outcome | Exception]]:
    """Run all tasks that miss something; yields each at once with the number of simulations it missed and what came of it."""
    todo = [(task, count) for task, count in zip(tasks, missing, strict=True) if count]
    if isinstance(executor, SerialExecutor):  # it runs a task when it is submitted
        for task, count in todo:
            made = outcome(submit(executor, _simulate, task))
            yield task, count, made
        return
    futures = {submit(executor, _simulate, task): (task, count) for task, count in todo}
    for future in as_completed(futures):
        made = outcome(future)
        yield *futures[future], made


def _name_simulation(error: Exception, name: str) -> Exception:
    """Copy an error with the simulation that it happened in."""
    if not isinstance(error, DeepZeroError):
        return error
    if isinstance(error, SolverError) and error.kind is not None:
        return with_place(error, name)
    same = copy.copy(error)
    same.args = (f"{str(error).rstrip('.')} (in {name}).", *error.args[1:])
    return same


def _simulate(task: Task) -> _Outcome:
    """Run the simulations of a batch, and write their parts; what does not fit into memory is one, written frame by frame."""
    spec, moments = cached_solver(task.simulations.source).spec, _moments(task)
    shape = (task.simulations.frames, *spec.state_shape)
    if len(task.members) * math.prod(shape) * np.dtype(spec.dtype).itemsize > frames_module.IN_MEMORY:
        last = _write(task.parts[0], shape, spec, 0, moments)
        return _Outcome(last.account, last.failures)
    whole = list(moments)  # so that no file is begun before all has gone well
    account, failures = whole[-1].account, whole[-1].failures
    for place, part in enumerate(task.parts):
        if place not in failures and not part.exists():
            _write(part, shape, spec, place, whole)
    return _Outcome(account, failures)


class _Moment(NamedTuple):
    """Frames of a batch at one time.

    Args:
        frames: Frames on the source's grid, `(B, C, *N)`; anything where a simulation failed.
        account: Cost of all steps so far.
        failures: Error of each simulation that failed so far, by its place.
    """

    frames: Array
    account: Account
    failures: Mapping[int, DeepZeroError]


def _write(part: Path, shape: tuple[int, ...], spec: SolverSpec, place: int, moments: Iterable[_Moment]) -> _Moment:
    """Write the frames of one simulation of a batch; returns the last moment.

    Raises:
        DeepZeroError: It failed; then there is no part.
    """
    with open_to_write(part) as file:
        stored = file.create_dataset("frames", shape, spec.dtype)
        for time, moment in enumerate(moments):
            if place in moment.failures:
                raise moment.failures[place]
            stored[time] = moment.frames[place]
    return moment


def _moments(task: Task) -> Iterator[_Moment]:
    """Compute the frames of a batch: one before every step that is not discarded, and the last. It ends if all failed."""
    simulations = task.simulations
    reference = with_inputs_at_rest(cached_solver(simulations.reference))
    spec = cached_solver(simulations.source).spec
    restrict = restriction_of(simulations.restrict, reference.spec, spec)
    batch, account = Batch(reference, task.members, simulations.initial, task.policy), NO_COST
    for step in range(simulations.steps + 1):
        if batch.is_over or step >= simulations.discard:
            yield _Moment(batch.restrict(restrict, spec), account, dict(batch.failures))
        if batch.is_over:
            return
        if step < simulations.steps:
            account += batch.step(step + 1)


def cached_solver(component: Component) -> Solver:
    return _build(json.dumps(asdict(component)))


@lru_cache(maxsize=4)
def _build(component: str) -> Solver:
    """Build a solver once in every worker, whatever number of simulations it runs."""
    return build_solver(Component(**json.loads(component)))


class PartFrames(LazyFrames):
    """Frames of finished simulations, each in a file of its own.

    Args:
        parts: Paths of the files.
        length: Number of frames of each.
        spec: Spec of the source solver.
    """

    def __init__(self, parts: Sequence[Path], length: int, spec: SolverSpec) -> None:
        self._parts = parts
        self.shape, self.dtype = (len(parts), length, *spec.state_shape), np.dtype(spec.dtype)

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        with open_to_read(self._parts[simulation], "a finished simulation", "delete it to make it anew") as file:
            frames = hdf5_objects.dataset(file, "frames", on_demand=True)
            hdf5_objects.require(
                frames.shape == self.shape[1:] and frames.dtype == self.dtype,
                f"its frames are {frames.dtype} of shape {frames.shape}, not {self.dtype} of shape {self.shape[1:]}",
            )
            states = np.empty((len(times), *self.shape[2:]), dtype=self.dtype)
            for there, part in runs(times):
                states[there] = frames[part]
            return states
