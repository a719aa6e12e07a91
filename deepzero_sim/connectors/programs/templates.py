"""Text with numbers filled in, by jinja2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.programs.paths import inside, is_spelt, read_file
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.contract import SolverSpec

#: What a template may name.
NAMES = ("params", "spec", "dt", "state", "values")

#: What a placeholder begins with.
PLACEHOLDER = "{{"

#: Characters of a template.
MOST_CHARACTERS = 10**7

#: A value that settings give a template.
Plain: TypeAlias = str | int | float | bool

#: Parameters that a template is tried with where they have no names: nobody knows how many there are.
UNNAMED = 1000


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
    # it needs jinja2, an extra
    from deepzero_sim.connectors.programs.template_limits import LimitedEnvironment  # noqa: PLC0415

    return LimitedEnvironment(undefined=_jinja2().StrictUndefined, keep_trailing_newline=True)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[Any, frozenset[str]]:
    """A template, and the names it uses."""
    from jinja2 import meta  # noqa: PLC0415 - an extra; it was imported before

    environment = _environment()
    tree = environment.parse(text)
    names = frozenset(meta.find_undeclared_variables(tree))
    return environment.limited(tree), names


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
            message = str(error.message).rstrip(".")
            raise ConfigError(f"{self.where} must be a jinja2 template: line {error.lineno}: {message}.") from error
        except (SyntaxError, RecursionError, MemoryError) as error:  # Python's own, of what jinja2 made of it
            raise ConfigError(f"{self.where} cannot be compiled ({error}): nest less in it.") from error
        except Exception as error:  # numbers of thousands of digits, and whatever else jinja2 leaves to Python
            raise ConfigError(f"{self.where} cannot be compiled ({_described(error)}): mend it.") from error
        if unknown := sorted(names - set(NAMES)):
            raise ConfigError(f"{self.where} names {', '.join(unknown)}, but there are only {', '.join(NAMES)}.")

    def render(self, values: Values) -> str:
        """With the numbers filled in.

        Raises:
            ConfigError: a parameter is not there, or the template does what it may not.
        """
        template, names = _compiled(self.text)
        try:
            text = str(_environment().filled_in(template, {name: values.named(name) for name in names}))
            text.encode()  # halves of characters have no form in a file
        except Exception as error:  # whatever an expression makes of its values
            raise ConfigError(f"{self.where} cannot be filled in ({_described(error)}): mend it.") from error
        return text


def _described(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class Values:
    """What a template sees: `params` by name (or by place, if the spec has no names), `spec`, `dt`, the `state` as lists, and
    `values` by name.

    Args:
        spec: of the solver.
        states: `(C, *N)`, or `(B, C, *N)` if the program takes a batch.
        params: `(K,)`, or `(B, K)` if the program takes a batch; a name then stands for a list of `B` numbers.
        own: what settings give it beside these.
    """

    def __init__(self, spec: SolverSpec, states: Array, params: Array | None, own: Mapping[str, Plain]) -> None:
        self._spec, self._states, self._params, self._own = spec, states, params, own

    def named(self, name: str) -> Any:
        """The value of one of :data:`NAMES`: plain ones, which a template can do no harm with."""
        if name == "params":
            values = [] if self._params is None else self._params.T.tolist()
            return dict(zip(self._spec.parameters, values, strict=False)) if self._spec.parameters else values
        if name == "state":
            return self._states.tolist()
        if name == "dt":
            return self._spec.dt
        if name == "values":
            return dict(self._own)
        return {field.name: getattr(self._spec, field.name) for field in fields(self._spec) if field.name != "mask"}


def own_values(settings: Mapping[str, Plain]) -> dict[str, Plain]:
    """Values that settings give templates.

    Raises:
        ConfigError: they are no plain numbers and words by names that a template can say.
    """
    named = isinstance(settings, Mapping) and all(isinstance(name, str) and name.isidentifier() for name in settings)
    if not named or not all(isinstance(value, Plain) for value in settings.values()):
        raise ConfigError(f"values must be numbers, words, true or false by their names, not {settings!r}.")
    if taken := [name for name in settings if hasattr(dict, name)]:
        raise ConfigError(f"values cannot have the name {taken[0]}, which means something else in a template: take another.")
    return dict(settings)


def try_out(render: Callable[[Values], object], spec: SolverSpec, own: Mapping[str, Plain], batched: bool) -> None:
    """Find out when a solver is made what a template names that there will not be.

    Args:
        render: what is tried.
        spec: of the solver.
        own: values that settings give it.
        batched: whether its program takes batches.

    Raises:
        ConfigError: it names something unknown, or does what it may not.
    """
    lead = (1,) if batched else ()
    states, params = (np.ones((*lead, *shape), spec.dtype) for shape in (spec.state_shape, (len(spec.parameters) or UNNAMED,)))
    try:
        render(Values(spec, states, params, own))
    except ConfigError as error:
        lasting = (type(None), _jinja2().TemplateRuntimeError, OverflowError)  # all else may come from these numbers
        if isinstance(error.__cause__, lasting):
            raise


@dataclass(frozen=True)
class Template:
    """A file made of a template."""

    path: str
    text: Text

    def render(self, values: Values) -> str:
        return self.text.render(values)


def templates(settings: Mapping[str, str | Path]) -> tuple[Template, ...]:
    """Files by the templates that they are made of.

    Args:
        settings: template files, from the current folder, by the paths of the files in the working folder.

    Raises:
        ConfigError: the settings are not usable.
        MissingExtraError: jinja2 is not installed.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"templates must be template files by the paths that they are filled in to, not {settings!r}.")
    made = []
    for path, source in settings.items():
        plain = inside(path, "templates")
        made.append(Template(plain, Text(text_of(source, f"templates: {plain}", MOST_CHARACTERS), f"the template {source}")))
    return tuple(made)


def text_of(source: str | Path, where: str, most: int) -> str:
    """The text of a file that settings name.

    Args:
        source: the file, from the current folder.
        where: it is named in settings.
        most: characters that it may have.

    Raises:
        ConfigError: there is no such text file.
    """
    try:
        return read_file(source, most).decode()
    except OverflowError as error:
        raise ConfigError(f"{where}: {source} must be a text file, but {error}: hand arrays over by inputs.") from error
    except (OSError, ValueError, TypeError) as error:  # no text in UTF-8, a path with a zero byte
        shown = source if is_spelt(str(source)) else ascii(source)
        raise ConfigError(f"{where}: {shown} must be a text file ({error}): paths start at the current folder.") from error
