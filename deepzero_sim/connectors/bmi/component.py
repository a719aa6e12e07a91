"""One running component with the Basic Model Interface (BMI): its calls, its variables and its clock, with errors in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, DeepZeroError, InvalidStateError, NonFiniteError, SolverCrashError

#: Functions that a component must have to be a solver; of the rest of the interface only descriptions are asked for.
REQUIRED_FUNCTIONS = (
    *("initialize", "update", "update_until", "finalize", "get_value", "set_value"),
    *("get_var_grid", "get_var_type", "get_var_itemsize", "get_var_nbytes", "get_grid_type"),
    *("get_current_time", "get_end_time", "get_time_step"),
)

#: Largest error of a clock after a step, as a share of the step: components add up floating-point numbers.
CLOCK_TOLERANCE = 1e-6


class UnimplementedError(SolverCrashError):
    """The component has no such function, or raises NotImplementedError in it."""


@dataclass(frozen=True)
class Variable:
    """A variable of a component, with the dtype and the number of its values there; BMI's arrays are flat."""

    name: str
    dtype: np.dtype[Any]
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_integer(self) -> bool:
        """True for variables of whole numbers, and of true and false."""
        return self.dtype.kind in "iub"

    def convert(self, values: NDArray[Any]) -> NDArray[Any]:
        """Copy values to the component's dtype, flat, in memory of their own: a component may keep what it is handed."""
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
            problem = f"holds whole numbers ({self.dtype}), but it was given {wrong.flat[0]}"
            raise InvalidStateError(f"variable {self.name!r} {problem}: round it to one from {least} to {most}.")

    def parse(self, returned: Any, grid_shape: Callable[[str], tuple[int, ...]]) -> NDArray[Any]:
        """Copy what `get_value` returned, a number or an array of the grid's shape or flat, to a flat array of `dtype`.

        Raises:
            TypeError, ValueError: Something else was returned; the message continues "get_value returned".
        """
        _require(not np.ma.is_masked(returned), "an array of which values are masked out: let get_value return all of them")
        array = np.asarray(returned)
        own = array.astype(self.dtype, order="C", casting="same_kind").reshape(-1)
        is_lossless = not self.is_integer or np.array_equal(own, array.reshape(-1))
        _require(is_lossless, f"numbers that {self.dtype} cannot hold: mend get_var_type")
        is_flat = sum(n > 1 for n in array.shape) <= 1
        _require(
            own.size == self.size and (is_flat or array.shape == grid_shape(self.name)),
            f"an array of shape {array.shape} in place of {self.size} values: mend get_value or get_var_nbytes",
        )
        return own


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


class RunningComponent:
    """A component between `initialize` and `finalize`.

    Args:
        make: Class of the component, or a function that makes one.
        config: Path of the file that is given to `initialize`.
    """

    def __init__(self, make: Callable[[], Any], config: str) -> None:
        self.name = str(getattr(make, "__name__", make))
        self._last: tuple[float, dict[Variable, NDArray[Any]]] | None = None
        self._takes_buffer: dict[str, bool] = {}
        try:
            self._component = make()
        except (Exception, SystemExit) as error:
            problem = f"cannot be made ({type(error).__name__}: {error}): it must take no arguments"
            raise SolverCrashError(self._sentence("", problem)) from error
        try:
            self.call("initialize", config)
        except BaseException:
            self.abandon()
            raise

    def _sentence(self, subject: str, predicate: str) -> str:
        return f"{subject}{' of ' if subject else ''}BMI component {self.name} {predicate}."

    def require(self, holds: bool, subject: str, predicate: str, error: type[DeepZeroError] = SolverCrashError) -> None:
        """Refuse the component unless a condition holds: `SUBJECT of BMI component NAME PREDICATE.`

        The subject is the function or variable that is at fault; it is empty for the component itself.
        """
        if not holds:
            raise error(self._sentence(subject, predicate))

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the component.

        Raises:
            UnimplementedError: The component has not implemented it.
            SolverCrashError: It raised an exception.
        """
        shown = f"{function}({', '.join(repr(a) for a in arguments if isinstance(a, str | int | float))})"
        try:
            return getattr(self._component, function, _raise_unimplemented)(*arguments)
        except NotImplementedError as error:
            problem = f"does not implement {shown} ({error}): add it to the component"
            raise UnimplementedError(self._sentence("", problem)) from error
        except (Exception, SystemExit) as error:
            remedy = "run the component alone on such a state to find out why"
            problem = f"raised {type(error).__name__} in {shown}: {error}: {remedy}"
            raise SolverCrashError(self._sentence("", problem)) from error

    def call_or(self, default: Any, function: str, *arguments: Any) -> Any:
        """Call a function of the component; return the default if it fails: over gRPC "not implemented" is any error."""
        try:
            return self.call(function, *arguments)
        except SolverCrashError:
            return default

    def get(self, variable: Variable) -> NDArray[Any]:
        """Return a fresh copy of a variable's values, flat.

        The component fills the array that it is given, as BMI 2 has it, or returns one of its own, as BMI 1 has it.
        """
        self._require_size(variable)
        # A pattern that shows whether the array was filled: NaN, but no NaN that a component computes has all its bits set.
        unset = np.frombuffer((b"\0" if variable.is_integer else b"\xff") * variable.nbytes, variable.dtype)
        buffer = unset.copy()
        returned = self._fill_or_point(variable.name, buffer)
        is_filled = buffer.tobytes() != unset.tobytes()
        name, own = variable.name, None
        try:
            if not _is_buffer(returned, buffer, is_filled):
                own = variable.parse(returned, self.grid_shape)
        except (TypeError, ValueError) as error:
            raise InvalidStateError(self._sentence("get_value", f"returned for {name!r} {error}")) from error
        problem = f"must fill the array that it is given with {name!r}, or return one, but did neither: mend get_value"
        self.require(own is not None or is_filled or variable.is_integer, "get_value", problem, NonFiniteError)
        if own is None:
            return buffer
        agree = not is_filled or np.array_equal(own, buffer, equal_nan=not variable.is_integer)
        problem = f"fills the array that it is given with other values of {name!r} than it returns: mend get_value"
        self.require(agree, "get_value", problem, InvalidStateError)
        return own

    def _fill_or_point(self, name: str, buffer: NDArray[Any]) -> Any:
        """Call `get_value`, or `get_value_ptr` of a component that only hands out its own memory."""
        try:
            return self._fill("get_value", name, buffer)
        except UnimplementedError:
            return self.call("get_value_ptr", name)

    def _fill(self, function: str, key: str | int, buffer: NDArray[Any]) -> Any:
        """Call a function that fills an array, as BMI 2 has it, or returns one, as BMI 1 has it."""
        if function not in self._takes_buffer:
            self._takes_buffer[function] = _accepts(getattr(self._component, function, _raise_unimplemented), key, buffer)
        return self.call(function, *((key, buffer) if self._takes_buffer[function] else (key,)))

    def _require_size(self, variable: Variable) -> None:
        total = self.call("get_var_nbytes", variable.name)
        problem = f"must keep its size of {variable.nbytes} bytes, but has {total} now"
        remedy = "a state has one shape, so keep its grid as it is"
        self.require(total == variable.nbytes, f"variable {variable.name!r}", f"{problem}: {remedy}", InvalidStateError)

    def grid_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the grid that a variable lies on."""
        grid = self.call("get_var_grid", name)
        rank = int(self._number("get_grid_rank", self.call("get_grid_rank", grid)))
        return tuple(int(n) for n in self.grid_numbers("shape", grid, rank))

    def grid_numbers(self, what: str, grid: int, rank: int) -> NDArray[Any]:
        """Return what the component reports of a grid's axes: `shape`, `spacing` or `origin`.

        Raises:
            UnimplementedError: The component has not implemented it.
            ConfigError: It does not return one number an axis.
        """
        # C and Fortran write numbers of 4 bytes for a shape. Some write 8 all the same, so there is room for that.
        memory = np.full(2 * rank, -1 if what == "shape" else np.nan, np.int32 if what == "shape" else np.float64)
        buffer, unset = memory[:rank], memory[:rank].copy()
        returned = self._fill(f"get_grid_{what}", grid, buffer)
        numbers = np.array(buffer if buffer.tobytes() != unset.tobytes() else returned).reshape(-1)
        is_usable = numbers.shape == (rank,) and numbers.dtype.kind in "iuf" and np.isfinite(numbers).all()
        problem = f"must give {rank} numbers, one an axis, not {numbers.tolist()}: mend it"
        self.require(bool(is_usable), f"get_grid_{what}", problem, ConfigError)
        return numbers

    def set(self, variable: Variable, values: Array) -> None:
        """Set a variable to a state's or parameter's values, in any shape and dtype."""
        self.call("set_value", variable.name, variable.convert(values))

    def clock(self) -> float:
        """Return the component's time."""
        return self._number("get_current_time", self.call("get_current_time"))

    def _number(self, function: str, answer: Any) -> float:
        try:
            return float(answer)
        except (TypeError, ValueError) as error:
            raise SolverCrashError(self._sentence(function, f"must return a number, not {answer!r}: mend it")) from error

    def advance(self, steps: int, dt: float) -> None:
        """Advance the component by `dt`: one `update`, or `update_until` where that is several of its own steps."""
        before = self.clock()
        if steps == 1:
            self.call("update")
        else:
            self.call("update_until", before + dt)
        after = self.clock()
        is_on_time = abs(after - before - dt) <= CLOCK_TOLERANCE * dt + np.spacing(abs(after))
        problem = f"must advance its clock by {dt:g} a step, but it went from {before:g} to {after:g}"
        remedy = "it may have reached its end, or have another time step; check get_time_step and get_end_time"
        self.require(is_on_time, "", f"{problem}: {remedy}")

    def can_advance(self, dt: float) -> bool:
        """Tell whether the end time is at least a step away. NaN, infinity and no answer stand for no end."""
        end = self.call_or(None, "get_end_time")
        return end is None or not self.clock() + dt > self._number("get_end_time", end) + CLOCK_TOLERANCE * dt

    def record(self, values: Mapping[Variable, NDArray[Any]]) -> None:
        """Record time and values after a step, for :meth:`require_untouched`."""
        self._last = self.clock(), dict(values)

    def require_untouched(self) -> None:
        """Refuse other time or values than those recorded: compiled libraries often have memory for one component only."""
        if self._last is None:
            return
        time, values = self._last
        is_same = self.clock() == time and all(np.array_equal(self.get(which), value) for which, value in values.items())
        cause = "another component of this process shares its memory, so leave out reuse"
        self.require(is_same, "", f"must be as its last step left it, but its time or its values are others: {cause}")

    def abandon(self) -> None:
        """Finalise the component after a failure; an exception of `finalize` would only hide that failure, and is dropped."""
        with suppress(Exception, SystemExit):
            self._component.finalize()


def _raise_unimplemented(*arguments: Any) -> None:
    raise NotImplementedError("it has no such function")


def _is_buffer(returned: Any, buffer: NDArray[Any], is_filled: bool) -> bool:
    """Tell whether a function returned the array that it was given, nothing, or a status like C's after filling it."""
    return returned is None or (is_filled and np.ndim(returned) == 0) or np.may_share_memory(np.asarray(returned), buffer)


def _accepts(function: Callable[..., Any], *arguments: Any) -> bool:
    """Tell whether a function takes so many arguments, as far as its signature shows."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # compiled functions have no signature
        return True
    return True
