"""From settings to checks: the gradients that training through a solver would follow, against the true ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepzero_sim.checks.gradient import GradientCheck, ParameterGradients, Truth, held_against, measure_truth
from deepzero_sim.cli.experiment import rollout_loss, samples, starting_network
from deepzero_sim.cli.settings import CheckSettings, default_products
from deepzero_sim.common.components import Component
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.vjp import Detached, VectorJacobianProduct
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames
from deepzero_sim.datasets.statements import require_twin
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.executors import open_executor, single_threaded
from deepzero_sim.oracle.base import LoopOracle
from deepzero_sim.solver.contract import DifferentiableSolver, Solver, build_solver
from deepzero_sim.training.build import build_estimator, build_product


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        checks: of each method, by its name.
        left_out: methods that do not suit the solver, and why.
    """

    checks: dict[str, GradientCheck]
    left_out: dict[str, str]


def check(settings: CheckSettings, report: Callable[[str], None] = lambda name: None) -> Checked:
    """Compare gradients of a corrected rollout's loss, past the solver by every method, with the true ones.

    Args:
        settings: of the check.
        report: called when the true gradients are known, and after each method, with its name.

    Raises:
        DeepZeroError: in words; a method that was not named, but stands in the default list, is left out instead.
    """
    solver, twin = build_solver(settings.solver), _twin(settings.differentiable_solver)
    if twin is not None:
        require_twin(twin.spec, solver.spec)
    data = trajectories.load(settings.train_data, solver.spec, settings.data_may_differ)
    network = starting_network(settings.network, settings.start, solver.spec, data, settings.seed)
    with (
        open_executor(settings.workers.backend, settings.workers.count) as executor,
        single_threaded(),
    ):
        compared = _Compared(settings, solver, network, data, executor)
        truth = compared.truth(twin)
        report("the true gradients")
        checks: dict[str, GradientCheck] = {}
        left_out: dict[str, str] = {}
        for component, name in zip(settings.vjp, _names(settings.vjp), strict=True):
            with _leaving_out(settings, name, left_out):
                checks[name] = compared.product(truth, build_product(component))
            report(name)
        if settings.estimator is not None:
            checks[_name(settings.estimator)] = compared.estimator(truth, settings.estimator)
            report(_name(settings.estimator))
    return Checked(checks, left_out)


class _Compared:
    """One solver, network and set of batches, for all methods."""

    def __init__(
        self, settings: CheckSettings, solver: Solver, network: nn.Module, data: Trajectories, executor: Executor
    ) -> None:
        self._settings, self._solver, self._network, self._data = settings, solver, network, data
        self._executor, self._loss = executor, rollout_loss(data)
        cut = UnrolledBatches(data, advance_frames(solver, data), settings.batch_size, settings.unroll, settings.seed)
        self._batches = [cut(number) for number in range(settings.batches)]

    def truth(self, twin: DifferentiableSolver | None) -> Truth:
        subject = ParameterGradients(self._oracle(Detached()), self._batches)
        return measure_truth(subject, twin, self._settings.directions, self._settings.seed)

    def product(self, truth: Truth, product: VectorJacobianProduct) -> GradientCheck:
        oracle = self._oracle(product)
        assert oracle.loop.layer is not None
        product.prepare(*samples(self._data), oracle.loop.layer.probes)
        once = oracle.backward_steps
        return held_against(truth, ParameterGradients(oracle, self._batches).found(), once)

    def estimator(self, truth: Truth, component: Component) -> GradientCheck:
        subject = ParameterGradients(
            self._oracle(Detached()), self._batches, build_estimator(component), self._settings.seed + 1
        )
        return held_against(truth, subject.found())

    def _oracle(self, product: VectorJacobianProduct) -> LoopOracle:
        loop = SolverLoop(self._solver, self._network, self._settings.unroll, product, self._executor)
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
def _leaving_out(settings: CheckSettings, name: str, left_out: dict[str, str]) -> Iterator[None]:
    """Note why a method does not suit the solver, if nobody asked for it."""
    try:
        yield
    except DeepZeroError as error:
        if settings.vjp != default_products():
            raise
        left_out[name] = str(error)


def _names(components: Sequence[Component]) -> list[str]:
    """Short ones, and whole ones where two would be the same.

    Raises:
        ConfigError: a method is there twice.
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
    """As in Python: `Coloured(radius=2)`; without parentheses if there are no arguments."""
    given = ", ".join(f"{key}={_shown(value)}" for key, value in component.args.items())
    return component.name.rpartition(".")[2].rpartition(":")[2] + (f"({given})" if given else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
