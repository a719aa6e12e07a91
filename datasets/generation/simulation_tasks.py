"""Simulations as tasks of an executor, each with a finished part on disk, and the frames of these parts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames as frames_module
from deepzero_sim.datasets.frames import LazyFrames, runs
from deepzero_sim.datasets.generation.ensembles import Member
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.hdf5 import open_to_read, open_to_write
from deepzero_sim.errors import DeepZeroError, SolverError
from deepzero_sim.execution.tasks import outcome, submit
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import NOTHING as NO_COST
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, with_place
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.solver.validation import check_states


@dataclass(frozen=True)
class Task:
    """One simulation, in plain values that can be sent to any worker."""

    simulations: Simulations
    member: Member
    part: Path
    policy: FailurePolicy


def run_missing(tasks: list[Task], executor: Executor, report: Callable[[str], None], spec: SolverSpec) -> Account:
    missing = [task for task in tasks if not task.part.exists()]
    for _ in range(len(tasks) - len(missing)):
        report("found")
    futures = {submit(executor, _simulate, task): task for task in missing}
    account = NO_COST
    for future in as_completed(futures):
        result = outcome(future)
        if isinstance(result, Exception):
            raise _name_simulation(result, futures[future].member.describe(spec)) from result.__cause__
        account += result
        report("made")
    return account


def _name_simulation(error: Exception, name: str) -> Exception:
    """Copy an error with the simulation that it happened in."""
    if not isinstance(error, DeepZeroError):
        return error
    if isinstance(error, SolverError) and error.kind is not None:
        return with_place(error, name)
    same = copy.copy(error)
    same.args = (f"{str(error).rstrip('.')} (in {name}).", *error.args[1:])
    return same


def _simulate(task: Task) -> Account:
    """Run one simulation and write its part, frame by frame; return its cost."""
    simulations, spec = task.simulations, cached_solver(task.simulations.source).spec
    shape, account = (simulations.frames, *spec.state_shape), NO_COST
    results: Iterable[tuple[Array, Account]] = _frames(task)
    if math.prod(shape) * np.dtype(spec.dtype).itemsize <= frames_module.IN_MEMORY:
        results = list(results)  # so that no file is begun before all has gone well
    with open_to_write(task.part) as file:
        frames = file.create_dataset("frames", shape, spec.dtype)
        for place, (frame, cost) in enumerate(results):
            frames[place] = frame
            account += cost
    return account


def _frames(task: Task) -> Iterator[tuple[Array, Account]]:
    """Compute the frames on the source's grid, `(C, *N)`: one before every step that is not discarded, and the last.

    Yields:
        Frame, and the cost of the steps since the one before it.
    """
    simulations, member = task.simulations, task.member
    reference, spec = cached_solver(simulations.reference), cached_solver(simulations.source).spec
    states, params = initial_state(simulations.initial, reference.spec, member)
    account = NO_COST
    for step in range(simulations.steps + 1):
        if step >= simulations.discard:
            frame = call_function(simulations.restrict, states, spec)
            check_states(spec, frame, f"what {simulations.restrict} returned", "check it on one state", batch=1)
            yield frame[0], account
            account = NO_COST
        if step < simulations.steps:
            given = params if len(member.params) else None
            states, cost = step_all(reference, states, given, task.policy, f"step {step + 1}")
            account += cost


def initial_state(initial: str, spec: SolverSpec, member: Member) -> tuple[Array, Array]:
    """Make the initial state of a simulation, `(1, C, *N)`, and its parameters, `(1, K)`, as its reference solver takes them.

    Args:
        initial: Name of the function of initial states.
        spec: Spec of the reference solver.
        member: The simulation.
    """
    params = np.array([member.params], dtype=spec.dtype)
    seed = () if member.seed is None else (member.seed,)
    states = call_function(initial, spec, params, *seed)
    check_states(spec, states, f"what {initial} returned", "check it on one row of params", batch=1)
    return states, params


def cached_solver(component: Component) -> Solver:
    return _built(json.dumps(asdict(component)))


@lru_cache(maxsize=4)
def _built(component: str) -> Solver:
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
