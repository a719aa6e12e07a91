"""Solvers, networks and data that Python hands over, in the form that settings of a run have."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.components import HANDED, Component
from deepzero_sim.common.files import digest
from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.short_names import COUPLINGS
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.couplings import After, Before, Coupling, Inside, as_coupling
from deepzero_sim.coupling.losses.base import Loss
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec, entries_but_mask

#: A solver, its class, or its name: an import path or file.py:Name, alone or with arguments.
SolverLike: TypeAlias = Solver | type[Solver] | str | Component | Mapping[str, Any]

#: A corrector, something that makes one of a solver's spec, or its name, alone or with arguments.
NetworkLike: TypeAlias = nn.Module | Callable[..., nn.Module] | str | Component | Mapping[str, Any]

#: A loss, or its name, alone or with arguments.
LossLike: TypeAlias = Loss | str | Component | Mapping[str, Any]

#: A coupling, or its name, alone or with arguments.
CouplingLike: TypeAlias = Coupling | str | Component | Mapping[str, Any]

#: Trajectories, arrays of them, `(frames, params)` or `frames`, or where they lie.
DataLike: TypeAlias = str | Path | DataSource | Mapping[str, Any] | Trajectories | tuple[Any, ...] | Array

#: File of a run folder with data that were handed over.
DATA_FILE = "{}.h5"


@dataclass
class HandedOver:
    """Objects that were handed over, by the names that stand for them in settings.

    Attributes:
        objects: Objects by name, as :func:`deepzero_sim.common.components.hand_over` takes them.
    """

    objects: dict[str, Any] = field(default_factory=dict)

    def add_solver(self, solver: SolverLike, what: str = "solver") -> Component:
        """Return the component that stands for a solver.

        Raises:
            ConfigError: It is none.
        """
        if isinstance(solver, type) and issubclass(solver, Solver):
            solver = solver()
        if not isinstance(solver, Solver):
            return as_component(solver, f"{what} must be a dz.Solver (dz.as_solver makes one of a function) or its name")
        spec = getattr(solver, "spec", None)
        require_type(
            spec, SolverSpec, f"{what} {type(solver).__name__!r} must set self.spec to a dz.SolverSpec when it is made"
        )
        text = json.dumps(entries_but_mask(solver.spec), default=str)
        return self._add(what, digest([_kind(solver), text], [solver.spec.active()]), solver)

    def add_network(self, network: NetworkLike) -> Component:
        """Return the component that stands for a corrector.

        Raises:
            ConfigError: It is none.
        """
        if isinstance(network, nn.Module):
            lazy = nn.parameter.is_lazy
            form = {name: [] if lazy(tensor) else list(tensor.shape) for name, tensor in network.state_dict().items()}
            return self._add("network", digest([_kind(network), json.dumps(form)]), partial(_copy, network))
        if callable(network):
            return self._add("network", digest([_kind(network)]), network)
        return as_component(
            network, "network must be a torch.nn.Module, a function that makes one of a solver's spec, or its name"
        )

    def add_loss(self, loss: LossLike) -> Component:
        """Return the component that stands for a loss.

        Raises:
            ConfigError: It is none.
        """
        if isinstance(loss, Loss):
            return self._add("loss", digest([_kind(loss), json.dumps(_arguments(loss), default=_kind)]), lambda: loss)
        return as_component(loss, "loss must be a loss of dz.losses or its name")

    def add_coupling(self, coupling: CouplingLike) -> Component:
        """Return the component that stands for a coupling: those of this package go by their names.

        Raises:
            ConfigError: It is none.
        """
        if isinstance(coupling, Coupling | type):
            coupling = as_coupling(coupling)  # refuses a class
        if isinstance(coupling, After | Before | Inside):
            return Component(f"deepzero_sim.couplings.{type(coupling).__name__}")
        if isinstance(coupling, Coupling):
            said = json.dumps(vars(coupling) if not is_dataclass(coupling) else _arguments(coupling), default=_plain)
            return self._add("coupling", digest([_kind(coupling), said]), lambda: coupling)
        named = as_component(coupling, "coupling must be a coupling of dz.couplings or its name")
        return COUPLINGS.in_full("coupling", named)

    def _add(self, what: str, key: str, value: Any) -> Component:
        name = f"{HANDED}{what}-{key[:16]}"
        self.objects[name] = value
        return Component(name)


def as_component(value: Any, expected: str) -> Component:
    """Convert a name, or a name with arguments, to a component.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        return Component(value)
    keys = set(value) if isinstance(value, Mapping) else set()
    if "name" in keys and keys <= {"name", "args"}:
        return Component(value["name"], dict(value.get("args") or {}))
    came = f"keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
    raise ConfigError(f"{expected}, alone or as {{'name': ..., 'args': {{...}}}}, not {came}.")


def _copy(network: nn.Module, spec: SolverSpec) -> nn.Module:
    """Copy a network for training, which leaves the one that was handed over as it is."""
    return copy.deepcopy(network)


def _arguments(loss: Loss | Coupling) -> dict[str, Any]:
    """Return what an object was made with, in plain values but for functions; nothing of a class that does not say it."""
    given: dict[str, Any] = {one.name: getattr(loss, one.name) for one in fields(loss)} if is_dataclass(loss) else {}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Return what tells an attribute from others, as JSON holds it."""
    return value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else _kind(value)


def _kind(value: Any) -> str:
    """Name a class or function, in Python's words."""
    named = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def is_in_memory(data: DataLike) -> bool:
    """Tell trajectories and arrays from places where they lie."""
    return not isinstance(data, str | Path | DataSource | Mapping)


def as_trajectories(data: Any) -> Trajectories:
    """Convert arrays to trajectories.

    Raises:
        ConfigError: They are none.
    """
    if isinstance(data, Trajectories):
        return data
    parts = data if isinstance(data, tuple) else (data,)
    arrays = all(hasattr(part, "shape") or part is None for part in parts)
    if not 1 <= len(parts) <= 3 or not arrays or parts[0] is None:
        came = type(data).__name__ if not isinstance(data, tuple) else f"a tuple of {[type(part).__name__ for part in data]}"
        raise ConfigError(
            "data must be a path, trajectories, or arrays: frames (S, T, C, *N), or (frames, params) with params (S, K), not "
            f"{came}."
        )
    return Trajectories(*parts)


def keep_data(folder: Path, setting: str, data: Any, spec: SolverSpec, may_differ: list[str]) -> Path:
    """Write data that were handed over into a run folder, or find them there from an earlier start.

    Args:
        folder: Run folder.
        setting: Name of the setting that they are.
        data: Trajectories or arrays.
        spec: Spec of the solver.
        may_differ: Keys of metadata that may contradict the solver.

    Raises:
        DataError: They do not fit the solver.
        RunError: The folder holds other data.
    """
    given = as_trajectories(data)
    given = replace(given, may_differ=(*given.may_differ, *may_differ))
    given.require_fit(spec, "what was handed over as data")
    path = folder / DATA_FILE.format(setting)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        trajectories.save(path, given, spec)
    elif trajectories.load(path, spec, may_differ).digest() != _as_stored(given, spec).digest():
        raise RunError(f"{folder} holds a run with other data ({path.name}): hand over those, or name another folder.")
    return path


def _as_stored(data: Trajectories, spec: SolverSpec) -> Trajectories:
    """Return data as they are read again."""
    return replace(data, frames=data.frames[:].astype(spec.dtype), params=data.params.astype(spec.dtype))
