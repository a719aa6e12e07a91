"""Settings of a training, and those that other commands share with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import require_sparsity
from deepzero_sim.common.settings import Rule, Settings
from deepzero_sim.common.short_names import COUPLINGS, ESTIMATORS, LOSSES, PRODUCTS
from deepzero_sim.common.trained_parameter import TrainedParameter
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source
from deepzero_sim.execution.backends import Backend
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.runs.unrolls import Unroll, planned_updates

#: The solver alone; trained without the solver in the loop; through it from forward steps only, by losses or by the solver's
#: vector-Jacobian products; through it by exact back-propagation; and the free baselines: through it with no solver gradient,
#: or with the identity for it.
MethodName: TypeAlias = Literal["SRC", "NON", "ZO-SOL", "SolverLayer", "FO-SOL", "DETACHED", "STRAIGHT-THROUGH"]

#: Vector-Jacobian product of a layer where none is named.
PRODUCT = "deepzero_sim.vjp.Auto"

#: Word that stands for what suits: the cheapest method of what was given, the learning rate of that method.
SUITABLE = "suitable"

#: A method, or the cheapest one that suits.
MethodChoice: TypeAlias = Literal["suitable", "SRC", "NON", "ZO-SOL", "SolverLayer", "FO-SOL", "DETACHED", "STRAIGHT-THROUGH"]

Positive: TypeAlias = Annotated[int, Rule(lambda value: 1 <= value < 2**31, "a positive number below 2**31")]
Seed: TypeAlias = Annotated[int, Rule(lambda value: 0 <= value < 2**32, "0 or a positive number below 2**32")]
Seconds: TypeAlias = Annotated[float, Rule(lambda value: 0 < value < math.inf, "a positive number")]
HeldBack: TypeAlias = Annotated[int | None, Rule(lambda value: 0 <= value < 2**31, "0 or a positive number below 2**31")]
_Simulations: TypeAlias = Annotated[
    list[int] | None,
    Rule(
        lambda value: len(value) > 0 and len(set(value)) == len(value) and min(value) >= 0,
        "a list of numbers of simulations from 0 on, each once",
    ),
]
Interval: TypeAlias = Annotated[int | None, Rule(lambda value: 1 <= value < 2**31, "a positive number below 2**31")]
Sparsity: TypeAlias = Annotated[float, lambda key, value: require_sparsity(value)]
OnFailure: TypeAlias = Annotated[str | dict[str, str], lambda key, value: FailurePolicy(value)]


def small_network() -> Component:
    """Return the corrector that commands take by default."""
    return Component("small")


#: A vector-Jacobian product in settings.
Product: TypeAlias = Annotated[Component, PRODUCTS]

#: Estimators that take the args of the default one where they are named without any.
DIFFERENCES_OF_LOSSES = tuple(f"{prefix}{name}" for prefix in ("", "deepzero_sim.") for name in ("CGE", "RGE"))

#: An estimator in settings.
EstimatorComponent: TypeAlias = Annotated[Component, ESTIMATORS]

#: Loss where none is named, and a loss in settings.
ROLLOUT = "deepzero_sim.losses.Rollout"
LossComponent: TypeAlias = Annotated[Component, LOSSES]

#: Coupling where none is named, and a coupling in settings.
AFTER = "deepzero_sim.couplings.After"
CouplingComponent: TypeAlias = Annotated[Component, COUPLINGS]

#: Number of updates where nobody sets one.
UPDATES = 500


@dataclass
class Workers:
    """Workers that answer queries.

    Args:
        backend: Kind of workers: serial, thread, process, or ranks of torchrun.
        count: Number of workers; of ranks there are as many as torchrun started.
    """

    backend: Backend = "process"
    count: int = 2


@dataclass
class TrainSettings(Settings):
    """One training run.

    Args:
        run: Run folder.
        train_data: Trajectories: a path, or a path with keys that say more of it.
        solver: Coarse solver.
        method: Way to train. The suitable one is NON; with start, SolverLayer if the solver is deterministic and torch can
            differentiate the network, else DETACHED, or ZO-SOL if torch cannot.
        differentiable_solver: Solver of the same physics with exact gradients, for FO-SOL.
        network: Corrector: small, mercury, mars_moon, none (where train_params are trained alone), or an import path or
            file.py:Name called with the solver's spec.
        start: Run folder whose network this one starts from; none for a cold start.
        updates: Training steps, each one gradient and one update.
        batch_size: Rollouts a gradient is averaged over.
        unroll: Solver steps of a rollout (NON always takes one); or numbers of updates by solver steps, one after the other, as
            in {1: 500, 2: 500, 4: 500, 8: 1000}, which sets updates, too.
        loss: Loss that is minimised: rollout (all steps), terminal, every, observed, spectrum, time_mean, quantity, sum of
            these, or an import path or file.py:Name of a dz.losses.Loss; each with its arguments. NON takes rollout where the
            loss sees nothing of a single step.
        coupling: Place where the network acts: after a step of the solver, before it, inside it (on the inputs that its spec
            names), or an import path or file.py:Name of a dz.couplings.Coupling.
        train_params: Scenario parameters of the solver that are trained, by name, alone (network none) or with the network;
            each with a start (that of the data by default), its bounds least and most, per_simulation true for one value a
            simulation, and a pace.
        optimiser: Any of torch.optim; an argument "suitable" stands for the learning rate that suits the method. Where the
            estimator gives steps, SGD with lr 1 takes the place of such an optimiser.
        scheduler: Any of torch.optim.lr_scheduler; an argument "updates" stands for their number.
        estimator: CGE, RGE, CoCD, GaussNewton, EKI or EvolutionStrategies with their arguments, for ZO-SOL.
        vjp: Vector-Jacobian product of the solver with its arguments, for SolverLayer; Auto chooses one that suits.
        sparsity: Share of the weights of convolutions and linear layers that is left out of a gradient (ZO-SOL).
        layer_ratios: Division of what is left among layers: uniform, erdos-renyi, zo-grasp, grasp (needs a
            differentiable_solver), or an import path or file.py:Name of a LayerRatios.
        mask_refresh: Updates that one random draw of the active weights serves.
        queries_per_chunk: Perturbed networks evaluated as one batch.
        workers: Workers that answer queries.
        on_failure: Response to a solver step that fails: abort, drop, retry(3), or retry(3), drop; or a mapping from kinds of
            failure, and default, to these.
        seed: Seed of everything that is drawn.
        checkpoint_every: Updates between checkpoints; one is written after a minute, too.
        tensorboard: True to write TensorBoard events.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
        held_back: Number of simulations of train_data that training never sees: the network that is best on them is kept. They
            are spread over the others, within the range of their parameters. None by default; with stages about a fifth.
        held_back_simulations: Numbers of these simulations in the file, from 0, in place of those that would be chosen.
        validation_data: Trajectories in place of held-back simulations.
        validate_every: Updates between measurements on held-back simulations; a tenth of all by default.
        validate_steps: Solver steps of the rollouts that are measured; by default as many as the data have, as long as a
            measurement costs no more than 32 unrolls.
        stages: Trainings one after the other, each from the network of the one before, in folders of their own: settings that
            each has besides those of all, such as a method.
    """

    run: Path
    train_data: Source
    solver: Component
    method: MethodChoice = "suitable"
    differentiable_solver: Component | None = None
    network: Component = field(default_factory=small_network)
    start: Path | None = None
    updates: Positive = UPDATES
    batch_size: Positive = 2
    unroll: Unroll = 8
    loss: LossComponent = field(default_factory=lambda: Component(ROLLOUT))
    coupling: CouplingComponent = field(default_factory=lambda: Component(AFTER))
    train_params: dict[str, TrainedParameter] = field(default_factory=dict)
    optimiser: Component = field(default_factory=lambda: Component("torch.optim.Adam", {"lr": SUITABLE}))
    scheduler: Component | None = field(
        default_factory=lambda: Component("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "updates"})
    )
    estimator: EstimatorComponent = field(
        default_factory=lambda: Component("deepzero_sim.CGE", {"step_size": 1e-4, "scheme": "central"})
    )
    vjp: Product = field(default_factory=lambda: Component(PRODUCT))
    sparsity: Sparsity = 0.0
    layer_ratios: Component = field(default_factory=lambda: Component("uniform"))
    mask_refresh: Positive = 1
    queries_per_chunk: int = 16
    workers: Workers = field(default_factory=Workers)
    on_failure: OnFailure = "abort"
    seed: Seed = 0
    checkpoint_every: int = 50
    tensorboard: bool = True
    data_may_differ: list[MetadataKey] = field(default_factory=list)
    held_back: HeldBack = None
    held_back_simulations: _Simulations = None
    validation_data: Source | None = None
    validate_every: Interval = None
    validate_steps: Interval = None
    stages: list[dict[str, Any]] = field(default_factory=list)

    meant: ClassVar[Mapping[str, str]] = {"gradient": "vjp"}
    shared_args: ClassVar[Mapping[str, Collection[str]]] = {"estimator": DIFFERENCES_OF_LOSSES}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vjp = PRODUCTS.in_full("vjp", self.vjp)
        self.estimator = ESTIMATORS.in_full("estimator", self.estimator)
        self.loss = LOSSES.in_full("loss", self.loss)
        self.coupling = COUPLINGS.in_full("coupling", self.coupling)
        if self.method != "NON" and not self.stages:
            self.updates = planned_updates(self.unroll, self.updates, UPDATES)
