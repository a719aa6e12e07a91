"""Settings of `deepzero-sim check-gradient`: a check of the gradients that training through a solver would follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from deepzero_sim.cli.options import SEE_COMPONENTS, Command
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import Settings
from deepzero_sim.common.short_names import COUPLINGS, ESTIMATORS, LOSSES, PRODUCTS
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.runs.settings import (
    AFTER,
    ROLLOUT,
    CouplingComponent,
    LossComponent,
    Positive,
    Product,
    Seed,
    Workers,
    small_network,
)


def default_vjps() -> list[Component]:
    """Return the vector-Jacobian products that are compared if none are named, as far as they suit the solver."""
    names = ("Detached", "StraightThrough", "Coloured", "ReferenceJacobian", "JacobianField")
    return [Component(f"deepzero_sim.vjp.{name}") for name in names]


@dataclass
class CheckSettings(Settings):
    """A check of the gradients that training through a solver would follow.

    Args:
        output: Folder of the check's gradient_check.json, gradient_check.md and gradient_check.png.
        train_data: Trajectories: a path, or a path with keys that say more of it.
        solver: Coarse solver.
        differentiable_solver: Solver of the same physics with exact gradients, to compare with; none for slopes from forward
            steps.
        network: Corrector: small, mercury, mars_moon, or an import path or file.py:Name called with the solver's spec.
        start: Run folder whose network is taken; none for one that is not trained.
        vjp: Vector-Jacobian products of the solver that are compared, with their arguments.
        estimator: CGE or RGE with their arguments, to be compared too; none for neither.
        unroll: Solver steps of a rollout.
        loss: Loss whose gradients are compared, with its arguments, as of train.
        coupling: Place where the network acts, as of train.
        batch_size: Rollouts a gradient is averaged over.
        batches: Number of gradients of each method.
        directions: Directions along which slopes of the loss are measured, on every batch, if there is no
            differentiable_solver.
        workers: Workers that answer queries and run solver steps of backward passes.
        seed: Seed of everything that is drawn.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    output: Path
    train_data: Source
    solver: Component
    differentiable_solver: Component | None = None
    network: Component = field(default_factory=small_network)
    start: Path | None = None
    vjp: list[Product] = field(default_factory=default_vjps)
    estimator: Annotated[Component | None, ESTIMATORS] = None
    unroll: Positive = 8
    loss: LossComponent = field(default_factory=lambda: Component(ROLLOUT))
    coupling: CouplingComponent = field(default_factory=lambda: Component(AFTER))
    batch_size: Positive = 2
    batches: Positive = 4
    directions: Positive = 64
    workers: Workers = field(default_factory=Workers)
    seed: Seed = 0
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    meant: ClassVar[Mapping[str, str]] = {"gradient": "vjp"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vjp = [PRODUCTS.in_full("vjp", product) for product in self.vjp]
        self.loss = LOSSES.in_full("loss", self.loss)
        self.coupling = COUPLINGS.in_full("coupling", self.coupling)
        if self.unroll < 2 and self.coupling.name == AFTER:
            raise ConfigError("unroll must be at least 2: no gradient passes the first step, which is before the network.")
        if self.estimator is not None:
            self.estimator = ESTIMATORS.in_full("estimator", self.estimator)
        if not self.vjp and self.estimator is None:
            raise ConfigError("no gradients are asked for: give vjp at least one, or name an estimator.")


COMMANDS = {"check-gradient": Command(CheckSettings, "check_gradient.run", see=SEE_COMPONENTS)}
