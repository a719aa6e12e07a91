"""Settings of the command line's runs: one typed source for YAML files, options and run folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from deepzero_sim.components import Component
from deepzero_sim.datasets.generate import Simulations
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimator.base import Scheme
from deepzero_sim.parallel import Backend
from deepzero_sim.sparsity.base import check_sparsity

#: The solver alone; trained without the solver in the loop; through it from forward steps only; through it by exact
#: back-propagation; and the free baselines: through it with no solver gradient, or with the identity for it.
MethodName: TypeAlias = Literal["SRC", "NON", "ZO-SOL", "FO-SOL", "DETACHED", "STRAIGHT-THROUGH"]

#: Classifiers of images of 32 x 32, and correctors on the wake's states.
BenchModel: TypeAlias = Literal["resnet20", "resnet32", "resnet44", "resnet56", "small", "mercury", "mars_moon"]


def _adam() -> Component:
    return Component("torch.optim.Adam", {"lr": 1e-3})


def _cosine() -> Component:
    return Component("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "updates"})


@dataclass
class Workers:
    """Where queries are answered.

    Args:
        backend: serial, thread, process, or ranks of torchrun.
        count: how many workers; of ranks there are as many as torchrun started.
    """

    backend: Backend = "process"
    count: int = 2


@dataclass
class TrainSettings:
    """One training run.

    Args:
        run: the run folder.
        method: how to train; one network, one data set and one optimiser serve all of them.
        train_data: HDF5 trajectories.
        solver: the coarse solver.
        differentiable_solver: the same physics with exact gradients, for FO-SOL.
        network: small, mercury, mars_moon, or an import path or file.py:Name called with the solver's spec.
        start: a run folder whose network this one starts from; none for a cold start.
        updates: training steps, each one gradient and one update.
        batch_size: rollouts a gradient is averaged over.
        unroll: solver steps of a rollout (NON always takes one).
        optimiser: any of torch.optim.
        scheduler: any of torch.optim.lr_scheduler; an argument "updates" stands for their number.
        estimator: CGE or RGE with their arguments, for ZO-SOL.
        sparsity: share of the weights of convolutions and linear layers that is left out of a gradient (ZO-SOL).
        layer_ratios: how what is left is divided among layers: uniform, erdos-renyi, zo-grasp, grasp (needs a
            differentiable_solver), or an import path or file.py:Name of a LayerRatios.
        mask_refresh: updates that one random draw of the active weights serves.
        queries_per_chunk: perturbed networks evaluated as one batch.
        workers: where queries are answered.
        seed: fixes everything that is drawn.
        checkpoint_every: updates between checkpoints.
        tensorboard: whether to write TensorBoard events.
    """

    run: Path
    train_data: Path
    method: MethodName = "ZO-SOL"
    solver: Component = field(default_factory=lambda: Component("deepzero_sim.solvers.WakeFlow"))
    differentiable_solver: Component | None = None
    network: Component = field(default_factory=lambda: Component("small"))
    start: Path | None = None
    updates: int = 500
    batch_size: int = 2
    unroll: int = 8
    optimiser: Component = field(default_factory=_adam)
    scheduler: Component | None = field(default_factory=_cosine)
    estimator: Component = field(
        default_factory=lambda: Component("deepzero_sim.CGE", {"step_size": 1e-4, "scheme": "central"})
    )
    sparsity: float = 0.0
    layer_ratios: Component = field(default_factory=lambda: Component("uniform"))
    mask_refresh: int = 1
    queries_per_chunk: int = 16
    workers: Workers = field(default_factory=Workers)
    seed: int = 0
    checkpoint_every: int = 50
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "unroll", "mask_refresh"):
            if not 1 <= getattr(self, name) < 2**31:
                raise ConfigError(f"{name} must be a positive number below 2**31, not {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be 0 or a positive number below 2**32, not {self.seed}.")
        check_sparsity(self.sparsity)


@dataclass
class EvaluateSettings:
    """An evaluation of a trained run on unseen data.

    Args:
        run: the run folder; results.json and report.md go there.
        data: HDF5 trajectories.
        steps: of the rollout; all that the data have if none are given.
    """

    run: Path
    data: Path
    steps: int | None = None


@dataclass
class DataFile:
    """One file of trajectories to be made.

    Args:
        output: the HDF5 file.
        params: scenario parameters, one row a simulation.
    """

    output: Path
    params: list[list[float]]


@dataclass
class GenerateSettings:
    """Data to be made.

    Args:
        simulations: solvers, initial states, restriction and length.
        files: what to write.
        workers: where simulations run.
    """

    simulations: Simulations
    files: list[DataFile]
    workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("no files are asked for: give files at least one output with its params.")


@dataclass
class DemoSettings:
    """The demonstration.

    Args:
        run: where its data, runs and report go.
        workers: where queries are answered and simulations run.
    """

    run: Path = Path("runs/demo")
    workers: Workers = field(default_factory=Workers)


@dataclass
class BenchSettings:
    """A measurement of the engine's speed and accuracy against the plain loop's.

    Args:
        model: a classifier of images of 32 x 32, or a corrector on the wake's states.
        batch: images or states in a batch.
        device: cpu or cuda.
        workers: where the engine answers queries; none for a process on every core, or this process with cuda.
        precision: of the engine's arithmetic, float32 or bfloat16.
        queries_per_chunk: perturbed networks that the engine evaluates as one batch, at most; none for what it finds best.
        step_size: of the finite differences.
        scheme: forward or central.
        seconds: that one timing of the engine or the plain loop should take.
        repeats: timings of each thing, of which the fastest counts.
        error_coordinates: coordinates of every layer that are compared with float64; few make relative errors large by chance.
        seed: of weights, data, and the choice of coordinates.
    """

    model: BenchModel = "resnet20"
    batch: int = 64
    device: Literal["cpu", "cuda"] = "cpu"
    workers: Workers | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    queries_per_chunk: int | None = None
    step_size: float = 1e-3
    scheme: Scheme = "forward"
    seconds: float = 20.0
    repeats: int = 3
    error_coordinates: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        least = 2 if self.model.startswith("resnet") else 1
        if not least <= self.batch < 2**31:
            why = " whose batch norm compares images," if least > 1 else ""
            raise ConfigError(f"batch must be at least {least} for {self.model},{why} and below 2**31, not {self.batch}.")
        for name in ("repeats", "error_coordinates"):
            if not 1 <= getattr(self, name) < 2**31:
                raise ConfigError(f"{name} must be a positive number below 2**31, not {getattr(self, name)}.")
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"seconds must be a positive number, not {self.seconds}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be 0 or a positive number below 2**32, not {self.seed}.")
