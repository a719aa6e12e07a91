"""Settings: dataclasses read from plain values, held to their types and rules, and written as plain values again.

A field's type hint is the one source of what it takes: numbers, text, paths, choices, lists, mappings, other dataclasses, or
None. What a type cannot say is a rule beside it, `Annotated[int, Rule(...)]`, which holds for settings made in Python, too.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from deepzero_sim.common.documents import read_yaml
from deepzero_sim.common.files import require_file_or_folder
from deepzero_sim.common.requirements import require_known
from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import ConfigError

#: Remedy for values that nobody can guess.
SEE_HELP = "see the options with 'deepzero-sim COMMAND --help'"


class SettingError(ConfigError):
    """A value that a setting does not take.

    Attributes:
        key: Name of the setting, with those that it lies in: `workers.count`.
        expected: Verb phrase, such as `be a whole number`.
        came: Value that came.
    """

    def __init__(self, key: str, expected: str, came: object, remedy: str = SEE_HELP) -> None:
        shown = "null" if came is None else str(came) or "nothing"
        super().__init__(f"{key} must {expected}, not {shown}{f': {remedy}' if remedy else ''}.")
        self.key, self.expected, self.came = key, expected, came


@dataclass(frozen=True)
class Rule:
    """A condition on a setting's value, beyond its type.

    Args:
        holds: Condition.
        expected: Noun phrase of what is expected, such as ``"a positive number"``.
    """

    holds: Callable[[Any], bool]
    expected: str

    def __call__(self, key: str, value: Any) -> None:
        """Refuse a value against the rule."""
        if not self.holds(value):
            raise SettingError(key, f"be {self.expected}", value, remedy="")


class Settings:
    """Base of settings whose rules hold however they are made.

    Attributes:
        meant: Settings by names that people give them by mistake, such as those of arguments in Python.
        shared_args: Names of components, by setting, that take the args of the default one; others begin with none. Settings
            that are not here keep the default's args under another name.
    """

    meant: ClassVar[Mapping[str, str]] = {}
    shared_args: ClassVar[Mapping[str, Collection[str]]] = {}

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return plain values with those that follow from others of them, before they are read.

        Args:
            values: Plain values by the names of settings.
        """
        return values

    def __post_init__(self) -> None:
        settings: Any = type(self)
        for key, kind in hints(settings).items():
            value = getattr(self, key)
            read(kind, value, key)
            for rule in () if value is None else _rules(kind):
                rule(key, value)


@functools.cache
def hints(settings: type[Any]) -> dict[str, Any]:
    """Return the type hints of a dataclass's fields, rules included."""
    known = get_type_hints(settings, include_extras=True)
    return {field.name: known[field.name] for field in fields(settings)}


def require_settings(given: Iterable[object], settings: type, what: str) -> None:
    """Refuse names that are none of a dataclass's fields, and suggest the one that is meant.

    Args:
        given: Names.
        settings: Dataclass.
        what: Settings that have these names, for the message.
    """
    require_known(given, list(hints(settings)), what, getattr(settings, "meant", None))


@functools.cache
def descriptions(settings: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and of its bases say of each field under `Args:`."""
    found: dict[str, str] = {}
    for one in reversed(settings.__mro__):
        _, _, entries = (one.__doc__ or "").partition("Args:\n")
        found |= dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", entries.partition("\n\n")[0], re.MULTILINE))
    return {name: " ".join(text.split()) for name, text in found.items()}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types that a hint allows, without rules."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for inner in get_args(kind) for one in _alternatives(inner))
    return (kind,)


def _rules(kind: Any) -> tuple[Callable[[str, Any], None], ...]:
    """Return the rules of a hint: of the whole, or of what it allows besides None."""
    if get_origin(kind) is Annotated:
        return tuple(kind.__metadata__)
    alternatives = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) in (Union, UnionType) else []
    return _rules(alternatives[0]) if len(alternatives) == 1 else ()


def keys_of(kind: Any) -> type | None:
    """Return the dataclass that a hint allows, None if there is none."""
    return next((one for one in _alternatives(kind) if isinstance(one, type) and is_dataclass(one)), None)


def allows(kind: Any, form: type) -> bool:
    """Tell whether a hint allows a `list`, or a `dict`."""
    return any(get_origin(one) is form for one in _alternatives(kind))


def defaults(settings: type) -> dict[str, Any]:
    """Return the default values of a dataclass's fields, `dataclasses.MISSING` where one must be given."""
    made = {field.name: field.default_factory for field in fields(settings) if field.default_factory is not MISSING}
    return {field.name: made[field.name]() if field.name in made else field.default for field in fields(settings)}


class Entry(NamedTuple):
    """A setting of a dataclass, or of one within it.

    Args:
        key: Name, with those of the settings that it lies in.
        kind: Type hint.
        description: Sentence on it.
        default: Default value; `dataclasses.MISSING` if there is none.
        optional: Setting that it lies in, if that need not have keys at all; empty if there is none such.
    """

    key: str
    kind: Any
    description: str
    default: Any
    optional: str = ""


def entries(settings: type, within: str = "", default: object = MISSING, optional: str = "") -> Iterator[Entry]:
    """Yield all settings of a dataclass, those of the dataclasses in it included.

    Args:
        settings: Dataclass.
        within: Setting that it is the value of, with a dot; empty for the outermost.
        default: Default value of that setting, if there is one.
        optional: Setting around it that need not have keys at all; empty if there is none such.
    """
    values = {**defaults(settings), **_as_mapping(default)}
    for name, kind in hints(settings).items():
        key, value = within + name, values[name]
        yield Entry(key, kind, descriptions(settings).get(name, ""), value, optional)
        inner = keys_of(kind)
        if inner is not None:
            yield from entries(inner, f"{key}.", value, key if value is not MISSING or takes_path(kind) else optional)


# ---- collecting


def assign(kind: Any, given: Any, path: Sequence[str], value: Any, key: str = "") -> Any:
    """Put a value among those given before: the keys of settings join, anything else replaces.

    Args:
        kind: Type hint of what is assigned to.
        given: Plain values so far; `dataclasses.MISSING` for none.
        path: Keys from there to the value.
        value: Plain value, or text that stands for one.
        key: Name of the setting, for messages.

    Returns:
        Plain values with the new one among them.

    Raises:
        ConfigError: There is no such key, or a value came where there must be keys.
    """
    settings = keys_of(kind)
    if path:
        return _assign_within(kind, given, path, value, key)
    value = _plain(kind, value)
    if settings is None or _is_other_than_keys(kind, value):
        return value
    _require_keys(kind, value, key)
    given = _as_mapping(given)
    for name, inner in value.items():
        given = assign(kind, given, str(name).split("."), inner, key)
    return given


def _assign_within(kind: Any, given: Any, path: Sequence[str], value: Any, key: str) -> dict[str, Any]:
    settings, name = keys_of(kind), path[0]
    if settings is None and kind is not Any and not allows(kind, dict):
        raise SettingError(key, "be one value", f"keys ({'.'.join(path)})")
    inner, default = Any, MISSING
    if settings is not None:
        require_settings([name], settings, key or "settings")
        inner, default = hints(settings)[name], defaults(settings)[name]
    before = _as_mapping(given)
    sharing = getattr(settings, "shared_args", {}).get(name)
    if sharing is not None and name not in before and _component_named(inner, path[1:], value) not in (None, *sharing):
        default = MISSING
    return before | {name: assign(inner, before.get(name, default), path[1:], value, f"{key}.{name}".lstrip("."))}


def _component_named(kind: Any, path: Sequence[str], value: Any) -> str | None:
    """Return the name of the component that a value names, by itself or among its keys; None if it names none."""
    given = value if path else _plain(kind, value)
    named = given if list(path) == ["name"] else _as_mapping(given).get("name") if isinstance(given, Mapping) else None
    return named if isinstance(named, str) else None


def takes_path(kind: Any) -> bool:
    """Tell a hint that allows a path, alone or in place of a dataclass with that path."""
    return Path in _alternatives(kind)


def _is_other_than_keys(kind: Any, value: Any) -> bool:
    """Tell a value of a setting that need not have keys: none, or what is to be a path."""
    if value is None:
        return NoneType in _alternatives(kind)
    return takes_path(kind) and not isinstance(value, Mapping) and not is_dataclass(value)


def append(settings: type, given: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Put an item behind those of a list that were given before, or that it has by default."""
    before = given.get(name, defaults(settings)[name])
    (item,) = get_args(_alternatives(hints(settings)[name])[0])
    return {**given, name: [*(() if before is MISSING else before), _plain(item, value)]}


def _as_mapping(given: object) -> dict[str, Any]:
    if isinstance(given, str | Path):  # a path, to which keys are added
        return {"path": given}
    if is_dataclass(given):
        return {field.name: getattr(given, field.name) for field in fields(given)}
    return dict(given) if isinstance(given, Mapping) else {}


def _plain(kind: Any, value: Any) -> Any:
    """Return the value that text stands for, by our own rules of YAML, unless text is what the setting takes."""
    kinds = _alternatives(kind)
    if isinstance(value, str):
        value = _from_text(kind, kinds, value)
    if isinstance(value, Mapping) and dict[str, Any] in kinds:
        return {name: _plain(Any, item) for name, item in value.items()}
    return value


def _from_text(kind: Any, kinds: tuple[Any, ...], text: str) -> Any:
    if kind is not Any:
        require_file_or_folder(text)
    if not text.strip() or ("_" in text and not {int, float}.isdisjoint(kinds)):
        return text  # 1_0 is a slip of the finger, not 10
    try:
        found = read_yaml(text)
    except yaml.YAMLError:
        return text
    if any(one in (str, Path) or get_origin(one) is Literal for one in kinds):
        none = found is None and NoneType in kinds
        keyed = allows(kind, dict) or keys_of(kind) is not None
        return found if none or (isinstance(found, dict) and keyed) else text
    return text if isinstance(found, str) else found


# ---- reading and writing


def read(kind: Any, value: Any, key: str = "") -> Any:
    """Read a plain value as its type hint says.

    Args:
        kind: Type hint.
        value: Plain value.
        key: Name of the setting, for messages.

    Raises:
        ConfigError: The value is of another kind, keys are unknown or missing, or a rule does not hold.
    """
    kinds = _alternatives(kind)
    if value is None and NoneType in kinds:
        return None
    if value is None and kind is not Any:
        raise SettingError(key, "have a value", value, "give it one, or leave it out")
    settings = keys_of(kind)
    if settings is not None and not _is_other_than_keys(kind, value):
        return value if isinstance(value, settings) else _read_keys(kind, settings, value, key)
    one = next((one for one in kinds if isinstance(value, Mapping) and get_origin(one) is dict), kinds[0])
    if get_origin(one) is dict:
        return _read_mapping(get_args(one)[0], get_args(one)[1], value, key)
    if get_origin(one) is list:
        _require_kind(isinstance(value, list | tuple), key, "a list", value)
        return [read(get_args(one)[0], item, key) for item in value]
    if get_origin(one) is Literal:
        _require_kind(value in get_args(one), key, f"one of {', '.join(map(str, get_args(one)))}", value)
    elif one is not Any:
        expected, fits = _LEAVES[one]
        _require_kind(fits(value), key, expected, value)
    return one(value) if one in (float, Path) else value


#: What a value of a type is called, and whether a plain value is one.
_LEAVES: dict[type, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", is_integer),
    float: ("a number", lambda value: is_number(value) and (not is_integer(value) or abs(value) < 10**308)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("text", lambda value: isinstance(value, str)),
    Path: ("text", lambda value: isinstance(value, str | Path)),
}


def _require_kind(holds: bool, key: str, expected: str, value: Any) -> None:
    if not holds:
        raise SettingError(key, f"be {expected}", value)


def _read_keys(kind: Any, settings: type, value: Any, key: str) -> Any:
    _require_keys(kind, value, key)
    kinds, default = hints(settings), defaults(settings)
    require_settings(value, settings, key or "settings")
    value = settings.complete(value) if issubclass(settings, Settings) else value
    names = {name: f"{key}.{name}".lstrip(".") for name in kinds}
    missing = [names[name] for name in kinds if name not in value and default[name] is MISSING]
    if missing:
        raise ConfigError(f"the following settings are required: {', '.join(missing)}: {SEE_HELP}.")
    return settings(**{name: read(kinds[name], item, names[name]) for name, item in value.items()})


def _require_keys(kind: Any, value: Any, key: str) -> None:
    """Refuse a value without keys."""
    if value is None:
        raise SettingError(key, "have a value", value, "give it one, or leave it out")
    if isinstance(value, Mapping):
        return
    settings = keys_of(kind)
    names = () if settings is None else tuple(hints(settings))
    if names == ("name", "args"):
        name = _name_meant(kind, value) if isinstance(value, str) and value else "package.module.Name"
        raise SettingError(key, f"hold keys with values, such as {{name: {name}, args: {{}}}}", value)
    _require_kind(NoneType not in _alternatives(kind), key, "keys with values", value)
    raise SettingError(key, f"hold keys ({', '.join(names)})", value, f"write them out or leave {key} out")


def _name_meant(kind: Any, text: str) -> str:
    """Return the name of a component that stands in the place of its keys, spelt as the hint's rules know it."""
    known = [name for rule in _rules(kind) for name in getattr(rule, "paths", ())]
    return next(iter(difflib.get_close_matches(text, known, n=1)), text)


def _read_mapping(of_keys: type, kind: Any, value: Any, key: str) -> dict[Any, Any]:
    _require_kind(isinstance(value, Mapping), key, "keys with values", value)
    _, fits = _LEAVES[of_keys]
    before = None
    for name, item in value.items():
        _require_kind(fits(name), key, f"values by keys that are {'text' if of_keys is str else 'whole numbers'}", name)
        if kind is str and item is None:  # YAML reads {a: some, words} so
            raise ConfigError(
                f'{key} must be text, or text by keys, but {name} stands alone: quote what has a comma, "{before}, {name}".'
            )
        before = item
    return {name: read(kind, item, f"{key}.{name}") for name, item in value.items()}


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return settings as plain values, without the run's own path: a folder may be moved."""
    return {key: item for key, item in to_plain(settings).items() if key != "run"}


def to_plain(value: Any) -> Any:
    """Return a setting's value as YAML and JSON hold it."""
    if isinstance(value, Mapping) or is_dataclass(value):
        return {key: to_plain(item) for key, item in _as_mapping(value).items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
