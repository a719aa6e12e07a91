"""Scenario parameters among arrays that have names but no axes: single numbers, and lists of one for each simulation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.datasets.foreign.content import left_out
from deepzero_sim.datasets.foreign.options import SIMULATION
from deepzero_sim.datasets.foreign.variables import Source, Variable


def is_number(array: Source) -> bool:
    """Tell a single number, also one in brackets, as all numbers of MATLAB are."""
    return all(length == 1 for length in array.shape)


def is_list(array: Source) -> bool:
    """Tell a list of several entries, also one that is a row or a column, as all lists of MATLAB are."""
    return sum(length != 1 for length in array.shape) == 1 and 0 not in array.shape


def read_parameters(
    arrays: Mapping[str, Source], fields: Sequence[Variable], known: Collection[str]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the parameters among arrays that are nothing else.

    Args:
        arrays: Arrays of numbers, by name.
        fields: Fields of the same file.
        known: Names of parameters that the file has already.

    Returns:
        Parameters, each a list, by name; and sentences on those that cannot be used, and on lists that may be of something
        else as well.
    """
    simulations = next((count for field in fields if (count := field.length(SIMULATION)) is not None), 1)
    roles = {role for field in fields for role in field.roles if role != SIMULATION}
    alike = sorted(role for role in roles if any(field.length(role) == simulations for field in fields))
    spare = {name: array for name, array in arrays.items() if name not in known}
    lists = [name for name, array in spare.items() if is_list(array) and max(array.shape) == simulations]
    taken = [name for name, array in spare.items() if is_number(array) or (name in lists and not alike)]
    found = {name: spare[name].read((slice(None),) * len(spare[name].shape)).reshape(-1) for name in taken}
    infinite = [name for name, values in found.items() if not np.isfinite(values).all()]
    notes = [f"{left_out(infinite, 'is not finite', 'are not finite')}."] if infinite else []
    if alike and lists:
        either = f"{left_out(lists)}, as there are as many simulations as points along {' and '.join(alike)}"
        notes.append(f"{either}: give parameters by a list of their values.")
    return {name: values for name, values in found.items() if name not in infinite}, notes
