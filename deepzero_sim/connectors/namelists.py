"""Fortran namelists with values filled in, by f90nml."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepzero_sim.connectors.paths import inside
from deepzero_sim.connectors.templates import PLACEHOLDER, Text, Values, text_of
from deepzero_sim.errors import ConfigError, MissingExtraError


@dataclass(frozen=True)
class Namelists:
    """A file of namelists: a base with some values set.

    Args:
        path: in the working folder.
        base: the text of the base file.
        groups: values by group and name; text with placeholders becomes a number if what it is filled in with is one.
    """

    path: str
    base: str
    groups: Mapping[str, Mapping[str, Any]]

    def render(self, values: Values) -> str:
        f90nml = _f90nml()
        lists = _read_namelists(self.base).copy()
        lists.patch(
            {
                group: {key: _filled_in(entry, values) for key, entry in entries.items()}
                for group, entries in self.groups.items()
            }
        )
        file = io.StringIO()
        f90nml.write(lists, file)
        return file.getvalue()


def _filled_in(entry: Any, values: Values) -> Any:
    if isinstance(entry, list):
        return [_filled_in(item, values) for item in entry]
    if isinstance(entry, dict):
        return {key: _filled_in(item, values) for key, item in entry.items()}
    if not isinstance(entry, Text):
        return entry
    words = entry.render(values)
    for kind in (int, float):
        try:
            return kind(words)
        except ValueError:
            continue
    return words


@functools.cache
def _f90nml() -> ModuleType:
    try:
        import f90nml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("A namelist", "f90nml", "executable") from error
    found: ModuleType = f90nml
    return found


@functools.lru_cache(maxsize=64)
def _read_namelists(text: str) -> Any:
    return _f90nml().reads(text)


def namelists(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Namelists, ...]:
    """Files of namelists.

    Args:
        settings: by the paths of the files in the working folder: `file`, the base, from the current folder, and `values`, by
            group and name.

    Raises:
        ConfigError: the settings are not usable.
        MissingExtraError: f90nml is not installed.
    """
    fit = isinstance(settings, Mapping) and all(
        isinstance(entry, Mapping) and {"file"} <= set(entry) <= {"file", "values"} for entry in settings.values()
    )
    if not fit:
        raise ConfigError(f"namelists must be a file and values by the paths that they are written to, not {settings!r}.")
    return tuple(
        _namelists(inside(path, "namelists"), entry["file"], entry.get("values", {})) for path, entry in settings.items()
    )


def _namelists(path: str, source: str | Path, groups: Any) -> Namelists:
    base = text_of(source, f"namelists: {path}")
    if not isinstance(groups, Mapping) or not all(isinstance(entries, Mapping) for entries in groups.values()):
        raise ConfigError(f"namelists: {path}: values must be given by group and name, not {groups!r}.")
    _f90nml()
    try:
        found = bool(_read_namelists(base))
    except Exception:  # whatever garbage makes of it
        found = False
    if not found:
        raise ConfigError(f"namelists: {path}: {source} must hold namelists, &name ... /, but none can be read.")
    if not all(isinstance(name, str) for group, entries in groups.items() for name in (group, *entries)):
        raise ConfigError(f"namelists: {path}: groups and what is in them must have names, not {groups!r}.")
    made = {
        group: {key: _prepared(entry, f"namelists: {path}: {group}%{key}") for key, entry in entries.items()}
        for group, entries in groups.items()
    }
    return Namelists(path, base, made)


def _prepared(entry: Any, where: str) -> Any:
    if isinstance(entry, list):
        return [_prepared(item, where) for item in entry]
    if isinstance(entry, Mapping) and all(isinstance(key, str) for key in entry):
        return {key: _prepared(item, f"{where}%{key}") for key, item in entry.items()}
    if not isinstance(entry, str | bool | int | float | complex | None):
        raise ConfigError(f"{where} must be a number, text, true or false, or a list of them, not {entry!r}: write it as text.")
    return Text(entry, where) if isinstance(entry, str) and PLACEHOLDER in entry else entry
