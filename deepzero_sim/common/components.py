"""Solvers, networks and functions named in settings: by import path, or by `file.py:Name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_origin, get_type_hints

import numpy as np

from deepzero_sim.common.arguments import keywords, misuse
from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.common.types import read_only_copy
from deepzero_sim.errors import ArgumentError, ConfigError, DeepZeroError


@dataclass
class Component:
    """Something to be built: what, and with which arguments.

    Args:
        name: an import path (`package.module.Name`), or a file and a name in it (`file.py:Name`).
        args: keyword arguments.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a setting may name, so that nothing else is called.

    Args:
        words: what is to be made, for messages: the setting must make it.
        fits: whether objects of a class are what is wanted.
    """

    words: str
    fits: Callable[[type], bool]

    @classmethod
    def of(cls, kind: type, words: str) -> Wanted:
        """Objects of a class and of those derived from it."""
        return cls(words, lambda made: issubclass(made, kind))


#: Whatever this package defines.
OWN = Wanted("something of deepzero_sim or of a file of yours", lambda made: _package(made.__module__) == "deepzero_sim")


def load(name: str) -> Any:
    """What a name stands for; its module is imported, which runs that module's code, and nothing is called.

    Raises:
        ConfigError: no such file, module or name, or the module raised an error of its own.
    """
    path, colon, attribute = name.rpartition(":")
    if not colon:
        path, _, attribute = name.rpartition(".")
    if not path or not attribute:
        raise ConfigError(f"expected an import path (package.module.Name) or file.py:Name, not {name!r}.")
    module = _module_from_file(Path(path), name) if path.endswith(".py") else _module(path, name)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        meant = did_you_mean(attribute, dir(module))
        raise ConfigError(f"{path} has no {attribute!r}{meant}: check the spelling in {name!r}.") from error


def load_factory(name: str, wanted: Wanted) -> Any:
    """What a name stands for, if it makes what is wanted; anything else is refused before it is called.

    It may be a class that is wanted or an object of one, a function whose return annotation is such a class, or whatever a
    file named as `file.py:Name` defines itself. A name of the standard library, which has none of these, is not even imported.

    Raises:
        ConfigError: there is no such name, or it makes something else, as far as one can see.
    """
    _require_not_python_s_own(name, wanted.words)
    named = load(name)
    function = named.func if isinstance(named, partial) else named
    if _is_file(name) and _defined_in(function, _module_from_file(Path(name.rpartition(":")[0]), name)):
        return named
    made = function if isinstance(function, type) else _returned_class(function) if callable(function) else None
    if (made is not None and wanted.fits(made)) or wanted.fits(type(named)):
        return named
    if isinstance(function, type):
        raise ConfigError(f"{name!r} must make {wanted.words}, not {function.__name__}: name another.")
    raise ConfigError(
        f"{name!r} must make {wanted.words}, but it is a {type(named).__name__} that does not say so: annotate what it "
        "returns, or name it as file.py:Name where it is defined."
    )


def _require_not_python_s_own(name: str, words: str) -> None:
    if _package(name) in sys.stdlib_module_names and not _is_file(name):
        own = name.rpartition(".")[2]
        raise ConfigError(f"{name!r} must make {words}, not {own} of Python's standard library: name another.")


def _package(dotted: str) -> str:
    return dotted.partition(".")[0]


def _is_file(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _defined_in(named: Any, module: ModuleType) -> bool:
    """Whether a class, a function or the class of an object stands in a module, and was not only imported there."""
    return getattr(named, "__module__", None) == module.__name__


def _returned_class(function: Any) -> type | None:
    """The class that a function says it returns."""
    function = inspect.unwrap(function)
    said = getattr(function, "__annotations__", {}).get("return")
    try:
        hints = get_type_hints(SimpleNamespace(__annotations__={"return": said}), getattr(function, "__globals__", {}))
    except (NameError, AttributeError, TypeError, SyntaxError):  # it is imported for type checkers only
        return None
    made = get_origin(hints["return"]) or hints["return"]
    return made if isinstance(made, type) else None


def build(component: Component, *leading: Any, wanted: Wanted = OWN) -> Any:
    """Call what a component names with its arguments, `leading` ones first.

    Raises:
        ConfigError: it makes something else than what is wanted, or does not take the arguments.
    """
    return call(load_factory(component.name, wanted), component, *leading)


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

    Arrays go in as read-only copies and come out as copies: the function may keep either, and write into its own next time.

    Raises:
        ConfigError: there is no such function, or it raised an error of its own.
    """
    _require_not_python_s_own(name, "arrays")
    function = load(name)
    given = [read_only_copy(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments]
    try:
        returned = function(*given)
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} raised {type(error).__name__}: {error}; run it alone to find out why.") from error
    return returned.copy() if isinstance(returned, np.ndarray) else returned


#: Held while a file is imported; it may name others that are.
_importing = threading.RLock()


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
        raise ConfigError(f"importing {path!r} raised {type(error).__name__}: {error}; mend the module.") from error


def _module_from_file(path: Path, name: str) -> ModuleType:
    """Import a file once; under a name of its own, so that worker processes can be sent what it defines."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path} for {name!r}: check the path, it is relative to the current folder.")
    resolved = path.resolve()
    key = f"deepzero_sim_user_{path.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    with _importing:  # another thread must not see half of it
        return sys.modules.get(key) or _executed(key, path, resolved)


def _executed(key: str, path: Path, resolved: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(key, resolved)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise ConfigError(f"importing {path} raised {type(error).__name__}: {error}; mend the file.") from error
    # workers cannot import it by this name: it is sent to them by value
    import cloudpickle  # noqa: PLC0415

    cloudpickle.register_pickle_by_value(module)
    return module
