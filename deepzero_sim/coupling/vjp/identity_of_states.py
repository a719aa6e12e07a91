"""The identity for the Jacobian with respect to states, and a product for that with respect to inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


@final
class IdentityOfStates(VectorJacobianProduct):
    """`(w, v) -> (w, J_u^T w + v)` of a solver with input channels: a product whose part for the state is the identity.

    Args:
        within: Product of the solver, whose part for the inputs is taken.
        channels: Number of channels of the state, `C`.
    """

    def __init__(self, within: VectorJacobianProduct, channels: int) -> None:
        self.within = within
        self.channels = channels
        self.requires_determinism = within.requires_determinism  # type: ignore[misc] # of this one

    @property
    def report(self) -> object | None:  # type: ignore[override]
        """Words on the measurement of the solver."""
        return self.within.report

    def bind(self, solver: Solver) -> None:
        super().bind(solver)
        self.within.bind(solver)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        product = self.within.product(taken, cotangents, probes).copy()
        product[:, : self.channels] = cotangents[:, : self.channels]
        return product

    def adopt_defaults(self, file: Path, most_steps: int) -> None:
        self.within.adopt_defaults(file, most_steps)

    def steps_to_measure(self, spec: SolverSpec) -> int:
        return self.within.steps_to_measure(spec)

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        self.within.prepare(states, params, probes)

    def state_dict(self) -> dict[str, Array]:
        return self.within.state_dict()

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self.within.load_state_dict(state_dict)
