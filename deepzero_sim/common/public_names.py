"""Public names of a package, each imported when it is first asked for: a command line must answer before torch is there."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Names:
    """Finder of a package's public names, for its `__getattr__` (PEP 562).

    What is found refuses arguments by errors of ours, as :func:`~deepzero_sim.common.arguments.guard_calls` makes it.

    Args:
        package: Name of the package.
        modules: Modules that define names, with the names.
        runs: Names of functions that run code of the user's, whose errors are not ours to explain.
    """

    def __init__(self, package: str, modules: Mapping[str, Sequence[str]], runs: Collection[str] = ()) -> None:
        self._package, self._runs = package, frozenset(runs)
        self.names = {name: module for module, names in modules.items() for name in names}

    def __call__(self, name: str) -> Any:
        """Import a name from the module that defines it, and keep it in the package."""
        if name not in self.names:
            raise AttributeError(f"module {self._package!r} has no attribute {name!r}")
        from deepzero_sim.common.arguments import guard  # noqa: PLC0415 - imports numpy, which nobody needs so far

        value = guard(getattr(import_module(self.names[name]), name), name, values=name not in self._runs)
        setattr(sys.modules[self._package], name, value)
        return value

    def listed(self) -> list[str]:
        """List what the package has, imported or not, for its `__dir__`."""
        return sorted({*vars(sys.modules[self._package]), *self.names})


class _Alias(MetaPathFinder, Loader):
    """Another name that a module can be imported by, which stays one module."""

    def __init__(self, name: str, module: str) -> None:
        self._name, self._module = name, module

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self._name else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._module)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import of the alias has put its own there


def add_alias(name: str, module: str) -> None:
    """Let a module be imported by another name, too, once somebody does."""
    sys.meta_path.append(_Alias(name, module))
