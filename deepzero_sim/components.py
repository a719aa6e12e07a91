"""Solvers, networks and functions named in settings: by import path, or by `file.py:Name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.spelling import did_you_mean


@dataclass
class Component:
    """Something to be built: what, and with which arguments.

    Args:
        name: an import path (`package.module.Name`), or a file and a name in it (`file.py:Name`).
        args: keyword arguments.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)


def load(name: str) -> Any:
    """What a name stands for.

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


def build(component: Component, *leading: Any) -> Any:
    """Call what a component names with its arguments, `leading` ones first.

    Raises:
        ConfigError: it does not take them.
    """
    return call(load(component.name), component, *leading)


def call(factory: Any, component: Component, *leading: Any) -> Any:
    """Call a factory with a component's arguments, `leading` ones first; errors name the component."""
    try:
        return factory(*leading, **component.args)
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in component.args.items()) or "no arguments"
        known = keywords(factory)
        unknown = next((name for name in component.args if known and name not in known), None)
        meant = "" if unknown is None else did_you_mean(unknown, known)
        raise ConfigError(
            f"{component.name} cannot be made with {given} ({type(error).__name__}: {error}): check its args{meant}."
        ) from error


def keywords(factory: Any) -> tuple[str, ...]:
    """The names of the arguments that a factory takes; none if it takes any, or nobody can know."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ()
    return tuple(parameters)


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
