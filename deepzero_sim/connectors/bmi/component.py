"""One running component with the Basic Model Interface (BMI): asked, set and advanced, with its errors in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError, NonFiniteError, SolverCrashError

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

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers, or true and false."""
        return self.dtype.kind in "iub"

    def converted(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in the component's dtype, flat, in memory of their own: a component may keep what it is handed.

        Raises:
            InvalidStateError: the variable is one of whole numbers, and a value is not whole, or beyond its type.
            NonFiniteError: a finite value is beyond the variable's type.
        """
        if self.is_integer:
            self._require_whole(np.asarray(values))
        with np.errstate(over="ignore"):
            own = np.array(values, dtype=self.dtype, order="C").reshape(-1)
        if not self.is_integer and not np.isfinite(own).all() and np.isfinite(values).all():
            largest = np.abs(values).max()
            raise NonFiniteError(f"variable {self.name!r} holds {self.dtype}, which cannot hold {largest:g}: scale it.")
        return own

    def _require_whole(self, values: NDArray[Any]) -> None:
        least, most = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        wrong = values[~((values == np.round(values)) & (values >= least) & (values < int(most) + 1))]
        if wrong.size:
            raise InvalidStateError(
                f"variable {self.name!r} holds whole numbers ({self.dtype}), but it was given {wrong.flat[0]}: round it to one "
                f"from {least} to {most}."
            )

    def array_of(self, returned: Any, grid_shape: Callable[[str], tuple[int, ...]]) -> NDArray[Any]:
        """What `get_value` returned, as a copy in the variable's dtype, flat.

        Args:
            returned: a number, or an array, flat or of the grid's shape.
            grid_shape: asks for the shape of a variable's grid.

        Raises:
            InvalidStateError: it is something else.
            TypeError, ValueError: it is no array at all.
        """
        if np.ma.is_masked(returned):
            raise InvalidStateError("an array of which values are masked out: let get_value return all of them")
        array = np.asarray(returned)
        own = array.astype(self.dtype, order="C", casting="same_kind").reshape(-1)
        if self.is_integer and not np.array_equal(own, array.reshape(-1)):
            raise InvalidStateError(f"numbers that {self.dtype} cannot hold: mend get_var_type")
        if own.size != self.size or (sum(n > 1 for n in array.shape) > 1 and array.shape != grid_shape(self.name)):
            raise InvalidStateError(
                f"an array of shape {array.shape} in place of {self.size} values: mend get_value or get_var_nbytes"
            )
        return own


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
        self._left: tuple[float, dict[Variable, NDArray[Any]]] | None = None
        self._filling: dict[str, bool] = {}
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
        """What the component answers, or the default if it has no answer; one behind gRPC says so by errors of any type."""
        try:
            return self.call(method, *arguments)
        except SolverCrashError:
            return default

    def get(self, variable: Variable) -> NDArray[Any]:
        """A fresh copy of a variable's values, flat.

        The component fills the array that it is given, or returns one of its own, as BMI 1 has it.

        Raises:
            InvalidStateError: it has another number of values than it had, or returns what they cannot be read from.
            NonFiniteError: it does neither.
        """
        self._require_size(variable)
        # NaN again, but no NaN that a component computes has all its bits set
        unset = np.frombuffer(
            (b"\0" if variable.is_integer else b"\xff") * variable.size * variable.dtype.itemsize, variable.dtype
        )
        given = unset.copy()
        returned = self._ask_to_fill(variable.name, given)
        filled = given.tobytes() != unset.tobytes()
        try:
            own = None if _is_given(returned, given, filled) else variable.array_of(returned, self.grid_shape)
        except (InvalidStateError, TypeError, ValueError) as error:
            what = f"get_value of BMI component {self.name} returned for {variable.name!r}"
            raise InvalidStateError(f"{what} {error}.") from error
        if own is None and not filled and not variable.is_integer:
            raise NonFiniteError(
                f"get_value of BMI component {self.name} must fill the array that it is given with {variable.name!r}, or "
                "return one, but did neither: mend get_value."
            )
        if own is not None and filled and not np.array_equal(own, given, equal_nan=not variable.is_integer):
            raise InvalidStateError(
                f"get_value of BMI component {self.name} fills the array that it is given with other values of "
                f"{variable.name!r} than it returns: mend get_value."
            )
        return given if own is None else own

    def _ask_to_fill(self, name: str, given: NDArray[Any]) -> Any:
        """What `get_value` returns; of a component that only hands out its own memory, what `get_value_ptr` does."""
        try:
            return self._fill("get_value", name, given)
        except UntoldError:
            return self.call("get_value_ptr", name)

    def _fill(self, method: str, of: str | int, given: NDArray[Any]) -> Any:
        """Call a function that fills an array, as BMI 2 has it, or returns one, as BMI 1 has it."""
        if method not in self._filling:
            self._filling[method] = _takes(getattr(self._component, method, _missing), of, given)
        arguments = (of, given) if self._filling[method] else (of,)
        return self.call(method, *arguments)

    def _require_size(self, variable: Variable) -> None:
        total, expected = self.call("get_var_nbytes", variable.name), variable.size * variable.dtype.itemsize
        if total != expected:
            raise InvalidStateError(
                f"variable {variable.name!r} of BMI component {self.name} must keep its size of {expected} bytes, but has "
                f"{total} now: a state has one shape, so keep its grid as it is."
            )

    def grid_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the grid that a variable lies on."""
        grid = self.call("get_var_grid", name)
        rank = int(self._number("get_grid_rank", self.call("get_grid_rank", grid)))
        return tuple(int(n) for n in self.grid_numbers("shape", grid, rank))

    def grid_numbers(self, what: str, grid: int, rank: int) -> NDArray[Any]:
        """What the component says of a grid's axes: `shape`, `spacing` or `origin`.

        Raises:
            UntoldError: it has not implemented it.
            ConfigError: it does not say one number an axis.
        """
        # C and Fortran write numbers of 4 bytes for a shape. Some write 8 all the same, so there is room for that
        memory = np.full(2 * rank, -1 if what == "shape" else np.nan, np.int32 if what == "shape" else np.float64)
        given, unset = memory[:rank], memory[:rank].copy()
        returned = self._fill(f"get_grid_{what}", grid, given)
        numbers = np.array(given if given.tobytes() != unset.tobytes() else returned).reshape(-1)
        if numbers.shape != (rank,) or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
            raise ConfigError(
                f"get_grid_{what} of BMI component {self.name} must give {rank} numbers, one an axis, not "
                f"{numbers.tolist()}: mend it."
            )
        return numbers

    def set(self, variable: Variable, values: Array) -> None:
        """Set a variable, of a state's or parameter's values in any shape and dtype."""
        self.call("set_value", variable.name, variable.converted(values))

    def clock(self) -> float:
        """The component's time."""
        return self._number("get_current_time", self.call("get_current_time"))

    def _number(self, method: str, answer: Any) -> float:
        try:
            return float(answer)
        except (TypeError, ValueError) as error:
            raise SolverCrashError(
                f"{method} of BMI component {self.name} must return a number, not {answer!r}: mend it."
            ) from error

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
        if not abs(after - before - dt) <= CLOCK_TOLERANCE * dt + np.spacing(abs(after)):
            raise SolverCrashError(
                f"BMI component {self.name} must advance its clock by {dt:g} a step, but it went from {before:g} to {after:g}: "
                "it may have reached its end, or have another time step; check get_time_step and get_end_time."
            )

    def can_advance(self, dt: float) -> bool:
        """Whether its end is a step away at least. NaN, infinity and nothing stand for no end."""
        end = self.told("get_end_time", default=None)
        return end is None or not self.clock() + dt > self._number("get_end_time", end) + CLOCK_TOLERANCE * dt

    def remember(self, values: Mapping[Variable, NDArray[Any]]) -> None:
        """Note how a step left it."""
        self._left = self.clock(), dict(values)

    def require_untouched(self) -> None:
        """Hold it to how its last step left it: compiled libraries often have memory for one component in a process.

        Raises:
            SolverCrashError: something else has moved it.
        """
        if self._left is None:
            return
        time, values = self._left
        if self.clock() != time or not all(np.array_equal(self.get(which), value) for which, value in values.items()):
            raise SolverCrashError(
                f"BMI component {self.name} must be as its last step left it, but its time or its values are others: another "
                "component of this process shares its memory, so leave out reuse."
            )

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


def _is_given(returned: Any, given: NDArray[Any], filled: bool) -> bool:
    """Whether what a function returns is the array that it was given, nothing, or a status as of C beside it."""
    return returned is None or (filled and np.ndim(returned) == 0) or np.may_share_memory(np.asarray(returned), given)


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function takes so many arguments, as far as it can be known."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # compiled functions have no signature
        return True
    return True
