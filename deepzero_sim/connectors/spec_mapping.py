"""Solver specs of plain values, as they stand in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import Words, require, require_known, require_type
from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: Names of a spec's fields.
FIELDS = tuple(field.name for field in fields(SolverSpec))


def as_spec(spec: SolverSpec | Mapping[str, Any]) -> SolverSpec:
    """Return a spec as it is, or the spec that a mapping of its fields stands for; its `mask` may be a nested list."""
    if isinstance(spec, SolverSpec):
        return spec
    require_type(spec, Mapping, "spec must be a SolverSpec, or a mapping of its fields")
    require_known(spec, FIELDS, "a spec")
    enough = {"name", "state_shape", "dt"} <= set(spec)
    require(enough, "spec must have name, state_shape and dt", Words(f"only {', '.join(spec) or 'nothing'}"))
    if is_number(spec["state_shape"]):
        raise ConfigError(f"spec cannot be made with state_shape {spec['state_shape']!r}: write [channels, points, ...].")
    return SolverSpec(**{**spec, "mask": as_mask(spec.get("mask"))})


def as_mask(mask: Any) -> NDArray[np.bool_] | None:
    """Convert nested lists to a mask; None stays None."""
    if mask is None:
        return None
    try:
        array = np.asarray(mask)
    except ValueError as error:
        raise ConfigError(f"the mask of a spec must be lists of one length ({error}): give every point its value.") from error
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ConfigError("the mask of a spec must hold true and false only, without quotes: true where there are values.")
    return array.astype(bool)


def channel_places(names: Any, spec: SolverSpec, where: str, inputs: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the indices of channels that settings list by the spec's names or, where it has none, by numbers from 0.

    Args:
        names: List of the settings.
        spec: Spec of the solver.
        where: Place in the settings, for messages.
        inputs: Names of inputs that lie behind the channels.
    """
    known: list[str | int] = [*(spec.channels or range(spec.state_shape[0])), *inputs]
    is_list = isinstance(names, Sequence) and not isinstance(names, str | bytes) and len(names) > 0
    fit = is_list and all((isinstance(name, str) or is_integer(name)) and name in known for name in names)
    fit = fit and len(set(names)) == len(names)
    expected = f"{where}: channels must be a list of some of {', '.join(map(str, known))}, each once"
    lost = isinstance(names, list | tuple) and any(isinstance(name, bool | None) for name in names)  # YAML's NO is False
    require(fit, expected, names, "put names such as NO in quotes" if lost else "")
    return tuple(known.index(name) for name in names)
