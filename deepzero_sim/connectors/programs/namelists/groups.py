"""Positions of groups and their entries in the text of a file of Fortran namelists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

#: One dimension of an index: an element, a range of elements with open ends as None, or None where it is neither.
Dimension: TypeAlias = int | tuple[int | None, int | None] | None

#: Text in quotes, and comments. A quote within a word, as in `it's`, opens none.
_HIDDEN = re.compile(r"""(?<![\w'"])(?:'(?:[^']|'')*'|"(?:[^"]|"")*")|![^\n]*""")

_GROUP = re.compile(r"[&$]\s*([A-Za-z_]\w*)([^/&$]*)[/&$]")

_COMPONENT = r"[A-Za-z_]\w*(?:\s*\([^()=]*\))?"

_DESIGNATOR = re.compile(rf"(?<![\w.%])({_COMPONENT}(?:\s*%\s*{_COMPONENT})*)\s*=")

_RANGE = re.compile(r"\s*([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*")


@dataclass(frozen=True)
class Component:
    """One name of a designator such as `wall(2)%x`, in lower case, with the dimensions of its index; None without one."""

    name: str
    index: tuple[Dimension, ...] | None

    @property
    def element(self) -> int | None:
        """The one element that an index of one dimension names; None if it names no such element."""
        only = self.index[0] if self.index is not None and len(self.index) == 1 else None
        return only if isinstance(only, int) else None


@dataclass(frozen=True)
class Assignment:
    """Assignment `designator = values` in a group, whose values stand from `start` to `end`; `quoted` if any are in quotes."""

    components: tuple[Component, ...]
    start: int
    end: int
    text: str
    quoted: bool


@dataclass(frozen=True)
class Group:
    """Namelist `&name ... /`.

    Args:
        name: Name in lower case.
        assignments: Assignments in the order of the text.
        end: Position where more can be written, in front of what ends the group.
        at_line_start: True if a line begins there.
    """

    name: str
    assignments: tuple[Assignment, ...]
    end: int
    at_line_start: bool


def find_groups(text: str) -> list[Group]:
    """Find all groups of a file."""
    # comments and text in quotes are covered, so that the expressions find nothing in them and positions stay
    masked = _HIDDEN.sub(lambda match: (" " if match[0][0] == "!" else '"') * len(match[0]), text)
    return [_group(text, masked, match) for match in _GROUP.finditer(masked)]


def mentions_group(text: str, name: str) -> bool:
    """Tell whether a text seems to hold a group, in comments and text in quotes too."""
    return re.search(rf"[&$]\s*{re.escape(name)}\b", text, re.IGNORECASE) is not None


def _group(text: str, masked: str, match: re.Match[str]) -> Group:
    end = match.end(2)
    line = text[text.rfind("\n", 0, end) + 1 : end]
    at_start = not line.strip()
    assignments = tuple(_assignments(text, masked, *match.span(2)))
    return Group(match[1].lower(), assignments, end - len(line) * at_start, at_start)


def _assignments(text: str, masked: str, start: int, end: int) -> Iterator[Assignment]:
    heads = list(_DESIGNATOR.finditer(masked, start, end))
    stops = [*(head.start() for head in heads), end][1:]
    for head, stop in zip(heads, stops, strict=True):
        behind = masked[head.end() : stop]
        values = behind.rstrip().removesuffix(",").rstrip()  # the last comma only parts them from what follows
        first = head.end() + (len(values) - len(values.lstrip()) if values else 0)
        last = head.end() + len(values)
        yield Assignment(_components(head[1]), first, last, text[head.start() : last], '"' in behind)


def _components(designator: str) -> tuple[Component, ...]:
    parts = (part.partition("(") for part in designator.split("%"))
    return tuple(Component(name.strip().lower(), _index(inner) if bracket else None) for name, bracket, inner in parts)


def _index(inner: str) -> tuple[Dimension, ...]:
    return tuple(map(_dimension, inner.rpartition(")")[0].split(",")))


def _dimension(text: str) -> Dimension:
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        return int(text)
    if match := _RANGE.fullmatch(text):
        first, last = (None if end is None else int(end) for end in match.groups())
        return first, last
    return None
