"""Files of Python that settings name as `file.py:Name`, and the files next to them that they import.

A file is imported under a name of its own, which the path decides: two files of one name in two folders are two modules. What
it imports is looked for where Python looks and, if that has nothing of the name, in the file's own folder: `from swe import
step` finds `swe.py`, or the package `swe/`, next to it. Such a neighbour has a name of its own for the same reason. So the name
in the import statement is exchanged for it when the file is compiled, and a finder leads from the name back to the file. It
needs nothing but the place of the file that imports, so that it works in worker processes, too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from deepzero_sim.errors import ConfigError

#: This package, and the beginning of the names of modules that are files of the user's.
PACKAGE = "deepzero_sim"
PREFIX = f"{PACKAGE}_user_"

_OWN_NAME = re.compile(rf"{PREFIX}(\w+)_[0-9a-f]{{8}}")

#: Lock while a file is imported; reentrant, since a file may name others.
_importing = threading.RLock()


def import_file(path: Path, name: str) -> ModuleType:
    """Import a file once; under a name of its own, so that worker processes can be sent what it defines.

    Args:
        path: The file.
        name: Name in settings, for messages.

    Raises:
        ConfigError: There is no such file, it raised an error of its own, or a file next to it has the name of another module.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path} for {name!r}: check the path, it is relative to the current folder.")
    resolved = path.resolve()
    key = _module_name(resolved, path.stem)
    with _importing:  # another thread must not see half of it
        return sys.modules.get(key) or _execute(key, path, resolved)


def _module_name(resolved: Path, stem: str) -> str:
    stem = re.sub(r"\W", "_", stem)  # a dot would make it a part of a package
    return f"{PREFIX}{stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"


def _remedy(error: BaseException) -> str:
    """Say what to do about an error of an import: a package that is missing is no fault of the file."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not package or package in sys.modules:
        return "mend the file"
    return f"{package} is not installed: pip install it, or put its folder on PYTHONPATH, or mend the file"


def _execute(key: str, path: Path, resolved: Path) -> ModuleType:
    _require_unambiguous(path, resolved)
    spec = _spec(key, resolved)
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[key] = module
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        for new in [entry for entry in sys.modules if entry.startswith(PREFIX) and entry not in before]:
            del sys.modules[new]  # mended, they are imported anew
        words = _OWN_NAME.sub(r"\1", str(error))
        raise ConfigError(f"importing {path} raised {type(error).__name__}: {words.rstrip('.')}; {_remedy(error)}.") from error
    return module


# ---- files next to a file


def neighbours(path: Path) -> list[Path]:
    """List the files of Python that a file imports from its own folder, and those that they import in turn.

    All files of a package count that is imported. Import statements are read, and nothing is run; what cannot be read has none.

    Args:
        path: File of Python.
    """
    found: dict[Path, None] = {}
    left = [path]
    while left:
        for name in sorted(_names_in_imports(left.pop())):
            beside = _neighbour(path.parent, name)
            files = [] if beside is None else sorted(beside.parent.rglob("*.py")) if beside.name == "__init__.py" else [beside]
            new = [file for file in files if file not in found and file != path]
            found |= dict.fromkeys(new)
            left += new
    return list(found)


def _names_in_imports(path: Path) -> set[str]:
    """Return the first parts of the names that a file's import statements have."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError):
        tree = ast.parse(path.read_bytes())
        return {name.partition(".")[0] for node in ast.walk(tree) for name in _names_of(node)}
    return set()


def _names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
        yield node.module


def _neighbour(folder: Path, name: str) -> Path | None:
    """Return the file of a folder that an import of a name, without dots, would run; None if there is none.

    A clone of this package is none: whoever imports it means the one that runs.
    """
    if name == PACKAGE:
        return None
    for file in (folder / name / "__init__.py", folder / f"{name}.py"):
        if file.is_file():
            return file
    return None


def _require_unambiguous(asked: Path, resolved: Path) -> None:
    """Refuse a file if it, or what it imports, imports a name that a file next to it has and another module, too.

    Args:
        asked: File as settings name it.
        resolved: Its whole path.
    """
    for file in (resolved, *neighbours(resolved)):
        for name in sorted(_names_in_imports(file)):
            beside = _neighbour(resolved.parent, name)
            other = None if beside is None else _origin(name)
            if other is not None and Path(other).resolve() != beside:
                what = "of Python itself" if name in sys.stdlib_module_names else f"installed as {other}"
                raise ConfigError(
                    f"{file.name if file != resolved else asked} imports {name!r}, which is a file next to it, {beside}, and "
                    f"also a module {what}: rename the file, so that one can tell which is meant."
                )


def _origin(name: str) -> str | None:
    """Say where Python finds a module of a name without dots; None if it finds none but a folder without code."""
    with suppress(ValueError, ImportError):
        spec = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None:
            return spec.origin
    return getattr(sys.modules.get(name), "__file__", None)


# ---- names of neighbours in import statements


class _Renaming(ast.NodeTransformer):
    """Change of a file's import statements, so that neighbours are imported by names of their own.

    Args:
        folder: Folder of the neighbours.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def visit_Import(self, node: ast.Import) -> ast.AST | list[ast.AST]:
        """Split an import of several names; `import a.b` binds `a`, which is imported last."""
        statements: list[ast.AST] = []
        for alias in node.names:
            first, *rest = alias.name.split(".")
            own = self._own_name(first)
            if own is None:
                statements.append(ast.Import([alias]))
                continue
            statements.append(ast.Import([ast.alias(".".join([own, *rest]), alias.asname or first)]))
            if rest and alias.asname is None:
                statements.append(ast.Import([ast.alias(own, first)]))
        return [ast.copy_location(statement, node) for statement in statements]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """Exchange the first part of the module's name."""
        if node.module is not None and not node.level:
            first, dot, rest = node.module.partition(".")
            node.module = f"{self._own_name(first) or first}{dot}{rest}"
        return node

    def _own_name(self, name: str) -> str | None:
        """Return the name of a neighbour's module; None for what Python finds by itself, or nobody."""
        file = _neighbour(self._folder, name)
        return None if file is None or _origin(name) is not None else _module_name(file.resolve(), name)


class _Loader(SourceFileLoader):
    """Loader of the user's files. No compiled code is kept: Python's own import of the same file would take it for its own."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the file as it is now."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        """Compile with neighbours under names of their own."""
        levels = self.name.count(".") + _is_package(self.name, Path(path))
        tree = _Renaming(Path(path).parents[levels]).visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file. Workers cannot import it by its name: what it defines is sent to them by value."""
        super().exec_module(module)
        import cloudpickle  # noqa: PLC0415

        cloudpickle.register_pickle_by_value(module)


def _is_package(name: str, file: Path) -> bool:
    return file.name == "__init__.py" and not name.startswith(f"{PREFIX}__init__")  # which is one that settings name


def _spec(name: str, file: Path) -> ModuleSpec:
    package = [str(file.parent)] if _is_package(name, file) else None
    loader = _Loader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=package)
    assert spec is not None
    return spec


# ---- from names to files


class _Finder:
    """Finder of neighbours by the names of their modules."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the file of a module; None for a name that is not one of the user's files."""
        if not name.startswith(PREFIX):
            return None
        if path is not None:
            found = PathFinder.find_spec(name, path)
            return None if found is None or found.origin is None else _spec(name, Path(found.origin))
        file = _file_of(name, _importer(sys._getframe()))
        return None if file is None else _spec(name, file)


def _importer(frame: FrameType | None) -> Path | None:
    """Return the file whose code imports, by the innermost frame that is not Python's own import system."""
    while frame is not None and (frame.f_code is _Finder.find_spec.__code__ or _is_of_import_system(frame)):
        frame = frame.f_back
    file = None if frame is None else frame.f_globals.get("__file__")
    return Path(file) if isinstance(file, str) else None


def _is_of_import_system(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "importlib"


def _file_of(name: str, importer: Path | None) -> Path | None:
    """Return the file next to another, or next to the package that it is in, whose module has a name."""
    parts = _OWN_NAME.fullmatch(name)
    if parts is None or importer is None:
        return None
    beside = (_neighbour(folder, parts[1]) for folder in importer.parents)
    files = (file.resolve() for file in beside if file is not None)
    return next((file for file in files if _module_name(file, parts[1]) == name), None)


sys.meta_path.insert(0, _Finder)
