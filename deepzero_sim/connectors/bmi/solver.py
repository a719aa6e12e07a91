"""A solver that is a component with the Basic Model Interface (BMI): initialize, update, get_value, set_value, finalize.

Hutton et al., The Basic Model Interface 2.0, JOSS 5 (2020) 2317; in Python the class `bmipy.Bmi`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.components import Kind, load_factory
from deepzero_sim.common.requirements import is_count, require, require_flag
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.component import REQUIRED_FUNCTIONS, RunningComponent, Variable
from deepzero_sim.connectors.bmi.spec import GivenSpec, Interface, spec_of, variable_of
from deepzero_sim.connectors.per_state import one_by_one
from deepzero_sim.errors import ConfigError, InvalidStateError, SolverError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.spec_values import IN_QUOTES
from deepzero_sim.solver.stepped_inputs import take_with_inputs, with_same_inputs
from deepzero_sim.solver.validation import check_call, check_states

#: Kind of class that settings may name as a component; the rest of the interface is checked function by function.
BMI = Kind("a class with the Basic Model Interface", lambda made: callable(getattr(made, "initialize", None)))


class BMISolver(Solver):
    """Any component with the Basic Model Interface as a solver: its variables are set, it is updated, they are read.

    A batch is advanced state by state, in the calling thread. By default every state has a component of its own, from
    `initialize` to `finalize`: nothing is left over from the state before, and its clock always starts at the start time, so
    that a forcing that depends on time is always that of the start.

    With `reuse` one component goes on and only its values are set. That is faster, and right only if those values are all
    that a step depends on: the component's clock runs on, and is set back, by a new component, where its end time is
    reached. A step that fails ends the component; the next state has a new one.

    Args:
        component: Import path or `file.py:Name` of the component's class, or the class.
        config: Path of the file that is given to `initialize`.
        state: Names of the variables that are the state, one a channel, or `{channel: variable}`. BMI's arrays are flat, in C
            order; on a structured grid they take its shape, and all others are `n_points` in a row, a scalar one.
        params: Names of the variables of the scenario parameters, in the same form; a variable is filled with its parameter
            before the state is set.
        spec: Fields of :class:`SolverSpec` that the component cannot report. It reports state_shape, dt, units, spacing and
            offsets, which must not be contradicted; its name, dtype, axes and thread_safe may be. Where a mask is False the
            component keeps its own values.
        steps_per_call: Number of the component's steps in one step, by `update_until`; by `update` if it is one.
        reuse: True for one component that serves all states of a process.
        inputs: Names of the variables of fields that a step reads besides its state, in the form of `state`. Their value where
            nobody provides them is the one that the component begins with, unless `inputs` of the spec describes them.

    Raises:
        ConfigError: The component is none, its variables cannot be got and set, or it contradicts the spec.
    """

    def __init__(
        self,
        component: str | Callable[[], Any],
        config: str | Path,
        state: Sequence[str] | Mapping[str, str],
        params: Sequence[str] | Mapping[str, str] | None = (),
        spec: GivenSpec | None = None,
        steps_per_call: int = 1,
        reuse: bool = False,
        inputs: Sequence[str] | Mapping[str, str] | None = (),
    ) -> None:
        require(is_count(steps_per_call), "steps_per_call must be a whole number of steps, 1 or more", steps_per_call)
        require_flag(reuse, "reuse", "write it without quotes")
        self._make = _load_class(component)
        self._config = _config_path(config)
        self._reuse = reuse
        self._current: RunningComponent | None = None
        self._end_current: Callable[[], object] | None = None
        names = {what: _variables(what, given) for what, given in (("state", state), ("params", params), ("inputs", inputs))}
        if not names["state"]:
            raise ConfigError("state must name one variable of the BMI component at least, but it is empty.")
        for one, other in combinations(names, 2):
            if both := sorted(set(names[one].values()) & set(names[other].values())):
                raise ConfigError(f"{one} and {other} must name different variables, but both name {both[0]!r}: take one out.")
        self._interface, self.spec = self._inspect(names, int(steps_per_call), spec or {})
        if reuse and self.spec.thread_safe:
            raise ConfigError("one component cannot serve several threads: leave out reuse, or thread_safe of the spec.")

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        if params is not None and not self.spec.parameters:
            raise InvalidStateError(f"solver {self.spec.name!r} was given parameters, but params names no variables for them.")
        check_call(self.spec, states, params, inputs)
        return take_with_inputs(partial(one_by_one, self._advance), states, params, inputs)

    def close(self) -> None:
        """Finalise the component that is reused, if there is one."""
        if self._end_current is not None:
            self._end_current()
        self._current = self._end_current = None

    def _inspect(self, names: Mapping[str, Mapping[str, str]], steps: int, given: GivenSpec) -> tuple[Interface, SolverSpec]:
        """Ask a component for its description, and try to set its variables."""
        component: RunningComponent | None = None
        try:
            component = RunningComponent(self._make, self._config)
            found = {what: {key: variable_of(component, name) for key, name in ours.items()} for what, ours in names.items()}
            interface = Interface(**found, steps=steps)
            spec = spec_of(component, interface, given)
            _require_sizes(component, interface, spec)
            for variable in (variable for what in ("params", "inputs", "state") for variable in found[what].values()):
                _require_settable(component, variable)
            problem = f"must run for a step of {spec.dt:g} at least, but ends before"
            remedy = "mend its configuration, or take fewer steps_per_call"
            component.require(component.can_advance(spec.dt), "", f"{problem}: {remedy}", ConfigError)
        except SolverError as error:
            raise ConfigError(str(error)) from error
        finally:
            if component is not None:
                component.abandon()
        return interface, spec

    def _advance(self, state: Array, params: Array | None) -> Array:
        """Advance one state `(C, *N)` by one step, and the inputs behind its channels with it."""
        component = self._component()
        try:
            advanced = self._run(component, state, params)
        except BaseException:  # nobody knows what it holds now
            self.close() if self._reuse else component.abandon()
            raise
        if not self._reuse:
            component.call("finalize")
        return advanced

    def _component(self) -> RunningComponent:
        """Return the reused component, as long as its clock leaves room for a step, or a new one."""
        if self._current is not None and self._can_go_on(self._current):
            return self._current
        self.close()
        component = RunningComponent(self._make, self._config)
        if self._reuse:
            self._current = component
            self._end_current = weakref.finalize(self, component.abandon)  # when the solver is gone or the program ends, too
        return component

    def _can_go_on(self, component: RunningComponent) -> bool:
        try:
            component.require_untouched()
            return component.can_advance(self.spec.dt)
        except BaseException:
            self.close()
            raise

    def _run(self, component: RunningComponent, state: Array, params: Array | None) -> Array:
        """Set a component's variables, advance it, and read the state; inputs stay as they are."""
        for variable, value in zip(self._interface.params.values(), () if params is None else params, strict=True):
            component.set(variable, np.full(variable.size, value))
        channels, active, own_channels = self._interface.state.values(), self.spec.active(), self.spec.state_shape[0]
        for variable, field, values in zip(
            self._interface.inputs.values(), self.spec.inputs, state[own_channels:], strict=True
        ):
            component.set(variable, values[tuple(map(slice, field.shape or values.shape))])
        for variable, values, where in zip(channels, state[:own_channels], active, strict=True):
            whole = values if where.all() else np.where(where, values, component.get(variable).reshape(values.shape))
            component.set(variable, whole)
        component.advance(self._interface.steps, self.spec.dt)
        with np.errstate(over="ignore"):  # infinity is found below
            own = {variable: component.get(variable) for variable in channels}
            fields = [values.astype(self.spec.dtype) for values in own.values()]
        if self._reuse:
            component.record(own)
        advanced = np.where(active, np.stack(fields).reshape(self.spec.state_shape), np.zeros((), self.spec.dtype))
        remedy = "it diverged or fails on such a state: use a smaller step, a smaller correction or another initial state"
        check_states(self.spec, advanced[None], f"what BMI component {component.name} returned", remedy, batch=1)
        return with_same_inputs(advanced, state)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_current": None, "_end_current": None}  # a process has a component of its own


def _load_class(component: str | Callable[[], Any]) -> Callable[[], Any]:
    make = load_factory(component, BMI) if isinstance(component, str) else component
    missing = [name for name in REQUIRED_FUNCTIONS if isinstance(make, type) and not callable(getattr(make, name, None))]
    if not callable(make) or missing:
        what = f"it has no {', '.join(missing)}" if missing else f"it is a {type(make).__name__}"
        raise ConfigError(f"{component} must be a class with the Basic Model Interface, but {what}: derive it from bmipy.Bmi.")
    return make


def _config_path(config: str | Path) -> str:
    is_path = isinstance(config, str | Path)
    require(is_path, "config must be the path of the file that initialises the BMI component", config)
    path = Path(config)
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to initialise the BMI component with: check config.")
    return str(path.resolve())  # a worker may run in another folder


def _variables(what: str, given: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Map the names that variables have in the spec to the variables, each once."""
    expected = f"{what} must be a list of variables of the BMI component, or name: variable"
    is_text = isinstance(given, str)
    is_list = isinstance(given, Sequence | Mapping | None) and not is_text
    require(is_list, expected, given, f"write [{given!r}]" if is_text else "")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in given or ()]
    for word in (word for pair in pairs for word in pair):
        require(isinstance(word, str) and bool(word.strip()), expected, given, f"{word!r} is no name, so {IN_QUOTES}")
    variables = [variable for _, variable in pairs]
    require(len(set(variables)) == len(variables), expected, given, "name each variable once")
    return dict(pairs)


def _require_sizes(component: RunningComponent, interface: Interface, spec: SolverSpec) -> None:
    """Refuse inputs that do not lie on the points that the spec says."""
    for variable, field in zip(interface.inputs.values(), spec.inputs, strict=True):
        shape = field.shape or spec.state_shape[1:]
        problem = f"has {variable.size} values, but the spec gives it {shape}: give the input its shape in the spec"
        component.require(math.prod(shape) == variable.size, f"variable {variable.name!r}", problem, ConfigError)


def _require_settable(component: RunningComponent, variable: Variable) -> None:
    """Set a variable to other values than it has, and see whether they are there."""
    before = component.get(variable)
    other = np.bitwise_xor(before, np.ones((), before.dtype)) if variable.is_integer else _other_values(before)
    component.set(variable, other)
    problem = f"must set {variable.name!r}, but get_value gives other values after it"
    remedy = "take a variable that the component computes from, not one that it derives, or mend set_value"
    component.require(np.array_equal(component.get(variable), other), "set_value", f"{problem}: {remedy}", ConfigError)


def _other_values(values: NDArray[Any]) -> NDArray[Any]:
    """Return values that are close to these, and different."""
    with np.errstate(all="ignore"):
        others = values + np.asarray(1e-3, values.dtype) * np.maximum(np.abs(values), 1)
    return np.where(np.isfinite(others), others, 0).astype(values.dtype)
