"""ZO-GraSP: the score from losses alone, against exact ones, and the network put back whatever happens."""

from __future__ import annotations

from concurrent.futures import Executor

import pytest
import torch
from problems import (
    POINTS,
    Burgers,
    Counting,
    LogisticSolver,
    assert_untouched,
    burgers_oracle,
    conv_corrector,
    initial_states,
    model_oracle,
    mse,
    snapshot,
)
from quadratic import Quadratic
from torch import nn

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DivergedError, SolverCrashError
from deepzero_sim.estimators import RGE
from deepzero_sim.estimators.sparsity import GraSP, ZOGraSP
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.solver.contract import Solver


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_with_coordinates_the_product_of_a_quadratic_is_exact() -> None:
    """Central differences of a quadratic have no error; forward ones shift the gradient, by `mu H_jj / 2`, and so its end."""
    quadratic = Quadratic()
    central = ZOGraSP(1e-3, gradient="cge", scheme="central").hessian_gradient(quadratic.oracle, quadratic.batch)
    assert relative(quadratic.joined(central.values), quadratic.product) < 1e-8
    forward = ZOGraSP(1e-3, gradient="cge").hessian_gradient(quadratic.oracle, quadratic.batch)
    shifted = quadratic.hessian @ (quadratic.gradient + 0.5e-3 * quadratic.hessian.diagonal())
    assert relative(quadratic.joined(forward.values), shifted) < 1e-8


@pytest.mark.parametrize("directions", [1, 4, 40])
def test_both_gradients_are_taken_along_the_same_directions(directions: int) -> None:
    """The estimate is `A H A g` with one `A`, which an RGE of linear losses shows column by column."""
    quadratic, seed = Quadratic(), 5

    def column(index: int) -> torch.Tensor:
        linear = ModelOracle(quadratic.model, lambda outputs, targets: outputs.sum())
        unit = torch.eye(8, dtype=torch.float64)[index : index + 1]
        rge = RGE(1e-3, directions, "central")
        return quadratic.joined(rge.estimate(linear, (unit, torch.zeros(1)), seed=seed).grads)

    a = torch.stack([column(index) for index in range(8)], dim=1)
    zo = ZOGraSP(1e-3, directions, "central")
    found = quadratic.joined(zo.hessian_gradient(quadratic.oracle, quadratic.batch, seed).values)
    assert relative(found, a @ quadratic.hessian @ a @ quadratic.gradient) < 1e-7


def test_with_many_directions_it_is_first_order_grasp() -> None:
    quadratic = Quadratic(first=2, second=3)
    errors = []
    for directions in (20, 800):
        found = ZOGraSP(1e-3, directions).hessian_gradient(quadratic.oracle, quadratic.batch, seed=1)
        errors.append(relative(quadratic.joined(found.values), quadratic.product))
    assert errors[1] < 0.1 and errors[1] < 0.4 * errors[0]
    for sparsity in (0.2, 0.4, 0.6, 0.8):
        exact, ours = (r.densities(quadratic.oracle, quadratic.batch, sparsity, 1) for r in (GraSP(), ZOGraSP(1e-3, 800)))
        assert ours.by_layer == exact.by_layer


def test_with_few_directions_it_is_off_by_what_its_docstring_says() -> None:
    """On average by `(trace(H) g + H g) / q` for many dimensions; here exactly, with `d (d + 2)` for `d^2`."""
    quadratic, q = Quadratic(first=2, second=2), 2
    h, g, d = quadratic.hessian, quadratic.gradient, 4
    once = d / (d + 2) * (2 * h + h.trace() * torch.eye(4, dtype=torch.float64))
    expected = (once + (q - 1) * h) @ g / q
    zo, found = ZOGraSP(1e-3, q, "central"), torch.zeros(4, dtype=torch.float64)
    for seed in range(200):
        found += quadratic.joined(zo.hessian_gradient(quadratic.oracle, quadratic.batch, seed).values) / 200
    assert relative(found, expected) < 0.15 and relative(found, quadratic.product) > 0.4


def test_through_an_opaque_solver_it_is_the_product_of_the_whole_loop() -> None:
    """What back-propagation through a differentiable copy of the solver gives, from losses alone."""
    corrector, solver = conv_corrector(2), LogisticSolver()
    rate, references = torch.full((2, 1), 0.7, dtype=torch.float64), 0.1 * torch.randn(2, 3, 1, POINTS, dtype=torch.float64)
    batch = (torch.from_numpy(initial_states(2)), rate, references)
    opaque, exact = (LoopOracle(SolverLoop(solver, corrector, 3, how), mse) for how in ("detached", "exact"))  # type: ignore[arg-type]
    found = ZOGraSP(1e-5, gradient="cge", scheme="central").hessian_gradient(opaque, batch).values
    expected, detached = (GraSP().hessian_gradient(oracle, batch).values for oracle in (exact, opaque))
    for name, product in expected.items():
        assert relative(found[name], product) < 1e-3 < relative(detached[name], product)


@pytest.mark.parametrize(("scheme", "queries"), [("forward", 2 * (6 + 1)), ("central", 2 * (12 + 1))])
def test_what_it_asks_is_counted(scheme: str, queries: int) -> None:
    solver = Counting(Burgers())
    oracle, batch = burgers_oracle(batch=2, unroll=3, solver=solver)
    found = ZOGraSP(num_directions=6, scheme=scheme).densities(oracle, batch, 0.5)  # type: ignore[arg-type]
    assert found.queries == queries
    assert found.solver_steps == solver.states == 2 * 2 + queries * 2 * 2


def test_the_seed_draws_the_directions() -> None:
    oracle, batch = burgers_oracle()
    one, same, other = (ZOGraSP(num_directions=3).hessian_gradient(oracle, batch, seed).values for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["thread", "one process", "two processes"])
def test_the_executor_changes_nothing(kind: str, executors: dict[str, Executor]) -> None:
    torch.manual_seed(3)
    corrector = conv_corrector()
    expected = None
    for executor in (executors["serial"], executors[kind]):
        oracle, batch = burgers_oracle(corrector=corrector, executor=executor, queries_per_chunk=4)
        found = ZOGraSP(num_directions=9).hessian_gradient(oracle, batch).values
        expected = expected or found
        assert all(torch.equal(found[name], expected[name]) for name in expected)


class Failing(Solver):
    """Burgers' equation, until it has advanced so many states."""

    def __init__(self, after: int) -> None:
        self.solver, self.left = Burgers(), after
        self.spec = self.solver.spec

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.left -= len(states)
        if self.left < 0:
            raise OSError("the licence server is gone")
        return self.solver.step(states, params)


@pytest.mark.parametrize("after", [0, 30, 70, 100])
def test_the_weights_are_the_same_bits_after_a_failure(after: int) -> None:
    """Before, in the first gradient and, at `theta + mu g`, in the second."""
    network = conv_corrector().float()  # where adding and subtracting would not lead back
    loop = SolverLoop(Failing(after), network, 3)
    batch = (initial_states(2), None, torch.zeros(2, 3, 1, POINTS, dtype=torch.float64))
    before = snapshot(network)
    with pytest.raises(SolverCrashError, match="the licence server is gone"):
        ZOGraSP(num_directions=12).densities(LoopOracle(loop, mse), batch, 0.5)
    assert_untouched(network, before)


def test_an_interruption_leaves_the_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    quadratic, asked = Quadratic(), []
    before, estimate = snapshot(quadratic.model), RGE.estimate

    def interrupted(self: RGE, *args: object, **kwargs: object) -> object:
        asked.append(snapshot(quadratic.model))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return estimate(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(RGE, "estimate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ZOGraSP(num_directions=5).densities(quadratic.oracle, quadratic.batch, 0.5)
    assert not torch.equal(asked[1]["a.weight"], before["a.weight"])  # it was at another point when it stopped
    assert_untouched(quadratic.model, before)


def test_a_step_into_the_infinite_is_said() -> None:
    network = nn.Linear(3, 1, bias=False).double()
    oracle, batch = model_oracle(network, torch.randn(4, 3, dtype=torch.float64))
    exploding = ModelOracle(network, lambda outputs, targets: outputs.square().mean().exp())
    with torch.no_grad():
        network.weight.fill_(4.0)
    before = snapshot(network)
    with pytest.raises(
        DivergedError, match=r"one step of 0\.5 times the gradient leads ZO-GraSP to where the loss is not finite"
    ):
        ZOGraSP(0.5, 20).densities(exploding, batch, 0.5)
    assert_untouched(network, before)
    assert ZOGraSP(0.5, 20).densities(oracle, batch, 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"step_size": 0.0}, "step_size must be a positive number"),
        ({"num_directions": 0}, "num_directions must be a positive whole number"),
        ({"scheme": "backward"}, "scheme must be one of forward, central"),
        ({"gradient": "exact"}, "gradient must be one of rge, cge, not 'exact'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ZOGraSP(**arguments)  # type: ignore[arg-type]
