"""Simulations that trajectories are made of, as settings name them."""

from __future__ import annotations

from dataclasses import dataclass

from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import require_that


@dataclass
class Simulations:
    """Simulations that trajectories are made of.

    Args:
        reference: Fine solver.
        source: Coarse solver, on whose grid frames are stored.
        initial: Import path or `file.py:Name` of ``initial(spec, params)``, `(B, K)` to the reference's states `(B, C, *N)`;
            or of ``initial(spec, params, seed)``, with a seed for each simulation.
        restrict: Import path or `file.py:Name` of ``restrict(states, spec)``, the reference's states to those of the source.
        steps: Number of steps of a simulation.
        discard: Number of steps at the beginning that are not stored.
    """

    reference: Component
    source: Component
    initial: str
    restrict: str
    steps: int = 1500
    discard: int = 1000

    def __post_init__(self) -> None:
        require_that(
            0 <= self.discard < self.steps,
            f"a simulation must have more steps than are discarded at its beginning, not {self.steps} and {self.discard}.",
        )

    @property
    def frames(self) -> int:
        """Number of frames that are stored: one before every step that is not discarded, and the last."""
        return self.steps - self.discard + 1
