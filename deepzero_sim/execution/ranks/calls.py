"""Calls on their way to another rank and back: always as bytes, so that what cannot be unpickled fails one call only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import cloudpickle

#: Leading part of a call: the function, and those of its first arguments that can be called.
Leading: TypeAlias = tuple[Callable[..., Any], ...]


class Functions:
    """Leading part of a call, which many calls share and which may hold megabytes; unpickled when it is first needed.

    Args:
        data: Bytes that :func:`dump` made of it.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    @functools.cached_property
    def values(self) -> Leading:
        unpickled: Leading = cloudpickle.loads(self.data)
        return unpickled


class Question(NamedTuple):
    """Call to be made, with its functions if they are not those of the question before."""

    functions: bytes | None
    arguments: bytes


class Outcome(NamedTuple):
    """Result of a call, or the exception that it raised."""

    value: Any
    error: Exception | None = None


def dump(content: Any) -> bytes:
    """Pickle anything; objects that cannot be imported elsewhere are pickled by value."""
    data: bytes = cloudpickle.dumps(content)
    return data


def call(functions: Functions, arguments: bytes) -> Outcome:
    """Make a call; whatever it raises is its outcome."""
    try:
        rest, named = cloudpickle.loads(arguments)
        function, *first = functions.values
        return Outcome(function(*first, *rest, **named))
    except Exception as error:
        return Outcome(None, error)
    except BaseException as error:  # a call that ended its process would tell nobody why
        return Outcome(None, RuntimeError(f"a task raised {type(error).__name__}: {error}"))


def pack(outcome: Outcome) -> bytes:
    """Pickle an outcome; one that cannot be sent is replaced by an error that says so."""
    try:
        data = dump(outcome)
        if outcome.error is not None:
            cloudpickle.loads(data)  # some exceptions can be pickled, but not unpickled
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if outcome.error is None else repr(outcome.error)
        return dump(Outcome(None, RuntimeError(f"what a task gave cannot be sent to rank 0: {what}")))
    return data


def unpack(data: bytes) -> Outcome:
    """Unpickle an outcome that another rank sent."""
    try:
        outcome: Outcome = cloudpickle.loads(data)
    except Exception as error:
        return Outcome(None, error)
    return outcome
