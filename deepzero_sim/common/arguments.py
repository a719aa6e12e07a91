"""Arguments that a class or function of ours cannot be called with: said in words, in one place for all public names."""

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

#: What Python and its libraries raise for values that make no sense.
_SENSELESS = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RuntimeError)

_short = reprlib.Repr()
_short.maxother = _short.maxstring = _short.maxlong = 80


def misuse(name: str, given: Mapping[str, Any], known: Collection[str], error: BaseException, verb: str = "made") -> str:
    """What to say where something cannot be called with its arguments.

    Args:
        name: of what was called.
        given: arguments by name.
        known: names that it takes; none if they are not known.
        error: that was raised.
        verb: what was tried: it was to be `"made"`, or `"called"`.
    """
    listed = ", ".join(f"{key}={_short.repr(value)}" for key, value in given.items()) or "no arguments"
    unknown = next((key for key in given if known and key not in known), None)
    meant = "" if unknown is None else did_you_mean(unknown, known)
    return f"{name} cannot be {verb} with {listed} ({type(error).__name__}: {error}): check its args{meant}."


def keywords(factory: Any) -> tuple[str, ...]:
    """The names of the arguments that a factory takes; none if it takes any, or nobody can know."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ()
    return tuple(parameters)


def guard_calls(module: str, runs: Collection[str] = ()) -> None:
    """Have the public classes and functions of a module refuse arguments in words, by errors of ours.

    A call that succeeds takes no longer for a function than one more call, and nothing is looked at before.

    Args:
        module: its name.
        runs: names of functions that run code of the user's, whose errors are not ours to explain.
    """
    public = sys.modules[module]
    for name in public.__all__:
        found = getattr(public, name)
        if inspect.isclass(found):
            _guard_class(found)
        elif inspect.isfunction(found) and not hasattr(found, _GUARDED):
            guarded = _guarded(found, name, inspect.signature(found), values=name not in runs)
            for place in (public, sys.modules[found.__module__]):  # where pickle looks for it
                setattr(place, name, guarded)


_GUARDED = "__guarded__"


def _guard_class(found: type) -> None:
    if issubclass(found, BaseException) or inspect.isabstract(found) or hasattr(vars(found).get("__init__"), _GUARDED):
        return
    inherits = any("__init__" in vars(base) for base in found.__mro__[1:-1])
    if "__init__" in vars(found) or inherits:
        signature = inspect.signature(found.__init__)
    else:
        signature = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)])

    def inherited(self: Any, *args: Any, **kwargs: Any) -> None:
        super(found, self).__init__(*args, **kwargs)

    inherited.__signature__ = signature  # type: ignore[attr-defined]
    init = vars(found).get("__init__", inherited)
    found.__init__ = _guarded(init, found.__name__, signature, values=True, skip=1)  # type: ignore[method-assign]


def _guarded(
    function: Callable[..., Any], name: str, signature: inspect.Signature, *, values: bool, skip: int = 0
) -> Callable[..., Any]:
    """The same function, which explains arguments that it cannot take.

    Args:
        function: any.
        name: of what is called, for people.
        signature: of the function.
        values: whether what it raises is about its arguments, too.
        skip: arguments that the caller does not give.
    """
    known = tuple(signature.parameters)[skip:]

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
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

    setattr(guarded, _GUARDED, True)
    return guarded


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by a line of this package."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("deepzero_sim.")


def _binds(signature: inspect.Signature, args: Any, kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
