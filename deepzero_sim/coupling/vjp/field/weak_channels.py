"""Channels that vary little next to their size, and how well a field knows what changes of them alone do."""

from __future__ import annotations

import numpy as np

from deepzero_sim.coupling.vjp.field.field_report import LITTLE
from deepzero_sim.coupling.vjp.field.fitting import Field
from deepzero_sim.coupling.vjp.field.probing import Measurement
from deepzero_sim.coupling.vjp.units import root_mean_squares

#: Share of the size of an answer below which it is nothing.
NOTHING = 1e-3


def errors_of_weak_channels(field: Field, measurement: Measurement, own: int) -> tuple[tuple[int, float], ...]:
    """Measure by how much a field is off for changes of channels alone whose unit is little next to their size.

    Probes change all channels at once, each by its unit. What a weak one does to the others, next to what they do themselves,
    is too little to be fitted, and to be seen in chains. Each takes two solver steps; a solver of one channel has none.

    Args:
        field: Field.
        measurement: Means of measuring products.
        own: Number of channels of the state itself; inputs have a field of their own.

    Returns:
        Number of each such channel, and the largest share by which a channel of the answer is off.
    """
    if own == 1:
        return ()
    sizes = measurement.channel_sizes()
    weak = np.flatnonzero(LITTLE * sizes[:own] > 1)
    if not len(weak):
        return ()
    products = measurement.products_of_channels(weak, sizes)
    answers, off = root_mean_squares(products.answers), root_mean_squares(field.of(products) - products.answers)
    something = answers > NOTHING * sizes  # an answer to a change by the channel's own size
    errors = np.where(something, off / np.where(something, answers, 1.0), 0.0).max(1)
    return tuple((int(channel), float(error)) for channel, error in zip(weak, errors, strict=True))
