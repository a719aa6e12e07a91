"""Generation of trajectories: run a reference solver, restrict its states to the source solver's grid, write them to HDF5.

Every simulation is a task of its own and leaves a finished part beside the file; an interrupted call goes on with those that
are missing. The file itself appears only when it is whole. Beside it lie a card for people and a list of failures; files of
these names that this program did not make are never replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np

from deepzero_sim.common import hdf5_objects, machine
from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.files import write_text
from deepzero_sim.common.requirements import require_data, require_that
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.dataset_card import card_path, card_text, is_signed
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, open_to_read, open_to_write, show
from deepzero_sim.datasets.metadata import differences, metadata_of_solver
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.simulations import Simulations
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.execution.tasks import outcome, submit
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import NOTHING as NO_COST
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, Incident
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.solver.validation import check_states


@dataclass(frozen=True)
class _Task:
    """One simulation, in plain values that can be sent to any worker."""

    simulations: Simulations
    params: tuple[float, ...]
    part: Path
    policy: FailurePolicy


def generate(
    path: Path,
    simulations: Simulations,
    params: list[list[float]],
    executor: Executor,
    report: Callable[[str], None],
    on_failure: str | Mapping[str, str] = "abort",
) -> bool:
    """Make one file of trajectories and a card beside it.

    Args:
        path: Path of the HDF5 file.
        simulations: Solvers, initial states, restriction and length.
        params: Scenario parameters, one row a simulation.
        executor: Executor of the simulations.
        report: Function that is called with a word whenever a simulation is done.
        on_failure: Response to a step that fails; failures are listed in a file beside the data, `.failures.jsonl`.

    Returns:
        True if the file was made, False if it was there already, made by the same settings.

    Raises:
        ConfigError: The settings cannot be used, or reference and source do not take the same step.
        DataError: The file is there and was made by other settings, or a file of somebody else's would be replaced.
        SolverError: The reference solver failed; finished simulations stay on disk.
    """
    _require_name(path)
    settings = {"simulations": asdict(simulations), "params": params}
    source = build_solver(simulations.source)
    _require_params(params, source.spec)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    parts = path.with_name(f"{path.name}.{digest}.parts")  # parts of other settings are never mixed in
    if path.exists():
        _require_same(path, settings)
        _remove(parts)  # a call may have been killed before it came to that
        return False
    require_free(path)
    _require_memory(simulations, len(params), source.spec)
    _require_same_step(_solver(simulations.reference).spec, source.spec)
    parts.mkdir(parents=True, exist_ok=True)
    policy = FailurePolicy(on_failure)
    tasks = [_Task(simulations, tuple(row), parts / f"{i:04d}.h5", policy) for i, row in enumerate(params)]
    _write_failures(failures_path(path), _run_missing(tasks, executor, report).incidents)
    shape = (simulations.steps - simulations.discard + 1, *source.spec.state_shape)
    frames = np.stack([_read_part(task.part, shape, source.spec.dtype) for task in tasks])
    attributes = {"settings": settings, "software": software(), "first_step": simulations.discard}
    data = Trajectories(frames, np.array(params, dtype=source.spec.dtype), source.spec.active(), attributes)
    write_text(card_path(path), card_text(path, data, source.spec))
    trajectories.save(path, data, source.spec)  # last: where it is, everything is
    _remove(parts)
    return True


def failures_path(path: Path) -> Path:
    """Path of the list of failures of a file's simulations."""
    return path.with_suffix(".failures.jsonl")


def require_free(path: Path) -> None:
    """Refuse to replace a file that this program has not made, or that was changed since.

    Args:
        path: Path of the trajectories that are to be made.

    Raises:
        ConfigError: No data file can have this name.
        DataError: A file that lies where the card or the list of failures would be written is not of this program's making.
    """
    _require_name(path)
    card, failures = card_path(path), failures_path(path)
    for beside, ours in ((card, is_signed(card, path)), (failures, _is_list_of_failures(failures))):
        require_data(
            ours or not_a_file(beside) == NOTHING,
            f"{show(beside)} was not made by this program for {show(path)}, or was changed since, and would be replaced: "
            "move it away, or name another output.",
        )


def _require_name(path: Path) -> None:
    require_that(
        bool(path.name) and path.suffix != ".md" and "\0" not in str(path),
        f"the output must be an HDF5 file such as data/wake.h5, not {str(path)!r}: a card named .md lies beside it.",
    )


def _is_list_of_failures(path: Path) -> bool:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if not not_a_file(path) else []
    except (ValueError, RecursionError):
        return False
    return bool(lines) and all(isinstance(line, dict) and line.keys() == {*Incident._fields} for line in lines)


def _require_memory(simulations: Simulations, count: int, spec: SolverSpec) -> None:
    """Refuse too many frames before hours are spent: all of them are put together in memory."""
    frames = count * (simulations.steps - simulations.discard + 1)
    needed = frames * math.prod(spec.state_shape) * np.dtype(spec.dtype).itemsize
    require_that(
        needed <= machine.memory(),
        f"{frames:,} frames of {spec.state_shape} would take {needed / 2**30:,.0f} GiB, more than this machine's memory of "
        f"{machine.memory() / 2**30:,.0f} GiB: simulate fewer steps, discard more, or write several files.",
    )


def _require_same_step(reference: SolverSpec, source: SolverSpec) -> None:
    """Refuse solvers of different steps: frames lie a step of the reference apart, and are used as a step of the source."""
    compared = ("dt", "parameters", "parameter_units")
    others = [key for key in get_args(MetadataKey) if key not in compared]
    found = differences(metadata_of_solver(reference), metadata_of_solver(source), others)
    require_that(
        not found,
        f"reference {reference.name!r} must take the same step for the same parameters as source {source.name!r}, but "
        f"{'; '.join(found.values())}: mend their settings; a reference of smaller steps takes several at once.",
    )


def _remove(parts: Path) -> None:
    """Remove finished parts, and their folder unless there is anything else in it."""
    for part in parts.glob("[0-9][0-9][0-9][0-9]*.h5"):
        part.unlink(missing_ok=True)
    with suppress(OSError):
        parts.rmdir()


def _require_params(params: list[list[float]], spec: SolverSpec) -> None:
    expected = len(spec.parameters)
    for row in params:
        require_that(
            len(row) == expected,
            f"every simulation needs {expected} parameters ({', '.join(spec.parameters) or 'none'}) for solver "
            f"{spec.name!r}, but one has {len(row)}: {row}.",
        )
    require_that(bool(params), "no simulations are asked for: give params at least one row.")


def _require_same(path: Path, settings: Mapping[str, object]) -> None:
    made_by = hdf5_objects.json_of(trajectories.load(path).attributes.get("settings"))
    require_data(
        made_by == json.loads(json.dumps(settings)),
        f"{path} was made with other settings: name another output, or delete it to make it anew.",
    )


def _write_failures(path: Path, incidents: tuple[Incident, ...]) -> None:
    """Write a line for each failure, if there were any."""
    if incidents:
        write_text(path, "".join(json.dumps(one._asdict()) + "\n" for one in incidents))


def _run_missing(tasks: list[_Task], executor: Executor, report: Callable[[str], None]) -> Account:
    missing = [task for task in tasks if not task.part.exists()]
    for _ in range(len(tasks) - len(missing)):
        report("found")
    futures = [submit(executor, _simulate, task) for task in missing]
    account = NO_COST
    for future in as_completed(futures):
        result = outcome(future)
        if isinstance(result, Exception):
            raise result
        account += result
        report("made")
    return account


def _simulate(task: _Task) -> Account:
    """Run one simulation and write its part; return its cost."""
    frames, account = _frames(task)
    with open_to_write(task.part) as file:
        file["frames"] = frames
    return account


def _frames(task: _Task) -> tuple[Array, Account]:
    """Compute the frames on the source's grid, `(T, C, *N)`: one before every step that is not discarded, and the last."""
    simulations, row = task.simulations, task.params
    reference, spec = _solver(simulations.reference), _solver(simulations.source).spec
    params = np.array([row], dtype=reference.spec.dtype)
    states = call_function(simulations.initial, reference.spec, params)
    check_states(reference.spec, states, f"what {simulations.initial} returned", "check it on one row of params", batch=1)
    frames, account = [], NO_COST
    for step in range(simulations.steps + 1):
        if step >= simulations.discard:
            frame = call_function(simulations.restrict, states, spec)
            check_states(spec, frame, f"what {simulations.restrict} returned", "check it on one state", batch=1)
            frames.append(frame)
        if step < simulations.steps:
            states, cost = step_all(reference, states, params if len(row) else None, task.policy, f"step {step + 1}")
            account += cost
    return np.concatenate(frames), account


def _solver(component: Component) -> Solver:
    return _cached_solver(json.dumps(asdict(component)))


@lru_cache(maxsize=4)
def _cached_solver(component: str) -> Solver:
    """Build a solver once in every worker, whatever number of simulations it runs."""
    return build_solver(Component(**json.loads(component)))


def _read_part(part: Path, shape: tuple[int, ...], dtype: str) -> Array:
    with open_to_read(part, "a finished simulation", "delete it to make it anew") as file:
        frames: Array = hdf5_objects.array(file, "frames")
        hdf5_objects.require(
            frames.shape == shape and frames.dtype == dtype,
            f"its frames are {frames.dtype} of shape {frames.shape}, not {dtype} of shape {shape}",
        )
        return frames


def software() -> dict[str, str]:
    """Look up the versions of all software that shapes the data."""
    packages = {name: version(name) for name in ("deepzero-sim", "numpy", "h5py", "torch")}
    return {"python": platform.python_version(), **packages}
