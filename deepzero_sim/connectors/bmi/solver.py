"""A solver that is a component with the Basic Model Interface (BMI): initialize, update, get_value, set_value, finalize.

Hutton et al., The Basic Model Interface 2.0, JOSS 5 (2020) 2317; in Python the class `bmipy.Bmi`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.components import Wanted, load_factory
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.bmi.component import NEEDED, RunningComponent, Variable
from deepzero_sim.connectors.bmi.spec import GivenSpec, Interface, spec_of, variable_of
from deepzero_sim.connectors.per_state import one_by_one
from deepzero_sim.errors import ConfigError, InvalidStateError, SolverError
from deepzero_sim.solver.contract import Solver, SolverSpec, check_params, check_states
from deepzero_sim.solver.spec_fields import IN_QUOTES

#: What the settings of a component may name; what else the interface needs is said one by one.
BMI = Wanted("a class with the Basic Model Interface", lambda made: callable(getattr(made, "initialize", None)))


class BMISolver(Solver):
    """Any component with the Basic Model Interface as a solver: its variables are set, it is updated, they are read.

    A batch is advanced state by state, in the calling thread. By default every state has a component of its own, from
    `initialize` to `finalize`: nothing is left over from the state before, and its clock always starts at the start time, so
    that a forcing that depends on time is always that of the start.

    With `reuse` one component goes on and only its values are set. That is faster, and right only if those values are all
    that a step depends on: the component's clock runs on, and is set back, by a new component, where its end time is
    reached. A step that fails ends the component; the next state has a new one.

    Args:
        component: import path or `file.py:Name` of the component's class, or the class.
        config: path of the file that is given to `initialize`.
        state: names of the variables that are the state, one a channel, or `{channel: variable}`. BMI's arrays are flat, in C
            order; on a structured grid they take its shape, and all others are `n_points` in a row, a scalar one.
        params: likewise of the scenario parameters; a variable is filled with its parameter before the state is set.
        spec: what the component cannot tell, as fields of :class:`SolverSpec`. It tells state_shape, dt, units, spacing and
            offsets, which must not be contradicted; its name, dtype, axes and thread_safe may be. Where a mask is False the
            component keeps its own values.
        steps_per_call: steps of the component in one step, by `update_until`; by `update` if it is one.
        reuse: whether one component serves all states of a process.

    Raises:
        ConfigError: the component is none, its variables cannot be got and set, or it contradicts the spec.
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
    ) -> None:
        if not is_integer(steps_per_call) or steps_per_call < 1:
            raise ConfigError(f"steps_per_call must be a whole number of steps, 1 or more, not {steps_per_call!r}.")
        if not isinstance(reuse, bool):
            raise ConfigError(f"reuse must be true or false, not {reuse!r}: write it without quotes.")
        self._make = _loaded(component)
        self._config = _existing(config)
        self._reuse = reuse
        self._kept: RunningComponent | None = None
        self._end_kept: Callable[[], object] | None = None
        names = _variables("state", state), _variables("params", params)
        if not names[0]:
            raise ConfigError("state must name one variable of the BMI component at least, but it is empty.")
        if both := set(names[0].values()) & set(names[1].values()):
            raise ConfigError(
                f"state and params must name different variables, but both name {sorted(both)[0]!r}: take one out."
            )
        self._interface, self.spec = self._described(*names, int(steps_per_call), spec or {})
        if reuse and self.spec.thread_safe:
            raise ConfigError("one component cannot serve several threads: leave out reuse, or thread_safe of the spec.")

    def step(self, states: Array, params: Array | None = None) -> Array:
        if params is not None and not self.spec.parameters:
            raise InvalidStateError(f"solver {self.spec.name!r} was given parameters, but params names no variables for them.")
        check_params(self.spec, states, params)
        return one_by_one(self._advance, states, params)

    def close(self) -> None:
        """Finalise the component that was kept for the next state, if there is one."""
        if self._end_kept is not None:
            self._end_kept()
        self._kept = self._end_kept = None

    def _described(
        self, state: Mapping[str, str], params: Mapping[str, str], steps: int, given: GivenSpec
    ) -> tuple[Interface, SolverSpec]:
        """Ask a component what it is, and whether it can be set."""
        model: RunningComponent | None = None
        try:
            model = RunningComponent(self._make, self._config)
            channels, parameters = ({key: variable_of(model, name) for key, name in names.items()} for names in (state, params))
            interface = Interface(channels, parameters, steps)
            spec = spec_of(model, interface, given)
            for variable in (*interface.params.values(), *interface.state.values()):
                _require_settable(model, variable)
            _require_room(model, spec.dt)
        except SolverError as error:
            raise ConfigError(str(error)) from error
        finally:
            if model is not None:
                model.abandon()
        return interface, spec

    def _advance(self, state: Array, params: Array | None) -> Array:
        """One state by one step, `(C, *N)`."""
        model = self._ready()
        try:
            advanced = self._stepped(model, state, params)
        except BaseException:  # nobody knows what it holds now
            self.close() if self._reuse else model.abandon()
            raise
        if not self._reuse:
            model.finalize()
        return advanced

    def _ready(self) -> RunningComponent:
        """A component to set values in: the one that is kept, as long as its clock leaves room for a step, or a new one."""
        if self._kept is not None and self._may_go_on(self._kept):
            return self._kept
        self.close()
        model = RunningComponent(self._make, self._config)
        if self._reuse:
            self._kept = model
            self._end_kept = weakref.finalize(self, model.abandon)  # when the solver is gone or the program ends, too
        return model

    def _may_go_on(self, model: RunningComponent) -> bool:
        try:
            model.require_untouched()
            return model.can_advance(self.spec.dt)
        except BaseException:
            self.close()
            raise

    def _stepped(self, model: RunningComponent, state: Array, params: Array | None) -> Array:
        for variable, value in zip(self._interface.params.values(), () if params is None else params, strict=True):
            model.set(variable, np.full(variable.size, value))
        channels, active = self._interface.state.values(), self.spec.active()
        for variable, values, where in zip(channels, state, active, strict=True):
            whole = values if where.all() else np.where(where, values, model.get(variable).reshape(values.shape))
            model.set(variable, whole)
        model.advance(self._interface.steps, self.spec.dt)
        with np.errstate(over="ignore"):  # infinity is found below
            own = {variable: model.get(variable) for variable in channels}
            read = [values.astype(self.spec.dtype) for values in own.values()]
        if self._reuse:
            model.remember(own)
        advanced = np.where(active, np.stack(read).reshape(self.spec.state_shape), np.zeros((), self.spec.dtype))
        remedy = "it diverged or fails on such a state: use a smaller step, a smaller correction or another initial state"
        check_states(self.spec, advanced[None], f"what BMI component {model.name} returned", remedy, batch=1)
        return advanced

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None, "_end_kept": None}  # a process has a component of its own


def _loaded(component: str | Callable[[], Any]) -> Callable[[], Any]:
    make = load_factory(component, BMI) if isinstance(component, str) else component
    missing = [name for name in NEEDED if isinstance(make, type) and not callable(getattr(make, name, None))]
    if not callable(make) or missing:
        what = f"it has no {', '.join(missing)}" if missing else f"it is a {type(make).__name__}"
        raise ConfigError(f"{component} must be a class with the Basic Model Interface, but {what}: derive it from bmipy.Bmi.")
    return make


def _existing(config: str | Path) -> str:
    if not isinstance(config, str | Path):
        raise ConfigError(f"config must be the path of the file that initialises the BMI component, not {config!r}.")
    path = Path(config)
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to initialise the BMI component with: check config.")
    return str(path.resolve())  # a worker may run in another folder


def _variables(what: str, given: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Variables by the names that they have in the spec, each once."""
    wanted = f"{what} must be a list of variables of the BMI component, or name: variable, not {given!r}"
    if isinstance(given, str) or not isinstance(given, Sequence | Mapping | None):
        raise ConfigError(f"{wanted}: write [{given!r}]." if isinstance(given, str) else f"{wanted}.")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in given or ()]
    for word in (word for pair in pairs for word in pair):
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"{wanted}: {word!r} is no name, so {IN_QUOTES}.")
    variables = [variable for _, variable in pairs]
    if len(set(variables)) < len(variables):
        raise ConfigError(f"{wanted}: name each variable once.")
    return dict(pairs)


def _require_settable(model: RunningComponent, variable: Variable) -> None:
    """Set a variable to other values than it has, and see whether they are there."""
    before = model.get(variable)
    other = np.bitwise_xor(before, np.ones((), before.dtype)) if variable.is_integer else _moved(before)
    model.set(variable, other)
    if not np.array_equal(model.get(variable), other):
        raise ConfigError(
            f"set_value of BMI component {model.name} must set {variable.name!r}, but get_value gives other values after it: "
            "take a variable that the component computes from, not one that it derives, or mend set_value."
        )


def _moved(values: NDArray[Any]) -> NDArray[Any]:
    """Other values that are like these."""
    with np.errstate(all="ignore"):
        moved = values + np.asarray(1e-3, values.dtype) * np.maximum(np.abs(values), 1)
    return np.where(np.isfinite(moved), moved, 0).astype(values.dtype)


def _require_room(model: RunningComponent, dt: float) -> None:
    if not model.can_advance(dt):
        raise ConfigError(
            f"BMI component {model.name} must run for a step of {dt:g} at least, but ends before: mend its configuration, or "
            "take fewer steps_per_call."
        )
