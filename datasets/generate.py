"""Making trajectories: run a reference solver, restrict its states to the source solver's grid, write them to HDF5.

Every simulation is a task of its own and leaves a finished part beside the file to be; an interrupted call goes on with
those that are missing. The file itself appears only when it is whole. Beside it lie a card for people and a list of failures;
files of these names that are not of this program's making are left alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.files import write_text
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import cards, statements, trajectories
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, reading, show, writing
from deepzero_sim.datasets.statements import Statement
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.execution.tasks import outcome, submit
from deepzero_sim.solver.contract import Solver, SolverSpec, build_solver
from deepzero_sim.solver.failure_policy import FailurePolicy, Incident
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.solver.validation import check_states


@dataclass
class Simulations:
    """How trajectories are made.

    Args:
        reference: the fine solver.
        source: the coarse solver on whose grid frames are kept.
        initial: import path or `file.py:Name` of ``initial(spec, params)``, `(B, K)` to the reference's states `(B, C, *N)`.
        restrict: likewise of ``restrict(states, spec)``, the reference's states to those of the source.
        steps: steps of a simulation.
        discard: steps at the beginning that are not kept.
    """

    reference: Component
    source: Component
    initial: str
    restrict: str
    steps: int = 1500
    discard: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.discard < self.steps:
            raise ConfigError(
                f"a simulation must have more steps than are discarded at its beginning, not {self.steps} and {self.discard}."
            )


@dataclass(frozen=True)
class _Task:
    """One simulation, in plain values that any worker can be sent."""

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
        path: the HDF5 file.
        simulations: how.
        params: scenario parameters, one row a simulation.
        executor: where simulations run.
        report: called with a word whenever a simulation is done.
        on_failure: how often a step that fails is taken again; what failed is listed in a file beside, `.failures.jsonl`.

    Returns:
        Whether anything was left to do: False if the file was there already, made by the same settings.

    Raises:
        ConfigError: the settings cannot be used, or reference and source do not take the same step.
        DataError: the file is there and was made by other settings, or a file of somebody else's would be replaced.
        SolverError: the reference solver failed; finished simulations are kept.
    """
    _require_name(path)
    settings = {"simulations": asdict(simulations), "params": params}
    source = build_solver(simulations.source)
    _check_params(params, source.spec)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    parts = path.with_name(f"{path.name}.{digest}.parts")  # parts of other settings are never mixed in
    if path.exists():
        _require_same(path, settings)
        _remove(parts)  # a call may have been killed before it came to that
        return False
    require_free(path)
    _require_memory(simulations, len(params), source.spec)
    _require_same_step(_solver(json.dumps(asdict(simulations.reference))).spec, source.spec)
    parts.mkdir(parents=True, exist_ok=True)
    policy = FailurePolicy(on_failure)
    tasks = [_Task(simulations, tuple(row), parts / f"{i:04d}.h5", policy) for i, row in enumerate(params)]
    _list(failures_beside(path), _run_missing(tasks, executor, report))
    shape = (simulations.steps - simulations.discard + 1, *source.spec.state_shape)
    frames = np.stack([_read_part(task.part, shape, source.spec.dtype) for task in tasks])
    attributes = {"settings": settings, "software": software(), "first_step": simulations.discard}
    data = Trajectories(frames, np.array(params, dtype=source.spec.dtype), source.spec.active(), attributes)
    write_text(cards.beside(path), cards.signed(card(path, data, source.spec), path))
    trajectories.save(path, data, source.spec)  # last: where it is, everything is
    _remove(parts)
    return True


def failures_beside(path: Path) -> Path:
    """Where the failures of a file's simulations are listed."""
    return path.with_suffix(".failures.jsonl")


def require_free(path: Path) -> None:
    """Raise if a file would be replaced that this program has not made, or that was changed since.

    Args:
        path: of the trajectories that are to be made.

    Raises:
        ConfigError, DataError: in words.
    """
    _require_name(path)
    card, failures = cards.beside(path), failures_beside(path)
    for beside, ours in ((card, cards.is_ours(card, path)), (failures, _is_list(failures))):
        if not ours and not_a_file(beside) != NOTHING:
            raise DataError(
                f"{show(beside)} was not made by this program for {show(path)}, or was changed since, and would be replaced: "
                "move it away, or name another output."
            )


def _require_name(path: Path) -> None:
    if not path.name or path.suffix == ".md" or "\0" in str(path):
        raise ConfigError(
            f"the output must be an HDF5 file such as data/wake.h5, not {str(path)!r}: a card named .md lies beside it."
        )


def _is_list(path: Path) -> bool:
    """Whether a file is a list of failures."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if not not_a_file(path) else []
    except (ValueError, RecursionError):
        return False
    return bool(lines) and all(isinstance(line, dict) and line.keys() == {*Incident._fields} for line in lines)


def _require_memory(simulations: Simulations, count: int, spec: SolverSpec) -> None:
    """Say it before hours are spent: all frames are put together in memory."""
    frames = count * (simulations.steps - simulations.discard + 1)
    needed = frames * math.prod(spec.state_shape) * np.dtype(spec.dtype).itemsize
    if needed > hdf5_objects.memory():
        raise ConfigError(
            f"{frames:,} frames of {spec.state_shape} would take {needed / 2**30:,.0f} GiB, more than this machine's memory of "
            f"{hdf5_objects.memory() / 2**30:,.0f} GiB: simulate fewer steps, discard more, or write several files."
        )


def _require_same_step(reference: SolverSpec, source: SolverSpec) -> None:
    """Frames lie a step of the reference apart, and are used as a step of the source."""
    compared = ("dt", "parameters", "parameter_units")
    others = [key for key in get_args(Statement) if key not in compared]
    found = statements.differences(statements.of_solver(reference), statements.of_solver(source), others)
    if found:
        raise ConfigError(
            f"reference {reference.name!r} must take the same step for the same parameters as source {source.name!r}, but "
            f"{'; '.join(found.values())}: mend their settings; a reference of smaller steps takes several at once."
        )


def _remove(parts: Path) -> None:
    """Remove finished parts, and their folder unless there is anything else in it."""
    for part in parts.glob("[0-9][0-9][0-9][0-9]*.h5"):
        part.unlink(missing_ok=True)
    with suppress(OSError):
        parts.rmdir()


def _check_params(params: list[list[float]], spec: SolverSpec) -> None:
    expected = len(spec.parameters)
    for row in params:
        if len(row) != expected:
            raise ConfigError(
                f"every simulation needs {expected} parameters ({', '.join(spec.parameters) or 'none'}) for solver "
                f"{spec.name!r}, but one has {len(row)}: {row}."
            )
    if not params:
        raise ConfigError("no simulations are asked for: give params at least one row.")


def _require_same(path: Path, settings: Mapping[str, object]) -> None:
    made_by = hdf5_objects.json_of(trajectories.load(path).attributes.get("settings"))
    if made_by != json.loads(json.dumps(settings)):
        raise DataError(f"{path} was made with other settings: name another output, or delete it to make it anew.")


def _list(path: Path, incidents: list[Incident]) -> None:
    """Leave a line for each failure, if there were any."""
    if incidents:
        write_text(path, "".join(json.dumps(one._asdict()) + "\n" for one in incidents))


def _run_missing(tasks: list[_Task], executor: Executor, report: Callable[[str], None]) -> list[Incident]:
    missing = [task for task in tasks if not task.part.exists()]
    for _ in range(len(tasks) - len(missing)):
        report("found")
    futures = [submit(executor, _simulate, task) for task in missing]
    incidents: list[Incident] = []
    for future in as_completed(futures):
        found = outcome(future)
        if isinstance(found, Exception):
            raise found
        incidents += found
        report("made")
    return incidents


def _simulate(task: _Task) -> list[Incident]:
    """Run one simulation and leave its part; what failed on the way."""
    incidents: list[Incident] = []
    frames = np.concatenate(list(_frames(task, incidents)))
    with writing(task.part) as file:
        file["frames"] = frames
    return incidents


def _frames(task: _Task, incidents: list[Incident]) -> Iterator[Array]:
    """The kept frames, `(1, C, *N)` each, on the source's grid: one before every step that is not discarded, and the last."""
    simulations, row = task.simulations, task.params
    reference, spec = _solver(json.dumps(asdict(simulations.reference))), _solver(json.dumps(asdict(simulations.source))).spec
    params = np.array([row], dtype=reference.spec.dtype)
    states = call_function(simulations.initial, reference.spec, params)
    check_states(reference.spec, states, f"what {simulations.initial} returned", "check it on one row of params", batch=1)
    for step in range(simulations.steps + 1):
        if step >= simulations.discard:
            kept = call_function(simulations.restrict, states, spec)
            check_states(spec, kept, f"what {simulations.restrict} returned", "check it on one state", batch=1)
            yield kept
        if step < simulations.steps:
            states, account = step_all(reference, states, params if len(row) else None, task.policy, f"step {step + 1}")
            incidents += account.incidents


@lru_cache(maxsize=4)
def _solver(component: str) -> Solver:
    return build_solver(Component(**json.loads(component)))


def _read_part(part: Path, shape: tuple[int, ...], dtype: str) -> Array:
    with reading(part, "a finished simulation", "delete it to make it anew") as file:
        frames: Array = hdf5_objects.array(file, "frames")
        if frames.shape != shape or frames.dtype != dtype:
            raise ValueError(f"its frames are {frames.dtype} of shape {frames.shape}, not {dtype} of shape {shape}")
        return frames


def software() -> dict[str, str]:
    """Versions of everything that shapes the data."""
    packages = {name: version(name) for name in ("deepzero-sim", "numpy", "h5py", "torch")}
    return {"python": platform.python_version(), **packages}


def card(path: Path, data: Trajectories, spec: SolverSpec) -> str:
    """What is in a file of trajectories, for people."""
    simulations, frames = data.frames.shape[:2]
    made = data.attributes["settings"]["simulations"]
    units = [f" ({unit})" for unit in spec.channel_units] or [""] * len(spec.channels)
    channels = ", ".join(f"`{c}`{u}" for c, u in zip(spec.channels, units, strict=True)) or "unnamed"
    rows = "\n".join(f"| {i} | {' | '.join(f'{value:.6g}' for value in row)} |" for i, row in enumerate(data.params))
    return f"""# {path.name}

{simulations} simulations of {frames} frames on the grid of solver `{spec.name}`, one step (dt = {spec.dt:g}) apart, after
{made["discard"]} discarded steps. Each is computed by `{made["reference"]["name"]}` with {made["reference"]["args"]} and
restricted by `{made["restrict"]}`.

| | |
| --- | --- |
| states | `(C, *N)` = {spec.state_shape}, {spec.dtype} |
| channels | {channels} |
| source solver | `{made["source"]["name"]}` with {made["source"]["args"]} |
| initial states | `{made["initial"]}` |
| standard deviation of the channels | {", ".join(f"{s:.4g}" for s in data.scales()[0])} |
| software | {", ".join(f"{k} {v}" for k, v in data.attributes["software"].items())} |

| simulation | {" | ".join(spec.parameters) or "no parameters"} |
| --- | {" | ".join("---" for _ in spec.parameters) or "---"} |
{rows}
"""
