"""Fields that a step reads besides its state, such as a viscosity or a forcing: what a network inside the step provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import Words, is_count, require, require_known
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec_values import IN_QUOTES, finite, list_of, number_remedy


@dataclass(frozen=True)
class InputField:
    """A field that a step reads besides its state.

    Args:
        name: Name of the field.
        unit: Unit of its values.
        value: Value where nobody provides the field, at every point.
        scale: Size of changes that matter: a network's output of 1 is a change of so much.
        least: Smallest value that the solver takes; None for any.
        most: Largest value that the solver takes; None for any.
        shape: Points along each axis, no more than the state has; those of the state if None.

    Raises:
        ConfigError: A value is of another kind, or they contradict each other.
    """

    name: str
    unit: str = ""
    value: float = 0.0
    scale: float = 1.0
    least: float | None = None
    most: float | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for key in ("name", "unit"):
            require(isinstance(getattr(self, key), str), f"{key} of an input must be text", getattr(self, key), IN_QUOTES)
        require(bool(self.name.strip()), "an input must have a name", Words("an empty one"))
        what = f"of input {self.name!r}"
        for key in ("value", "scale", "least", "most"):
            given = getattr(self, key)
            number = finite(given)
            open_end = given is None and key in ("least", "most")
            require(open_end or number is not None, f"{key} {what} must be a finite number", given, number_remedy(given))
            object.__setattr__(self, key, number)
        require(self.scale > 0, f"scale {what} must be positive", self.scale)
        low, high = (-np.inf if self.least is None else self.least), (np.inf if self.most is None else self.most)
        require(low <= self.value <= high, f"value {what} must lie between its least and its most", self.value)
        if self.shape is not None:
            sizes = list_of(f"input {self.name!r}", "shape", self.shape)
            require(all(map(is_count, sizes)), f"shape {what} must be positive numbers of points", self.shape)
            object.__setattr__(self, "shape", tuple(map(int, sizes)))


def input_fields(what: str, grid: tuple[int, ...], given: Any) -> tuple[InputField, ...]:
    """Convert a list of fields, of their names, or of mappings with their entries.

    Args:
        what: Name of the object that has them.
        grid: Points of a state along each axis, `N`.
        given: List.

    Raises:
        ConfigError: The value is no such list, two have one name, or one has more points than a state.
    """
    entries = (given,) if isinstance(given, str | InputField | Mapping) else list_of(what, "inputs", given)
    found = tuple(_input_field(what, entry) for entry in entries)
    names = tuple(one.name for one in found)
    require(len(set(names)) == len(names), f"{what}: inputs must have different names", names)
    for one in found:
        fits = one.shape is None or (len(one.shape) == len(grid) and all(i <= n for i, n in zip(one.shape, grid, strict=True)))
        require(fits, f"{what}: the shape of input {one.name!r} must be at most that of the grid, {grid}", one.shape)
    return found


def _input_field(what: str, entry: Any) -> InputField:
    if isinstance(entry, InputField):
        return entry
    if isinstance(entry, str):
        return InputField(entry)
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{what}: an input must be a name, or keys with values, not {entry!r}: write {{name: viscosity}}.")
    require_known(entry, [one.name for one in fields(InputField)], f"{what}: an input")
    require("name" in entry, f"{what}: an input must have a name", dict(entry))
    return InputField(**entry)


def points_of_input(field: InputField, grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where on a state's grid the values of an input lie, bool `N`: the first points along each axis."""
    points = np.zeros(grid, bool)
    points[tuple(slice(n) for n in field.shape or grid)] = True
    return points
