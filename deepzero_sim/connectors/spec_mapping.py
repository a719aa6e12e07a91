"""A solver's spec as it stands in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_known
from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec

#: What a spec says.
FIELDS = tuple(field.name for field in fields(SolverSpec))


def as_spec(spec: SolverSpec | Mapping[str, Any]) -> SolverSpec:
    """A spec, or one made of a mapping of its fields.

    Args:
        spec: `mask` may be a nested list.

    Raises:
        ConfigError: a field is missing, unknown or not usable.
    """
    if isinstance(spec, SolverSpec):
        return spec
    if not isinstance(spec, Mapping):
        raise ConfigError(f"spec must be a SolverSpec, or a mapping of its fields, not {type(spec).__name__}.")
    require_known(spec, FIELDS, "a spec")
    if not {"name", "state_shape", "dt"} <= set(spec):
        raise ConfigError(f"spec must have name, state_shape and dt, not only {', '.join(spec) or 'nothing'}.")
    if is_number(spec["state_shape"]):
        raise ConfigError(f"spec cannot be made with state_shape {spec['state_shape']!r}: write [channels, points, ...].")
    return SolverSpec(**{**spec, "mask": as_mask(spec.get("mask"))})


def as_mask(mask: Any) -> NDArray[np.bool_] | None:
    """A mask of nested lists, where there is one.

    Raises:
        ConfigError: it holds something else than true and false, or 1 and 0.
    """
    if mask is None:
        return None
    try:
        array = np.asarray(mask)
    except ValueError as error:
        raise ConfigError(f"the mask of a spec must be lists of one length ({error}): give every point its value.") from error
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ConfigError("the mask of a spec must hold true and false only, without quotes: true where there are values.")
    return array.astype(bool)


def channel_places(named: Any, spec: SolverSpec, where: str) -> tuple[int, ...]:
    """Places of channels, by names of the spec or, where it has none, by numbers from 0.

    Args:
        named: a list of them.
        spec: of the solver.
        where: it stands, for messages.

    Raises:
        ConfigError: it is no list, or holds another name, or one twice.
    """
    known: tuple[str, ...] | tuple[int, ...] = spec.channels or tuple(range(spec.state_shape[0]))
    listed = isinstance(named, Sequence) and not isinstance(named, str | bytes) and len(named) > 0
    fit = listed and all(isinstance(entry, str) if spec.channels else is_integer(entry) for entry in named)
    if not fit or any(entry not in known for entry in named) or len(set(named)) < len(named):
        raise ConfigError(
            f"{where}: channels must be a list of some of {', '.join(map(str, known))}, each once, not {named!r}{_hint(named)}."
        )
    return tuple(known.index(entry) for entry in named)


def _hint(named: Any) -> str:
    """What to do about a list with words that YAML took for something else."""
    lost = isinstance(named, list | tuple) and any(isinstance(entry, bool | None) for entry in named)
    return ": put names such as NO in quotes" if lost else ""
