"""Input decks with numbers filled in: text by jinja2, Fortran namelists by f90nml."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from deepzero_sim.connectors.paths import inside
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver import SolverSpec
from deepzero_sim.types import Array

#: What a template may name.
NAMES = ("params", "spec", "dt", "state")

#: What a placeholder begins with.
PLACEHOLDER = "{{"


@functools.cache
def _jinja2() -> ModuleType:
    try:
        # an extra
        import jinja2.sandbox  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("A template", "jinja2", "executable") from error
    return jinja2


@functools.cache
def _environment() -> Any:
    jinja2 = _jinja2()
    return jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[Any, frozenset[str]]:
    """A template, and the names it uses."""
    from jinja2 import meta  # noqa: PLC0415 - an extra; it was imported before

    environment = _environment()
    return environment.from_string(text), frozenset(meta.find_undeclared_variables(environment.parse(text)))


@dataclass(frozen=True)
class Text:
    """Text with placeholders.

    Args:
        text: in jinja2's language.
        where: it stands, for messages.

    Raises:
        ConfigError: it is no template, or names what there is not.
        MissingExtraError: jinja2 is not installed.
    """

    text: str
    where: str

    def __post_init__(self) -> None:
        jinja2 = _jinja2()
        try:
            _, names = _compiled(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{self.where} must be a jinja2 template: line {error.lineno}: {error.message}.") from error
        if unknown := sorted(names - set(NAMES)):
            raise ConfigError(f"{self.where} names {', '.join(unknown)}, but there are only {', '.join(NAMES)}.")

    def render(self, values: Values) -> str:
        """With the numbers filled in.

        Raises:
            ConfigError: a parameter is not there, or the template does what it may not.
        """
        template, names = _compiled(self.text)
        try:
            return str(template.render({name: values.named(name) for name in names}))
        except Exception as error:  # whatever an expression makes of its values
            raise ConfigError(f"{self.where} cannot be filled in ({type(error).__name__}: {error}): mend it.") from error


class Values:
    """What a template sees: `params` by name (or by place, if the spec has no names), `spec`, `dt`, and the `state` as lists.

    Args:
        spec: of the solver.
        states: `(C, *N)`, or `(B, C, *N)` if the program takes a batch.
        params: `(K,)`, or `(B, K)` if the program takes a batch; a name then stands for a list of `B` numbers.
    """

    def __init__(self, spec: SolverSpec, states: Array, params: Array | None) -> None:
        self._spec, self._states, self._params = spec, states, params

    def named(self, name: str) -> Any:
        """The value of one of :data:`NAMES`: plain ones, which a template can do no harm with."""
        if name == "params":
            values = [] if self._params is None else self._params.T.tolist()
            return dict(zip(self._spec.parameters, values, strict=False)) if self._spec.parameters else values
        if name == "state":
            return self._states.tolist()
        if name == "dt":
            return self._spec.dt
        return {field.name: getattr(self._spec, field.name) for field in fields(self._spec) if field.name != "mask"}


@dataclass(frozen=True)
class Template:
    """A file made of a template."""

    path: str
    text: Text

    def render(self, values: Values) -> str:
        return self.text.render(values)


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


#: A file that is filled in.
Deck: TypeAlias = Template | Namelists


def decks(templates: Mapping[str, str | Path], namelists: Mapping[str, Mapping[str, Any]]) -> tuple[Deck, ...]:
    """The files that are filled in for every call, by their paths in the working folder.

    Args:
        templates: template files, from the current folder.
        namelists: `file`, the base, from the current folder, and `values`, by group and name.

    Raises:
        ConfigError: the settings are not usable.
        MissingExtraError: jinja2 or f90nml is needed and not installed.
    """
    return (*_templates(templates), *_all_namelists(namelists))


def _templates(settings: Mapping[str, str | Path]) -> tuple[Template, ...]:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"templates must be template files by the paths that they are filled in to, not {settings!r}.")
    made = []
    for path, source in settings.items():
        plain = inside(path, "templates")
        made.append(Template(plain, Text(_text_of(source, f"templates: {plain}"), f"the template {source}")))
    return tuple(made)


def _all_namelists(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Namelists, ...]:
    fit = isinstance(settings, Mapping) and all(
        isinstance(entry, Mapping) and {"file"} <= set(entry) <= {"file", "values"} for entry in settings.values()
    )
    if not fit:
        raise ConfigError(f"namelists must be a file and values by the paths that they are written to, not {settings!r}.")
    return tuple(
        _namelists(inside(path, "namelists"), entry["file"], entry.get("values", {})) for path, entry in settings.items()
    )


def _namelists(path: str, source: str | Path, groups: Any) -> Namelists:
    base = _text_of(source, f"namelists: {path}")
    if not isinstance(groups, Mapping) or not all(isinstance(entries, Mapping) for entries in groups.values()):
        raise ConfigError(f"namelists: {path}: values must be given by group and name, not {groups!r}.")
    _f90nml()
    try:
        _read_namelists(base)
    except Exception as error:  # whatever garbage makes of it
        raise ConfigError(f"namelists: {path}: {source} must hold namelists ({type(error).__name__}: {error}).") from error
    made = {
        group: {key: _prepared(entry, f"namelists: {path}: {group}%{key}") for key, entry in entries.items()}
        for group, entries in groups.items()
    }
    return Namelists(path, base, made)


def _prepared(entry: Any, where: str) -> Any:
    if isinstance(entry, list):
        return [_prepared(item, where) for item in entry]
    return Text(entry, where) if isinstance(entry, str) and PLACEHOLDER in entry else entry


def _text_of(source: str | Path, where: str) -> str:
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{where}: {source} must be a text file ({error}): paths start at the current folder.") from error
