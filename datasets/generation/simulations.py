"""Simulations that trajectories are made of, as settings name them."""

from __future__ import annotations

from dataclasses import dataclass

from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import is_count, require_that


@dataclass
class Simulations:
    """Simulations that trajectories are made of.

    Args:
        reference: Fine solver.
        source: Coarse solver, on whose grid frames are stored.
        initial: Import path or `file.py:Name` of ``initial(spec, params)``, `(B, K)` to the reference's states `(B, C, *N)`;
            or of ``initial(spec, params, seed)``, with a seed for each simulation.
        restrict: Restriction of the reference's states to the source's grid: block_mean, face_mean, spectral, interpolation,
            cubic_interpolation, injection, or an import path or `file.py:Name` of ``restrict(states, spec)``.
        steps: Number of steps of a simulation.
        discard: Number of steps at the beginning that are not stored.
        batch_size: Number of simulations that one call of the reference advances, at most; if None, up to four of small states.
    """

    reference: Component
    source: Component
    initial: str
    restrict: str
    steps: int = 1500
    discard: int = 1000
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require_that(
            self.batch_size is None or is_count(self.batch_size),
            f"batch_size must be a positive number of simulations, not {self.batch_size!r}.",
        )
        require_that(
            0 <= self.discard < self.steps,
            f"a simulation must have more steps than are discarded at its beginning, not {self.steps} and {self.discard}.",
        )

    @property
    def frames(self) -> int:
        """Number of frames that are stored: one before every step that is not discarded, and the last."""
        return self.steps - self.discard + 1
