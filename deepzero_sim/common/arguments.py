"""Arguments that a class or function of ours cannot be called with, explained in one place for all public names."""

from __future__ import annotations

import functools
import inspect
import reprlib
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.errors import ArgumentError, ConfigError, DeepZeroError

#: Errors of Python and its libraries for values that make no sense.
_SENSELESS = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RuntimeError)

_short = reprlib.Repr()
_short.maxother = _short.maxstring = _short.maxlong = 80


def misuse(name: str, given: Mapping[str, Any], known: Collection[str], error: BaseException, verb: str = "made") -> str:
    """Write the message for arguments that something cannot be called with.

    Args:
        name: Name of the class or function.
        given: Arguments by name.
        known: Names that it takes; none if they are not known.
        error: Error that was raised.
        verb: Word for what was tried, `"made"` or `"called"`.
    """
    listed = ", ".join(f"{key}={_short.repr(value)}" for key, value in given.items()) or "no arguments"
    unknown = next((key for key in given if known and key not in known), None)
    meant = "" if unknown is None else did_you_mean(unknown, known)
    return f"{name} cannot be {verb} with {listed} ({type(error).__name__}: {error}): check its args{meant}."


def keywords(factory: Any) -> tuple[str, ...]:
    """Return the names of the arguments that a factory takes; none if it takes any, or nobody can know."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return () if takes_any else tuple(parameters)


def guard_calls(module: str, runs: Collection[str] = ()) -> None:
    """Make the public classes and functions of a module refuse arguments by errors of ours.

    Arguments are looked at only when a call has failed: one that succeeds costs no more than one more call.

    Args:
        module: Name of the module.
        runs: Names of functions that run code of the user's, whose errors are not ours to explain.
    """
    public = sys.modules[module]
    for name in public.__all__:
        setattr(public, name, guard(getattr(public, name), name, values=name not in runs))


def guard(found: Any, name: str, *, values: bool) -> Any:
    """Make one class or function refuse arguments by errors of ours; return it, other objects as they are.

    Args:
        found: Class, which is changed, or function, which is replaced in its module, where pickle looks for it.
        name: Public name.
        values: True if what it raises is about its arguments; false for a function that runs code of the user's.
    """
    if inspect.isclass(found):
        _guard_class(found)
    elif inspect.isfunction(found) and not hasattr(found, _GUARDED):
        found = _guard(found, name, inspect.signature(found), values=values)
        setattr(sys.modules[found.__module__], name, found)
    return found


_GUARDED = "__guarded__"


def _guard_class(kind: type) -> None:
    if issubclass(kind, BaseException) or inspect.isabstract(kind) or hasattr(vars(kind).get("__init__"), _GUARDED):
        return
    inherits = any("__init__" in vars(base) for base in kind.__mro__[1:-1])
    if "__init__" in vars(kind) or inherits:
        signature = inspect.signature(kind.__init__)
    else:
        signature = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)])

    def base_init(self: Any, *args: Any, **kwargs: Any) -> None:
        super(kind, self).__init__(*args, **kwargs)

    base_init.__signature__ = signature  # type: ignore[attr-defined]
    init = vars(kind).get("__init__", base_init)
    kind.__init__ = _guard(init, kind.__name__, signature, values=True, skip=1)  # type: ignore[method-assign]


def _guard(
    function: Callable[..., Any], name: str, signature: inspect.Signature, *, values: bool, skip: int = 0
) -> Callable[..., Any]:
    """Wrap a function so that it explains arguments that it cannot take, but for the first few that the caller does not give.

    With `values`, what the function raises is about its arguments, too.
    """
    known = tuple(signature.parameters)[skip:]

    @functools.wraps(function)
    def guard(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except DeepZeroError:
            raise
        except _SENSELESS as error:
            given = {**dict(zip(known, args[skip:], strict=False)), **kwargs}
            words = misuse(name, given, known, error, "made" if skip else "called")
            if isinstance(error, TypeError) and not _binds(signature, args, kwargs):
                raise ArgumentError(words) from error
            if values or _is_ours(error):
                raise ConfigError(words) from error
            raise

    setattr(guard, _GUARDED, True)
    return guard


def _is_ours(error: BaseException) -> bool:
    """Tell errors that a line of this package raised from others."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("deepzero_sim.")


def _binds(signature: inspect.Signature, args: Any, kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
