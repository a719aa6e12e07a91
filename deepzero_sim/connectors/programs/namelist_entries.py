"""Entries of namelists that settings name, held against what the base has there, and what is to be replaced for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.connectors.programs.namelist_text import Assignment, Dimension, Group
from deepzero_sim.connectors.programs.namelist_values import NULL, Filled, Kind, Scalar, kinds_of, spell
from deepzero_sim.connectors.programs.templates import PLACEHOLDER, Text
from deepzero_sim.errors import ConfigError

#: What is done with a base that settings cannot be set in.
BY_A_TEMPLATE = "write this file by a template instead, under templates"

#: Names, and places in lists, that lead to a value.
Way: TypeAlias = tuple[str | int, ...]

#: What the base has where it has no such entry.
ABSENT = object()


@dataclass(frozen=True)
class Value:
    """A value of an entry.

    Args:
        way: to it.
        base: what the base has there.
        kind: of it, None if the base does not say.
        given: by settings; None where the base has no value either.
        where: it stands in settings.
    """

    way: Way
    base: object
    kind: Kind | None
    given: Scalar | Text | None
    where: str

    def part(self) -> str | Filled:
        """What is written.

        Raises:
            ConfigError: it does not fit the entry.
        """
        if isinstance(self.given, Text):
            return Filled(self.given, self.kind, self.where)
        return NULL if self.given is None else spell(self.given, self.kind, self.where)

    def trial(self, number: int) -> tuple[str, object]:
        """Another value than the base's, as it is written and as it is read again."""
        if self.given is None:
            return NULL, None
        trials: dict[Kind, Scalar] = {
            "logical": not self.base,
            "integer": number,
            "real": number + 0.5,
            "complex": complex(number, 0.5),
            "text": f"it's {number}",
        }
        value = trials[self.kind or "integer"]
        return spell(value, self.kind, self.where), value


@dataclass(frozen=True)
class Edit:
    """Values that take the place of a part of the base.

    Args:
        start: of that part.
        end: of that part.
        before: text in front of the values.
        values: in order.
        after: text behind them.
    """

    start: int
    end: int
    before: str = ""
    values: Sequence[Value] = ()
    after: str = ""


@dataclass(frozen=True)
class Entry:
    """An entry that settings name.

    Args:
        components: names of its designator, with the places of elements of arrays of derived types.
        way: to it.
        given: its value, or nested lists of values.
        base: what the base has there, or :data:`ABSENT`.
        starts: first places of its dimensions, if the base gives it an index.
        where: it stands in settings.
    """

    components: tuple[tuple[str, int | None], ...]
    way: Way
    given: Any
    base: Any
    starts: Sequence[int | None]
    where: str


def entries(given: Mapping[str, Any], tree: Any, stem: Entry) -> Iterator[Entry]:
    """Entries of a group or of a derived type, each of the form that the base has.

    Args:
        given: by settings.
        tree: what f90nml reads there; None if the base has no such.
        stem: the group or derived type.

    Raises:
        ConfigError: settings and base do not fit each other.
    """
    for key, value in given.items():
        where = f"{stem.where}%{key}"
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise ConfigError(f"{where} must have a name, not {key!r}: members of a derived type stand by name in it.")
        if [str(other).lower() for other in given].count(key.lower()) > 1:
            raise ConfigError(f"{where} must be there once, whether in upper case or lower: take one out.")
        name = key.lower()
        base, starts = (tree[name], tree.start_index.get(name, ())) if tree is not None and name in tree else (ABSENT, ())
        yield from _fitting(Entry((*stem.components, (name, None)), (*stem.way, name), value, base, starts, where))


def _fitting(entry: Entry) -> Iterator[Entry]:
    """The entry itself, or what it consists of."""
    given, base = entry.given, entry.base
    unset = base is ABSENT or (base is None and not _has_members(given))
    if not unset and _form(given) != _form(base):
        raise ConfigError(f"{entry.where} is {_form(base)} in the base, not {_form(given)}: give as many, or {BY_A_TEMPLATE}.")
    if isinstance(given, Mapping):
        yield from entries(given, None if unset else base, entry)
    elif _has_members(given):
        yield from _elements(entry)
    else:
        yield entry


def _elements(entry: Entry) -> Iterator[Entry]:
    """Entries of an array of derived types."""
    if len(entry.starts) > 1 or not all(isinstance(item, Mapping) for item in entry.given):
        raise ConfigError(f"{entry.where} must be a list of derived types, each with its members by name: {BY_A_TEMPLATE}.")
    first = entry.starts[0] if entry.starts and entry.starts[0] is not None else 1
    trees = [None] * len(entry.given) if entry.base is ABSENT else entry.base
    for place, (item, tree) in enumerate(zip(entry.given, trees, strict=True)):
        components = (*entry.components[:-1], (entry.components[-1][0], first + place))
        yield from entries(
            item, tree, Entry(components, (*entry.way, place), item, tree, (), f"{entry.where}({first + place})")
        )


def _has_members(value: object) -> bool:
    """Whether a value is a derived type, or an array of them."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_has_members, value)))


def _form(value: object) -> str:
    """What a value is, in words; equal ones can take each other's place."""
    if isinstance(value, Mapping):
        return "a derived type"
    if not isinstance(value, list):
        return "one value"
    if any(isinstance(item, list) for item in value):
        return f"{len(value)} lists ({', '.join(map(_form, value))})"
    if any(isinstance(item, Mapping) for item in value):
        return f"a list of {len(value)} derived types"
    return "one value" if len(value) == 1 else f"a list of {len(value)} values"


def replaced(entry: Entry, group: Group) -> Iterator[Edit]:
    """What takes the place of an entry's values in the base.

    Raises:
        ConfigError: they cannot be told from others there, or the new ones do not fit.
    """
    found = [one for one in group.assignments if _designates(one, entry)]
    values = _values(entry, any(one.quoted for one in found))
    shares = [values] if len(found) == 1 else [_share(one, entry, values) for one in found]
    claimed = [value.way for share in shares for value in share]
    needed = [value.way for value in values if value.given is not None]
    if not set(needed) <= set(claimed) or len(set(claimed)) < len(claimed):
        raise ConfigError(
            f"{entry.where} is set {len(found)} times in the base, in pieces that these values do not fit: {BY_A_TEMPLATE}."
        )
    for one, share in zip(found, shares, strict=True):
        yield Edit(one.start, one.end, " " if one.start == one.end else "", share)


def added(entry: Entry, place: int, lead: str) -> Edit:
    """A line for an entry that the base does not have.

    Raises:
        ConfigError: it is no value or list of values.
    """
    if isinstance(entry.given, list) and (not entry.given or any(isinstance(item, list) for item in entry.given)):
        raise ConfigError(f"{entry.where} is not in the base, and must be a value or a list of values: {BY_A_TEMPLATE}.")
    designator = "%".join(name if index is None else f"{name}({index})" for name, index in entry.components)
    return Edit(place, place, f"{lead}  {designator} = ", _values(entry, False), "\n")


def _designates(one: Assignment, entry: Entry) -> bool:
    """Whether an assignment of the base sets the entry or a part of it."""
    inner, names = one.components[:-1], tuple(name for name, _ in entry.components)
    places = tuple(None if component.index is None else component.place for component in inner)
    open_ones = [component for component in inner if component.index is not None and component.place is None]
    return one.names == names and not open_ones and places == tuple(place for _, place in entry.components[:-1])


def _share(one: Assignment, entry: Entry, values: Sequence[Value]) -> list[Value]:
    """The values of a list that an assignment to a part of it sets."""
    index = one.components[-1].index
    if index is None or len(index) != len(entry.starts):
        return []
    bounds = list(zip(index, entry.starts, strict=True))[::-1]  # inner lists are the first dimension's
    depth = len(entry.way)
    return [
        value
        for value in values
        if len(value.way) == depth + len(bounds)
        and all(_within(place, *bound) for place, bound in zip(value.way[depth:], bounds, strict=True))
    ]


def _within(place: str | int, dimension: Dimension, start: int | None) -> bool:
    if dimension is None or isinstance(place, str):
        return False
    at = place + (1 if start is None else start)
    if isinstance(dimension, int):
        return at == dimension
    first, last = dimension
    return (first is None or first <= at) and (last is None or at <= last)


def _values(entry: Entry, quoted: bool) -> list[Value]:
    base = None if entry.base is ABSENT else entry.base
    found = list(_flat(entry.given, base, entry.way))
    kinds = kinds_of([before for _, _, before in found], quoted)
    return [
        Value(way, before, kind, _checked(given, before, entry.where), entry.where)
        for (way, given, before), kind in zip(found, kinds, strict=True)
    ]


def _flat(given: Any, base: Any, way: Way) -> Iterator[tuple[Way, Any, Any]]:
    """Values with the ways to them and what the base has there; a value alone is a list of one."""
    items = given if isinstance(given, list) else [given]
    before = base if isinstance(base, list) else [base] * len(items)
    for place, (item, of_base) in enumerate(zip(items, before, strict=True)):
        if isinstance(item, list):
            yield from _flat(item, of_base, (*way, place))
        else:
            yield (*way, place), item, of_base


def _checked(given: Any, base: object, where: str) -> Scalar | Text | None:
    if given is None and base is None:
        return None
    given = given.item() if isinstance(given, np.generic) else given
    if not isinstance(given, str | bool | int | float | complex):
        raise ConfigError(f"{where} must be a number, text, true or false, or a list of them, not {given!r}: write it as text.")
    return Text(given, where) if isinstance(given, str) and PLACEHOLDER in given else given
