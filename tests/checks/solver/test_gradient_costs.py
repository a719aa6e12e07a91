"""What a gradient is said to cost is what it takes, counted at the solver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, DifferentiableBurgers, conv_corrector, initial_states, mse

from deepzero_sim.checks.solver import BatchTime, gradient_costs
from deepzero_sim.checks.solver.results import best_batch, seconds_of
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.named_gradients import SolverGradient
from deepzero_sim.coupling.vjp import Auto, Coloured, JacobianField, ReferenceJacobian, VectorJacobianProduct
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.stepping import checked_step

NETWORK = conv_corrector(1)


def count(unroll: int, batch: int, gradient: SolverGradient | VectorJacobianProduct, estimator: Estimator) -> tuple[int, int]:
    """States advanced for one gradient, and before it, by a solver that counts them."""
    solver = Counting(Burgers())
    states = initial_states(40)
    if isinstance(gradient, ReferenceJacobian | JacobianField | Coloured | Auto):
        loop = SolverLoop(solver, NETWORK, unroll, gradient)
        assert loop.layer is not None
        gradient.prepare(states, None, loop.layer.probes)
    else:
        loop = SolverLoop(solver, NETWORK, unroll, gradient)
    once, solver.states = solver.states, 0
    advanced = checked_step(Burgers(), states[:batch])
    references = np.zeros((batch, unroll, 1, 16))
    estimator.estimate(LoopOracle(loop, mse), (states[:batch], None, references, advanced))
    return solver.states, once


def estimate(solver: Solver, unroll: int, batch: int, method: str, reach: int | None = 1) -> tuple[int, int]:
    cost = gradient_costs(solver, NETWORK, unroll, batch, reach, []).methods[method]
    return cost.steps, cost.once


@pytest.mark.parametrize(("unroll", "batch"), [(1, 2), (2, 1), (4, 3)])
@pytest.mark.parametrize(
    ("method", "gradient", "estimator"),
    [
        ("DETACHED, STRAIGHT-THROUGH", lambda: "detached", BackPropagation),
        ("DETACHED, STRAIGHT-THROUGH", lambda: "straight-through", BackPropagation),
        ("SolverLayer, Coloured", Coloured, BackPropagation),
        ("SolverLayer, ReferenceJacobian", ReferenceJacobian, BackPropagation),
        ("ZO-SOL, CGE central", lambda: "detached", CGE),
        ("ZO-SOL, RGE of 192 directions, central", lambda: "detached", RGE),
    ],
)
def test_solver_steps_are_those_that_are_taken(
    unroll: int,
    batch: int,
    method: str,
    gradient: Callable[[], SolverGradient | VectorJacobianProduct],
    estimator: Callable[[], Estimator],
) -> None:
    assert estimate(Burgers(), unroll, batch, method) == count(unroll, batch, gradient(), estimator())


def test_a_field_is_said_to_take_the_steps_of_all_its_probes() -> None:
    steps, once = estimate(Burgers(), 4, 3, "SolverLayer, JacobianField")
    taken, by_few = count(4, 3, JacobianField(probes=32, tolerance=1e-12), BackPropagation())
    assert (steps, once) == (taken, by_few + 2 * (JacobianField().probes - 32))
    assert count(4, 3, JacobianField(tolerance=0.2), BackPropagation())[1] < once, "fewer do for a tolerance of a fifth"


def test_a_choice_is_said_to_take_what_all_products_would_at_most() -> None:
    steps, once = estimate(Burgers(), 4, 3, "SolverLayer, Auto")
    method = Auto()
    taken, measured = count(4, 3, method, BackPropagation())
    assert isinstance(method.chosen, JacobianField)
    assert steps == taken
    assert measured < once < 2000
    assert estimate(Burgers(10_000), 4, 3, "SolverLayer, Auto")[1] == 10_000, "no more than it may take"


def test_non_takes_no_step_but_the_known_one() -> None:
    assert estimate(Burgers(), 4, 2, "NON") == count(1, 2, "detached", BackPropagation()) == (0, 0)


def test_exact_gradients_take_the_rollouts_steps() -> None:
    assert estimate(DifferentiableBurgers(), 4, 3, "FO-SOL") == (9, 0)
    assert gradient_costs(Burgers(), NETWORK, 4, 3, 1, []).left_out["FO-SOL"] == "the solver is no DifferentiableSolver."


def test_a_coordinate_wise_gradient_costs_two_rollouts_a_parameter() -> None:
    costs = gradient_costs(Burgers(), NETWORK, 8, 2, 1, [])
    assert costs.parameters == sum(p.numel() for p in trainable(NETWORK).values()) == 8
    assert costs.methods["ZO-SOL, CGE central"].steps == 2 * 8 * 2 * 7 + 2 * 7


def test_what_does_not_suit_the_solver_is_left_out() -> None:
    def left_out(reach: int | None, points: int = 64) -> str:
        solver = Burgers(points)
        solver.spec = type(solver.spec)(name="far", state_shape=(1, points), dt=1.0, dtype="float64")
        return gradient_costs(solver, NETWORK, 4, 2, reach, []).left_out.get("SolverLayer, Coloured", "")

    assert "needs a stencil" in left_out(None) and "over 20 points, too far" in left_out(20) and not left_out(3)
    many = Burgers()
    many.spec = type(many.spec)(name="many", state_shape=(25, 16), dt=1.0, dtype="float64", stencil=1)
    left = gradient_costs(many, NETWORK, 4, 2, 1, []).left_out
    assert "needs 100 probes or more, not 96" in left["SolverLayer, JacobianField"]
    big = Burgers(100_000)
    assert "GiB of memory" in gradient_costs(big, NETWORK, 4, 2, 1, []).left_out["SolverLayer, ReferenceJacobian"]


def test_seconds_are_those_of_calls_of_the_size_that_is_used() -> None:
    times = [BatchTime(1, 1.0), BatchTime(2, 1.0), BatchTime(4, 1.0), BatchTime(8, 4.0)]
    assert best_batch(times) == 4 and seconds_of(8, 1, times) == 8 and seconds_of(8, 5, times) == 2
    cost = gradient_costs(Burgers(), NETWORK, 4, 2, 1, times).methods
    assert cost["DETACHED, STRAIGHT-THROUGH"].seconds == 3.0  # six steps, two at once
    assert cost["NON"].seconds == 0 and cost["ZO-SOL, CGE central"].seconds == 3.0 + 16 * 6 / 2  # eight and more at once


def test_a_network_is_not_changed() -> None:
    before = [p.detach().clone() for p in NETWORK.parameters()]
    gradient_costs(Burgers(), NETWORK, 2, 2, 1, [])
    assert all(torch.equal(a, b) for a, b in zip(before, NETWORK.parameters(), strict=True))
