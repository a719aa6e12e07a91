"""States for a solver of which none are known."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import SolverSpec

#: Waves that a field is the sum of, and how many of their lengths fit along an axis, at most.
WAVES, MOST_LENGTHS = 8, 2


def smooth_fields(spec: SolverSpec, count: int, seed: int = 0) -> Array:
    """Sums of a few long waves, of root mean square 1 in every channel and mean about 0; zero in padding.

    Args:
        spec: of the solver.
        count: how many, `B`.
        seed: of lengths and phases.

    Returns:
        `(B, C, *N)`.
    """
    generator = np.random.default_rng(seed)
    fields = np.stack([[_field(spec.state_shape[1:], generator) for _ in range(spec.state_shape[0])] for _ in range(count)])
    fields *= spec.active()
    axes = tuple(range(2, fields.ndim))
    sizes = np.sqrt(np.square(fields).mean(axes, keepdims=True))
    return np.asarray(fields / np.where(sizes > 0, sizes, 1.0), dtype=spec.dtype)


def _field(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    places = np.meshgrid(*(np.arange(points) / points for points in shape), indexing="ij")
    field = np.zeros(shape)
    for _ in range(WAVES):
        lengths = generator.integers(-MOST_LENGTHS, MOST_LENGTHS + 1, len(shape))
        along = sum(length * place for length, place in zip(lengths, places, strict=True))
        field += generator.normal() * np.cos(2 * np.pi * (along + generator.random()))
    return field
