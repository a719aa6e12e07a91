"""What a component with the Basic Model Interface says of itself, as the spec of a solver."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.common.spelling import require_known
from deepzero_sim.common.types import is_integer
from deepzero_sim.connectors.bmi.component import RunningComponent, UntoldError, Variable
from deepzero_sim.connectors.bmi.types import dtype_of
from deepzero_sim.connectors.spec_mapping import FIELDS, as_mask
from deepzero_sim.errors import ConfigError, SolverCrashError
from deepzero_sim.solver.contract import DTYPES, SolverSpec

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
        word, item, total = (model.call(f"get_var_{what}", name) for what in ("type", "itemsize", "nbytes"))
        model.call("get_var_grid", name)
    except SolverCrashError as error:
        names = [n for what in ("input", "output") for n in model.told(f"get_{what}_var_names", default=()) or ()]
        raise ConfigError(
            f"expected a variable of BMI component {model.name}, which names "
            f"{', '.join(map(str, dict.fromkeys(names))) or 'none'}, not {name!r} ({error})."
        ) from error
    what = f"variable {name!r} of BMI component {model.name} is {word!r} of {item} bytes, {total} bytes in all, which"
    if not is_integer(item) or not is_integer(total) or item < 1 or total < 1 or total % item:
        raise ConfigError(f"{what} do not fit: mend its get_var_type, get_var_itemsize or get_var_nbytes.")
    dtype = dtype_of(word, int(item))
    if dtype is None:
        raise ConfigError(
            f"{what} do not fit: name a type of real or whole numbers of that size, such as double, float, int or logical, in "
            "its get_var_type, or mend its get_var_itemsize."
        )
    return Variable(name, dtype, int(total) // int(item))


def spec_of(model: RunningComponent, interface: Interface, given: GivenSpec) -> SolverSpec:
    """The spec that a component tells, filled up with what is given.

    Raises:
        ConfigError: they contradict each other, something is missing, or the variables do not fit one array.
    """
    known = _fields(given)
    channels, parameters = list(interface.state.values()), list(interface.params.values())
    grids = [_grid(model, variable) for variable in channels]
    _require_one_shape(channels, grids)
    shape, structured = grids[0].shape, all(grid.structured for grid in grids)
    told: dict[str, Any] = {
        "state_shape": (len(channels), *shape),
        "dt": _step(model, interface.steps, "dt" in known),
        "channel_units": _units(model, channels),
        "parameter_units": _units(model, parameters),
        "spacing": _common_spacing(model, channels, grids),
        "offsets": tuple(grid.offsets for grid in grids) if all(grid.offsets for grid in grids) else (),
    }
    for field in FACTS:
        _require_agreement(model.name, field, told[field], known.get(field))
    usual = {
        "name": str(model.told("get_component_name", default="") or model.name),
        "dtype": _dtype(model, channels),
        "channels": tuple(interface.state),
        "parameters": tuple(interface.params),
        "axes": ("z", "y", "x")[-len(shape) :] if structured and len(shape) <= 3 else (),
        "thread_safe": False,  # components often keep things in their modules
    }
    return SolverSpec(**{**usual, **known, **{field: value for field, value in told.items() if value}})


def _step(model: RunningComponent, steps: int, given: bool) -> float | None:
    """Length of a step as the component tells it; None where it does not, as some do before their first, and the spec does."""
    answer = model.told("get_time_step", default=None)
    try:
        step = float(answer)
    except (TypeError, ValueError):
        step = math.nan
    if 0 < step < math.inf:
        return steps * step
    if given:
        return None
    raise ConfigError(
        f"get_time_step of BMI component {model.name} must return how long a step is, not {answer!r}: give spec its dt, or "
        "mend the component's configuration."
    )


def _fields(given: GivenSpec) -> dict[str, Any]:
    """The fields of a given spec that say something."""
    if isinstance(given, SolverSpec):
        given = {name: getattr(given, name) for name in FIELDS}
    if not isinstance(given, Mapping):
        raise ConfigError(f"spec must be a SolverSpec, or a mapping of its fields, not {type(given).__name__}.")
    require_known(given, FIELDS, "a spec")
    known = {key: value for key, value in given.items() if value is not None and not _empty(value)}
    return {**known, "mask": as_mask(known["mask"])} if "mask" in known else known


def _empty(value: Any) -> bool:
    return isinstance(value, tuple | list) and not value


@dataclass(frozen=True)
class _Grid:
    """Where the values of a variable lie: spacing and offsets only of uniform grids."""

    shape: tuple[int, ...]
    structured: bool
    spacing: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


def _require_one_shape(channels: Sequence[Variable], grids: Sequence[_Grid]) -> None:
    for variable, grid in zip(channels, grids, strict=True):
        if grid.shape != grids[0].shape:
            raise ConfigError(
                f"all variables of the state must have as many values, but {channels[0].name!r} has {grids[0].shape} and "
                f"{variable.name!r} {grid.shape}: leave one out, or let the component offer them on one grid."
            )


def _common_spacing(model: RunningComponent, channels: Sequence[Variable], grids: Sequence[_Grid]) -> tuple[float, ...]:
    """Spacing of all grids; nothing where one of them has none."""
    if not all(grid.spacing for grid in grids):
        return ()
    for variable, grid in zip(channels, grids, strict=True):
        if not np.allclose(grid.spacing, grids[0].spacing, rtol=1e-6, atol=0):
            raise ConfigError(
                f"all variables of the state must lie on grids of one spacing, but in BMI component {model.name} "
                f"{channels[0].name!r} has {grids[0].spacing} and {variable.name!r} {grid.spacing}: leave one out of state."
            )
    return grids[0].spacing


def _grid(model: RunningComponent, variable: Variable) -> _Grid:
    number = model.call("get_var_grid", variable.name)
    kind = "_".join(str(model.call("get_grid_type", number)).split("\0")[0].lower().split())
    at_nodes = str(model.told("get_var_location", variable.name, default="node")).strip().lower() == "node"
    if kind not in STRUCTURED or not at_nodes:
        return _Grid((variable.size,), structured=False)
    shape = model.grid_shape(variable.name)
    if math.prod(shape) != variable.size:
        raise ConfigError(
            f"variable {variable.name!r} of BMI component {model.name} has {variable.size} values on a grid of {shape}: "
            "mend its get_var_nbytes or get_grid_shape."
        )
    if kind != "uniform_rectilinear":
        return _Grid(shape, structured=True)
    try:
        spacing, origin = (model.grid_numbers(what, number, len(shape)) for what in ("spacing", "origin"))
    except UntoldError:  # xmipy has no such functions
        return _Grid(shape, structured=True)
    if not spacing.all():
        raise ConfigError(
            f"get_grid_spacing of BMI component {model.name} must not be 0, but is {spacing.tolist()} for {variable.name!r}: "
            "mend it."
        )
    offsets = tuple(float(o / s) for o, s in zip(origin, spacing, strict=True))
    return _Grid(shape, True, tuple(map(float, spacing)), offsets)


def _units(model: RunningComponent, variables: Sequence[Variable]) -> tuple[str, ...]:
    units = tuple(str(model.told("get_var_units", variable.name, default="") or "") for variable in variables)
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
    same = tuple(given) == told if field.endswith("units") and not isinstance(given, str) else _same_numbers(given, told)
    if not same:
        raise ConfigError(
            f"the spec says that {field} is {_tuples(given)}, but BMI component {name} says {told}: leave {field} out of the "
            "spec, or mend the component's configuration."
        )


def _tuples(value: Any) -> Any:
    """Lists of YAML as the tuples that they stand for."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


def _same_numbers(given: Any, told: Any) -> bool:
    try:
        return np.shape(given) == np.shape(told) and np.allclose(given, told, rtol=1e-6, atol=0)
    except (TypeError, ValueError):  # no numbers at all
        return False
