"""Fortran namelists with values filled in.

A base is a text in which only the values that settings name are replaced: all else reaches the program to the letter. When a
solver is made, f90nml is the judge of that: it reads the base, and the base with other values in the places that were found,
and the two may differ in the named entries alone. A deck is then put together from parts that no call ever changes.
"""

from __future__ import annotations

import functools
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.connectors.programs.namelist_entries import ABSENT, BY_A_TEMPLATE, Edit, Entry, Way, added, entries, replaced
from deepzero_sim.connectors.programs.namelist_text import Group, find_groups, mentions_group
from deepzero_sim.connectors.programs.namelist_values import Filled
from deepzero_sim.connectors.programs.paths import inner_path
from deepzero_sim.connectors.programs.templates import Values, read_source
from deepzero_sim.errors import ConfigError, MissingExtraError

#: Characters of a base, and entries of one of its groups: f90nml takes seconds for so many.
MOST_CHARACTERS, MOST_ENTRIES = 10**6, 2000

#: Values that repeat counts make, at most: f90nml writes them out, some 250,000 a second.
MOST_VALUES = 200_000

#: Repeat counts, `3*1.0` and `3*`, and where groups may begin, comments and strings not told apart.
_REPEATS, _HEADS = re.compile(r"(?<![\w.])(\d{1,18})\*"), re.compile(r"[&$]\s*[A-Za-z]")

#: Values in a line of a list.
IN_A_LINE = 6

#: What stands for a group, and for the first places of an entry, among what f90nml reads.
_GROUP, _FIRST = "a group", "first places"


@dataclass(frozen=True)
class Namelists:
    """A file of namelists: the text of a base, with some values in it replaced.

    Args:
        path: in the working folder.
        parts: of the text, in order; those that differ from state to state are filled in.
    """

    path: str
    parts: tuple[str | Filled, ...]

    def render(self, values: Values) -> str:
        """Fill it in for one state.

        Raises:
            ConfigError: a value cannot be filled in, or does not fit its entry.
        """
        return "".join(part if isinstance(part, str) else part.render(values) for part in self.parts)


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
        _namelists(inner_path(path, "namelists"), entry["file"], entry.get("values", {})) for path, entry in settings.items()
    )


def _namelists(path: str, source: str | Path, groups: Any) -> Namelists:
    where = f"namelists: {path}"
    text = read_source(source, where, MOST_CHARACTERS)
    if not isinstance(groups, Mapping) or not all(isinstance(entries, Mapping) for entries in groups.values()):
        raise ConfigError(f"{where}: values must be given by group and name, not {groups!r}.")
    if not all(isinstance(name, str) for group, given in groups.items() for name in (group, *given)):
        raise ConfigError(f"{where}: groups and what is in them must have names, not {groups!r}.")
    if len({group.lower() for group in groups}) < len(groups):
        raise ConfigError(f"{where}: every group must be there once, whether in upper case or lower, not {', '.join(groups)}.")
    base = _Base(where, str(source), text)
    edits = [edit for group, given in groups.items() for edit in base.edits(group, given)]
    base.need_change_alone(edits)
    return Namelists(path, tuple(_parts(text, edits)))


@functools.cache
def _f90nml() -> ModuleType:
    try:
        import f90nml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("A namelist", "f90nml", "executable") from error
    found: ModuleType = f90nml
    return found


_reading = threading.Lock()


def _read(text: str) -> tuple[Any, list[str]]:
    """What f90nml reads in a text, and what it says was removed."""
    with _reading, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = _f90nml().reads(text)
    removed = [str(one.message) for one in caught if "f90nml" in Path(one.filename).parts]
    return read, [words.removeprefix("f90nml: warning: ").rstrip(".") for words in removed]


class _Base:
    """A base as f90nml reads it, and where its groups and entries stand.

    Args:
        where: it is named in settings.
        source: its file.
        text: of the file.

    Raises:
        ConfigError: it cannot be read, or f90nml drops something of it.
        MissingExtraError: f90nml is not installed.
    """

    def __init__(self, where: str, source: str, text: str) -> None:
        _f90nml()
        self._where, self._source, self._text, self._groups = where, source, text, find_groups(text)
        if crowded := [group.name for group in self._groups if len(group.assignments) > MOST_ENTRIES]:
            raise ConfigError(f"{where}: {crowded[0]} of {source} has more than {MOST_ENTRIES} entries: {BY_A_TEMPLATE}.")
        if (values := sum(map(int, _REPEATS.findall(text)))) > MOST_VALUES or len(_HEADS.findall(text)) > MOST_ENTRIES:
            what = f"repeat counts of {values} values in all" if values > MOST_VALUES else f"more than {MOST_ENTRIES} groups"
            raise ConfigError(f"{where}: {source} has {what}, and f90nml takes very long to read that: {BY_A_TEMPLATE}.")
        try:
            self._read, removed = _read(text)
        except Exception as error:  # whatever garbage makes of it
            raise self._unreadable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        if not self._read:
            raise self._unreadable("f90nml finds no group")
        if removed:
            raise ConfigError(
                f"{where}: {source}: f90nml does not keep all of {self._losing()} ({removed[0]}): {BY_A_TEMPLATE}."
            )

    def _unreadable(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._where}: {self._source} must hold namelists, &name ... /, but none can be read ({reason}): "
            f"mend it, or {BY_A_TEMPLATE}."
        )

    def _losing(self) -> str:
        """The entry that f90nml drops values of."""
        for group in self._groups:
            for one in group.assignments:
                if _read(f"&{group.name}\n{one.text}\n/\n")[1]:
                    return f"{group.name}%{one.text.partition('=')[0].strip()}"
        return "it"

    def edits(self, name: str, given: Mapping[str, Any]) -> list[Edit]:
        """What is to be replaced in a group.

        Raises:
            ConfigError: settings and base do not fit each other.
        """
        where, key = f"{self._where}: {name}", name.lower()
        found = [group for group in self._groups if group.name == key]
        trees = [tree for read, tree in self._read.items() if str(read).lower() == key]
        if len(found) > 1:
            raise ConfigError(
                f"{where} stands {len(found)} times in {self._source}, and which is meant cannot be said: {BY_A_TEMPLATE}."
            )
        if len(found) != len(trees) or (not found and mentions_group(self._text, name)):
            raise ConfigError(f"{where} cannot be told from what is around it in {self._source}: {BY_A_TEMPLATE}.")
        tree = trees[0] if trees else None
        made = list(entries(given, tree, Entry((), (key,), given, tree, (), where)))
        changed = [edit for entry in made if entry.base is not ABSENT for edit in replaced(entry, found[0])]
        new = [entry for entry in made if entry.base is ABSENT]
        return [*changed, *(_more(found[0], new) if found else self._new_group(name, new))]

    def _new_group(self, name: str, new: Sequence[Entry]) -> list[Edit]:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ConfigError(f"{self._where}: a group must have a name, not {name!r}.")
        if hint := did_you_mean(name.lower(), [group.name for group in self._groups]):
            raise ConfigError(
                f"{self._where}: {self._source} has no group {name}{hint}: add an empty one there if it is meant."
            )
        end, lead = len(self._text), "" if self._text.endswith("\n") else "\n"
        lines = [added(entry, end, "") for entry in new]
        return [Edit(end, end, f"{lead}&{name}\n"), *lines, Edit(end, end, "/\n")]

    def need_change_alone(self, edits: Sequence[Edit]) -> None:
        """Hold the places found against f90nml: with other values in them, nothing but the named entries may differ.

        Raises:
            ConfigError: more differs, or less.
        """
        values = [value for edit in edits for value in edit.values]
        if not values:
            return
        trials = {value.way: value.trial(number) for number, value in enumerate(values, 1001)}
        text = "".join(_pieces(self._text, edits, {way: spelt for way, (spelt, _) in trials.items()}))
        before = _by_way(self._read)
        expected = {**before, **{way: _told(value) for way, (_, value) in trials.items()}}
        try:
            read, removed = _read(text)
        except Exception as error:  # whatever the trial made of it
            raise self._not_alone(values[0].where, str(error)) from error
        found = _by_way(read)
        ours = {**{way[:1]: _GROUP for way in trials}, **expected}
        for way in {**ours, **found}:
            new_index = way not in before and way[-1:] == (_FIRST,)
            if ours.get(way) != found.get(way) and not new_index:
                where = next((value.where for value in values if value.way[: len(way) - 1] == way[:-1]), values[0].where)
                raise self._not_alone(where, f"{'%'.join(map(str, way))} would differ, too")
        if removed:
            raise self._not_alone(values[0].where, removed[0])

    def _not_alone(self, where: str, reason: str) -> ConfigError:
        return ConfigError(f"{where} cannot be set in {self._source} without changing more of it ({reason}): {BY_A_TEMPLATE}.")


def _more(group: Group, new: Sequence[Entry]) -> list[Edit]:
    return [added(entry, group.end, "" if group.fresh or number else "\n") for number, entry in enumerate(new)]


def _parts(text: str, edits: Sequence[Edit]) -> Iterator[str | Filled]:
    """Parts of a text with its edits; what is the same for all states is put together."""
    fixed: list[str] = []
    for part in _pieces(text, edits, {value.way: value.part() for edit in edits for value in edit.values}):
        if isinstance(part, str):
            fixed.append(part)
            continue
        yield "".join(fixed)
        yield part
        fixed.clear()
    yield "".join(fixed)


def _pieces(text: str, edits: Sequence[Edit], spelt: Mapping[Way, Any]) -> Iterator[Any]:
    """Pieces of a text with what is spelt in place of its edits."""
    done = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        yield text[done : edit.start]
        yield edit.before
        for number, value in enumerate(edit.values):
            if number:
                yield ", " if number % IN_A_LINE else ",\n    "
            yield spelt[value.way]
        yield edit.after
        done = edit.end
    yield text[done:]


def _by_way(read: Any) -> dict[Way, object]:
    """All that f90nml has read, by the ways to it; values alone are lists of one, as an entry's are."""
    found: dict[Way, object] = {}
    times: dict[str, int] = {}
    for name, tree in read.items():
        key = str(name).lower()
        times[key] = times.get(key, -1) + 1
        way = (key, times[key]) if times[key] else (key,)
        found[way] = _GROUP
        _gather(tree, way, found)
    return found


def _gather(value: Any, way: Way, found: dict[Way, object]) -> None:
    if isinstance(value, Mapping):
        for name, member in value.items():
            _gather(member if isinstance(member, Mapping | list) else [member], (*way, str(name)), found)
        for name, first in getattr(value, "start_index", {}).items():
            found[(*way, str(name), _FIRST)] = tuple(first)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _gather(item, (*way, place), found)
    else:
        found[way] = _told(value)


def _told(value: object) -> tuple[str, str]:
    """A value that can be compared: 1 is not 1.0, and NaN is NaN."""
    return type(value).__name__, repr(value)
