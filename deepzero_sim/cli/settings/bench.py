"""Settings of `deepzero-sim bench`: measurements of this machine, and comparisons of methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from deepzero_sim.cli.options import Command
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import Rule, SettingError, Settings
from deepzero_sim.common.types import Scheme
from deepzero_sim.training.runs.settings import Positive, Seconds, Seed, Workers, small_network

#: Classifiers of images of 32 x 32, and correctors on the wake's states.
BenchModel: TypeAlias = Literal["resnet20", "resnet32", "resnet44", "resnet56", "small", "mercury", "mars_moon"]

#: Ways to train through the wake: gradients past the solver, from none to exact; gradients from losses; losses only.
WakeMethod: TypeAlias = Literal[
    "Detached",
    "StraightThrough",
    "Coloured",
    "ReferenceJacobian",
    "FO-SOL",
    "GaussNewton",
    "EKI",
    "CGE",
    "CGE-ZO-GraSP",
    "CoCD",
    "RGE",
    "RGE-rows",
    "FZOO",
    "CMA-ES",
    "Nevergrad",
    "ES",
    "ESMDA",
]

#: Flows of `bench flows`, each with a coarse solver, a fine reference and a differentiable twin.
FlowName: TypeAlias = Literal[
    "burgers-1d",
    "korteweg-de-vries-1d",
    "kuramoto-sivashinsky-1d",
    "kuramoto-sivashinsky-2d",
    "navier-stokes-2d",
    "kolmogorov-2d",
    "burgers-2d",
    "gray-scott-2d",
    "burgers-3d",
    "wake-2d",
    "channel-2d",
    "burgers-mesh",
]

#: Gradients past the solver of `bench flows`, from none to exact, and estimators that ask for losses.
FlowMethod: TypeAlias = Literal[
    "DETACHED",
    "STRAIGHT-THROUGH",
    "EMULATOR",
    "Coloured",
    "ReferenceJacobian",
    "JacobianField",
    "CGE",
    "CoCD",
    "RGE-rows",
    "GaussNewton",
    "EKI",
    "FO-SOL",
]


@dataclass
class BenchSettings(Settings):
    """A measurement of the engine's speed and accuracy against the plain loop's.

    Args:
        model: Classifier of images of 32 x 32, or a corrector on the wake's states.
        batch: Number of images or states in a batch.
        device: Device, cpu or cuda.
        workers: Workers of the engine; none for a process on every core, or this process with cuda.
        precision: Precision of the engine's arithmetic, float32 or bfloat16.
        queries_per_chunk: Most perturbed networks that the engine evaluates as one batch; none for what it finds best.
        step_size: Step size of the finite differences.
        scheme: Differences, forward or central.
        seconds: Seconds that one timing of the engine or the plain loop should take.
        repeats: Number of timings of each thing, of which the fastest counts.
        error_coordinates: Coordinates of every layer that are compared with float64; few make relative errors large by chance.
        seed: Seed of weights, data, and the choice of coordinates.
    """

    model: BenchModel = "resnet20"
    batch: int = 64
    device: Literal["cpu", "cuda"] = "cpu"
    workers: Workers | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    queries_per_chunk: int | None = None
    step_size: float = 1e-3
    scheme: Scheme = "forward"
    seconds: Seconds = 20.0
    repeats: Positive = 3
    error_coordinates: Positive = 8
    seed: Seed = 0

    def __post_init__(self) -> None:
        least = 2 if self.model.startswith("resnet") else 1
        why = " whose batch norm compares images," if least > 1 else ""
        Rule(lambda batch: least <= batch < 2**31, f"at least {least} for {self.model},{why} and below 2**31")(
            "batch", self.batch
        )
        super().__post_init__()


_Unroll: TypeAlias = Annotated[
    int,
    Rule(
        lambda unroll: 2 <= unroll < 2**31,
        "at least 2, because the first step does not depend on the network, and below 2**31",
    ),
]


@dataclass
class BenchWakeSettings(Settings):
    """A comparison of ways to train through the wake: error on unseen Reynolds numbers against solver steps spent.

    Args:
        output: Folder of its data, runs and report.
        seeds: Number of seeds; each trains NON and, from its network, every method.
        methods: Methods that are compared with the solver alone and with NON.
        updates: Updates of the methods with a gradient past the solver.
        query_steps: Solver steps that each method may spend that asks for losses.
        unroll: Solver steps of a rollout in training.
        batch_size: Rollouts of a gradient or loss.
        network: Corrector: small, mercury, mars_moon, or an import path or file.py:Name called with the solver's spec.
        steps: Steps of the rollouts that are compared.
        workers: Workers that answer queries and run simulations.
    """

    output: Path = Path("runs/bench_wake")
    seeds: Positive = 3
    methods: list[WakeMethod] = field(default_factory=lambda: list(get_args(WakeMethod)))
    updates: Positive = 600
    query_steps: Positive = 200_000
    unroll: _Unroll = 8
    batch_size: Positive = 2
    network: Component = field(default_factory=small_network)
    steps: Positive = 250
    workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise SettingError("methods", "name one or more, each once", ", ".join(self.methods) or "none", remedy="")


_Seeds: TypeAlias = Annotated[
    int, Rule(lambda seeds: 0 <= seeds < 2**31, "0, for products alone, or a positive number below 2**31")
]

#: Parts of `bench flows`: products through many steps and what is gained by training with them; the fields' own error bars
#: against their true errors; costs by the number of cells.
FlowPart: TypeAlias = Literal["products", "trainings", "error-bars", "sizes"]


@dataclass
class BenchFlowsSettings(Settings):
    """A comparison of gradients past the solver on many flows: products against exact ones, and what training gains by them.

    Args:
        output: Folder of its data, runs and report; what is there already is not computed again.
        flows: Flows to compare on, all by default.
        methods: Methods to compare; of Coloured only products are measured, which take many solver steps each.
        parts: Parts to measure, all by default: products, trainings, error-bars (what JacobianField says of its error against
            the truth) and sizes (costs by the number of cells, of navier-stokes-2d and burgers-3d).
        seeds: Number of seeds; each trains NON and, from its network, every method. With 0 nothing is trained.
        updates: Updates of each training from NON's network with a gradient past the solver.
        query_steps: Solver steps that each method may spend that asks for losses.
        unroll: Solver steps of a rollout in training.
        steps: Steps of the rollouts that are compared.
        loss: Loss of the trainings from NON's network: rollout, or terminal, for which errors at the last step unrolled count.
    """

    output: Path = Path("runs/bench_flows")
    flows: list[FlowName] = field(default_factory=lambda: list(get_args(FlowName)))
    methods: list[FlowMethod] = field(default_factory=lambda: list(get_args(FlowMethod)))
    parts: list[FlowPart] = field(default_factory=lambda: list(get_args(FlowPart)))
    seeds: _Seeds = 3
    updates: Positive = 300
    query_steps: Positive = 200_000
    unroll: _Unroll = 16
    steps: Positive = 48
    loss: Literal["rollout", "terminal"] = "rollout"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, named in (("flows", self.flows), ("methods", self.methods), ("parts", self.parts)):
            if not named or len(set(named)) < len(named):
                raise SettingError(name, "name one or more, each once", ", ".join(named) or "none", remedy="")


COMMANDS = {
    "bench cge": Command(BenchSettings, "bench.run_cge"),
    "bench wake": Command(BenchWakeSettings, "bench.run_wake"),
    "bench flows": Command(BenchFlowsSettings, "bench.run_flows"),
}
