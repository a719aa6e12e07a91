"""Settings of the command line's runs: one typed source for YAML files, options and run folders."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Scheme
from deepzero_sim.datasets.cifar_archive import MD5
from deepzero_sim.datasets.generate import Simulations
from deepzero_sim.datasets.statements import Statement
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.sparsity.base import require_sparsity
from deepzero_sim.execution.executors import Backend
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.checkpoint_file import CONFIG

#: The solver alone; trained without the solver in the loop; through it from forward steps only, by losses or by the solver's
#: vector-Jacobian products; through it by exact back-propagation; and the free baselines: through it with no solver gradient,
#: or with the identity for it.
MethodName: TypeAlias = Literal["SRC", "NON", "ZO-SOL", "SolverLayer", "FO-SOL", "DETACHED", "STRAIGHT-THROUGH"]

#: Classifiers of images of 32 x 32, and correctors on the wake's states.
BenchModel: TypeAlias = Literal["resnet20", "resnet32", "resnet44", "resnet56", "small", "mercury", "mars_moon"]

#: Optimisers that only see losses.
BlackBoxName: TypeAlias = Literal["CMA-ES", "Nevergrad", "ES"]

#: Ways to train through the wake: gradients past the solver, from none to exact; gradients from losses; losses only.
WakeMethod: TypeAlias = Literal[
    "Detached",
    "StraightThrough",
    "Coloured",
    "ReferenceJacobian",
    "FO-SOL",
    "CGE",
    "CGE-ZO-GraSP",
    "RGE",
    "CMA-ES",
    "Nevergrad",
    "ES",
]


def _adam() -> Component:
    return Component("torch.optim.Adam", {"lr": 1e-3})


def _cosine() -> Component:
    return Component("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "updates"})


def _require_positive(name: str, value: int) -> None:
    if not 1 <= value < 2**31:
        raise ConfigError(f"{name} must be a positive number below 2**31, not {value}.")


def _require_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be 0 or a positive number below 2**32, not {seed}.")


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
        vjp: the solver's vector-Jacobian product with its arguments, for SolverLayer.
        sparsity: share of the weights of convolutions and linear layers that is left out of a gradient (ZO-SOL).
        layer_ratios: how what is left is divided among layers: uniform, erdos-renyi, zo-grasp, grasp (needs a
            differentiable_solver), or an import path or file.py:Name of a LayerRatios.
        mask_refresh: updates that one random draw of the active weights serves.
        queries_per_chunk: perturbed networks evaluated as one batch.
        workers: where queries are answered.
        on_failure: what is done when a solver step fails: abort, drop, retry(3), or retry(3), drop; or a mapping from kinds of
            failure, and default, to these.
        seed: fixes everything that is drawn.
        checkpoint_every: updates between checkpoints; one is written after a minute, too.
        tensorboard: whether to write TensorBoard events.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
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
    vjp: Component = field(default_factory=lambda: Component("deepzero_sim.vjp.ReferenceJacobian"))
    sparsity: float = 0.0
    layer_ratios: Component = field(default_factory=lambda: Component("uniform"))
    mask_refresh: int = 1
    queries_per_chunk: int = 16
    workers: Workers = field(default_factory=Workers)
    on_failure: str | dict[str, str] = "abort"
    seed: int = 0
    checkpoint_every: int = 50
    tensorboard: bool = True
    data_may_differ: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        FailurePolicy(self.on_failure)  # says it if it is none
        for name in ("updates", "batch_size", "unroll", "mask_refresh"):
            _require_positive(name, getattr(self, name))
        _require_seed(self.seed)
        require_sparsity(self.sparsity)


def _sgd() -> Component:
    return Component("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4})


def _warm_up() -> Component:
    return Component("deepzero_sim.warm_up_cosine", {"steps": "updates", "warm_up": 0.06})


@dataclass
class ClassifySettings:
    """One training of a classifier of images.

    The defaults are DeepZero's (Chen et al., ICLR 2024), with gradients from forward passes alone. First-order training is the
    estimator deepzero_sim.BackPropagation; all else is the same.

    Args:
        run: the run folder.
        data: CIFAR-10's python archive or its files, an archive or folder of images by class, an npz file, or cifar10.
        more_test_data: other data whose test images are classified too, at the end.
        cache: the folder where data are kept once they were read.
        md5: the checksum of a python archive.
        network: resnet20 to resnet56, small_cnn, or an import path or file.py:Name called with the number of classes.
        estimator: CGE, RGE or BackPropagation with their arguments.
        epochs: how often training goes through the images.
        batch_size: images of a gradient.
        augment: whether images are shifted and mirrored at random.
        optimiser: any of torch.optim.
        scheduler: any of torch.optim.lr_scheduler, or deepzero_sim.warm_up_cosine; an argument "updates" is their number.
        sparsity: share of the weights of convolutions and linear layers that is left out of a gradient.
        layer_ratios: how what is left is divided among layers: uniform, erdos-renyi, zo-grasp, grasp, or an import path or
            file.py:Name of a LayerRatios.
        images_for_ratios: of each class, that layer ratios are found with.
        mask_refresh: epochs that one random draw of the active weights serves, or a part of one, down to a single update; none
            for all of them.
        sparse_weights: whether weights that are not active are zero (with one draw for all epochs).
        workers: where queries are answered.
        device: cpu or cuda.
        seed: fixes everything that is drawn.
        checkpoint_every: updates between checkpoints; one is written after a minute, too.
        tensorboard: whether to write TensorBoard events.
    """

    run: Path
    data: Path
    more_test_data: Path | None = None
    cache: Path = Path("data")
    md5: str = MD5
    network: Component = field(default_factory=lambda: Component("resnet20"))
    estimator: Component = field(
        default_factory=lambda: Component("deepzero_sim.CGE", {"step_size": 5e-3, "scheme": "forward"})
    )
    epochs: int = 50
    batch_size: int = 256
    augment: bool = True
    optimiser: Component = field(default_factory=_sgd)
    scheduler: Component | None = field(default_factory=_warm_up)
    sparsity: float = 0.9
    layer_ratios: Component = field(default_factory=lambda: Component("zo-grasp"))
    images_for_ratios: int = 25
    mask_refresh: float | None = 5
    sparse_weights: bool = False
    workers: Workers = field(default_factory=Workers)
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0
    checkpoint_every: int = 50
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "images_for_ratios", "checkpoint_every"):
            _require_positive(name, getattr(self, name))
        if not 2 <= self.batch_size < 2**31:
            raise ConfigError(f"batch_size must be at least 2, for batch norm, and below 2**31, not {self.batch_size}.")
        if self.mask_refresh is not None and not 0 < self.mask_refresh < math.inf:
            raise ConfigError(f"mask_refresh must be a positive number of epochs, or null, not {self.mask_refresh}.")
        if self.sparse_weights and self.mask_refresh is not None:
            raise ConfigError(
                "sparse_weights needs one draw of the active weights for all epochs: set mask_refresh to null, not "
                f"{self.mask_refresh}."
            )
        _require_seed(self.seed)
        require_sparsity(self.sparsity)


@dataclass
class CompareSettings:
    """A comparison of trained runs: of correctors with the solver alone, on unseen data, or of classifiers.

    Args:
        runs: the run folders; correctors are all of one solver.
        data: HDF5 trajectories that corrected solvers are rolled out on; none for classifiers.
        steps: of the rollouts; all that the data have if none are given.
        output: the folder of the comparison's report.md and figures.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    runs: list[Path]
    data: Path | None = None
    steps: int | None = None
    output: Path = Path("runs/comparison")
    data_may_differ: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.steps is not None and self.data is None:
            raise ConfigError("steps are those of rollouts, which need data: give data, or leave out steps for classifiers.")
        if (self.output / CONFIG).exists():
            raise ConfigError(f"output {self.output} is the folder of a run, whose report would be lost: name another.")


def default_products() -> list[Component]:
    """The vector-Jacobian products that a check compares if none are named, as far as they suit the solver."""
    return [Component(f"deepzero_sim.vjp.{name}") for name in ("Detached", "StraightThrough", "Coloured", "ReferenceJacobian")]


@dataclass
class CheckSettings:
    """A check of the gradients that training through a solver would follow.

    Args:
        output: the folder of the check's check.json, check.md and check.png.
        train_data: HDF5 trajectories.
        solver: the coarse solver.
        differentiable_solver: the same physics with exact gradients, to compare with; none for slopes from forward steps.
        network: small, mercury, mars_moon, or an import path or file.py:Name called with the solver's spec.
        start: a run folder whose network is taken; none for one that is not trained.
        vjp: the solver's vector-Jacobian products that are compared, with their arguments.
        estimator: CGE or RGE with their arguments, to be compared too; none for neither.
        unroll: solver steps of a rollout.
        batch_size: rollouts a gradient is averaged over.
        batches: gradients of each method.
        directions: along which slopes of the loss are measured, on every batch, if there is no differentiable_solver.
        workers: where queries are answered and solver steps of backward passes run.
        seed: fixes everything that is drawn.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    output: Path
    train_data: Path
    solver: Component = field(default_factory=lambda: Component("deepzero_sim.solvers.WakeFlow"))
    differentiable_solver: Component | None = None
    network: Component = field(default_factory=lambda: Component("small"))
    start: Path | None = None
    vjp: list[Component] = field(default_factory=default_products)
    estimator: Component | None = None
    unroll: int = 8
    batch_size: int = 2
    batches: int = 4
    directions: int = 64
    workers: Workers = field(default_factory=Workers)
    seed: int = 0
    data_may_differ: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("unroll", "batch_size", "batches", "directions"):
            _require_positive(name, getattr(self, name))
        _require_seed(self.seed)
        if self.unroll < 2:
            raise ConfigError("unroll must be at least 2: no gradient passes the first step, which is before the network.")
        if not self.vjp and self.estimator is None:
            raise ConfigError("no gradients are asked for: give vjp at least one, or name an estimator.")


@dataclass
class CheckSolverSettings:
    """A check of a solver's contract, and of what training through it will cost.

    Args:
        name: the solver, where it takes no arguments: an import path or file.py:Name.
        solver: the solver with its arguments, in place of name.
        data: HDF5 trajectories whose frames are the sample states; without data or initial, they are made up.
        initial: import path or file.py:Name of initial(spec, params), which makes sample states.
        params: scenario parameters, one row a sample state.
        output: the folder of the check's check.json and check.md; none to print it only.
        seconds: that the check may take, about; what does not fit is left out, and says so.
        network: the corrector whose gradients' cost is estimated: small, mercury, mars_moon, or an import path or file.py:Name.
        unroll: solver steps of a rollout, for that.
        batch_size: rollouts of a gradient, likewise.
        seed: fixes everything that is drawn.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    name: str | None = None
    solver: Component | None = None
    data: Path | None = None
    initial: str | None = None
    params: list[list[float]] | None = None
    output: Path | None = None
    seconds: float = 60.0
    network: Component = field(default_factory=lambda: Component("small"))
    unroll: int = 8
    batch_size: int = 2
    seed: int = 0
    data_may_differ: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("unroll", "batch_size"):
            _require_positive(name, getattr(self, name))
        _require_seed(self.seed)
        if (self.name is None) == (self.solver is None):
            raise ConfigError("name one solver: as deepzero-sim check file.py:Name or, with arguments, by solver in --config.")
        if self.data is not None and (self.initial is not None or self.params is not None):
            raise ConfigError("sample states come from data, which hold their params, or from initial and params: not both.")
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds must be a positive number, not {self.seconds}.")

    @property
    def component(self) -> Component:
        """The solver, however it was named."""
        return self.solver if self.solver is not None else Component(str(self.name))


@dataclass
class EvaluateSettings:
    """An evaluation of a trained run on unseen data.

    Args:
        run: the run folder; results.json and report.md go there.
        data: HDF5 trajectories.
        steps: of the rollout; all that the data have if none are given.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    run: Path
    data: Path
    steps: int | None = None
    data_may_differ: list[Statement] = field(default_factory=list)


@dataclass
class ServeSettings:
    """A trained run, offered over HTTP.

    Args:
        run: the run folder.
        host: name or address of this machine to listen on. There is no password: others reach it as they reach the address.
        port: to listen on; 0 for a free one.
        timeout: seconds that one evaluation may take.
        data: HDF5 trajectories that batches of the loss are cut from; the run's training data if none are given.
        data_may_differ: what the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 4242
    timeout: float = 300.0
    data: Path | None = None
    data_may_differ: list[Statement] = field(default_factory=list)


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
        on_failure: what is done when a step of the reference solver fails: abort or retry(3); or a mapping from kinds to these.
    """

    simulations: Simulations
    files: list[DataFile]
    workers: Workers = field(default_factory=Workers)
    on_failure: str | dict[str, str] = "abort"

    def __post_init__(self) -> None:
        if FailurePolicy(self.on_failure).ever_drops:
            raise ConfigError(
                f"on_failure of data must be abort or retry(3), not {self.on_failure!r}: a simulation with a gap is none."
            )
        if not self.files:
            raise ConfigError("no files are asked for: give files at least one output with its params.")
        cards = [file.output.absolute().parent / file.output.stem for file in self.files]
        shared = next((card for card in cards if cards.count(card) > 1), None)
        if shared is not None:
            raise ConfigError(f"each output must have a name and a card of its own, but two would be {shared}: rename one.")


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
            _require_positive(name, getattr(self, name))
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"seconds must be a positive number, not {self.seconds}.")
        _require_seed(self.seed)


@dataclass
class BenchWakeSettings:
    """A comparison of ways to train through the wake: error on unseen Reynolds numbers against solver steps spent.

    Args:
        output: where its data, runs and report go.
        seeds: how many; each trains NON and, from its network, every method.
        methods: which to compare with the solver alone and with NON.
        updates: of the methods with a gradient past the solver.
        query_steps: solver steps that each method may spend that asks for losses.
        unroll: solver steps of a rollout in training.
        batch_size: rollouts of a gradient or loss.
        network: small, mercury, mars_moon, or an import path or file.py:Name called with the solver's spec.
        steps: of the rollouts that are compared.
        workers: where queries are answered and simulations run.
    """

    output: Path = Path("runs/bench_wake")
    seeds: int = 3
    methods: list[WakeMethod] = field(default_factory=lambda: list(get_args(WakeMethod)))
    updates: int = 600
    query_steps: int = 200_000
    unroll: int = 8
    batch_size: int = 2
    network: Component = field(default_factory=lambda: Component("small"))
    steps: int = 250
    workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        for name in ("seeds", "updates", "query_steps", "batch_size", "steps"):
            _require_positive(name, getattr(self, name))
        if not 2 <= self.unroll < 2**31:
            raise ConfigError(
                f"unroll must be at least 2, because the first step does not depend on the network, and below 2**31, "
                f"not {self.unroll}."
            )
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods must name one or more, each once, not {', '.join(self.methods) or 'none'}.")
