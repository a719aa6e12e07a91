"""`deepzero-sim check-gradient`: a check of the gradients that training through a solver would follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager

from torch import nn

from deepzero_sim.checks.gradient.gradient_check import GradientCheck, compare_with_truth
from deepzero_sim.checks.gradient.parameter_gradients import ParameterGradients
from deepzero_sim.checks.gradient.truth import Truth, measure_truth
from deepzero_sim.cli.console import console, print_table, progress_bar
from deepzero_sim.cli.reports import gradient_check
from deepzero_sim.cli.reports.gradient_check import GradientChecks
from deepzero_sim.cli.reports.ownership import require_own_files
from deepzero_sim.cli.settings.check_gradient import CheckSettings, default_vjps
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.coupling.couplings import Coupling
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.losses.named import build_loss
from deepzero_sim.coupling.vjp.analytic import Detached
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames_in_memory
from deepzero_sim.datasets.metadata import require_twin
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest
from deepzero_sim.training.build import build_coupling, build_estimator, build_vjp
from deepzero_sim.training.runs.trained_run import sample_states, starting_network


def run(settings: CheckSettings) -> None:
    """Check gradients, with a report."""
    require_own_files(settings.output, gradient_check.FILES, "--output")
    with progress_bar("checking gradients", 1 + len(settings.vjp) + (settings.estimator is not None)) as report:
        result = check_gradients(settings, report)
    print_table(gradient_check.rows(result.checks))
    for name, words in result.found.items():
        console.print(f"{name}: {words}.")
    for name, why in result.left_out.items():
        console.print(f"left out {name}: {why}")
    gradient_check.publish(settings.output, result, settings_to_dict(settings))
    console.print(f"report: {settings.output / gradient_check.PAGE}")


def check_gradients(settings: CheckSettings, report: Callable[[str], None] = lambda name: None) -> GradientChecks:
    """Compare gradients of a corrected rollout's loss, past the solver by every method, with the true ones.

    Args:
        settings: Settings of the check.
        report: Callback with a name, when the true gradients are known and after each method.

    Raises:
        DeepZeroError: A method does not suit the solver; one that was not named, but stands in the default list, is left out
            instead.
    """
    solver, twin = build_solver(settings.solver), _twin(settings.differentiable_solver)
    if twin is not None:
        require_twin(twin.spec, solver.spec)
    data = open_trajectories(settings.train_data, solver.spec, settings.data_may_differ)
    for note in data.notes:
        console.print(note)
    coupling = build_coupling(settings.coupling)
    coupling.adapt(solver)  # says it if it does not suit the solver
    network = starting_network(settings.network, settings.start, solver.spec, data, settings.seed, coupling)
    with (
        open_executor(settings.workers.backend, settings.workers.count) as executor,
        single_threaded(),
    ):
        comparison = _Comparison(settings, solver, coupling, network, data, executor)
        truth = comparison.truth(twin)
        report("the true gradients")
        checks: dict[str, GradientCheck] = {}
        left_out: dict[str, str] = {}
        found: dict[str, str] = {}
        for component, name in zip(settings.vjp, _names(settings.vjp), strict=True):
            with _skip_unsuitable(settings, name, left_out):
                product = build_vjp(component)
                checks[name] = comparison.product(truth, product)
                found |= {} if product.report is None else {name: str(product.report)}
            report(name)
        if settings.estimator is not None:
            checks[_name(settings.estimator)] = comparison.estimator(truth, settings.estimator)
            report(_name(settings.estimator))
    return GradientChecks(checks, left_out, found)


class _Comparison:
    """Comparison of methods on one solver, network and set of batches."""

    def __init__(
        self,
        settings: CheckSettings,
        solver: Solver,
        coupling: Coupling,
        network: nn.Module,
        data: Trajectories,
        executor: Executor,
    ) -> None:
        self._settings, self._solver, self._network, self._data = settings, solver, network, data
        self._coupling = coupling
        loss = build_loss(settings.loss)
        loss.require_sight(settings.unroll)
        self._executor, self._loss = executor, loss.build(solver.spec, data)
        known = None if coupling.network_first else advance_frames_in_memory(with_inputs_at_rest(solver), data)
        cut = UnrolledBatches(data, known, settings.batch_size, settings.unroll, settings.seed)
        self._batches = [cut(number) for number in range(settings.batches)]

    def truth(self, twin: DifferentiableSolver | None) -> Truth:
        subject = ParameterGradients(self._oracle(Detached()), self._batches)
        return measure_truth(subject, twin, self._settings.directions, self._settings.seed)

    def product(self, truth: Truth, product: VectorJacobianProduct) -> GradientCheck:
        oracle = self._oracle(product)
        states, params = sample_states(self._data)
        oracle.loop.gradient.prepare(oracle.loop.samples(states, params), params, oracle.loop.layer.probes)
        once = oracle.backward_steps
        return compare_with_truth(truth, ParameterGradients(oracle, self._batches).estimate(), once)

    def estimator(self, truth: Truth, component: Component) -> GradientCheck:
        built = build_estimator(component)
        if built.gives_steps:
            raise ConfigError(f"{component.name} gives steps and no gradient to be compared: name CGE or RGE.")
        subject = ParameterGradients(self._oracle(Detached()), self._batches, built, self._settings.seed + 1)
        return compare_with_truth(truth, subject.estimate())

    def _oracle(self, product: VectorJacobianProduct) -> LoopOracle:
        unroll = self._settings.unroll
        loop = SolverLoop(self._solver, self._network, unroll, product, self._executor, coupling=self._coupling)
        return LoopOracle(loop, self._loss, self._executor)


def _twin(component: Component | None) -> DifferentiableSolver | None:
    if component is None:
        return None
    twin = build_solver(component)
    if not isinstance(twin, DifferentiableSolver):
        raise ConfigError(
            f"differentiable_solver {component.name!r} must be a dz.DifferentiableSolver, not {type(twin).__name__}: leave it "
            "out if there is none."
        )
    return twin


@contextmanager
def _skip_unsuitable(settings: CheckSettings, name: str, left_out: dict[str, str]) -> Iterator[None]:
    """Leave out a method that does not suit the solver if nobody asked for it, and note the reason."""
    try:
        yield
    except DeepZeroError as error:
        if settings.vjp != default_vjps():
            raise
        left_out[name] = str(error)


def _names(components: Sequence[Component]) -> list[str]:
    """Name methods in short, and in full where two names would be the same.

    Raises:
        ConfigError: A method is there twice.
    """
    short = [_name(component) for component in components]
    names = [
        name if short.count(name) == 1 else f"{component.name} {component.args}"
        for name, component in zip(short, components, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"vjp must name each method once, but {name} is there {names.count(name)} times.")
    return names


def _name(component: Component) -> str:
    """Name a method as in Python: `Coloured(radius=2)`; without parentheses if there are no arguments."""
    given = ", ".join(f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in component.args.items())
    return component.name.rpartition(".")[2].rpartition(":")[2] + (f"({given})" if given else "")
