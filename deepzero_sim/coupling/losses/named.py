"""Losses that settings name."""

from __future__ import annotations

from deepzero_sim.common.components import Component, Kind, build
from deepzero_sim.common.short_names import LOSSES
from deepzero_sim.coupling.losses.base import Loss

#: Objects that the setting `loss` may name.
LOSS = Kind.of(Loss, "a dz.losses.Loss")


def build_loss(component: Component) -> Loss:
    """Build the loss that settings name.

    Raises:
        ConfigError: It is none, or cannot be made.
    """
    loss: Loss = build(LOSSES.in_full("loss", component), kind=LOSS, setting="loss")
    return loss
