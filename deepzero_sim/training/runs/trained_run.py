"""Runs of correctors: the networks and losses that they begin with, what their folders say, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.components import Component
from deepzero_sim.common.module_state import cast
from deepzero_sim.common.settings import hints, read
from deepzero_sim.common.trained_parameter import TrainedParameter
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.coupling.couplings import After, Before, Coupling, Inside
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.losses import Observed, Rollout
from deepzero_sim.coupling.losses.base import Measure
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import DataSource, Source, source_from
from deepzero_sim.datasets.trajectories import Trajectories, as_batch
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models.build import build_network
from deepzero_sim.models.corrector import CORRECTORS, Corrector, NoCorrection, none
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.build import build_coupling
from deepzero_sim.training.checkpoints import Checkpoint, load_checkpoint, read_settings
from deepzero_sim.training.progress import progress_of, require_within
from deepzero_sim.training.runs.folders import last_stage, locate, origin_of, within
from deepzero_sim.training.runs.settings import AFTER, MethodName
from deepzero_sim.training.runs.trained_params import params_of, without_params
from deepzero_sim.training.runs.trust import trust_parts, without_trust, words_of
from deepzero_sim.training.runs.unrolls import Unroll, Unrolls
from deepzero_sim.training.validation import restore_trained

#: Networks that have a short name: correctors, and none, where scenario parameters are trained alone.
_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {**CORRECTORS, "none": none}

#: States of the training data that a vector-Jacobian product is prepared with.
SAMPLES = 256

#: Complete frames from which rollouts show more states, where most were not observed.
STARTS = 8


def build_corrector(network: Component, spec: SolverSpec, seed: int, coupling: Coupling | None = None) -> nn.Module:
    """Build the network that settings name, with weights drawn from the seed, in the solver's dtype.

    Args:
        network: Short name, import path or file.py:Name, called with the solver's spec and the component's args.
        spec: Spec of the solver.
        seed: Seed of the weights.
        coupling: Coupling that says what the network returns; a correction of the state if None.
    """
    if coupling is not None and coupling.of_inputs and network.name in _NETWORKS:
        network = replace(network, args={**network.args, "of_inputs": True})
    return cast(build_network(network, _NETWORKS, spec, seed), getattr(torch, spec.dtype))


def starting_network(
    network: Component, start: Path | None, spec: SolverSpec, data: Trajectories, seed: int, coupling: Coupling | None = None
) -> nn.Module:
    """Build the network that training starts from: as settings name it, in the data's units, or as a run left it.

    Scenario parameters that the run trained are left out.

    Args:
        network: Network, as of :func:`build_corrector`.
        start: Run folder, or None.
        spec: Spec of the solver.
        data: Training data.
        seed: Seed of the weights.
        coupling: Coupling that says what the network returns; a correction of the state if None.
    """
    corrector = build_corrector(network, spec, seed, coupling)
    if isinstance(corrector, Corrector):  # a user's network keeps to itself
        corrector.set_scales(data)
    if start is not None:
        start = last_stage(start)
        checkpoint = load_checkpoint(start)
        if coupling is not None and any(True for _ in corrector.parameters()):
            _require_same_role(start, coupling)
        restore_trained(corrector, without_params(checkpoint), start)
    return corrector


def _require_same_role(start: Path, coupling: Coupling) -> None:
    """Refuse a network that provided inputs of a solver where it is to correct states, and the other way round."""
    of_inputs = {f"deepzero_sim.couplings.{one.__name__}": one.of_inputs for one in (After, Before, Inside)}
    recorded = of_inputs.get(run_settings(start).coupling.name, coupling.of_inputs)  # one of the user's own may do either
    if recorded != coupling.of_inputs:
        roles = ("a correction of the state", "fields that the solver reads")
        raise ConfigError(
            f"the network of start {start} returns {roles[recorded]}, and coupling {type(coupling).__name__} needs "
            f"{roles[coupling.of_inputs]}: take the coupling that it was trained with, or start from another run."
        )


def rollout_loss(spec: SolverSpec, data: Trajectories) -> Measure:
    """Build the loss that correctors are trained on with these data, where the settings name none: of what was observed."""
    return (Observed() if data.unobserved else Rollout()).build(spec, data)


def sample_states(data: Trajectories) -> tuple[Array, Array | None]:
    """Return states of all simulations and times alike, `(B, C, *N)`, and their parameters, `(B, K)` or None.

    Of data with values that were not observed, they are those of complete frames.
    """
    simulations, times = data.frames.shape[:2]
    whole = np.flatnonzero(data.complete)
    places = np.unravel_index(whole[np.linspace(0, len(whole) - 1, SAMPLES, dtype=int)], (simulations, times))
    return data.frames[places], data.params[places[0]] if data.params.shape[1] else None


def states_on_the_way(loop: SolverLoop, data: Trajectories, steps: int) -> tuple[Array, Array | None]:
    """Return states that a loop passes from complete frames of data on, `(B, C, *N)`, and their parameters, `(B, K)` or None.

    Its probes count the solver steps that this takes.

    Args:
        loop: Loop, with the network and parameters that training starts with.
        data: Training data, most of whose values were not observed.
        steps: Steps of a rollout in training.
    """
    whole = np.argwhere(data.complete)
    places = whole[np.linspace(0, len(whole) - 1, min(len(whole), STARTS), dtype=int)]
    states, params = data.frames[tuple(places.T)], data.params[places[:, 0]] if data.params.shape[1] else None
    given = None if params is None else torch.from_numpy(params)
    with torch.no_grad(), single_threaded():
        rollout, account = loop.rollout_with_account(torch.from_numpy(states), given, steps)
    loop.layer.probes.count(account)
    passed = np.concatenate([states[:, None], to_array(rollout)], axis=1)
    return as_batch(passed, np.empty((len(passed), 0)) if params is None else params)


# ---- run folders


@dataclass(frozen=True)
class RunSettings:
    """Settings of a training that its run is used by; see the settings of `deepzero-sim train`.

    The paths of data and of the run it started from are found from the current folder; names of code are those that were given,
    and are found from `origin`, or from the current folder if that is None.
    """

    method: MethodName
    solver: Component
    network: Component
    start: Path | None
    train_data: Source
    unroll: Unroll
    updates: int
    batch_size: int
    seed: int
    coupling: Component = field(default_factory=lambda: Component(AFTER))
    train_params: dict[str, TrainedParameter] = field(default_factory=dict)
    on_failure: str | dict[str, str] = "abort"
    data_may_differ: list[MetadataKey] = field(default_factory=list)
    origin: Path | None = None

    @property
    def located_solver(self) -> Component:
        """Solver with the whole paths of the files that it names, by which solvers of runs are told apart."""
        file, colon, name = self.solver.name.rpartition(":")
        located = f"{locate(file, self.origin)}{colon}{name}" if colon else self.solver.name
        return replace(self.solver, name=located, args=locate(self.solver.args, self.origin))

    @property
    def parts(self) -> dict[str, Component]:
        """Parts that are built when the run is used."""
        restrict = function_part(self.train_data, self.origin)
        if self.method == "SRC":
            return {"solver": self.solver}
        coupling = {} if self.coupling.name == AFTER else {"coupling": self.coupling}
        return {"solver": self.solver, "network": self.network, **coupling, **restrict}


def run_settings(path: Path) -> RunSettings:
    """Read the settings of a training's run folder.

    Raises:
        RunError: The folder is no run of a corrector, or its settings were changed.
    """
    path = last_stage(path)
    left_out = {"on_failure": "abort", "data_may_differ": [], "coupling": {"name": AFTER, "args": {}}, "train_params": {}}
    recorded = {**left_out, **read_settings(path)}
    kinds = {key: kind for key, kind in hints(RunSettings).items() if key != "origin"}
    missing = sorted(kinds.keys() - recorded.keys())
    if missing:
        raise RunError(f"{path} is no run of 'deepzero-sim train' (its config.yaml has no {missing[0]!r}): check the path.")
    settings = RunSettings(**{key: _read_recorded(path, kind, recorded[key], key) for key, kind in kinds.items()})
    origin = origin_of(path)
    if origin is None:
        return settings
    start = None if settings.start is None else origin / settings.start
    return replace(settings, origin=origin, start=start, train_data=source_from(origin, settings.train_data))


def function_part(source: Source, origin: Path | None = None) -> dict[str, Component]:
    """Return the function that restricts training data, by its setting, as a part that is imported; nothing without one."""
    name = source.function_from(origin or Path.cwd()) if isinstance(source, DataSource) else None
    return {} if name is None else {"restrict": Component(name)}


def _read_recorded(path: Path, kind: Any, value: Any, key: str) -> Any:
    try:
        return read(kind, value, key)
    except ConfigError as error:
        raise RunError(f"{path / 'config.yaml'} was changed: {key} cannot be {value!r}; restore what it was.") from error


def parts_without_trust(path: Path) -> dict[str, Component]:
    """Return the parts of a run that would import or run what nobody has trusted here."""
    settings = run_settings(path)
    return without_trust(settings.parts, settings.origin)


def trust(path: Path) -> None:
    """Trust the code and programs that a run's settings name, from now on: read them before."""
    settings = run_settings(path)
    trust_parts(settings.parts, settings.origin)


def trained_loop(
    path: Path,
    load: Callable[[Path], Checkpoint] = load_checkpoint,
    *,
    solver: Component | None = None,
    network: Component | None = None,
    coupling: Component | None = None,
) -> SolverLoop:
    """Build a run's solver with its trained corrector.

    Args:
        path: Run folder.
        load: Function that reads the checkpoint of a folder.
        solver: Solver in place of the run's own, found from the current folder; None for that of the run.
        network: Network in place of the run's own; its weights are those of the run.
        coupling: Object in place of the run's own coupling.

    Raises:
        RunError: The folder holds no trained run, or its settings name what nobody has trusted here, see :func:`trust`.
    """
    path = last_stage(path)
    settings = run_settings(path)
    replaced = {"solver": solver, "network": network, "coupling": coupling}
    needed = {key: part for key, part in settings.parts.items() if replaced.get(key) is None}
    if parts := without_trust(needed, settings.origin):
        listed = "; ".join(f"{key} {words_of(part)}" for key, part in parts.items())
        raise RunError(
            f"{path} was not made by you on this machine, and its settings would import or run {listed}: look into its "
            "config.yaml, and if you trust it, call again with --trust (in Python, dz.load_run(path, trust=True))."
        )
    with within(settings.origin if solver is None else None):
        built = build_solver(settings.solver if solver is None else solver)
    if settings.method == "SRC":
        return SolverLoop(built, NoCorrection(), on_failure=settings.on_failure)
    with within(settings.origin if network is None else None):
        acting = build_coupling(settings.coupling if coupling is None else coupling)
        corrector = build_corrector(settings.network if network is None else network, built.spec, settings.seed, acting)
    checkpoint = load(path)
    require_within(progress_of(checkpoint, path), settings.updates, path)
    restore_trained(corrector, without_params(checkpoint), path)
    trained = params_of(checkpoint, settings.train_params, built.spec, path)
    longest = Unrolls.of(settings.unroll).longest
    return SolverLoop(built, corrector, longest, on_failure=settings.on_failure, coupling=acting, trained_params=trained)


def differences_accepted_by(*paths: Path) -> list[str]:
    """Return what the data of these runs may say otherwise than the solver."""
    return [entry for path in paths for entry in run_settings(path).data_may_differ]
