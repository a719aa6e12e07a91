"""Templates: text with numbers filled in, by jinja2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.common.files import read_plain_file
from deepzero_sim.common.requirements import require, require_that
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.programs.paths import inner_path, is_encodable
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.spec import SolverSpec

#: Names that a template may use.
NAMES = ("params", "spec", "dt", "state", "values")

#: Beginning of a placeholder.
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
        import jinja2.meta  # noqa: PLC0415
        import jinja2.nodes  # noqa: PLC0415
        import jinja2.sandbox  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("A template", "jinja2", "executable") from error
    return jinja2


@functools.cache
def _environment() -> Any:
    """Make jinja2's own sandbox: templates come from where settings name programs to run, so it has no further limits."""
    jinja2 = _jinja2()
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    del environment.globals["lipsum"], environment.filters["random"]  # the same values make the same file
    return environment


@functools.lru_cache(maxsize=256)
def _compile(text: str) -> tuple[Any, frozenset[str]]:
    """Compile a template, and find the names it uses."""
    environment = _environment()
    names = frozenset(_jinja2().meta.find_undeclared_variables(environment.parse(text)))
    return environment.from_string(text), names


@dataclass(frozen=True)
class Text:
    """Text with placeholders, in jinja2's language, and its place in settings, for messages."""

    text: str
    where: str

    def __post_init__(self) -> None:
        jinja2 = _jinja2()
        try:
            _, names = _compile(self.text)
        except jinja2.TemplateSyntaxError as error:
            message = str(error.message).rstrip(".")
            raise ConfigError(f"{self.where} must be a jinja2 template: line {error.lineno}: {message}.") from error
        except (SyntaxError, RecursionError, MemoryError) as error:  # Python's own, of what jinja2 made of it
            raise ConfigError(f"{self.where} cannot be compiled ({error}): nest less in it.") from error
        except Exception as error:  # numbers of thousands of digits, and whatever else jinja2 leaves to Python
            raise ConfigError(f"{self.where} cannot be compiled ({_describe(error)}): mend it.") from error
        unknown = ", ".join(sorted(names - set(NAMES)))
        require_that(not unknown, f"{self.where} names {unknown}, but there are only {', '.join(NAMES)}.")

    @property
    def names(self) -> frozenset[str]:
        """Names of :data:`NAMES` that it uses."""
        return _compile(self.text)[1]

    def keys_of(self, name: str) -> list[str]:
        """List what it takes of `params` or `values` by name, in order: `params.nu`, `params["nu"]`."""
        nodes = _jinja2().nodes
        found = []
        for node in _environment().parse(self.text).find_all((nodes.Getattr, nodes.Getitem)):
            if not isinstance(node.node, nodes.Name) or node.node.name != name:
                continue
            key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
            found += [key] if isinstance(key, str) else []
        return list(dict.fromkeys(found))

    def render(self, values: Values) -> str:
        """Fill in the numbers."""
        template, names = _compile(self.text)
        try:
            text = str(template.render({name: values.get(name) for name in names}))
            text.encode()  # halves of characters have no form in a file
        except Exception as error:  # whatever an expression makes of its values
            raise ConfigError(f"{self.where} cannot be filled in ({_describe(error)}): mend it.") from error
        return text


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class Values:
    """Values that a template sees: `params` by name (or by place, if the spec has no names), `spec`, `dt`, the `state` as
    lists, and `values` by name.

    Args:
        spec: Spec of the solver.
        states: Solver state, `(C, *N)`, or states, `(B, C, *N)`, if the program takes a batch.
        params: Scenario parameters, `(K,)`, or `(B, K)` if the program takes a batch; a name then stands for a list of `B`
            numbers.
        own: Values that settings add to these.
    """

    def __init__(self, spec: SolverSpec, states: Array, params: Array | None, own: Mapping[str, Plain]) -> None:
        self._spec, self._states, self._params, self._own = spec, states, params, own

    def get(self, name: str) -> Any:
        """Return the value of one of :data:`NAMES`: a plain one, which a template can do no harm with."""
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


def require_values(settings: Mapping[str, Plain]) -> dict[str, Plain]:
    """Copy the values that settings give templates."""
    usable = isinstance(settings, Mapping) and all(
        isinstance(name, str) and name.isidentifier() and isinstance(value, Plain) for name, value in settings.items()
    )
    require(usable, "values must be numbers, words, true or false by their names", settings)
    for name in settings:
        taken = f"values cannot have the name {name}, which means something else in a template: take another."
        require_that(not hasattr(dict, name), taken)
    return dict(settings)


def try_out(render: Callable[[Values], object], spec: SolverSpec, own: Mapping[str, Plain], batched: bool) -> None:
    """Find out when a solver is made which names of a template will be missing."""
    lead = (1,) if batched else ()
    taken = (spec.state_shape[0] + len(spec.inputs), *spec.state_shape[1:])
    states, params = (np.ones((*lead, *shape), spec.dtype) for shape in (taken, (len(spec.parameters) or UNNAMED,)))
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


def read_templates(settings: Mapping[str, str | Path]) -> tuple[Template, ...]:
    """Read templates: files from the current folder, by the paths of the files in the working folder."""
    require(isinstance(settings, Mapping), "templates must be template files by the paths that they are filled in to", settings)
    templates = []
    for path, source in settings.items():
        target = inner_path(path, "templates")
        text = read_source(source, f"templates: {target}", MOST_CHARACTERS)
        templates.append(Template(target, Text(text, f"the template {source}")))
    return tuple(templates)


def read_source(source: str | Path, where: str, most: int) -> str:
    """Read a text file of at most `most` bytes, by its path from the current folder; `where` is the setting that names it."""
    try:
        return read_plain_file(source, most).decode()
    except OverflowError as error:
        raise ConfigError(f"{where}: {source} must be a text file, but {error}: hand arrays over by inputs.") from error
    except (OSError, ValueError, TypeError) as error:  # no text in UTF-8, a path with a zero byte
        shown = source if is_encodable(str(source)) else ascii(source)
        raise ConfigError(f"{where}: {shown} must be a text file ({error}): paths start at the current folder.") from error
