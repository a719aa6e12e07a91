"""The way in from Python: a corrector trained, loaded and saved by one call each."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepzero_sim.common.bars import console
from deepzero_sim.common.components import HANDED, Component, hand_over
from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.settings import hints, keys_of, read, require_settings
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import path_of
from deepzero_sim.errors import RunError, SolverError, TrainingWarning
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import Start, load_checkpoint, read_settings, read_start
from deepzero_sim.training.progress import progress_of
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.console import train_in_silence, train_stages
from deepzero_sim.training.runs.folders import last_stage, origin_of
from deepzero_sim.training.runs.handed_over import (
    CouplingLike,
    DataLike,
    HandedOver,
    NetworkLike,
    SolverLike,
    as_component,
    is_in_memory,
    keep_data,
)
from deepzero_sim.training.runs.remainder import remainder_of
from deepzero_sim.training.runs.saved_loop import TrainedLoop, TrainingRecord, differences_to_saved
from deepzero_sim.training.runs.settings import MethodChoice, TrainSettings
from deepzero_sim.training.runs.stages import plan
from deepzero_sim.training.runs.trained_run import RunSettings, run_settings, trained_loop, trust
from deepzero_sim.training.runs.warnings import code_warnings

#: Methods that train no rollout, or choose for themselves.
_BY_THEMSELVES = ("SRC", "NON", "suitable")

#: Folder of kept working folders of programs, within a run.
_KEPT = "kept"


def train(
    solver: SolverLike,
    data: DataLike,
    method: MethodChoice = "SolverLayer",
    network: NetworkLike = "small",
    *,
    run: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> TrainedLoop:
    """Train a corrector for a solver, and return the loop of both, ready for `rollout`.

    The settings are those of `deepzero-sim train`, with the same defaults, scales, rates and threads. A method that trains
    through the loop begins with NON, the cheapest way to begin, and goes on from its network, in two stages of so many updates
    each; a `start` takes the place of NON, and `stages=[{"method": ...}]` is a single one without it.

    Args:
        solver: Coarse solver: a :class:`Solver` (:func:`as_solver` makes one of a function), or a name, `file.py:Name` or an
            import path, alone or as `{"name": ..., "args": {...}}`.
        data: Reference trajectories: a path of any known layout, a :class:`DataSource`, :class:`Trajectories`, or arrays
            `(frames, params)` or `frames`, `(S, T, C, *N)` and `(S, K)`.
        method: Way to train.
        network: Corrector: `small`, `mercury`, `mars_moon`, another name, alone or with `args`, a function that makes one of
            the solver's spec, or a module, of which a copy is trained.
        run: Run folder, with which a training that was killed goes on, as from the command line; none if None: what it needs
            on the way is gone at the end.
        progress: True for a bar, and for sentences on what was chosen and what came of it; else warnings alone.
        settings: Any other setting of `deepzero-sim train`: updates, unroll, loss, start, seed, held_back and so on.

    Raises:
        DeepZeroError: Something cannot be used, or failed.
    """
    handed = HandedOver()
    with _run_folder(run) as folder:
        made = _settings(handed, solver, network, {"method": method, "run": folder, **settings}, temporary=run is None)
        with hand_over(handed.objects):
            spec = build_solver(made["solver"]).spec
            differ = list(made.get("data_may_differ") or ())
            for key, value in (("train_data", data), ("validation_data", made.get("validation_data"))):
                if value is not None:
                    made[key] = keep_data(folder, key, value, spec, differ) if is_in_memory(value) else value
            stages = plan(read(TrainSettings, made))
            if made.get("stages") and "stages" not in settings and progress:
                console.print(f"{method} begins with the network of NON, in two stages; start or stages say it otherwise.")
            if progress:
                train_stages(stages, name_folders=False)
            else:
                train_in_silence(stages)
            path = stages[-1].settings.run
            return _wrap(trained_loop(path), path, cost(path) if run is None else None)


@contextmanager
def _run_folder(run: str | Path | None) -> Iterator[Path]:
    """Yield the folder of a run; one that nobody named is gone at the end, but for working folders that an error names."""
    if run is not None:
        require_type(run, (str, Path), "run must be the path of a folder, or None for none that stays")
        yield Path(run).expanduser()
        return
    folder = Path(tempfile.mkdtemp(prefix="deepzero-sim-"))
    try:
        yield folder / "run"
    except SolverError:
        if not any(folder.rglob(f"{_KEPT}/*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _settings(
    handed: HandedOver, solver: SolverLike, network: NetworkLike, given: Mapping[str, Any], *, temporary: bool
) -> dict[str, Any]:
    """Return plain settings of a training, with components for what was handed over."""
    require_settings(given, TrainSettings, "dz.train")
    made = {**given, "solver": handed.add_solver(solver), "network": handed.add_network(network)}
    if made.get("differentiable_solver") is not None:
        made["differentiable_solver"] = handed.add_solver(made["differentiable_solver"], "differentiable_solver")
    if made.get("loss") is not None:
        made["loss"] = handed.add_loss(made["loss"])
    if made.get("coupling") is not None:
        made["coupling"] = handed.add_coupling(made["coupling"])
    for key, kind in hints(TrainSettings).items():
        if keys_of(kind) is Component and isinstance(made.get(key), str):
            made[key] = as_component(made[key], f"{key} must be a name")
    if given["method"] not in _BY_THEMSELVES and given.get("start") is None and "stages" not in given:
        made |= {"method": "suitable", "stages": [{"method": "NON"}, {"method": given["method"]}]}
    if temporary:
        made = {"tensorboard": False, **made}  # nobody could look at them
    return made


def load_run(
    path: str | Path,
    *,
    trust: bool = False,
    solver: SolverLike | None = None,
    network: NetworkLike | None = None,
    coupling: CouplingLike | None = None,
) -> TrainedLoop:
    """Load the loop of a run that was trained, ready for `rollout`.

    Args:
        path: Run folder, or what :meth:`TrainedLoop.save` wrote.
        trust: True to import and run what its settings name although it was made by others: look into its config.yaml first.
        solver: Solver, if it was an object in Python when the run was trained, or in place of the one that the run names: of
            the same spec.
        network: Network, or what makes it, in the same way; its weights are those of the run.
        coupling: Object in place of a coupling of a class of your own, if it was one when the run was trained.

    Raises:
        RunError: There is no trained run, it needs trust, or it was trained with another solver or network.
    """
    require_type(path, (str, Path), "path must be the folder of a run")
    folder = Path(path).expanduser()
    if trust:
        _trust(folder)
    handed, settings = HandedOver(), run_settings(folder)
    own_solver = None if solver is None else handed.add_solver(solver)
    own_network = None if network is None else handed.add_network(network)
    own_coupling = None if coupling is None else handed.add_coupling(coupling)
    given = (
        ("solver", own_solver, settings.solver),
        ("network", own_network, settings.network),
        ("coupling", own_coupling, settings.coupling),
    )
    for what, made, recorded in given:
        if made is not None and (recorded.name.startswith(HANDED) or what == "coupling"):
            _require_same(folder, what, made, recorded)
    with hand_over(handed.objects):
        loop = trained_loop(folder, solver=own_solver, network=own_network, coupling=own_coupling)
    if own_solver is not None and not settings.solver.name.startswith(HANDED):
        _require_spec(folder, settings, loop.solver.spec)
    for sentence in code_warnings({str(folder): folder}):
        warnings.warn(sentence, TrainingWarning, stacklevel=2)
    return _wrap(loop, last_stage(folder))


_trust = trust


def _require_same(folder: Path, what: str, made: Component, recorded: Component) -> None:
    if made.name != recorded.name:
        alike = {"solver": "class and spec", "network": "class and sizes of weights", "coupling": "class or arguments"}[what]
        raise RunError(
            f"{folder} was trained with a {what} of another {alike} than the one that was handed over: use that one."
        )


def _require_spec(folder: Path, settings: RunSettings, spec: SolverSpec) -> None:
    """Hold a solver that takes the place of the one that a run names to what is known of that: its spec, or the data.

    Raises:
        RunError: Its spec is another one.
        DataError: It does not fit the data that the run was trained on.
    """
    differences = differences_to_saved(load_checkpoint(last_stage(folder)), spec)
    if differences:
        key, (theirs, ours) = next(iter(differences.items()))
        raise RunError(
            f"{folder} was trained with a solver of {key} {theirs!r}, and the one that was handed over has {ours!r}: use one "
            "of the same spec."
        )
    if differences is None and path_of(settings.train_data).exists():
        open_trajectories(settings.train_data, spec, settings.data_may_differ)
    elif differences is None:
        warnings.warn(
            f"nothing says what the solver of {folder} was like, as {path_of(settings.train_data)} is gone: the one that was "
            "handed over is taken as it is.",
            TrainingWarning,
            stacklevel=3,
        )


def _wrap(loop: SolverLoop, path: Path, spent: Any = None) -> TrainedLoop:
    settings = read_settings(path)
    if settings["method"] == "SRC":
        return TrainedLoop(loop, None)
    progress = progress_of(load_checkpoint(path), path)
    start = read_start(path) or Start(None, settings["updates"])
    start = start._replace(folder=str(origin_of(path) or os.getcwd()))  # noqa: PTH109
    left = remainder_of(path)
    unfinished = "" if left is None else left.words
    return TrainedLoop(
        loop, TrainingRecord(settings, start, progress, lambda: cost(path) if spent is None else spent, unfinished)
    )
