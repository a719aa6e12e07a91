"""What a component with the Basic Model Interface says of itself, as the spec of a solver."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.connectors.bmi_component import RunningComponent, Variable
from deepzero_sim.connectors.specs import FIELDS
from deepzero_sim.errors import ConfigError, SolverCrashError
from deepzero_sim.solver import DTYPES, SolverSpec
from deepzero_sim.spelling import require_known

#: Grids whose variables are arrays of `get_grid_shape`; all others are lists of points.
STRUCTURED = ("uniform_rectilinear", "rectilinear", "structured_quadrilateral")

#: What is compared where both the component and the given spec say something.
FACTS = ("state_shape", "dt", "channel_units", "parameter_units", "spacing", "offsets")

#: A spec, or some of its fields: what the component cannot tell.
GivenSpec: TypeAlias = SolverSpec | Mapping[str, Any]


@dataclass(frozen=True)
class Interface:
    """What of a component is used.

    Args:
        state: the variable of each channel, by the channel's name.
        params: the variable that each scenario parameter fills, by the parameter's name.
        steps: steps of the component in one of the solver.
    """

    state: Mapping[str, Variable]
    params: Mapping[str, Variable]
    steps: int


def variable_of(model: RunningComponent, name: str) -> Variable:
    """A variable as the component describes it.

    Raises:
        ConfigError: the component has none of that name, or cannot say how large it is.
    """
    try:
        kind, item, total = (model.call(f"get_var_{what}", name) for what in ("type", "itemsize", "nbytes"))
        model.call("get_var_grid", name)
        dtype = np.dtype(kind)
    except (SolverCrashError, TypeError) as error:
        names = [*model.told("get_input_var_names", default=()), *model.told("get_output_var_names", default=())]
        raise ConfigError(
            f"expected a variable of BMI component {model.name}, which names {', '.join(dict.fromkeys(names)) or 'none'}, "
            f"not {name!r} ({error})."
        ) from error
    if dtype.itemsize != item or total % item:
        raise ConfigError(
            f"variable {name!r} of BMI component {model.name} is {kind} of {item} bytes, {total} bytes in all, which do not "
            "fit: mend its get_var_type, get_var_itemsize or get_var_nbytes."
        )
    return Variable(name, dtype, total // item)


def spec_of(model: RunningComponent, interface: Interface, given: GivenSpec) -> SolverSpec:
    """The spec that a component tells, filled up with what is given.

    Raises:
        ConfigError: they contradict each other, something is missing, or the variables do not fit one array.
    """
    known = _fields(given)
    channels, parameters = list(interface.state.values()), list(interface.params.values())
    grid = _common_grid(model, channels)
    told: dict[str, Any] = {
        "state_shape": (len(channels), *grid.shape),
        "dt": interface.steps * float(model.told("get_time_step", default=known.get("dt", 0.0) / interface.steps)),
        "channel_units": _units(model, channels),
        "parameter_units": _units(model, parameters),
        "spacing": grid.spacing,
        "offsets": (grid.offsets,) * len(channels) if grid.offsets else (),
    }
    for field in FACTS:
        _require_agreement(model.name, field, told[field], known.get(field))
    usual = {
        "name": str(model.told("get_component_name", default=model.name)),
        "dtype": _dtype(model, channels),
        "channels": tuple(interface.state),
        "parameters": tuple(interface.params),
        "axes": ("z", "y", "x")[-len(grid.shape) :] if grid.structured and len(grid.shape) <= 3 else (),
        "thread_safe": False,  # components often keep things in their modules
    }
    return SolverSpec(**{**usual, **known, **{field: value for field, value in told.items() if value or field == "dt"}})


def _fields(given: GivenSpec) -> dict[str, Any]:
    """The fields of a given spec that say something."""
    if isinstance(given, SolverSpec):
        given = {name: getattr(given, name) for name in FIELDS}
    require_known(given, FIELDS, "a spec")
    known = {key: _tuples(value) for key, value in given.items() if value is not None and not _empty(value)}
    if "mask" in known:
        known["mask"] = np.asarray(known["mask"], dtype=bool)
    return known


def _empty(value: Any) -> bool:
    return isinstance(value, tuple | list) and not value


def _tuples(value: Any) -> Any:
    """Lists of YAML as the tuples that they stand for."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Grid:
    """Where the values of a variable lie: spacing and offsets only of uniform grids."""

    shape: tuple[int, ...]
    structured: bool
    spacing: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


def _common_grid(model: RunningComponent, channels: Sequence[Variable]) -> _Grid:
    grids = [_grid(model, variable) for variable in channels]
    for variable, grid in zip(channels, grids, strict=True):
        if grid.shape != grids[0].shape:
            raise ConfigError(
                f"all variables of the state must have as many values, but {channels[0].name!r} has {grids[0].shape} and "
                f"{variable.name!r} {grid.shape}: leave one out, or let the component offer them on one grid."
            )
    return grids[0]


def _grid(model: RunningComponent, variable: Variable) -> _Grid:
    number = model.call("get_var_grid", variable.name)
    kind = model.call("get_grid_type", number)
    at_nodes = model.told("get_var_location", variable.name, default="node") == "node"
    if kind not in STRUCTURED or not at_nodes:
        return _Grid((variable.size,), structured=False)
    rank = int(model.call("get_grid_rank", number))
    shape = tuple(int(n) for n in model.call("get_grid_shape", number, np.zeros(rank, dtype=int)))
    if math.prod(shape) != variable.size:
        raise ConfigError(
            f"variable {variable.name!r} of BMI component {model.name} has {variable.size} values on a grid of {shape}: "
            "mend its get_var_nbytes or get_grid_shape."
        )
    if kind != "uniform_rectilinear":
        return _Grid(shape, structured=True)
    spacing, origin = (model.call(f"get_grid_{what}", number, np.zeros(rank)) for what in ("spacing", "origin"))
    offsets = tuple(float(o / s) for o, s in zip(origin, spacing, strict=True))
    return _Grid(shape, True, tuple(map(float, spacing)), offsets)


def _units(model: RunningComponent, variables: Sequence[Variable]) -> tuple[str, ...]:
    units = tuple(str(model.told("get_var_units", variable.name, default="")) for variable in variables)
    return units if any(units) else ()


def _dtype(model: RunningComponent, channels: Sequence[Variable]) -> str:
    for variable in channels:
        if variable.dtype.name not in DTYPES:
            raise ConfigError(
                f"variable {variable.name!r} of BMI component {model.name} must hold {' or '.join(DTYPES)} to be a part of the "
                f"state, not {variable.dtype}: leave it out of state."
            )
    return "float64" if any(variable.dtype.name == "float64" for variable in channels) else "float32"


def _require_agreement(name: str, field: str, told: Any, given: Any) -> None:
    if given is None or not told:
        return
    words = field.endswith("units")
    try:
        same = (
            tuple(given) == told if words else np.shape(given) == np.shape(told) and np.allclose(given, told, rtol=1e-6, atol=0)
        )
    except (TypeError, ValueError):  # no numbers at all
        same = False
    if not same:
        raise ConfigError(
            f"the spec says that {field} is {given}, but BMI component {name} says {told}: leave {field} out of the spec, "
            "or mend the component's configuration."
        )


def _same_numbers(given: Any, told: Any) -> bool:
    try:
        return np.shape(given) == np.shape(told) and np.allclose(given, told, rtol=1e-6, atol=0)
    except (TypeError, ValueError):  # no numbers at all
        return False
