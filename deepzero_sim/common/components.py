"""Solvers, networks and functions named in settings: by import path, or by `file.py:Name`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_origin, get_type_hints

import numpy as np

from deepzero_sim.common.arguments import keywords, misuse
from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.common.types import read_only_copy
from deepzero_sim.common.user_files import import_file
from deepzero_sim.errors import ArgumentError, ConfigError, DeepZeroError


@dataclass
class Component:
    """Something to be built.

    Args:
        name: Import path (`package.module.Name`), or a file and a name in it (`file.py:Name`).
        args: Keyword arguments that it is called with.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """Kind of objects that a setting may name, so that nothing else is called.

    Args:
        words: Noun phrase for messages: the setting must make it.
        fits: Test of a class whose objects may be of that kind.
    """

    words: str
    fits: Callable[[type], bool]

    @classmethod
    def of(cls, base: type, words: str) -> Kind:
        """Return the kind of a class's objects, derived classes included."""
        return cls(words, lambda made: issubclass(made, base))


#: Anything that this package defines.
OWN = Kind("something of deepzero_sim or of a file of yours", lambda made: _package(made.__module__) == "deepzero_sim")


#: Beginning of the names of objects that were handed over in Python.
HANDED = "handed-over-"

#: Parts that are handed over again when a run is used.
_LOADED = ("solver", "network", "coupling")

_handed: dict[str, Any] = {}


@contextmanager
def hand_over(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let names in settings stand for objects of this process inside.

    Args:
        objects: Objects by names that begin with :data:`HANDED`.
    """
    before = dict(_handed)
    _handed.update(objects)
    try:
        yield
    finally:
        _handed.clear()
        _handed.update(before)


def _resolve_handed_over(name: str) -> Any:
    if name not in _handed:
        what = name.removeprefix(HANDED).partition("-")[0]
        by = f"dz.train({what}=..., run=path)"
        if what in _LOADED:
            by = f"dz.load_run(path, {what}=...) or {by}"
        raise ConfigError(
            f"the {what} of this run, {name!r}, was an object in Python, which no file can make: hand it over again, by {by}, "
            "or name it as file.py:Name next time."
        )
    return _handed[name]


def load(name: str) -> Any:
    """Return what a name stands for. Its module is imported, which runs that module's code; nothing is called.

    Raises:
        ConfigError: There is no such file, module or name, or the module raised an error of its own.
    """
    if name.startswith(HANDED):
        return _resolve_handed_over(name)
    path, colon, attribute = name.rpartition(":")
    if not colon:
        path, _, attribute = name.rpartition(".")
    if not path or not attribute:
        raise ConfigError(f"expected an import path (package.module.Name) or file.py:Name, not {name!r}.")
    module = import_file(Path(path), name) if path.endswith(".py") else _module(path, name)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        meant = did_you_mean(attribute, dir(module))
        raise ConfigError(f"{path} has no {attribute!r}{meant}: check the spelling in {name!r}.") from error


def load_factory(name: str, kind: Kind) -> Any:
    """Return what a name stands for, if it makes objects of a kind; anything else is refused before it is called.

    It may be a class of that kind or an object of one, a function whose return annotation is such a class, or whatever a file
    named as `file.py:Name` defines itself. A name of the standard library, which has none of these, is not even imported.

    Raises:
        ConfigError: There is no such name, or it makes something else, as far as one can see.
    """
    _require_outside_standard_library(name, kind.words)
    named = load(name)
    if name.startswith(HANDED):
        return named
    function = named.func if isinstance(named, partial) else named
    if _is_file(name) and _is_defined_in(function, import_file(Path(name.rpartition(":")[0]), name)):
        return named
    made = function if isinstance(function, type) else _return_class(function) if callable(function) else None
    if (made is not None and kind.fits(made)) or kind.fits(type(named)):
        return named
    if isinstance(function, type):
        raise ConfigError(f"{name!r} must make {kind.words}, not {function.__name__}: name another.")
    raise ConfigError(
        f"{name!r} must make {kind.words}, but it is a {type(named).__name__} that does not say so: annotate what it "
        "returns, or name it as file.py:Name where it is defined."
    )


def _require_outside_standard_library(name: str, words: str) -> None:
    if _package(name) in sys.stdlib_module_names and not _is_file(name):
        own = name.rpartition(".")[2]
        raise ConfigError(f"{name!r} must make {words}, not {own} of Python's standard library: name another.")


def _package(dotted: str) -> str:
    return dotted.partition(".")[0]


def _is_file(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _is_defined_in(named: Any, module: ModuleType) -> bool:
    """Tell definitions from what a module only imports: of a class, a function, or an object by its class."""
    return getattr(named, "__module__", None) == module.__name__


def _return_class(function: Any) -> type | None:
    """Return the class that a function is annotated to return."""
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get("return")
    try:
        hints = get_type_hints(SimpleNamespace(__annotations__={"return": annotation}), getattr(function, "__globals__", {}))
    except (NameError, AttributeError, TypeError, SyntaxError):  # its class is imported for type checkers only
        return None
    made = get_origin(hints["return"]) or hints["return"]
    return made if isinstance(made, type) else None


def build(component: Component, *leading: Any, kind: Kind = OWN, setting: str = "") -> Any:
    """Call what a component names with its arguments, `leading` ones first.

    Args:
        component: Component.
        leading: Positional arguments.
        kind: Kind of objects that it must make.
        setting: Name of the setting, whose result is held to the kind, too.

    Raises:
        ConfigError: It makes something else, or does not take the arguments.
    """
    made = call(load_factory(component.name, kind), component, *leading)
    if setting and not kind.fits(type(made)):
        raise ConfigError(f"{setting} {component.name!r} must make {kind.words}, not {type(made).__name__}.")
    return made


def call(factory: Any, component: Component, *leading: Any) -> Any:
    """Call a factory with a component's arguments, `leading` ones first; errors name the component."""
    try:
        return factory(*leading, **component.args)
    except ArgumentError as error:
        raise ConfigError(misuse(component.name, component.args, keywords(factory), error.__cause__ or error)) from error
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(misuse(component.name, component.args, keywords(factory), error)) from error


def call_function(name: str, *arguments: Any) -> Any:
    """Call a function that settings name, such as one that makes initial states.

    Arrays go in as read-only copies and come out as copies: the function may hold on to either, and reuse its own.

    Raises:
        ConfigError: There is no such function, or it raised an error of its own.
    """
    _require_outside_standard_library(name, "arrays")
    function = load(name)
    given = [read_only_copy(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments]
    try:
        returned = function(*given)
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} raised {type(error).__name__}: {error}; run it alone to find out why.") from error
    return returned.copy() if isinstance(returned, np.ndarray) else returned


def _module(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{path}.".startswith(f"{error.name}."):
            raise ConfigError(f"{name!r} needs the package {error.name!r}, which is not installed: install it.") from error
        raise ConfigError(
            f"there is no module {path!r} to import {name!r} from: install it, or name a file as path/to/file.py:Name."
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"importing {path!r} raised {type(error).__name__}: {str(error).rstrip('.')}; mend the module."
        ) from error
