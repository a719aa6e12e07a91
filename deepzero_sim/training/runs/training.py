"""Training of a corrector in a run folder, by any method, or going on with it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch

from deepzero_sim.common.components import Component
from deepzero_sim.common.files import digest_of_named
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.programs.working_folder import default_kept_folder
from deepzero_sim.coupling.layer import require_repeatable_differences
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.losses import Observed, Rollout
from deepzero_sim.coupling.losses.named import build_loss
from deepzero_sim.coupling.named_gradients import SolverGradient
from deepzero_sim.coupling.trained_params import TrainedParams, module_of
from deepzero_sim.coupling.vjp.analytic import Detached, Exact, StraightThrough
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.datasets.batches import UnrolledBatches, require_long_enough
from deepzero_sim.datasets.fitting.one_step_error import OneStepError, of_first_steps, of_some_frames
from deepzero_sim.datasets.fitting.spacing import spacing_of_first_steps
from deepzero_sim.datasets.frames import blocks
from deepzero_sim.datasets.metadata import require_twin
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, RunError, SolverError
from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios
from deepzero_sim.estimators.sparsity.grasp import GraSP
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.residuals import residual_model
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.failure_policy import NOTHING, FailurePolicy
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest
from deepzero_sim.training.active_set import ActiveSet, RunRatios, active_set, build_ratios
from deepzero_sim.training.build import build_coupling, build_estimator, build_optimiser, build_scheduler, build_vjp
from deepzero_sim.training.checkpoints import CONFIG, load_checkpoint, load_with_identity, read_settings, storable_copies
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import JACOBIANS, RunFolder
from deepzero_sim.training.runs.circumstances import Circumstances, overlap_with_start
from deepzero_sim.training.runs.defaults import resolve, unrolls_of
from deepzero_sim.training.runs.first_steps import FirstSteps
from deepzero_sim.training.runs.folders import last_stage, stage_folders, within
from deepzero_sim.training.runs.held_back import divide, with_choice
from deepzero_sim.training.runs.origin import in_words_of_run
from deepzero_sim.training.runs.settings import MethodChoice, TrainSettings
from deepzero_sim.training.runs.start import Start, claim_folder
from deepzero_sim.training.runs.trained_params import params_at_start, params_of
from deepzero_sim.training.runs.trained_run import run_settings, sample_states, starting_network, states_on_the_way
from deepzero_sim.training.runs.unrolls import Unrolls
from deepzero_sim.training.runs.validation import (
    ROLLOUTS,
    TRAINING_ROLLOUTS,
    fixed_rollouts,
    loss_of_start,
    measure_on,
    measure_source_on,
    suitable_steps,
)
from deepzero_sim.training.trainer import Trainer
from deepzero_sim.training.validation import Validation, network_digest
from deepzero_sim.training.validation_record import Rollouts

#: Least solver steps that measuring a product may take where a network would learn nothing without one.
LEAST_STEPS = 2_000


class _Method(NamedTuple):
    """Differences between the trained methods.

    Args:
        gradient: Gradient of the solver; that of the settings if None.
        by_queries: True if gradients are differences of losses.
    """

    gradient: SolverGradient | None
    by_queries: bool = False


_METHODS: dict[MethodChoice, _Method] = {
    "NON": _Method("detached"),
    "ZO-SOL": _Method("detached", by_queries=True),
    "SolverLayer": _Method(None),
    "FO-SOL": _Method("exact"),
    "DETACHED": _Method("detached"),
    "STRAIGHT-THROUGH": _Method("straight-through"),
}


def train(
    settings: TrainSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Collection[int] = (),
    say: Callable[[str], None] = lambda sentence: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Progress:
    """Train a corrector, or go on with the run of that folder.

    Args:
        settings: Settings of the run, of one stage: see :func:`deepzero_sim.training.runs.stages.plan`.
        report: Function called after every update.
        keep: Numbers of updates after which the network is kept, as one of the run's snapshots.
        say: Function that is told of traps while they happen, in sentences.
        note: Function that is told what was chosen and found, in sentences.

    Raises:
        DeepZeroError: Something cannot be used, or failed.
    """
    if settings.stages:
        raise ConfigError("settings with stages are several trainings: train each of deepzero_sim.training.runs.stages.plan.")
    if stage_folders(settings.run):
        raise RunError(f"{settings.run} holds a run with stages: give the settings stages, or name another folder with --run.")
    begun = in_words_of_run(settings)
    for sentence in begun.notes:
        note(sentence)
    with within(begun.origin):
        settings, choices = resolve(begun.settings)
        for sentence in choices:
            note(sentence)
        if settings.method == "SRC":  # the solver alone: nothing is trained
            claim_folder(settings)
            return Progress()
        return _Training(settings).run(report, keep, _Listener(say, note))


class _Listener(NamedTuple):
    """Functions that are told of a training in sentences.

    Args:
        say: Function that is told of traps.
        note: Function that is told what was chosen and found.
    """

    say: Callable[[str], None]
    note: Callable[[str], None]

    def warn_of(self, sentence: str | None) -> None:
        """Say a sentence, if there is one."""
        if sentence:
            self.say(sentence)


class _Training:
    """One start of a run: its parts, in the order in which what is wrong with them is said.

    Args:
        settings: Settings of the run.
    """

    def __init__(self, settings: TrainSettings) -> None:
        started = time.perf_counter()
        self._settings = settings
        self._method = _METHODS[settings.method]
        self._ratios = self._build_ratios()
        with default_kept_folder(settings.run / "kept"):  # working folders of failed calls, if the solver is a program
            self._solver = build_solver(self._solver_component)
        # a differentiable solver is said to be the same physics by another name
        accepted = [*settings.data_may_differ, *(["name"] if settings.method == "FO-SOL" else [])]
        whole = open_trajectories(settings.train_data, self._solver.spec, accepted)
        self._notes = list(whole.notes)
        recorded = read_settings(settings.run) if (settings.run / CONFIG).exists() else {}
        self._division = divide(whole, settings, recorded)
        self._data, self._unseen = self._division.trained, self._division.held_back
        if settings.validation_data is not None:
            self._unseen = open_trajectories(settings.validation_data, self._solver.spec, accepted)
        self._settings = settings = self._settle(with_choice(settings, self._division, recorded), recorded)
        self._coupling = build_coupling(settings.coupling)
        self._coupling.adapt(self._solver)  # says it if it does not suit the solver
        self._corrector = starting_network(
            settings.network, settings.start, self._solver.spec, self._data, settings.seed, self._coupling
        )
        self._contents = {"train_data": whole.digest()}
        before = self._params_of_start()
        self._trained_params = params_at_start(
            settings.train_params, self._solver.spec, self._data, before, before is None or self._is_on_data_of_start()
        )
        if self._trained_params is not None and self._method.gradient != "exact" and not self._method.by_queries:
            require_repeatable_differences(self._solver.spec)
        self._starts = None if self._trained_params is None else self._trained_params.values()
        self._unrolls = unrolls_of(settings)
        self._loss = build_loss(settings.loss)
        self._require_sight()
        self._gradient = build_vjp(settings.vjp) if self._method.gradient is None else self._method.gradient
        self._policy = FailurePolicy(settings.on_failure)
        require_long_enough(self._data, self._unrolls.longest)
        if self._unseen is not None:
            require_long_enough(self._unseen, 1)
        model = module_of(self._corrector, self._trained_params)
        trainable(model)  # says it if there is nothing to train
        self._optimiser = build_optimiser(settings.optimiser, model)
        if settings.validation_data is not None and self._unseen is not None:
            self._contents["validation_data"] = self._unseen.digest()
        self._start = Start(settings, self._contents, started)
        self._one_step_error: OneStepError | None = None
        self._sampled = NOTHING

    @property
    def _asks(self) -> bool:
        """True if the gradient takes solver steps of its own."""
        differences = self._coupling.network_first or bool(self._settings.train_params)
        by_product = self._method.gradient is None or (differences and self._method.gradient != "exact")
        return self._method.by_queries or by_product

    @property
    def _solver_component(self) -> Component:
        """Opaque solver, or for FO-SOL the differentiable one."""
        settings = self._settings
        component = settings.differentiable_solver if settings.method == "FO-SOL" else settings.solver
        if component is None:
            raise ConfigError("method FO-SOL needs a differentiable_solver: name one, or choose another method.")
        return component

    def _settle(self, settings: TrainSettings, recorded: Mapping[str, Any]) -> TrainSettings:
        """Choose how far rollouts of the validation go, where the settings do not say; a run goes on as it began."""
        measured = self._data if self._unseen is None else self._unseen
        if settings.validate_steps is not None or (self._unseen is None and settings.start is None):
            return settings
        if recorded:
            return replace(settings, validate_steps=recorded.get("validate_steps"))
        return replace(settings, validate_steps=suitable_steps(measured, self._longest(settings), self._most_rollouts))

    @staticmethod
    def _longest(settings: TrainSettings) -> int:
        """Return the solver steps of the longest rollouts that the settings name, which NON of several stages has too."""
        return Unrolls.of(settings.unroll).longest

    def _is_on_data_of_start(self) -> bool:
        """Tell whether the run that this one starts from was trained on the same data."""
        assert self._settings.start is not None
        recorded = load_with_identity(last_stage(self._settings.start))[1].contents.get("train_data")
        return recorded is None or recorded == self._contents["train_data"]

    def _params_of_start(self) -> TrainedParams | None:
        """Restore the scenario parameters that the run trained which this one starts from."""
        if self._settings.start is None:
            return None
        start = last_stage(self._settings.start)
        trained = run_settings(start).train_params
        return params_of(load_checkpoint(start), trained, self._solver.spec, start) if trained else None

    def _require_sight(self) -> None:
        """Refuse rollouts of which the loss sees nothing; single steps of NON have the error of every point for one then."""
        if self._data.unobserved and not self._loss.takes_unobserved:
            raise ConfigError(
                f"the data have values that were not observed, which loss {self._settings.loss.name} cannot leave out: "
                "take loss observed."
            )
        for steps in self._unrolls.lengths:
            try:
                self._loss.require_sight(steps)
            except ConfigError as error:
                if self._settings.method != "NON":
                    raise
                self._notes.append(f"NON minimises the error of single steps: {error}")
                self._loss = Observed() if self._data.unobserved else Rollout()

    @property
    def _most_rollouts(self) -> int:
        return TRAINING_ROLLOUTS if self._unseen is None else ROLLOUTS

    def run(self, report: Callable[[Progress], None], keep: Collection[int], listener: _Listener) -> Progress:
        """Train up to the last update; the first two arguments are those of :func:`train`."""
        settings, start = self._settings, self._start
        for sentence in self._notes:
            listener.note(sentence)
        depends_on_length = settings.scheduler is not None and "updates" in settings.scheduler.args.values()
        backend = settings.workers.backend if self._asks else "serial"
        with open_executor(backend, settings.workers.count) as executor:
            longest = self._unrolls.longest
            within: SolverGradient | VectorJacobianProduct = "detached"  # losses by queries pass a step as it is
            if self._coupling.network_first and not self._method.by_queries:
                within = build_vjp(settings.vjp)
            loop = SolverLoop(
                self._solver,
                self._corrector,
                longest,
                self._gradient,
                executor,
                self._policy,
                coupling=self._coupling,
                within=within,
                trained_params=self._trained_params,
            )
            loop.layer.probes.note, loop.layer.probes.warn = listener.note, listener.say
            loss = self._loss.build(self._solver.spec, self._data)
            unobserved = self._data.unobserved
            oracle = LoopOracle(loop, loss, executor, settings.queries_per_chunk, self._unrolls.lengths, unobserved)
            estimator = build_estimator(settings.estimator) if self._method.by_queries else BackPropagation()
            if estimator.needs_residuals:
                residual_model(loss)  # says so now if it has none, before steps are spent
            scheduler = build_scheduler(settings.scheduler, self._optimiser, settings.updates)
            if self._method.by_queries and self._solver.spec.deterministic and start.done is None:
                start.checking += _require_repeatable(oracle, self._cut(None)(0))
            alone = with_inputs_at_rest(self._solver)
            first_steps = FirstSteps(alone, self._solver_component, self._data, self._policy)
            batches = _Batches(lambda: self._cut(self._take_first_steps(first_steps, listener)))
            if not start.finished:
                batches.require()
            run = start.claim()
            active = start.measure(lambda: self._active_set(oracle, batches, run)) if self._method.by_queries else ActiveSet()
            trainer = Trainer(
                oracle,
                estimator,
                self._optimiser,
                batches,
                run,
                scheduler=scheduler,
                mask=active.mask,
                seed=settings.seed,
                checkpoint_every=settings.checkpoint_every,
                validation=self._validation(oracle, listener),
                schedule_length=settings.updates if depends_on_length else None,
            )
            self._prepare_vjp(loop, run, listener)
            resumption_seconds, seconds = start.finish()
            spent = replace(active.spent, solver_steps=active.spent.solver_steps + loop.backward_steps)
            progress = trainer.train(
                settings.updates,
                report,
                tensorboard=settings.tensorboard,
                spent=replace(spent, seconds=spent.seconds + seconds),
                resumption_seconds=resumption_seconds,
                incidents=(*first_steps.incidents, *self._sampled.incidents, *loop.layer.probes.account.incidents),
                keep=keep,
            )
        self._tell_params(run, listener)
        return progress

    def _tell_params(self, run: RunFolder, listener: _Listener) -> None:
        """Say what became of trained scenario parameters."""
        before = self._starts
        checkpoint = None if before is None else run.load()
        if checkpoint is None or before is None:
            return
        found = params_of(checkpoint, self._settings.train_params, self._solver.spec, run.path)
        for name, value in ({} if found is None else found.values()).items():
            listener.note(f"{name}: {_in_words(value)} (at the start {_in_words(before[name])}).")

    def _validation(self, oracle: LoopOracle, listener: _Listener) -> Validation | None:
        """Return the validation on data that training does not see, or, of a run that starts from another, on its own data."""
        settings, seen = self._settings, self._unseen is None
        if (seen and settings.start is None) or self._is_numbered:
            return None
        data = self._data if self._unseen is None else self._unseen
        rollouts = fixed_rollouts(data, self._longest(settings), self._most_rollouts, settings.validate_steps)
        scales = data.scales()[0]
        start = None if settings.start is None else storable_copies(oracle.model.state_dict())
        digest = "" if start is None else digest_of_named([], start)
        if settings.start is not None and self._trained_params is not None:  # which start anew from their values there
            digest = network_digest(load_checkpoint(last_stage(settings.start)))
        circumstances = Circumstances(settings, self._division, rollouts, self._one_step_error)
        for sentence in circumstances.notes(self._solver.spec.parameters):
            listener.note(sentence)
        if start is not None and not seen and self._start.done is None:
            listener.warn_of(overlap_with_start(settings, self._division, self._contents["train_data"]))
        causes = circumstances.causes(self._solver.spec.parameters)
        return Validation(
            Rollouts(circumstances.words, not seen, start is not None, digest, causes),
            measure_on(oracle.loop, rollouts, scales),
            settings.validate_every,
            None if start is None else loss_of_start(oracle, start),
            listener.say,
            measure_source_on(oracle.loop, rollouts, scales),
        )

    def _take_first_steps(self, first_steps: FirstSteps, listener: _Listener) -> Array | None:
        """Take the solver's step from every frame, and say what these tell of frames' distance and of what is to correct."""
        name = self._solver.spec.name
        depends = self._coupling.network_first or self._trained_params is not None
        steps = None if depends or self._data.unobserved else self._start.first_steps(first_steps)
        if self._start.done is not None:
            return steps
        if self._data.unobserved:
            listener.note(_words_of_unobserved(self._data))
        elif steps is None:
            alone = with_inputs_at_rest(self._solver)
            self._one_step_error, self._sampled = of_some_frames(alone, self._data, self._policy)
            self._start.checking += self._sampled.steps
        else:
            self._one_step_error = of_first_steps(self._data, steps)
            listener.warn_of(spacing_of_first_steps(name, self._data, steps))
        if self._one_step_error is not None:
            listener.warn_of(self._one_step_error.warning(name))
            for sentence in self._one_step_error.notes():
                listener.note(sentence)
        return steps

    @property
    def _is_numbered(self) -> bool:
        """True if batches tell of which simulations they are."""
        return self._trained_params is not None and self._trained_params.per_simulation

    def _cut(self, first_steps: Array | None) -> Callable[[int], Any]:
        settings = self._settings
        cut = {
            steps: UnrolledBatches(self._data, first_steps, settings.batch_size, steps, settings.seed, self._is_numbered)
            for steps in self._unrolls.lengths
        }
        return lambda update: cut[self._unrolls.at(update)](update)

    def _prepare_vjp(self, loop: SolverLoop, run: RunFolder, listener: _Listener) -> None:
        """Let a vector-Jacobian product learn of the solver what it needs, at states of the training data."""
        vjp, settings = loop.gradient, self._settings
        steps = self._unrolls.total(settings.updates) * settings.batch_size // 2
        if loop.coupling.network_first:  # without a product, the network would learn nothing
            steps = max(steps, LEAST_STEPS)
        vjp.adopt_defaults(run.path / JACOBIANS, steps)
        if self._start.done is not None:
            return
        if self._data.unobserved and not isinstance(vjp, Detached | StraightThrough | Exact):
            states, params = states_on_the_way(loop, self._data, self._unrolls.longest)
        else:
            states, params = sample_states(self._data)
        params = loop.sample_params(params)
        with single_threaded():
            vjp.prepare(loop.samples(states, params), params, loop.layer.probes)
        if vjp.report is not None:
            listener.note(f"{type(vjp).__name__} of solver {self._solver.spec.name!r}: {vjp.report}.")

    def _build_ratios(self) -> LayerRatios:
        settings, ratios = self._settings, build_ratios(self._settings.layer_ratios)
        exact = isinstance(ratios, GraSP) and settings.sparsity and self._method.by_queries
        if exact and settings.differentiable_solver is None:
            raise ConfigError(
                "layer_ratios grasp needs the exact gradients of a differentiable_solver: name one, or take zo-grasp, which "
                "needs none."
            )
        return ratios

    def _active_set(self, oracle: LoopOracle, batches: Callable[[int], Any], run: RunFolder) -> ActiveSet:
        settings = self._settings

        def find() -> Densities:
            asked = self._oracle_of_ratios(oracle)
            return self._ratios.densities(asked, batches(0), settings.sparsity, settings.seed)

        ratios_of_run = RunRatios(run, settings.layer_ratios.name, settings.sparsity)
        return active_set(ratios_of_run, find, oracle.model, settings.mask_refresh, settings.seed)

    def _oracle_of_ratios(self, oracle: LoopOracle) -> LoopOracle:
        """Return what layer ratios ask: the first-order ones the differentiable solver, all others the opaque one."""
        if not isinstance(self._ratios, GraSP) or self._settings.differentiable_solver is None:
            return oracle
        twin = build_solver(self._settings.differentiable_solver)
        require_twin(twin.spec, oracle.loop.solver.spec)
        exact = oracle.loop.with_solver(twin, "exact")
        return LoopOracle(exact, oracle.loss_function)


def _words_of_unobserved(data: Trajectories) -> str:
    """Say how much of the data was observed, and where rollouts can begin."""
    seen = sum(int((~np.isnan(block.states))[:, :, data.mask].sum()) for block in blocks(data.frames))
    share = seen / (math.prod(data.frames.shape[:2]) * int(data.mask.sum()))
    return (
        f"{share:.1%} of the data's values were observed; rollouts begin at the {int(data.complete.sum())} of "
        f"{data.complete.size} frames that are complete."
    )


def _in_words(value: float | list[float]) -> str:
    """Write a trained parameter; of values of many simulations, their range."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{min(value):.6g} to {max(value):.6g} over {len(value)} simulations"


class _Batches:
    """Batches of a training, cut when the first one is asked for: a run that has ended asks its solver nothing."""

    def __init__(self, cut: Callable[[], Callable[[int], Any]]) -> None:
        self._cut = cut

    def __call__(self, step: int) -> Any:
        return self._batches(step)

    @functools.cached_property
    def _batches(self) -> Callable[[int], Any]:
        return self._cut()

    def require(self) -> None:
        """Cut them now."""
        self._batches  # noqa: B018 - a cached property


def _require_repeatable(oracle: LoopOracle, batch: Any) -> int:
    """Ask the same loss twice: differences of losses say nothing if one question has two answers.

    Returns:
        The solver steps it took to find out.

    Raises:
        ConfigError: The losses differ.
    """
    try:
        with torch.no_grad(), single_threaded(), preserve_state(oracle.model):
            (loss, account), (again, more) = (oracle.differentiable_loss(batch) for _ in range(2))
            first, second = float(loss), float(again)
    except SolverError:  # training meets it too, or no more; it knows what the failure policy makes of it
        return 0
    if first != second and isfinite(first):
        raise ConfigError(
            f"ZO-SOL needs a solver and a network that give the same for the same, but the loss was {first} and then {second}: "
            "take out what is random (dropout, for one) or kept from call to call."
        )
    return account.steps + more.steps
