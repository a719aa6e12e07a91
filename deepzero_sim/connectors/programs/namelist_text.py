"""Where the groups of a file of Fortran namelists, and the entries in them, stand in its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

#: One dimension of an index: a place, a range of places with open ends as None, or None where it is neither.
Dimension: TypeAlias = int | tuple[int | None, int | None] | None

#: Text in quotes, and comments. A quote within a word, as in `it's`, opens none.
_HIDDEN = re.compile(r"""(?<![\w'"])(?:'(?:[^']|'')*'|"(?:[^"]|"")*")|![^\n]*""")

_GROUP = re.compile(r"[&$]\s*([A-Za-z_]\w*)([^/&$]*)[/&$]")

_COMPONENT = r"[A-Za-z_]\w*(?:\s*\([^()=]*\))?"

_ASSIGNED = re.compile(rf"(?<![\w.%])({_COMPONENT}(?:\s*%\s*{_COMPONENT})*)\s*=")

_RANGE = re.compile(r"\s*([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*")


@dataclass(frozen=True)
class Component:
    """One name of a designator such as `wall(2)%x`.

    Args:
        name: in lower case.
        index: the dimensions of its index; None without one.
    """

    name: str
    index: tuple[Dimension, ...] | None

    @property
    def place(self) -> int | None:
        """Place of the one element that an index of one dimension names; None if it names no such element."""
        only = self.index[0] if self.index is not None and len(self.index) == 1 else None
        return only if isinstance(only, int) else None


@dataclass(frozen=True)
class Assignment:
    """`designator = values` in a group.

    Args:
        components: of the designator.
        start: of the values in the text.
        end: of the values in the text.
        text: all of it.
        quoted: whether any of the values stand in quotes.
    """

    components: tuple[Component, ...]
    start: int
    end: int
    text: str
    quoted: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the designator."""
        return tuple(component.name for component in self.components)


@dataclass(frozen=True)
class Group:
    """A namelist `&name ... /`.

    Args:
        name: in lower case.
        assignments: in the order of the text.
        end: where more can be written, in front of what ends the group.
        fresh: whether a line begins there.
    """

    name: str
    assignments: tuple[Assignment, ...]
    end: int
    fresh: bool


def find_groups(text: str) -> list[Group]:
    """Find all groups of a file."""
    masked = _HIDDEN.sub(lambda found: _cover(found[0]), text)
    return [_group(text, masked, found) for found in _GROUP.finditer(masked)]


def mentions_group(text: str, name: str) -> bool:
    """Whether a text seems to hold a group, wherever."""
    return re.search(rf"[&$]\s*{re.escape(name)}\b", text, re.IGNORECASE) is not None


def _cover(hidden: str) -> str:
    """What hides a comment or text in quotes from the expressions above, as long as it."""
    return (" " if hidden[0] == "!" else '"') * len(hidden)


def _group(text: str, masked: str, found: re.Match[str]) -> Group:
    end = found.end(2)
    line = text[text.rfind("\n", 0, end) + 1 : end]
    fresh = not line.strip()
    return Group(found[1].lower(), tuple(_assignments(text, masked, *found.span(2))), end - len(line) * fresh, fresh)


def _assignments(text: str, masked: str, start: int, end: int) -> Iterator[Assignment]:
    heads = list(_ASSIGNED.finditer(masked, start, end))
    stops = [*(head.start() for head in heads), end][1:]
    for head, stop in zip(heads, stops, strict=True):
        values = masked[head.end() : stop]
        kept = values.rstrip().removesuffix(",").rstrip()  # the last comma only parts them from what follows
        first = head.end() + (len(kept) - len(kept.lstrip()) if kept else 0)
        last = head.end() + len(kept)
        yield Assignment(_components(head[1]), first, last, text[head.start() : last], '"' in values)


def _components(designator: str) -> tuple[Component, ...]:
    parts = (part.partition("(") for part in designator.split("%"))
    return tuple(Component(name.strip().lower(), _index(inner) if bracket else None) for name, bracket, inner in parts)


def _index(inner: str) -> tuple[Dimension, ...]:
    return tuple(map(_dimension, inner.rpartition(")")[0].split(",")))


def _dimension(text: str) -> Dimension:
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        return int(text)
    if found := _RANGE.fullmatch(text):
        first, last = (None if end is None else int(end) for end in found.groups())
        return first, last
    return None
