"""Entries of namelists that settings name, compared with the base's, and the edits of its text that set them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.common.requirements import Words, require
from deepzero_sim.connectors.programs.namelists.groups import Assignment, Dimension, Group
from deepzero_sim.connectors.programs.namelists.values import NULL, Kind, Placeholder, Scalar, kinds_of, spell
from deepzero_sim.connectors.programs.templates import PLACEHOLDER, Text
from deepzero_sim.errors import ConfigError

#: Remedy for a base that settings cannot be set in.
BY_A_TEMPLATE = "write this file by a template instead, under templates"

#: Names, and indices of lists, that lead to a value.
Address: TypeAlias = tuple[str | int, ...]

#: Mark of an entry that the base does not have.
ABSENT = object()


def require_settable(holds: bool, complaint: str) -> None:
    """Refuse settings that a base cannot take, unless a condition holds: a template can."""
    if not holds:
        raise ConfigError(f"{complaint}: {BY_A_TEMPLATE}.")


@dataclass(frozen=True)
class Value:
    """Value of an entry.

    Args:
        address: Address of the value.
        base: Value that the base has there.
        kind: Kind of the value; None if the base does not tell.
        given: Value of settings; None where the base has no value either.
        where: Place of the entry in settings, for messages.
    """

    address: Address
    base: object
    kind: Kind | None
    given: Scalar | Text | None
    where: str

    def part(self) -> str | Placeholder:
        """Return the part of the text that sets the value."""
        if isinstance(self.given, Text):
            return Placeholder(self.given, self.kind, self.where)
        return NULL if self.given is None else spell(self.given, self.kind, self.where)

    def trial(self, number: int) -> tuple[str, object]:
        """Return another value than the base's, as it is written and as it is read again."""
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
    """Values, with text before and after them, that take the place of the base's text from `start` to `end`."""

    start: int
    end: int
    before: str = ""
    values: Sequence[Value] = ()
    after: str = ""


@dataclass(frozen=True)
class Entry:
    """Entry that settings name.

    Args:
        components: Names of its designator, with the indices of elements of arrays of derived types.
        address: Address of the entry.
        given: Value of settings, or nested lists of values.
        base: Value that the base has there, or :data:`ABSENT`.
        starts: First indices of its dimensions, if the base gives it an index.
        where: Place of the entry in settings, for messages.
    """

    components: tuple[tuple[str, int | None], ...]
    address: Address
    given: Any
    base: Any
    starts: Sequence[int | None]
    where: str


def entries(given: Mapping[str, Any], tree: Any, stem: Entry) -> Iterator[Entry]:
    """Yield the entries of a group or of a derived type, each of the form that the base has.

    Args:
        given: Values of settings by name.
        tree: Values that f90nml reads there; None if the base has no such group or type.
        stem: Group or derived type.
    """
    for key, value in given.items():
        where = f"{stem.where}%{key}"
        named = isinstance(key, str) and re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII)
        require(bool(named), f"{where} must have a name", key, "members of a derived type stand by name in it")
        if [str(other).lower() for other in given].count(key.lower()) > 1:
            raise ConfigError(f"{where} must be there once, whether in upper case or lower: take one out.")
        name = key.lower()
        base, starts = (tree[name], tree.start_index.get(name, ())) if tree is not None and name in tree else (ABSENT, ())
        yield from _expand(Entry((*stem.components, (name, None)), (*stem.address, name), value, base, starts, where))


def _expand(entry: Entry) -> Iterator[Entry]:
    """Yield the entry itself, or the entries that it consists of."""
    given, base = entry.given, entry.base
    unset = base is ABSENT or (base is None and not _has_members(given))
    fits, form = unset or _form(given) == _form(base), f"{entry.where} is {_form(base)} in the base"
    require(fits, form, Words(_form(given)), f"give as many, or {BY_A_TEMPLATE}")
    if isinstance(given, Mapping):
        yield from entries(given, None if unset else base, entry)
    elif _has_members(given):
        yield from _elements(entry)
    else:
        yield entry


def _elements(entry: Entry) -> Iterator[Entry]:
    """Yield the entries of an array of derived types."""
    plain = len(entry.starts) <= 1 and all(isinstance(item, Mapping) for item in entry.given)
    require_settable(plain, f"{entry.where} must be a list of derived types, each with its members by name")
    first = entry.starts[0] if entry.starts and entry.starts[0] is not None else 1
    trees = [None] * len(entry.given) if entry.base is ABSENT else entry.base
    for place, (item, tree) in enumerate(zip(entry.given, trees, strict=True)):
        components = (*entry.components[:-1], (entry.components[-1][0], first + place))
        where = f"{entry.where}({first + place})"
        yield from entries(item, tree, Entry(components, (*entry.address, place), item, tree, (), where))


def _has_members(value: object) -> bool:
    """Tell whether a value is a derived type, or an array of them."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_has_members, value)))


def _form(value: object) -> str:
    """Describe the form of a value; values of equal forms can take each other's place."""
    if isinstance(value, Mapping):
        return "a derived type"
    if not isinstance(value, list):
        return "one value"
    if any(isinstance(item, list) for item in value):
        return f"{len(value)} lists ({', '.join(map(_form, value))})"
    if any(isinstance(item, Mapping) for item in value):
        return f"a list of {len(value)} derived types"
    return "one value" if len(value) == 1 else f"a list of {len(value)} values"


def replacements(entry: Entry, group: Group) -> Iterator[Edit]:
    """Yield the edits that replace an entry's values in the base."""
    assignments = [assignment for assignment in group.assignments if _designates(assignment, entry)]
    values = _values(entry, any(assignment.quoted for assignment in assignments))
    shares = [values] if len(assignments) == 1 else [_share(assignment, entry, values) for assignment in assignments]
    set_there = [value.address for share in shares for value in share]
    needed = {value.address for value in values if value.given is not None}
    apart = needed <= set(set_there) and len(set(set_there)) == len(set_there)
    times = f"is set {len(assignments)} times in the base"
    require_settable(apart, f"{entry.where} {times}, in pieces that these values do not fit")
    for assignment, share in zip(assignments, shares, strict=True):
        yield Edit(assignment.start, assignment.end, " " if assignment.start == assignment.end else "", share)


def addition(entry: Entry, place: int, lead: str) -> Edit:
    """Return the edit that adds a line for an entry that the base does not have."""
    given = entry.given
    flat = not isinstance(given, list) or (bool(given) and not any(isinstance(item, list) for item in given))
    require_settable(flat, f"{entry.where} is not in the base, and must be a value or a list of values")
    designator = "%".join(name if index is None else f"{name}({index})" for name, index in entry.components)
    return Edit(place, place, f"{lead}  {designator} = ", _values(entry, False), "\n")


def _designates(assignment: Assignment, entry: Entry) -> bool:
    """Tell whether an assignment of the base sets the entry or a part of it."""
    inner, names = assignment.components[:-1], [name for name, _ in entry.components]
    elements = tuple(None if component.index is None else component.element for component in inner)
    whole = all(component.index is None or component.element is not None for component in inner)
    same = [component.name for component in assignment.components] == names
    return same and whole and elements == tuple(index for _, index in entry.components[:-1])


def _share(assignment: Assignment, entry: Entry, values: Sequence[Value]) -> list[Value]:
    """Return the values of a list that an assignment to a part of it sets."""
    index = assignment.components[-1].index
    if index is None or len(index) != len(entry.starts):
        return []
    bounds = list(zip(index, entry.starts, strict=True))[::-1]  # inner lists are the first dimension's
    depth = len(entry.address)
    return [
        value
        for value in values
        if len(value.address) == depth + len(bounds)
        and all(_is_within(place, *bound) for place, bound in zip(value.address[depth:], bounds, strict=True))
    ]


def _is_within(place: str | int, dimension: Dimension, start: int | None) -> bool:
    if dimension is None or isinstance(place, str):
        return False
    element = place + (1 if start is None else start)
    if isinstance(dimension, int):
        return element == dimension
    first, last = dimension
    return (first is None or first <= element) and (last is None or element <= last)


def _values(entry: Entry, quoted: bool) -> list[Value]:
    base = None if entry.base is ABSENT else entry.base
    leaves = list(_leaves(entry.given, base, entry.address))
    kinds = kinds_of([before for _, _, before in leaves], quoted)
    return [
        Value(address, before, kind, _scalar(given, before, entry.where), entry.where)
        for (address, given, before), kind in zip(leaves, kinds, strict=True)
    ]


def _leaves(given: Any, base: Any, address: Address) -> Iterator[tuple[Address, Any, Any]]:
    """Yield values with their addresses and the base's values there; a value alone is a list of one."""
    items = given if isinstance(given, list) else [given]
    before = base if isinstance(base, list) else [base] * len(items)
    for place, (item, base_item) in enumerate(zip(items, before, strict=True)):
        if isinstance(item, list):
            yield from _leaves(item, base_item, (*address, place))
        else:
            yield (*address, place), item, base_item


def _scalar(given: Any, base: object, where: str) -> Scalar | Text | None:
    if given is None and base is None:
        return None
    given = given.item() if isinstance(given, np.generic) else given
    plain = isinstance(given, str | bool | int | float | complex)
    require(plain, f"{where} must be a number, text, true or false, or a list of them", given, "write it as text")
    return Text(given, where) if isinstance(given, str) and PLACEHOLDER in given else given
