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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepzero_sim.common.requirements import Words, did_you_mean, require
from deepzero_sim.connectors.programs.namelists.entries import (
    ABSENT,
    BY_A_TEMPLATE,
    Address,
    Edit,
    Entry,
    addition,
    entries,
    replacements,
    require_settable,
)
from deepzero_sim.connectors.programs.namelists.groups import find_groups, mentions_group
from deepzero_sim.connectors.programs.namelists.values import Placeholder
from deepzero_sim.connectors.programs.paths import inner_path
from deepzero_sim.connectors.programs.templates import Values, read_source
from deepzero_sim.errors import ConfigError, MissingExtraError

#: Largest number of characters of a base, and of entries of one of its groups: f90nml takes seconds for so many.
MOST_CHARACTERS, MOST_ENTRIES = 10**6, 2000

#: Largest number of values that repeat counts make: f90nml writes them out, some 250,000 a second.
MOST_VALUES = 200_000

#: Repeat counts, `3*1.0` and `3*`, and beginnings of groups, in comments and strings too.
_REPEATS, _HEADS = re.compile(r"(?<![\w.])(\d{1,18})\*"), re.compile(r"[&$]\s*[A-Za-z]")

#: Number of values in a line of a list.
IN_A_LINE = 6

#: Marks of a group, and of the first indices of an entry, among the values that f90nml reads.
_GROUP, _FIRST = "a group", "first places"


@dataclass(frozen=True)
class Namelists:
    """File of namelists, by its path in the working folder: a base in parts, of which some differ from state to state."""

    path: str
    parts: tuple[str | Placeholder, ...]

    def render(self, values: Values) -> str:
        """Return the text for one state."""
        return "".join(part if isinstance(part, str) else part.render(values) for part in self.parts)


def read_namelists(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Namelists, ...]:
    """Read the bases that settings name, and put their values in.

    Args:
        settings: Settings by the paths of the files in the working folder: `file`, the base, from the current folder, and
            `values`, by group and name.
    """
    fit = isinstance(settings, Mapping) and all(
        isinstance(entry, Mapping) and {"file"} <= set(entry) <= {"file", "values"} for entry in settings.values()
    )
    require(fit, "namelists must be a file and values by the paths that they are written to", settings)
    return tuple(
        _read_one(inner_path(path, "namelists"), entry["file"], entry.get("values", {})) for path, entry in settings.items()
    )


def groups_of(source: str | Path, names: Sequence[str]) -> dict[str, str]:
    """Find the group of each name among the entries of a base; names that no group has, or several have, are left out.

    Args:
        source: Path of the base.
        names: Names of entries, in upper case or lower.

    Raises:
        ConfigError: The base cannot be read.
    """
    found = _Base("namelist", str(source), read_source(source, "namelist", MOST_CHARACTERS)).groups_of(names)
    return {name: groups[0] for name, groups in found.items() if len(groups) == 1}


def _read_one(path: str, source: str | Path, groups: Any) -> Namelists:
    where = f"namelists: {path}"
    text = read_source(source, where, MOST_CHARACTERS)
    nested = isinstance(groups, Mapping) and all(isinstance(given, Mapping) for given in groups.values())
    require(nested, f"{where}: values must be given by group and name", groups)
    named = all(isinstance(name, str) for group, given in groups.items() for name in (group, *given))
    require(named, f"{where}: groups and what is in them must have names", groups)
    distinct = len({group.lower() for group in groups}) == len(groups)
    require(distinct, f"{where}: every group must be there once, whether in upper case or lower", Words(", ".join(groups)))
    base = _Base(where, str(source), text)
    edits = [edit for group, given in groups.items() for edit in base.edits(group, given)]
    base.require_no_other_change(edits)
    return Namelists(path, tuple(_parts(text, edits)))


@functools.cache
def _f90nml() -> ModuleType:
    try:
        import f90nml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("A namelist", "f90nml", "executable") from error
    module: ModuleType = f90nml
    return module


_reading = threading.Lock()


def _read(text: str) -> tuple[Any, list[str]]:
    """Return the values that f90nml reads in a text, and its warnings of values that it drops."""
    with _reading, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = _f90nml().reads(text)
    dropped = [str(warning.message) for warning in caught if "f90nml" in Path(warning.filename).parts]
    return read, [words.removeprefix("f90nml: warning: ").rstrip(".") for words in dropped]


class _Base:
    """Text of a base as f90nml reads it, with the positions of its groups and entries; messages tell its place and its file."""

    def __init__(self, where: str, source: str, text: str) -> None:
        _f90nml()
        self._where, self._source, self._text, self._groups = where, source, text, find_groups(text)
        self._require_size()
        try:
            self._read, dropped = _read(text)
        except Exception as error:  # garbage makes f90nml raise errors of many classes
            raise self._unreadable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        if not self._read:
            raise self._unreadable("f90nml finds no group")
        if dropped:
            lossy = f"{where}: {source}: f90nml does not keep all of {self._lossy_entry()} ({dropped[0]})"
            raise ConfigError(f"{lossy}: {BY_A_TEMPLATE}.")

    def _require_size(self) -> None:
        """Refuse a text that f90nml would read for seconds or longer."""
        for group in self._groups:
            few = len(group.assignments) <= MOST_ENTRIES
            require_settable(few, f"{self._where}: {group.name} of {self._source} has more than {MOST_ENTRIES} entries")
        values = sum(map(int, _REPEATS.findall(self._text)))
        much = f"repeat counts of {values} values in all" if values > MOST_VALUES else f"more than {MOST_ENTRIES} groups"
        fits = values <= MOST_VALUES and len(_HEADS.findall(self._text)) <= MOST_ENTRIES
        require_settable(fits, f"{self._where}: {self._source} has {much}, and f90nml takes very long to read that")

    def _unreadable(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._where}: {self._source} must hold namelists, &name ... /, but none can be read ({reason}): "
            f"mend it, or {BY_A_TEMPLATE}."
        )

    def _lossy_entry(self) -> str:
        """Name the entry that f90nml drops values of."""
        for group in self._groups:
            for assignment in group.assignments:
                if _read(f"&{group.name}\n{assignment.text}\n/\n")[1]:
                    return f"{group.name}%{assignment.text.partition('=')[0].strip()}"
        return "it"

    def groups_of(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the groups that have entries of these names."""
        groups = {str(group): given for group, given in self._read.items() if isinstance(given, Mapping)}
        return {name: [group for group in groups if name.lower() in map(str.lower, groups[group])] for name in names}

    def edits(self, name: str, given: Mapping[str, Any]) -> list[Edit]:
        """Return the edits that set values of a group."""
        where, key = f"{self._where}: {name}", name.lower()
        groups = [group for group in self._groups if group.name == key]
        trees = [tree for read, tree in self._read.items() if str(read).lower() == key]
        times = f"stands {len(groups)} times in {self._source}"
        require_settable(len(groups) <= 1, f"{where} {times}, and which is meant cannot be said")
        apart = len(groups) == len(trees) and (bool(groups) or not mentions_group(self._text, name))
        require_settable(apart, f"{where} cannot be told from what is around it in {self._source}")
        tree = trees[0] if trees else None
        named = list(entries(given, tree, Entry((), (key,), given, tree, (), where)))
        new = [entry for entry in named if entry.base is ABSENT]
        if not groups:
            return self._new_group(name, new)
        group = groups[0]
        changes = [edit for entry in named if entry.base is not ABSENT for edit in replacements(entry, group)]
        leads = ("" if group.at_line_start or number else "\n" for number in range(len(new)))
        return [*changes, *(addition(entry, group.end, lead) for entry, lead in zip(new, leads, strict=True))]

    def _new_group(self, name: str, new: Sequence[Entry]) -> list[Edit]:
        named = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
        require(bool(named), f"{self._where}: a group must have a name", name)
        if hint := did_you_mean(name.lower(), [group.name for group in self._groups]):
            raise ConfigError(
                f"{self._where}: {self._source} has no group {name}{hint}: add an empty one there if it is meant."
            )
        end, lead = len(self._text), "" if self._text.endswith("\n") else "\n"
        lines = [addition(entry, end, "") for entry in new]
        return [Edit(end, end, f"{lead}&{name}\n"), *lines, Edit(end, end, "/\n")]

    def require_no_other_change(self, edits: Sequence[Edit]) -> None:
        """Try other values in the places found: nothing but the named entries may differ then, as f90nml reads it."""
        values = [value for edit in edits for value in edit.values]
        if not values:
            return
        trials = {value.address: value.trial(number) for number, value in enumerate(values, 1001)}
        text = "".join(_pieces(self._text, edits, {address: spelling for address, (spelling, _) in trials.items()}))
        try:
            read, dropped = _read(text)
        except Exception as error:  # whatever the trial made of the text
            raise self._not_alone(values[0].where, str(error)) from error
        before, after = _by_address(self._read), _by_address(read)
        expected: dict[Address, object] = {address[:1]: _GROUP for address in trials}
        expected |= before | {address: _comparable(value) for address, (_, value) in trials.items()}
        for address in expected | after:
            new_index = address not in before and address[-1:] == (_FIRST,)
            if expected.get(address) != after.get(address) and not new_index:
                near = (value.where for value in values if value.address[: len(address) - 1] == address[:-1])
                reason = f"{'%'.join(map(str, address))} would differ, too"
                raise self._not_alone(next(near, values[0].where), reason)
        if dropped:
            raise self._not_alone(values[0].where, dropped[0])

    def _not_alone(self, where: str, reason: str) -> ConfigError:
        return ConfigError(f"{where} cannot be set in {self._source} without changing more of it ({reason}): {BY_A_TEMPLATE}.")


def _parts(text: str, edits: Sequence[Edit]) -> Iterator[str | Placeholder]:
    """Yield the parts of a text with its edits; neighbours that are the same for all states are put together."""
    fixed: list[str] = []
    for part in _pieces(text, edits, {value.address: value.part() for edit in edits for value in edit.values}):
        if isinstance(part, str):
            fixed.append(part)
            continue
        yield "".join(fixed)
        yield part
        fixed.clear()
    yield "".join(fixed)


def _pieces(text: str, edits: Sequence[Edit], spellings: Mapping[Address, Any]) -> Iterator[Any]:
    """Yield the pieces of a text with its edits, whose values are looked up by their addresses."""
    done = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        yield text[done : edit.start]
        yield edit.before
        for number, value in enumerate(edit.values):
            if number:
                yield ", " if number % IN_A_LINE else ",\n    "
            yield spellings[value.address]
        yield edit.after
        done = edit.end
    yield text[done:]


def _by_address(read: Any) -> dict[Address, object]:
    """Return all that f90nml has read, by address; values alone are lists of one, as an entry's are."""
    flat: dict[Address, object] = {}
    times: Counter[str] = Counter()
    for name, tree in read.items():
        key = str(name).lower()
        address = (key, times[key]) if times[key] else (key,)
        times[key] += 1
        flat[address] = _GROUP
        _flatten(tree, address, flat)
    return flat


def _flatten(value: Any, address: Address, flat: dict[Address, object]) -> None:
    if isinstance(value, Mapping):
        for name, member in value.items():
            _flatten(member if isinstance(member, Mapping | list) else [member], (*address, str(name)), flat)
        for name, first in getattr(value, "start_index", {}).items():
            flat[(*address, str(name), _FIRST)] = tuple(first)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _flatten(item, (*address, place), flat)
    else:
        flat[address] = _comparable(value)


def _comparable(value: object) -> tuple[str, str]:
    """Return a value in a form that can be compared: 1 is not 1.0, and NaN is NaN."""
    return type(value).__name__, repr(value)
