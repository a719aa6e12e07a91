"""A solver's spec as it stands in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.solver import SolverSpec
from deepzero_sim.spelling import require_known

#: What a spec says.
FIELDS = tuple(field.name for field in fields(SolverSpec))

#: Fields that are tuples, which YAML has none of.
LISTED = ("state_shape", "channels", "channel_units", "parameters", "parameter_units", "axes", "spacing")


def as_spec(spec: SolverSpec | Mapping[str, Any]) -> SolverSpec:
    """A spec, or one made of a mapping of its fields.

    Args:
        spec: `mask` and `offsets` may be nested lists.

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
    for key in LISTED:
        if isinstance(spec.get(key), str | bytes | Mapping):  # which would be taken letter by letter
            raise ConfigError(f"spec must have a list for {key}, such as [{spec[key]!r}], not {spec[key]!r}.")
    values = dict(spec)
    try:
        values |= {key: tuple(values[key]) for key in LISTED if key in values}
        values |= {"offsets": tuple(map(tuple, values["offsets"]))} if "offsets" in values else {}
        values |= {"mask": np.asarray(values["mask"], dtype=bool)} if values.get("mask") is not None else {}
        return SolverSpec(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"spec cannot be made of {values} ({error}): check its fields.") from error
