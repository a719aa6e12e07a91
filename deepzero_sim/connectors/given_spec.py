"""A solver's spec as settings give it: a SolverSpec, or a mapping of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.solver import SolverSpec

#: A spec, or its fields by name.
GivenSpec: TypeAlias = SolverSpec | Mapping[str, Any]


def spec_of(given: GivenSpec, **usual: Any) -> SolverSpec:
    """The spec that is given, its fields filled up with usual ones where it is a mapping.

    Args:
        given: a spec, or its fields; lists of YAML stand for tuples.
        usual: fields that a mapping may leave out.

    Raises:
        ConfigError: it is neither, or has a field that there is not.
    """
    if isinstance(given, SolverSpec):
        return given
    names = [field.name for field in fields(SolverSpec)]
    if not isinstance(given, Mapping):
        raise ConfigError(f"a spec must be a SolverSpec or a mapping of its fields, not {given!r}.")
    unknown = [key for key in given if key not in names]
    if unknown:
        raise ConfigError(f"a spec has the fields {', '.join(names)}, not {unknown[0]!r}: check the spelling.")
    known = {**usual, **{key: _tuples(value) for key, value in given.items()}}
    if known.get("mask") is not None:
        known["mask"] = np.asarray(known["mask"], dtype=bool)
    try:
        return SolverSpec(**known)
    except TypeError as error:
        raise ConfigError(
            f"a spec cannot be made of {dict(given)} ({error}): give its state_shape, as [channels, points, ...]."
        ) from error


def _tuples(value: Any) -> Any:
    """Lists of YAML as the tuples that they stand for."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
