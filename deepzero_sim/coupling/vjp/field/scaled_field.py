"""A field together with the units of its channels: products of quantities as the solver has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import StepTaken
from deepzero_sim.coupling.vjp.field.fitting import Field


@dataclass(frozen=True, eq=False)
class ScaledField:
    """A field of states in units of each channel.

    Args:
        field: Field.
        units: Unit of each channel, `(C, *1)`.
    """

    field: Field
    units: Array

    def vjp(self, taken: StepTaken, cotangents: Array) -> Array:
        """Compute `J^T w` of every state, `(B, C, *N)`, in the type of the cotangents."""
        states, advanced = taken.states / self.units, taken.advanced / self.units
        product = self.field.vjp(states, advanced, taken.params, cotangents * self.units) / self.units
        return np.asarray(product, dtype=cotangents.dtype)

    def jvp(self, taken: StepTaken, directions: Array) -> Array:
        """Compute `J v` of every state, `(B, C, *N)`, in the type of the directions."""
        states, advanced = taken.states / self.units, taken.advanced / self.units
        product = self.field.jvp(states, advanced, taken.params, directions / self.units) * self.units
        return np.asarray(product, dtype=directions.dtype)
