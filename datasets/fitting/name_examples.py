"""Examples of settings that say which of a file's names is which of a solver's: dots where neither names nor units tell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from deepzero_sim.common.requirements import did_you_mean, require_that
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import turn_around
from deepzero_sim.datasets.units import conversion, same_unit, unit_to_show
from deepzero_sim.solver.spec import SolverSpec

#: Place that the user has to fill in.
_OPEN = "..."

#: Share of letters from which on two long names are alike.
_ALIKE = 0.9

#: Axes that have several names.
_AXES = {
    "y": {"lat", "latitude", "y", "nav_lat", "northing"},
    "x": {"lon", "longitude", "x", "nav_lon", "easting"},
    "z": {"lev", "level", "depth", "height", "altitude", "z"},
}


def example_of_channels(recording: Recording, spec: SolverSpec) -> str:
    """Write an example of `channels` for those that a solver has and a file lacks; the end of a sentence."""
    spare = [place for place, name in enumerate(recording.channels) if name not in spec.channels]
    lacking = [place for place, name in enumerate(spec.channels) if name not in recording.channels]
    found: dict[str, str] = {}
    for own in lacking:
        place = _channel(recording, spec, spare, lacking, own)
        if place is not None:
            found[recording.channels[place]] = spec.channels[own]
    names = [recording.channels[place] for place in spare]
    return _example({name: found[name] for name in names if name in found}, names, [spec.channels[own] for own in lacking])


def example_of_axes(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Write an example of `axes` for those that a solver has and a file lacks; the end of a sentence."""
    spare, lacking = ([name for name in one if name not in other] for one, other in ((theirs, ours), (ours, theirs)))
    if len(spare) == len(lacking) == 1:
        return _example({spare[0]: lacking[0]}, spare, lacking)
    found: dict[str, str] = {}
    for name in spare:
        alike = [own for own in lacking if any({name.lower(), own.lower()} <= names for names in _AXES.values())]
        found |= {name: alike[0]} if len(alike) == 1 else {}
    return _example(found, spare, lacking)


def require_side(given: Mapping[str, Any], known: Sequence[str], others: Collection[str], what: str, way: str) -> None:
    """Refuse keys that are no names of the side that they are to be of; the sentence says which, and turns around what fits.

    Args:
        given: Names or values by names.
        known: Names that the keys may be.
        others: Names of the other side.
        what: Name of the setting, and whose it is.
        way: Words on which side is which.
    """
    for name in given:
        require_that(
            name in known,
            f"{what} may have {', '.join(known)}, not {name!r}{did_you_mean(name, known)}"
            f"{turn_around(given, known, others, way)}.",
        )


def _example(found: dict[str, str], spare: Sequence[str], lacking: Sequence[str]) -> str:
    """Write an example: names that were found, and dots for the first one that was not."""
    left = [own for own in lacking if own not in found.values()]
    open_ = [name for name in spare if name not in found][: len(left)]
    entries = [f"{name}: {found[name]}" for name in spare if name in found] + [f"{name}: {_OPEN}" for name in open_]
    if not entries:
        return ""
    filled = f", with {' or '.join(left)} for the dots" if open_ else ""
    return f", such as {{{', '.join(entries)}}}{filled}"


def _channel(recording: Recording, spec: SolverSpec, spare: Sequence[int], lacking: Sequence[int], own: int) -> int | None:
    """Find the channel of a file that is one of a solver's: by its names, or as the only one on both sides of its unit."""
    wanted, unit = _letters(spec.channels[own]), spec.channel_units[own] if spec.channel_units else ""
    spare = [place for place in spare if _may_be(recording.channel_units[place], unit)]
    for alike in (lambda name: name == wanted, lambda name: _are_alike(name, wanted)):
        named = [place for place in spare if any(alike(_letters(name)) for name in _names(recording, place))]
        if len(named) == 1:
            return named[0]
    if not unit_to_show(unit):
        return None
    theirs = [place for place in spare if recording.channel_units[place] and same_unit(recording.channel_units[place], unit)]
    ours = [place for place in lacking if same_unit(spec.channel_units[place], unit)]
    return theirs[0] if len(theirs) == len(ours) == 1 else None


def _names(recording: Recording, place: int) -> tuple[str, ...]:
    return (recording.channels[place], *recording.channel_titles[place])


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _may_be(one: str, other: str) -> bool:
    """Tell units that may be those of one quantity."""
    return not unit_to_show(one) or not unit_to_show(other) or same_unit(one, other) or conversion(one, other) is not None


def _are_alike(one: str, other: str) -> bool:
    """Tell a name from its abbreviation or misspelling; `x_velocity` and `y_velocity` are no such pair."""
    short, long = sorted((one, other), key=len)
    if len(short) > 2 and long.startswith(short):
        return True
    ends = one[:1] == other[:1] and one[-1:] == other[-1:]
    return len(short) > 6 and ends and difflib.SequenceMatcher(None, one, other).ratio() >= _ALIKE
