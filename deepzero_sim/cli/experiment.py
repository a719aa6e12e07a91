"""From settings to objects: training and evaluating correctors, every method by one switch."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from deepzero_sim.cli.first_steps import FirstSteps, others
from deepzero_sim.cli.reports.plain import plain
from deepzero_sim.cli.settings import MethodName, TrainSettings
from deepzero_sim.cli.trust import described, trust_parts, untrusted
from deepzero_sim.common.checksums import digest
from deepzero_sim.common.components import Component
from deepzero_sim.common.module_state import cast, preserve_state
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.programs.working_folder import default_kept_folder
from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.loop import SolverGradient, SolverLoop
from deepzero_sim.coupling.rollout_loss import RolloutLoss
from deepzero_sim.coupling.vjp import ReferenceJacobian
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.batches import UnrolledBatches, require_long_enough
from deepzero_sim.datasets.statements import Statement, require_twin
from deepzero_sim.datasets.trajectories import Trajectories, require_agreement
from deepzero_sim.errors import ConfigError, RunError, SolverError
from deepzero_sim.estimators import BackPropagation
from deepzero_sim.estimators.sparsity import Densities, GraSP, LayerRatios
from deepzero_sim.execution.executors import open_executor, single_threaded
from deepzero_sim.models.build import build_network
from deepzero_sim.models.corrector import CORRECTORS, Corrector, NoCorrection
from deepzero_sim.oracle.base import LoopOracle
from deepzero_sim.oracle.queries import trainable
from deepzero_sim.solver.contract import Solver, SolverSpec, build_solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.active_set import ActiveSet, RunRatios, active_set, build_ratios
from deepzero_sim.training.build import build_estimator, build_optimiser, build_product, build_scheduler
from deepzero_sim.training.checkpoint_file import CONFIG, load_checkpoint, read_settings
from deepzero_sim.training.preparation import PREPARATION, Entry, Preparation
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios
from deepzero_sim.training.run_folder import JACOBIANS, RunFolder
from deepzero_sim.training.trainer import Progress, Trainer, progress_of, require_within, restore_network


class _Method(NamedTuple):
    """What tells the trained methods apart: the solver's gradient (that of the settings if None), whether queries replace it,
    and the loop's length.
    """

    gradient: SolverGradient | None
    queried: bool = False
    unrolled: bool = True


_METHODS: dict[MethodName, _Method] = {
    "NON": _Method("detached", unrolled=False),
    "ZO-SOL": _Method("detached", queried=True),
    "SolverLayer": _Method(None),
    "FO-SOL": _Method("exact"),
    "DETACHED": _Method("detached"),
    "STRAIGHT-THROUGH": _Method("straight-through"),
}


@dataclass(frozen=True)
class Cost:
    """What a trained network took, the run it started from included.

    Args:
        solver_steps: states advanced by one step.
        seconds: of training.
        failures: of solver steps, by kind and what was done.
        found: first steps that other runs had taken, which are not counted here.
    """

    solver_steps: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    found: int = 0


def train(
    settings: TrainSettings, report: Callable[[Progress], None] = lambda progress: None, keep: Collection[int] = ()
) -> Progress:
    """Train a corrector, or go on with the run of that folder.

    Args:
        settings: the run.
        report: called after every update.
        keep: numbers of updates after which the network is kept, as one of the run's snapshots.

    Raises:
        DeepZeroError: in words.
    """
    if settings.method == "SRC":  # the solver alone: nothing is trained
        _claim(settings)
        return Progress()
    started = time.perf_counter()
    method = _METHODS[settings.method]
    ratios = _ratios(settings, method)
    solver = _build_solver(settings)
    data = trajectories.load(settings.train_data, solver.spec, _may_differ(settings))
    corrector = starting_network(settings.network, settings.start, solver.spec, data, settings.seed)
    unroll = settings.unroll if method.unrolled else 1
    gradient = build_product(settings.vjp) if method.gradient is None else method.gradient
    policy = FailurePolicy(settings.on_failure)
    require_long_enough(data, unroll)
    trainable(corrector)  # says it if there is nothing to train
    optimiser = build_optimiser(settings.optimiser, corrector)
    start = _Start(settings, data, started)
    asks = method.queried or method.gradient is None
    with open_executor(settings.workers.backend if asks else "serial", settings.workers.count) as executor:
        loop = SolverLoop(solver, corrector, unroll, gradient, executor, policy)
        oracle = LoopOracle(loop, rollout_loss(data), executor, settings.queries_per_chunk)
        estimator = build_estimator(settings.estimator) if method.queried else BackPropagation()
        scheduler = build_scheduler(settings.scheduler, optimiser, settings.updates)

        def cut(first_steps: Array) -> UnrolledBatches:
            return UnrolledBatches(data, first_steps, settings.batch_size, unroll, settings.seed)

        if method.queried and solver.spec.deterministic and start.done is None:
            without_first_step = cut(data.frames[:, :-1])(0)[:3]
            start.checking = _require_repeatable(oracle, without_first_step)
        first_steps = FirstSteps(solver, _solver_component(settings), data, policy, loop.log)
        batches = _Batches(lambda: cut(start.first_steps(first_steps)))
        if not start.finished:
            batches.require()
        run = start.claim()
        active = start.timed(lambda: _active_set(settings, ratios, oracle, batches, run)) if method.queried else ActiveSet()
        trainer = Trainer(
            oracle,
            estimator,
            optimiser,
            batches,
            run,
            scheduler=scheduler,
            mask=active.mask,
            seed=settings.seed,
            checkpoint_every=settings.checkpoint_every,
        )
        if isinstance(gradient, ReferenceJacobian) and gradient.file is None:
            gradient.file = run.path / JACOBIANS
        if loop.layer is not None and start.done is None:
            _prepare(loop.layer, data)
        resumption_seconds, seconds = start.ready()
        spent = replace(active.spent, solver_steps=active.spent.solver_steps + loop.backward_steps)
        return trainer.train(
            settings.updates,
            report,
            tensorboard=settings.tensorboard,
            spent=replace(spent, seconds=spent.seconds + seconds),
            resumption_seconds=resumption_seconds,
            keep=keep,
        )


class _Batches:
    """The batches of a training, cut when the first one is asked for: a run that has ended asks its solver nothing."""

    def __init__(self, cut: Callable[[], UnrolledBatches]) -> None:
        self._cut = cut

    def __call__(self, step: int) -> Any:
        return self._batches(step)

    @functools.cached_property
    def _batches(self) -> UnrolledBatches:
        return self._cut()

    def require(self) -> None:
        """Cut them now."""
        self._batches  # noqa: B018 - a cached property


class _Start:
    """What a start of a run does before its first training step, counted and timed.

    Args:
        settings: the run.
        data: of training.
        started: when, as of `time.perf_counter`.

    Attributes:
        done: the checkpoint to go on from, None if there is none.
        finished: whether nothing is left to do.
        checking: solver steps of the check whether a loss repeats.
    """

    def __init__(self, settings: TrainSettings, data: Trajectories, started: float) -> None:
        self._settings, self._started = settings, started
        self._contents = {"train_data": digest([], [data.frames, data.params, data.mask])}
        self.done, self._before = None, 0.0
        if (settings.run / CONFIG).exists():
            run = self.claim()
            self.done = run.load()
            self._before = self._preparation(run).seconds
        self.finished = self.done is not None and progress_of(self.done, settings.run).step >= settings.updates
        self.checking = 0
        self._elsewhere = 0.0  # seconds that are counted with what was found

    def claim(self) -> RunFolder:
        """The run folder, made if it is not there."""
        return _claim(self._settings, self._contents)

    def _preparation(self, run: RunFolder) -> Preparation:
        found = Preparation(run.path / PREPARATION, run.name)
        if self.done is not None and not found.entries:
            raise RunError(
                f"{run.path} holds a checkpoint but no {PREPARATION} that says what the run asked of its solver before: "
                "restore that, or delete the folder to start afresh."
            )
        return found

    def first_steps(self, first_steps: FirstSteps) -> Array:
        """The solver's step from every frame."""
        run, start = self._settings.run, self._settings.start
        return first_steps.take(run, self.claim, others(run, start), fresh=self.done is None)

    def timed(self, find: Callable[[], ActiveSet]) -> ActiveSet:
        """The active coordinates; what it took to find them is kept with them."""
        begun = time.perf_counter()
        found = find()
        self._elsewhere += time.perf_counter() - begun
        return found

    def ready(self) -> tuple[float, float]:
        """Note what all this took: seconds of this start, and of all starts so far."""
        run = self.claim()
        preparation = self._preparation(run)
        if not self.finished:
            elsewhere = self._elsewhere + preparation.seconds - self._before
            rest = max(0.0, time.perf_counter() - self._started - elsewhere)
            with run.in_use():
                preparation.add(Entry("getting ready", self.checking, rest))
        return preparation.seconds - self._before, preparation.seconds


#: States of the training data that a vector-Jacobian product is prepared with.
SAMPLES = 256


def _prepare(layer: SolverLayer, data: Trajectories) -> None:
    """Let a vector-Jacobian product learn of the solver what it needs, at states of the training data."""
    states, params = samples(data)
    with single_threaded():
        layer.vjp.prepare(states, params, layer.probes)


def samples(data: Trajectories) -> tuple[Array, Array | None]:
    """States of all simulations and times alike, `(B, C, *N)`, and their parameters, `(B, K)` or None."""
    simulations, times = data.frames.shape[:2]
    places = np.unravel_index(np.linspace(0, simulations * times - 1, SAMPLES, dtype=int), (simulations, times))
    return data.frames[places], data.params[places[0]] if data.params.shape[1] else None


def _require_repeatable(oracle: LoopOracle, batch: Any) -> int:
    """Differences of losses say nothing if the same question has two answers. Returns the solver steps it took to find out.

    Raises:
        ConfigError: it has.
    """
    noted = oracle.log.take()
    try:
        with torch.no_grad(), single_threaded(), preserve_state(oracle.model):
            (loss, steps), (again, _) = (oracle.differentiable_loss(batch) for _ in range(2))
            first, second = float(loss), float(again)
    except SolverError:  # training meets it too, or no more; it knows what the failure policy makes of it
        return 0
    finally:
        happened = oracle.log.take()  # what failed is met in training
        oracle.log.add(noted)
    if first != second and isfinite(first):
        raise ConfigError(
            f"ZO-SOL needs a solver and a network that give the same for the same, but the loss was {first} and then {second}: "
            "take out what is random (dropout, for one) or kept from call to call."
        )
    return 2 * steps + happened.extra_steps


def _ratios(settings: TrainSettings, method: _Method) -> LayerRatios:
    ratios = build_ratios(settings.layer_ratios)
    if method.queried and settings.sparsity and isinstance(ratios, GraSP) and settings.differentiable_solver is None:
        raise ConfigError(
            "layer_ratios grasp needs the exact gradients of a differentiable_solver: name one, or take zo-grasp, which "
            "needs none."
        )
    return ratios


def _active_set(
    settings: TrainSettings, ratios: LayerRatios, oracle: LoopOracle, batches: Callable[[int], Any], run: RunFolder
) -> ActiveSet:
    def find() -> Densities:
        return ratios.densities(_oracle_of_ratios(settings, ratios, oracle), batches(0), settings.sparsity, settings.seed)

    kept = RunRatios(run, settings.layer_ratios.name, settings.sparsity)
    return active_set(kept, find, oracle.model, settings.mask_refresh, settings.seed, oracle.log)


def _oracle_of_ratios(settings: TrainSettings, ratios: LayerRatios, oracle: LoopOracle) -> LoopOracle:
    """What layer ratios ask: the first-order ones the differentiable solver, all others the opaque one."""
    if not isinstance(ratios, GraSP) or settings.differentiable_solver is None:
        return oracle
    twin = build_solver(settings.differentiable_solver)
    require_twin(twin.spec, oracle.loop.solver.spec)
    exact = SolverLoop(twin, oracle.loop.corrector, oracle.loop.unroll, "exact")
    return LoopOracle(exact, oracle.loss_function)


def _claim(settings: TrainSettings, contents: Mapping[str, str] | None = None) -> RunFolder:
    trust_parts({"solver": settings.solver, "network": settings.network})  # whoever trains a run may evaluate it
    free = ("workers", "on_failure", "checkpoint_every", "tensorboard", "data_may_differ")
    return RunFolder(settings.run, plain(settings), free, contents)


def _may_differ(settings: TrainSettings) -> list[str]:
    """What the data may say otherwise than the solver: a differentiable one is said to be the same physics by another name."""
    return [*settings.data_may_differ, *(["name"] if settings.method == "FO-SOL" else [])]


def _build_solver(settings: TrainSettings) -> Solver:
    with default_kept_folder(settings.run / "kept"):  # working folders of failed calls, if the solver is a program
        return build_solver(_solver_component(settings))


def _solver_component(settings: TrainSettings) -> Component:
    """The opaque solver, or for FO-SOL the differentiable one."""
    component = settings.differentiable_solver if settings.method == "FO-SOL" else settings.solver
    if component is None:
        raise ConfigError("method FO-SOL needs a differentiable_solver: name one, or choose another method.")
    return component


def build_corrector(network: Component, spec: SolverSpec, seed: int) -> nn.Module:
    """The network that settings name, with weights drawn from the seed, in the solver's dtype.

    Args:
        network: a short name, an import path or file.py:Name, called with the solver's spec and the component's args.
        spec: of the solver.
        seed: of the weights.
    """
    return cast(build_network(network, CORRECTORS, spec, seed), getattr(torch, spec.dtype))


def starting_network(network: Component, start: Path | None, spec: SolverSpec, data: Trajectories, seed: int) -> nn.Module:
    """What training starts from: the network that settings name, in the data's units, or as a run left it.

    Args:
        network: as of :func:`build_corrector`.
        start: a run folder, or None.
        spec: of the solver.
        data: of training.
        seed: of the weights.
    """
    corrector = build_corrector(network, spec, seed)
    _set_scales(corrector, data)
    if start is not None:
        restore_network(corrector, load_checkpoint(start), start)
    return corrector


def _set_scales(corrector: nn.Module, data: Trajectories) -> None:
    """Normalise our own correctors by the training data; a user's network keeps to itself."""
    if isinstance(corrector, Corrector):
        corrector.set_scales(*(torch.from_numpy(scale) for scale in data.scales()))


def rollout_loss(data: Trajectories) -> RolloutLoss:
    """What correctors are trained to make small on these data."""
    return RolloutLoss(torch.from_numpy(data.scales()[0]), torch.from_numpy(data.mask))


def run_settings(path: Path) -> dict[str, Any]:
    """The settings of a training's run folder.

    Raises:
        RunError: it is none.
    """
    settings = {"on_failure": "abort", "data_may_differ": [], **read_settings(path)}
    missing = sorted(_NEEDED.keys() - settings.keys())
    if missing:
        raise RunError(f"{path} is no run of 'deepzero-sim train' (its config.yaml has no {missing[0]!r}): check the path.")
    for key, fits in _NEEDED.items():
        if not fits(settings[key]):
            raise RunError(f"{path / 'config.yaml'} was changed: {key} cannot be {settings[key]!r}; restore what it was.")
    return settings


def _is_component(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "args"}
        and isinstance(value["name"], str)
        and isinstance(value["args"], dict)
        and all(isinstance(key, str) for key in value["args"])
    )


#: What is read of a run's settings, and whether a value is one.
_NEEDED: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str) and (value == "SRC" or value in _METHODS),
    "solver": _is_component,
    "network": _is_component,
    "start": lambda value: value is None or isinstance(value, str),
    "train_data": lambda value: isinstance(value, str),
    "unroll": lambda value: isinstance(value, int),
    "updates": lambda value: isinstance(value, int),
    "batch_size": lambda value: isinstance(value, int),
    "seed": lambda value: isinstance(value, int),
    "on_failure": lambda value: isinstance(value, str | dict),
    "data_may_differ": lambda value: isinstance(value, list) and all(entry in get_args(Statement) for entry in value),
}


def _parts(settings: Mapping[str, Any]) -> dict[str, Component]:
    """What of a run's settings is built when it is used."""
    names = ("solver",) if settings["method"] == "SRC" else ("solver", "network")
    return {name: Component(**settings[name]) for name in names}


def untrusted_parts(path: Path) -> dict[str, Component]:
    """What the settings of a run would import or run that nobody has trusted here."""
    return untrusted(_parts(run_settings(path)))


def trust(path: Path) -> None:
    """Trust the code and programs that a run's settings name, from now on: read them before."""
    trust_parts(_parts(run_settings(path)))


def trained_loop(path: Path) -> SolverLoop:
    """A run's solver with its trained corrector.

    Raises:
        RunError: the folder holds no trained run, or its settings name what nobody has trusted here, see :func:`trust`.
    """
    settings = run_settings(path)
    if named := untrusted(_parts(settings)):
        listed = "; ".join(f"{key} {described(part)}" for key, part in named.items())
        raise RunError(
            f"{path} was not made by you on this machine, and its settings would import or run {listed}: look into its "
            "config.yaml, and if you trust it, call again with --trust (in Python, call "
            "deepzero_sim.cli.experiment.trust first)."
        )
    solver = build_solver(Component(**settings["solver"]))
    if settings["method"] == "SRC":
        return SolverLoop(solver, NoCorrection(), on_failure=settings["on_failure"])
    corrector = build_corrector(Component(**settings["network"]), solver.spec, settings["seed"])
    checkpoint = load_checkpoint(path)
    require_within(progress_of(checkpoint, path), settings["updates"], path)
    restore_network(corrector, checkpoint, path)
    return SolverLoop(solver, corrector, settings["unroll"], on_failure=settings["on_failure"])


def cost(path: Path, *later: Path) -> Cost:
    """What a run took, with the runs it started from.

    Every run counts what it asked the solver itself: the first steps from all frames and what it took to prepare and to go on,
    whenever it asked, and the training steps. First steps that it found in another run are counted there.

    Args:
        path: the run folder.
        later: runs that started from this one.

    Raises:
        RunError: the folder holds no trained run, or the run started from itself: folders were renamed.
    """
    if path.resolve() in later:
        raise RunError(f"{path} is said to have started from itself: a folder was renamed; give it back its name.")
    settings = run_settings(path)
    if settings["method"] == "SRC":
        return Cost()
    checkpoint = load_checkpoint(path)
    progress = progress_of(checkpoint, path)
    require_within(progress, settings["updates"], path)
    preparation = Preparation(path / PREPARATION, checkpoint.run)
    if not preparation.entries:
        raise RunError(f"{path} has no {PREPARATION}, which says what the run asked of its solver: restore it, or train anew.")
    before = Cost() if settings["start"] is None else cost(Path(settings["start"]), path.resolve(), *later)
    steps = before.solver_steps + preparation.solver_steps + progress.solver_steps
    failures = dict(Counter(before.failures) + Counter(progress.failures))
    return Cost(steps, before.seconds + progress.seconds, failures, before.found + preparation.steps_of_others)


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's evaluation, what its training took, and its layer ratios if not all coordinates were active."""

    evaluation: Evaluation
    cost: Cost
    ratios: RatiosRecord | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods evaluated on the same data.

    Args:
        methods: results by name, SRC first.
        references: `(S, T, C, *N)`, what the rollouts should have given.
        spec: of the solver.
        data: what the file says of itself, where it was made and how.
    """

    methods: dict[str, MethodResult]
    references: torch.Tensor
    spec: SolverSpec
    data: dict[str, Any] = field(default_factory=dict)


def compare(
    runs: Mapping[str, Path], data_path: Path, steps: int | None = None, data_may_differ: Collection[str] = ()
) -> Comparison:
    """Roll out the solver alone (SRC) and every run's corrected solver on the same data, from its first frames.

    Args:
        runs: run folders by method, all of the same solver.
        data_path: HDF5 trajectories.
        steps: of the rollouts; all that the data have if None.
        data_may_differ: what the data may say otherwise than the solver and the data of training, besides what the runs accept.

    Raises:
        ConfigError: the runs are of different solvers.
        DataError: the data do not fit the solver, or the data that a run was trained on.
    """
    solvers = {name: run_settings(path)["solver"] for name, path in runs.items()}
    for name, solver_settings in solvers.items():
        if solver_settings != next(iter(solvers.values())):
            raise ConfigError(
                f"runs to be compared must have the same solver, but {name} has another solver, {solver_settings}: "
                "evaluate it by itself."
            )
    loops = {name: trained_loop(path) for name, path in runs.items()}
    first = next(iter(loops.values()))
    solver = first.solver
    data = trajectories.load(data_path, solver.spec, {*data_may_differ, *accepted_differences(*runs.values())})
    for path in runs.values():
        _require_same_kind(data, data_path, path)
    steps = data.frames.shape[1] - 1 if steps is None else steps
    alone = SolverLoop(solver, NoCorrection(), on_failure=first.on_failure)
    methods = {"SRC": MethodResult(evaluate_on(alone, data, steps), Cost())}
    for name, loop in loops.items():
        if name != "SRC":
            methods[name] = MethodResult(evaluate_on(loop, data, steps), cost(runs[name]), load_ratios(runs[name]))
    return Comparison(methods, torch.from_numpy(data.frames[:, 1 : steps + 1]), solver.spec, trajectories.describe(data))


def accepted_differences(*paths: Path) -> list[str]:
    """What the data of these runs may say otherwise than the solver."""
    return [entry for path in paths for entry in run_settings(path)["data_may_differ"]]


def _require_same_kind(data: Trajectories, data_path: Path, path: Path) -> None:
    """Hold data to what a run was trained on: a solver says less of itself than two files may say of each other."""
    settings = run_settings(path)
    if settings["method"] != "SRC":
        trained_on = Path(settings["train_data"])
        says, whose = trajectories.summarise(trained_on).says, f"{trained_on}, which {path} was trained on"
        require_agreement(data, says, str(data_path), whose, data.may_differ)


def evaluate_on(loop: SolverLoop, data: Trajectories, steps: int) -> Evaluation:
    """Roll a loop out from the first frames of the data."""
    params = torch.from_numpy(data.params) if data.params.shape[1] else None
    return evaluate(loop, torch.from_numpy(data.frames), params, torch.from_numpy(data.mask), steps)
