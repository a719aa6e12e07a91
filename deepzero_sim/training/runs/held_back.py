"""Simulations that are held back from training: which ones, and how their parameters lie to those that are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import select
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.runs.settings import TrainSettings

#: Numbers that a sentence lists; of the others it says how many they are.
MOST_LISTED = 8

#: Groups of simulations that share parameters, from which on whole groups are held back.
LEAST_GROUPS = 4


@dataclass(frozen=True, eq=False)
class Division:
    """Data divided into those to train on and those held back.

    Args:
        trained: Data to train on.
        held_back: Data held back; None if there are none.
        numbers: Numbers of the simulations held back, in the file.
        all_numbers: Numbers of all simulations of the data.
    """

    trained: Trajectories
    held_back: Trajectories | None = None
    numbers: tuple[int, ...] = ()
    all_numbers: tuple[int, ...] = ()


def suitable_held_back(simulations: int) -> int:
    """Return how many of so many simulations are held back where nobody said: about a fifth, none of one or two."""
    return max(1, round(simulations / 5)) if simulations >= 3 else 0


def suitable_count(data: Trajectories) -> int:
    """Return how many simulations of these data are held back where nobody said: whole groups of those that share parameters.

    Args:
        data: Trajectories.
    """
    groups = _groups(data)
    if not groups:
        return suitable_held_back(data.frames.shape[0])
    return sum(len(groups[one]) for one in _choose_rows(_rows_of(data, groups), suitable_held_back(len(groups))))


def numbers_of(data: Trajectories) -> list[int]:
    """Return the numbers that simulations have in their file."""
    return list(range(data.frames.shape[0])) if data.numbers is None else [int(number) for number in data.numbers]


def choose(data: Trajectories, count: int) -> list[int]:
    """Choose simulations to hold back, spread evenly over those whose parameters lie within the range of the others.

    The first simulation of the smallest and of the largest value of each parameter is left to training, unless too few would
    remain. Where simulations share parameters, all of some parameters are held back, so that training sees none of these, if
    there are at least :data:`LEAST_GROUPS` groups and whole ones make up the number. The choice depends on the order and the
    parameters of the simulations alone.

    Args:
        data: Trajectories.
        count: Number of simulations to hold back, fewer than there are.

    Returns:
        Their numbers in the file, in the order of the data.
    """
    numbers, groups = numbers_of(data), _groups(data)
    for several in range(1, len(groups)):
        places = sorted(place for one in _choose_rows(_rows_of(data, groups), several) for place in groups[one])
        if len(places) == count:
            return [numbers[place] for place in places]
    return [numbers[place] for place in _choose_rows(np.asarray(data.params), count)]


def _groups(data: Trajectories) -> list[list[int]]:
    """Return the places of simulations that share parameters, in the order of the data; none if there are too few groups."""
    found: dict[tuple[float, ...], list[int]] = {}
    for place, row in enumerate(np.asarray(data.params).tolist()):
        found.setdefault(tuple(row), []).append(place)
    groups = list(found.values())
    return groups if LEAST_GROUPS <= len(groups) < data.frames.shape[0] else []


def _rows_of(data: Trajectories, groups: Sequence[Sequence[int]]) -> Array:
    """Return the parameters of each group, `(G, K)`."""
    rows: Array = np.asarray(data.params)[[group[0] for group in groups]]
    return rows


def _choose_rows(params: Array, count: int) -> list[int]:
    """Choose so many rows of parameters, spread evenly over those within the range of the others, where there are enough."""
    varied = [values for values in params.T if values.min() < values.max()]
    extremes = {int(place) for values in varied for place in (values.argmin(), values.argmax())}
    inner = [place for place in range(len(params)) if place not in extremes]
    places = inner if len(inner) >= count else list(range(len(params)))
    return [places[one] for one in _spread_evenly(len(places), count)]


def _spread_evenly(length: int, count: int) -> list[int]:
    """Return so many different places of a list, evenly spread, without its ends where that is possible."""
    inside = np.unique(np.linspace(0, length - 1, count + 2)[1:-1].round().astype(int))
    places = inside if len(inside) == count else np.linspace(0, length - 1, count).round().astype(int)
    return [int(place) for place in places]


def divide(data: Trajectories, settings: TrainSettings, recorded: Mapping[str, Any]) -> Division:
    """Divide data into those to train on and those held back.

    Args:
        data: Trajectories of the training.
        settings: Settings that say how many are held back, or which.
        recorded: Settings that the run folder has recorded; empty of a new run. A run goes on with what it was begun with,
            and one of earlier versions, which recorded no numbers, with the last simulations.

    Raises:
        DataError: Nothing would be left to train on, or the data lack a simulation that is to be held back.
    """
    known, simulations = numbers_of(data), data.frames.shape[0]
    chosen = settings.held_back_simulations
    count = len(chosen) if chosen is not None else settings.held_back or 0
    require_data(
        count < simulations,
        f"held_back must leave a simulation to train on, but the data have {simulations} and {count} are held back: hold back "
        "fewer, or name validation_data.",
    )
    if not count:
        return Division(data, all_numbers=tuple(known))
    if chosen is None:
        chosen = _choice_in_record(recorded, count, known) or choose(data, count)
    strangers = [number for number in chosen if number not in known]
    require_data(
        not strangers,
        f"held_back_simulations must be numbers of simulations of train_data ({list_numbers(known)}), and {strangers[:1]} is "
        "none of them: name others.",
    )
    places = [known.index(number) for number in chosen]
    others = [place for place in range(simulations) if place not in places]
    return Division(_part(data, others), _part(data, places), tuple(chosen), tuple(known))


def numbers_in_record(recorded: Mapping[str, Any], numbers: Sequence[int]) -> list[int]:
    """Return the numbers of the simulations that a run held back, by its recorded settings.

    Args:
        recorded: Settings that its folder has recorded.
        numbers: Numbers of all simulations of its data.
    """
    count, chosen = recorded.get("held_back", 0), recorded.get("held_back_simulations")
    return list(chosen) if chosen is not None else list(numbers[len(numbers) - count :])


def with_choice(settings: TrainSettings, division: Division, recorded: Mapping[str, Any]) -> TrainSettings:
    """Return settings that name the simulations held back; those of a run of an earlier version name none, as it did."""
    chosen = list(division.numbers) or None
    if (
        recorded
        and recorded.get("held_back_simulations") is None
        and chosen == numbers_in_record(recorded, division.all_numbers)
    ):
        chosen = None
    return replace(settings, held_back_simulations=chosen)


def _choice_in_record(recorded: Mapping[str, Any], count: int, known: list[int]) -> list[int] | None:
    """Return what a run was begun with, if it held back so many."""
    return numbers_in_record(recorded, known) if recorded.get("held_back") == count else None


def _part(data: Trajectories, places: list[int]) -> Trajectories:
    numbers = numbers_of(data)
    frames, params = select(data.frames, places), data.params[places]
    return replace(data, frames=frames, params=params, numbers=[numbers[place] for place in places])


# ---- sentences


def list_numbers(numbers: Sequence[int]) -> str:
    """Write `0`, `0 and 3`, `0, 3 and 7`; of many the first ones, and how many more there are."""
    shown = [str(number) for number in numbers[:MOST_LISTED]]
    if len(numbers) > len(shown):
        return f"{', '.join(shown)} and {len(numbers) - len(shown)} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def name_simulations(numbers: Sequence[int]) -> str:
    """Write `simulation 3`, or `simulations 3 and 7`."""
    return f"simulation{'' if len(numbers) == 1 else 's'} {list_numbers(numbers)}"


def outside(trained: Trajectories, others: Trajectories, names: Sequence[str]) -> str:
    """Say which simulations have parameters beyond those that are trained on; empty if none has.

    Args:
        trained: Data that are trained on.
        others: Data that are not.
        names: Names of the parameters.
    """
    low, high = (_limits(trained.params, limit) for limit in ("min", "max"))
    beyond = np.asarray((others.params < low) | (others.params > high))
    if not beyond.any():
        return ""
    numbers = numbers_of(others)
    found = dict.fromkeys(numbers[place] for place in np.flatnonzero(beyond.any(axis=1)))
    which = [
        f"{names[k]} {_values(others.params[beyond[:, k], k])}, trained on {low[k]:g} to {high[k]:g}"
        for k in np.flatnonzero(beyond.any(axis=0)).tolist()
    ]
    verb = "lies" if len(found) == 1 else "lie"
    return f"{name_simulations(list(found))} {verb} outside what is trained on ({'; '.join(which)})"


def shared(trained: Trajectories, others: Trajectories) -> list[int]:
    """Return the numbers of simulations whose parameters are trained on, too; none of data without parameters.

    Args:
        trained: Data that are trained on.
        others: Data that are not.
    """
    if not others.params.shape[1]:
        return []
    known = {tuple(row) for row in np.asarray(trained.params).tolist()}
    rows = zip(numbers_of(others), np.asarray(others.params).tolist(), strict=True)
    return list(dict.fromkeys(number for number, row in rows if tuple(row) in known))


def _limits(params: Array, limit: str) -> Array:
    limits: Array = getattr(params, limit)(axis=0)
    return limits


def _values(values: NDArray[Any]) -> str:
    found = np.unique(values)
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"
