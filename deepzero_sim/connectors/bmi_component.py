"""One running component with the Basic Model Interface (BMI): asked, set and advanced, with its errors in words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.errors import InvalidStateError, SolverCrashError
from deepzero_sim.types import Array

#: What a component must have to be a solver; of the rest of the interface only descriptions are asked for.
NEEDED = (
    "initialize",
    "update",
    "update_until",
    "finalize",
    "get_value",
    "set_value",
    "get_var_grid",
    "get_var_type",
    "get_var_itemsize",
    "get_var_nbytes",
    "get_grid_type",
    "get_current_time",
    "get_end_time",
    "get_time_step",
)

#: How far a clock may be off after a step, as a share of it: components add up floating-point numbers.
CLOCK_TOLERANCE = 1e-6


class UntoldError(SolverCrashError):
    """The component does not answer that question: it has no such function, or has not implemented it."""


@dataclass(frozen=True)
class Variable:
    """A variable of a component.

    Args:
        name: as the component calls it.
        dtype: the component's own.
        size: how many values it has; BMI's arrays are flat.
    """

    name: str
    dtype: np.dtype[Any]
    size: int

    def converted(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in the component's dtype, flat, in memory of their own: a component may keep what it is handed.

        Raises:
            InvalidStateError: the variable is one of whole numbers, and a value is not whole.
        """
        if self.dtype.kind in "iu" and not np.array_equal(values, np.round(values)):
            raise InvalidStateError(
                f"variable {self.name!r} holds whole numbers ({self.dtype}), but it was given {values.ravel()[0]}: round it."
            )
        with np.errstate(over="ignore"):  # infinity is found by whoever reads it
            return np.array(values, dtype=self.dtype, order="C").reshape(-1)


class RunningComponent:
    """A component between `initialize` and `finalize`.

    Args:
        make: the component's class, or a function that makes one.
        config: path of the file that is given to `initialize`.

    Raises:
        SolverCrashError: it cannot be made or initialised; it has been finalised then.
    """

    def __init__(self, make: Callable[[], Any], config: str) -> None:
        self.name = str(getattr(make, "__name__", make))
        try:
            self._component = make()
        except (Exception, SystemExit) as error:
            raise SolverCrashError(
                f"BMI component {self.name} cannot be made ({type(error).__name__}: {error}): it must take no arguments."
            ) from error
        try:
            self.call("initialize", config)
        except BaseException:
            self.abandon()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a function of the component.

        Raises:
            UntoldError: the component has not implemented it.
            SolverCrashError: it raised an exception.
        """
        shown = f"{method}({', '.join(repr(a) for a in arguments if isinstance(a, str | int | float))})"
        function = getattr(self._component, method, _missing)
        try:
            return function(*arguments)
        except NotImplementedError as error:
            raise UntoldError(
                f"BMI component {self.name} does not implement {shown} ({error}): add it to the component."
            ) from error
        except (Exception, SystemExit) as error:
            raise SolverCrashError(
                f"BMI component {self.name} raised {type(error).__name__} in {shown}: {error}: "
                "run the component alone on such a state to find out why."
            ) from error

    def told(self, method: str, *arguments: Any, default: Any) -> Any:
        """What the component answers, or the default if it has not implemented the question."""
        try:
            return self.call(method, *arguments)
        except UntoldError:
            return default

    def get(self, variable: Variable) -> NDArray[Any]:
        """A fresh copy of a variable's values, flat; NaN where the component leaves the buffer as it is."""
        unset = np.nan if variable.dtype.kind == "f" else 0
        buffer = np.full(variable.size, unset, dtype=variable.dtype)
        self.call("get_value", variable.name, buffer)
        return buffer

    def set(self, variable: Variable, values: Array) -> None:
        """Set a variable, of a state's or parameter's values in any shape and dtype."""
        self.call("set_value", variable.name, variable.converted(values))

    def clock(self) -> float:
        """The component's time."""
        return float(self.call("get_current_time"))

    def advance(self, steps: int, dt: float) -> None:
        """Take one step of `dt`: one `update`, or where it is several of the component's, `update_until`.

        Raises:
            SolverCrashError: the component failed, or its clock says that it did something else.
        """
        before = self.clock()
        if steps == 1:
            self.call("update")
        else:
            self.call("update_until", before + dt)
        after = self.clock()
        if abs(after - before - dt) > CLOCK_TOLERANCE * dt + np.spacing(abs(after)):
            raise SolverCrashError(
                f"BMI component {self.name} must advance its clock by {dt:g} a step, but it went from {before:g} to {after:g}: "
                "it may have reached its end, or have another time step; check get_time_step and get_end_time."
            )

    def can_advance(self, dt: float) -> bool:
        """Whether its end is a step away at least."""
        return self.clock() + dt <= float(self.call("get_end_time")) + CLOCK_TOLERANCE * dt

    def finalize(self) -> None:
        """End it.

        Raises:
            SolverCrashError: the component raised an exception.
        """
        self.call("finalize")

    def abandon(self) -> None:
        """End it after a failure, which is what counts: what `finalize` raises then is not told."""
        with suppress(Exception, SystemExit):
            self._component.finalize()


def _missing(*arguments: Any) -> None:
    raise NotImplementedError("it has no such function")
