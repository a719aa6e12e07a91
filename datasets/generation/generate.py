"""Generation of trajectories: run a reference solver, restrict its states to the source solver's grid, write them to HDF5.

Some simulations at a time are a task, and each leaves a finished part beside the file; an interrupted call goes on with those
that are missing. The file itself appears only when it is whole. Beside it lie a card for people and a list of failures; files
of these names that this program did not make are never replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.filesize import decimal

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.files import clear_leftovers, write_text
from deepzero_sim.common.requirements import require_data, require_that
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.fitting.regridding import explain_offsets
from deepzero_sim.datasets.frames import Frames, load_if_small
from deepzero_sim.datasets.generation.batch import batches
from deepzero_sim.datasets.generation.dataset_card import card_path, card_text, is_signed
from deepzero_sim.datasets.generation.ensembles import Member, describe_identical, ensemble
from deepzero_sim.datasets.generation.restrictions import restriction_of
from deepzero_sim.datasets.generation.simulation_tasks import PartFrames, Task, cached_solver, run_missing
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, show
from deepzero_sim.datasets.metadata import differences, metadata_of_solver
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.failure_policy import FailurePolicy, Incident
from deepzero_sim.solver.spec import SolverSpec


def generate(
    path: Path,
    simulations: Simulations,
    params: list[list[float]],
    executor: Executor,
    report: Callable[[str], None],
    on_failure: str | Mapping[str, str] = "abort",
    *,
    starts: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda sentence: None,
) -> bool:
    """Make one file of trajectories and a card beside it.

    Args:
        path: Path of the HDF5 file.
        simulations: Solvers, initial states, restriction and length.
        params: Scenario parameters, one row a scenario; none for a solver without parameters.
        executor: Executor of the simulations.
        report: Function that is called with a word whenever a simulation is done; a bar of a pool is told of batches, too.
        on_failure: Response to a step that fails; failures are listed in a file beside the data, `.failures.jsonl`.
        starts: Number of simulations of each scenario, from initial states that differ; one if None.
        seed: Seed of the initial states.
        say: Function that is called with a sentence that the user should read.

    Returns:
        True if the file was made, False if it was there already, made by the same settings.

    Raises:
        ConfigError: The settings cannot be used, or reference and source do not take the same step.
        DataError: The file is there and was made by other settings, or a file of somebody else's would be replaced.
        SolverError: The reference solver failed; finished simulations stay on disk.
    """
    _require_name(path)
    settings = _settings_of(simulations, params, starts, seed)
    source = build_solver(simulations.source).spec
    if path.exists():
        _require_same(path, settings)
        _remove(_parts_of(path, settings))  # a call may have been killed before it came to that
        return False
    require_free(path)
    _require_disk(path, simulations, max(1, len(params)) * (starts or 1), source)
    members = ensemble(params, starts, seed, source, simulations.initial)
    reference = cached_solver(simulations.reference).spec
    _require_same_step(reference, source)
    restriction_of(simulations.restrict, reference, source)  # so that it is refused before anything is computed
    parts = _parts_of(path, settings)
    parts.mkdir(parents=True, exist_ok=True)
    policy = FailurePolicy(on_failure)
    files = [parts / f"{member.number:04d}.h5" for member in members]
    together = batches(members, simulations, reference, source)
    tasks = [Task(simulations, batch, [files[member.number] for member in batch], policy) for batch in together]
    _write_failures(failures_path(path), run_missing(tasks, executor, report, source).incidents)
    frames = load_if_small(PartFrames(files, simulations.frames, source))
    _publish(path, frames, members, settings, source, say)
    shifted = explain_offsets(simulations.restrict, source)
    if shifted:
        say(f"{show(path)}: {shifted}")
    _remove(parts)
    return True


def _settings_of(simulations: Simulations, params: list[list[float]], starts: int | None, seed: int) -> dict[str, Any]:
    """Collect all that shapes the data, in plain values; what is left at its default is left out."""
    ensemble = {"starts": (starts or 1, 1), "seed": (seed, 0)}
    return {
        "simulations": {key: value for key, value in asdict(simulations).items() if (key, value) != ("batch_size", None)},
        "params": params,
        **{key: value for key, (value, default) in ensemble.items() if value != default},
    }


def _parts_of(path: Path, settings: Mapping[str, Any]) -> Path:
    """Return the folder of finished simulations; those of other settings are never mixed in."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return path.with_name(f"{path.name}.{digest}.parts")


def _publish(
    path: Path,
    frames: Frames,
    members: list[Member],
    settings: Mapping[str, Any],
    spec: SolverSpec,
    say: Callable[[str], None],
) -> None:
    """Write the file and its card, the file last: where it is, everything is."""
    discard = settings["simulations"]["discard"]
    params = np.array([member.params for member in members], dtype=spec.dtype).reshape(len(members), len(spec.parameters))
    attributes = {"settings": settings, "software": software(), "first_step": discard}
    times = (discard + np.arange(frames.shape[1])) * float(spec.dt)
    data = Trajectories(frames, params, spec.active(), attributes, times=times, time_unit=spec.time_unit)
    identical = describe_identical(frames)
    write_text(card_path(path), card_text(path, data, spec, [member.seed for member in members], identical))
    trajectories.save(path, data, spec)
    if identical is not None:
        say(f"{show(path)}: {identical}")


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


def _require_disk(path: Path, simulations: Simulations, count: int, spec: SolverSpec) -> None:
    """Refuse more frames than the disk has room for before hours are spent: the simulations, and the file made of them."""
    frames = count * simulations.frames
    needed = 2 * frames * math.prod(spec.state_shape) * np.dtype(spec.dtype).itemsize
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    require_that(
        needed <= free,
        f"no space left for {frames:,} frames of {spec.state_shape} in {show(folder)}: they take {decimal(needed)}, and "
        f"{decimal(free)} are free: simulate fewer steps, discard more, or name an output on another disk.",
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
        clear_leftovers(part)  # a worker of a killed call may have been at it until after this call had made it
        part.unlink(missing_ok=True)
    with suppress(OSError):
        parts.rmdir()


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


def software() -> dict[str, str]:
    """Look up the versions of all software that shapes the data."""
    packages = {name: version(name) for name in ("deepzero-sim", "numpy", "h5py", "torch")}
    return {"python": platform.python_version(), **packages}
