"""The spec of a solver, as a component with the Basic Model Interface describes itself."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.common.requirements import require_known, require_type
from deepzero_sim.common.types import is_integer
from deepzero_sim.connectors.bmi.component import RunningComponent, UnimplementedError, Variable
from deepzero_sim.connectors.bmi.types import dtype_of
from deepzero_sim.connectors.spec_mapping import FIELDS, as_mask
from deepzero_sim.errors import ConfigError, SolverCrashError
from deepzero_sim.solver.input_fields import InputField, input_fields
from deepzero_sim.solver.spec import DTYPES, SolverSpec

#: Grids whose variables are arrays of `get_grid_shape`; all others are lists of points.
STRUCTURED = ("uniform_rectilinear", "rectilinear", "structured_quadrilateral")

#: A spec, or some of its fields: what the component cannot report.
GivenSpec: TypeAlias = SolverSpec | Mapping[str, Any]


@dataclass(frozen=True)
class Interface:
    """Variables of a component that a solver uses.

    Args:
        state: Variable of each channel, by the channel's name.
        params: Variable that each scenario parameter fills, by the parameter's name.
        steps: Number of the component's steps in one of the solver.
        inputs: Variable of each field that a step reads besides its state, by the field's name.
    """

    state: Mapping[str, Variable]
    params: Mapping[str, Variable]
    steps: int
    inputs: Mapping[str, Variable]


def variable_of(component: RunningComponent, name: str) -> Variable:
    """Return a variable as the component describes it."""
    try:
        word, item, total = (component.call(f"get_var_{what}", name) for what in ("type", "itemsize", "nbytes"))
        component.call("get_var_grid", name)
    except SolverCrashError as error:
        known = [n for what in ("input", "output") for n in component.call_or((), f"get_{what}_var_names") or ()]
        names = ", ".join(map(str, dict.fromkeys(known))) or "none"
        expected = f"expected a variable of BMI component {component.name}, which names {names}"
        raise ConfigError(f"{expected}, not {name!r} ({error}).") from error
    problem = f"is {word!r} of {item} bytes, {total} bytes in all, which do not fit"
    sizes_fit = is_integer(item) and is_integer(total) and item >= 1 and total >= 1 and not total % item
    remedy = "mend its get_var_type, get_var_itemsize or get_var_nbytes"
    component.require(sizes_fit, f"variable {name!r}", f"{problem}: {remedy}", ConfigError)
    dtype = dtype_of(word, int(item))
    remedy = "name a type of real or whole numbers of that size, such as double, float, int or logical, in its get_var_type"
    remedy += ", or mend its get_var_itemsize"
    component.require(dtype is not None, f"variable {name!r}", f"{problem}: {remedy}", ConfigError)
    assert dtype is not None
    return Variable(name, dtype, int(total) // int(item))


def spec_of(component: RunningComponent, interface: Interface, given: GivenSpec) -> SolverSpec:
    """Return the spec that a component reports, completed by the given fields."""
    fields = _fields(given)
    channels, parameters = list(interface.state.values()), list(interface.params.values())
    grids = [_grid(component, variable) for variable in channels]
    shapes = [grid.shape for grid in grids]
    remedy = "leave one out, or let the component offer them on one grid"
    _require_same(channels, shapes, "have as many values, but", remedy, operator.eq)
    shape, is_structured = shapes[0], all(grid.is_structured for grid in grids)
    reported: dict[str, Any] = {
        "state_shape": (len(channels), *shape),
        "dt": _dt(component, interface.steps, "dt" in fields),
        "channel_units": _units(component, channels),
        "parameter_units": _units(component, parameters),
        "spacing": _common_spacing(component, channels, grids),
        "offsets": tuple(grid.offsets for grid in grids) if all(grid.offsets for grid in grids) else (),
    }
    for field, value in reported.items():
        _require_agreement(component.name, field, value, fields.get(field))
    defaults = {
        "name": str(component.call_or("", "get_component_name") or component.name),
        "dtype": _dtype(component, channels),
        "channels": tuple(interface.state),
        "parameters": tuple(interface.params),
        "axes": ("z", "y", "x")[-len(shape) :] if is_structured and len(shape) <= 3 else (),
        "thread_safe": False,  # components often keep things in their modules
        "inputs": _inputs(component, interface.inputs, fields.pop("inputs", ()), shape),
    }
    return SolverSpec(**{**defaults, **fields, **{field: value for field, value in reported.items() if value}})


def _inputs(
    component: RunningComponent, variables: Mapping[str, Variable], given: Any, grid: tuple[int, ...]
) -> tuple[InputField, ...]:
    """Return the fields that a step reads besides its state: as the spec describes them, and the component the rest.

    Args:
        component: Component that was just initialised.
        variables: Variables by the names of the fields.
        given: Fields of the spec; those that it leaves out are as the component says.
        grid: Points of a state along each axis, `N`.
    """
    described = {one.name: one for one in input_fields(f"BMI component {component.name}", grid, given)}
    require_known(described, list(variables), "inputs of a spec")
    return tuple(described.get(name) or _as_reported(component, name, variable, grid) for name, variable in variables.items())


def _as_reported(component: RunningComponent, name: str, variable: Variable, grid: tuple[int, ...]) -> InputField:
    shape, values = _grid(component, variable).shape, component.get(variable)
    shape = (1,) * len(grid) if variable.size == 1 else shape
    value = float(values.flat[0])
    problem = f"is not of one value when it is initialised, from {values.min():g} to {values.max():g}"
    remedy = f"describe it by inputs of the spec, with its value where nobody provides it, as in {{name: {name}, value: 0}}"
    component.require(bool((values == value).all()), f"variable {variable.name!r}", f"{problem}: {remedy}", ConfigError)
    unit = str(component.call_or("", "get_var_units", variable.name) or "")
    return InputField(name, unit, value, shape=None if shape == grid else shape)


def _dt(component: RunningComponent, steps: int, is_given: bool) -> float | None:
    """Return the length of a step as the component reports it.

    Some report none before their first step: None then, if the spec gives it.
    """
    answer = component.call_or(None, "get_time_step")
    try:
        step = float(answer)
    except (TypeError, ValueError):
        step = math.nan
    if 0 < step < math.inf:
        return steps * step
    problem = f"must return how long a step is, not {answer!r}"
    remedy = "give spec its dt, or mend the component's configuration"
    component.require(is_given, "get_time_step", f"{problem}: {remedy}", ConfigError)
    return None


def _fields(given: GivenSpec) -> dict[str, Any]:
    """Return the fields of a given spec that hold something."""
    if isinstance(given, SolverSpec):
        given = {name: getattr(given, name) for name in FIELDS}
    require_type(given, Mapping, "spec must be a SolverSpec, or a mapping of its fields")
    require_known(given, FIELDS, "a spec")
    fields = {key: value for key, value in given.items() if not _is_empty(value)}
    return {**fields, "mask": as_mask(fields["mask"])} if "mask" in fields else fields


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list) and not value)


@dataclass(frozen=True)
class _Grid:
    """Grid of a variable: its shape, and spacing and offsets of uniform grids."""

    shape: tuple[int, ...]
    is_structured: bool
    spacing: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


def _require_same(
    channels: Sequence[Variable], values: Sequence[Any], demand: str, remedy: str, same: Callable[[Any, Any], bool]
) -> None:
    for variable, value in zip(channels, values, strict=True):
        if not same(value, values[0]):
            found = f"{channels[0].name!r} has {values[0]} and {variable.name!r} {value}"
            raise ConfigError(f"all variables of the state must {demand} {found}: {remedy}.")


def _common_spacing(component: RunningComponent, channels: Sequence[Variable], grids: Sequence[_Grid]) -> tuple[float, ...]:
    """Return the spacing of all grids; empty where one of them has none."""
    if not all(grid.spacing for grid in grids):
        return ()
    demand = f"lie on grids of one spacing, but in BMI component {component.name}"
    spacings = [grid.spacing for grid in grids]
    _require_same(channels, spacings, demand, "leave one out of state", _are_close)
    return spacings[0]


def _grid(component: RunningComponent, variable: Variable) -> _Grid:
    number = component.call("get_var_grid", variable.name)
    kind = "_".join(str(component.call("get_grid_type", number)).split("\0")[0].lower().split())
    at_nodes = str(component.call_or("node", "get_var_location", variable.name)).strip().lower() == "node"
    if kind not in STRUCTURED or not at_nodes:
        return _Grid((variable.size,), is_structured=False)
    shape = component.grid_shape(variable.name)
    problem = f"has {variable.size} values on a grid of {shape}: mend its get_var_nbytes or get_grid_shape"
    component.require(math.prod(shape) == variable.size, f"variable {variable.name!r}", problem, ConfigError)
    if kind != "uniform_rectilinear":
        return _Grid(shape, is_structured=True)
    try:
        spacing, origin = (component.grid_numbers(what, number, len(shape)) for what in ("spacing", "origin"))
    except UnimplementedError:  # xmipy has no such functions
        return _Grid(shape, is_structured=True)
    problem = f"must not be 0, but is {spacing.tolist()} for {variable.name!r}: mend it"
    component.require(bool(spacing.all()), "get_grid_spacing", problem, ConfigError)
    offsets = tuple(float(o / s) for o, s in zip(origin, spacing, strict=True))
    return _Grid(shape, True, tuple(map(float, spacing)), offsets)


def _units(component: RunningComponent, variables: Sequence[Variable]) -> tuple[str, ...]:
    units = tuple(str(component.call_or("", "get_var_units", variable.name) or "") for variable in variables)
    return units if any(units) else ()


def _dtype(component: RunningComponent, channels: Sequence[Variable]) -> str:
    for variable in channels:
        problem = f"must hold {' or '.join(DTYPES)} to be a part of the state, not {variable.dtype}: leave it out of state"
        component.require(variable.dtype.name in DTYPES, f"variable {variable.name!r}", problem, ConfigError)
    return "float64" if any(variable.dtype.name == "float64" for variable in channels) else "float32"


def _require_agreement(name: str, field: str, reported: Any, given: Any) -> None:
    if given is None or not reported:
        return
    is_text = field.endswith("units") and not isinstance(given, str)
    if not (tuple(given) == reported if is_text else _are_close(given, reported)):
        problem = f"the spec says that {field} is {_as_tuples(given)}, but BMI component {name} says {reported}"
        raise ConfigError(f"{problem}: leave {field} out of the spec, or mend the component's configuration.")


def _as_tuples(value: Any) -> Any:
    """Replace lists of YAML by the tuples that they stand for."""
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


def _are_close(one: Any, other: Any) -> bool:
    """Compare numbers or arrays of them; anything else is not close."""
    try:
        return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-6, atol=0)
    except (TypeError, ValueError):  # no numbers at all
        return False
