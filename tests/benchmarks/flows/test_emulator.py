"""An emulator's gradient, on a linear solver that it can learn and on one with a mask and a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deepzero_sim.benchmarks.flows.emulator import Emulator
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

NETWORK: dict[str, Any] = {"width": 8, "blocks": 1, "padding": "circular"}


class Carry(Solver):
    """A step that carries a periodic state by a share of a cell, and lets it decay by a parameter."""

    def __init__(self, mask: bool = False) -> None:
        held = np.ones((1, 16), dtype=bool)
        held[:, 12:] = not mask
        self.spec = SolverSpec(name="carry", state_shape=(1, 16), dt=1.0, parameters=("decay",), mask=held if mask else None)

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None
        moved = 0.7 * states + 0.3 * np.roll(states, 1, axis=2)
        return np.asarray(moved * (1 - params[:, :, None]) * self.spec.active(), dtype=np.float32)


def states_of(solver: Carry, count: int) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    states = random.standard_normal((count, 1, 16)).astype(np.float32) * solver.spec.active()
    return states, random.uniform(0, 0.2, (count, 1)).astype(np.float32)


def prepared(solver: Carry, updates: int, **changes: Any) -> SolverLayer:
    layer = SolverLayer(solver, Emulator("small", NETWORK, updates=updates, **changes))
    layer.vjp.prepare(*states_of(solver, 64), layer.probes)
    return layer


def pull_back(layer: SolverLayer, solver: Carry) -> tuple[Array, Array]:
    """The emulator's product, and the exact one."""
    states, params = states_of(solver, 6)
    w = np.random.default_rng(1).standard_normal(states.shape).astype(np.float32) * solver.spec.active()
    given = torch.from_numpy(states).requires_grad_()
    (product,) = torch.autograd.grad(layer(given, torch.from_numpy(params)), given, torch.from_numpy(w))
    exact = (0.7 * w + 0.3 * np.roll(w, -1, axis=2)) * (1 - params[:, :, None]) * solver.spec.active()
    return product.numpy(), exact


def test_it_learns_the_gradient_of_a_linear_step() -> None:
    solver = Carry()
    layer = prepared(solver, 400)
    product, exact = pull_back(layer, solver)
    cosine = (product * exact).sum() / np.sqrt((product**2).sum() * (exact**2).sum())
    assert cosine > 0.99 and 0.9 < np.sqrt((product**2).sum() / (exact**2).sum()) < 1.1


def test_an_untrained_one_is_the_identity() -> None:
    """Its last layer is zero, so that the product is that of straight through."""
    solver = Carry()
    states, params = states_of(solver, 6)
    layer = SolverLayer(solver, Emulator("small", NETWORK, updates=0))
    layer.vjp.prepare(states, params, layer.probes)
    given = torch.from_numpy(states).requires_grad_()
    (product,) = torch.autograd.grad(layer(given, torch.from_numpy(params)).sum(), given)
    assert np.array_equal(product.numpy(), np.ones_like(states))


def test_padding_has_no_gradient() -> None:
    solver = Carry(mask=True)
    product, _ = pull_back(prepared(solver, 3), solver)
    assert not product[:, :, 12:].any() and product[:, :, :12].all()


def test_steps_of_the_solver_are_counted() -> None:
    assert prepared(Carry(), 1, steps=3).backward_steps == 3 * 64


def test_a_seed_fixes_it_and_a_checkpoint_holds_it() -> None:
    solver = Carry()
    layer = prepared(solver, 5)
    first, _ = pull_back(layer, solver)
    assert np.array_equal(pull_back(prepared(solver, 5), solver)[0], first)
    assert not np.array_equal(pull_back(prepared(solver, 5, seed=1), solver)[0], first)
    resumed = SolverLayer(solver, Emulator("small", NETWORK, updates=5))
    resumed.vjp.load_state_dict(layer.vjp.state_dict())
    assert np.array_equal(pull_back(resumed, solver)[0], first) and resumed.backward_steps == 0
    assert resumed.vjp.state_dict().keys() == layer.vjp.state_dict().keys()


def test_without_preparation_it_learns_from_the_states_of_the_first_product() -> None:
    solver = Carry()
    layer = SolverLayer(solver, Emulator("small", NETWORK, updates=2, steps=2))
    product, _ = pull_back(layer, solver)
    assert np.isfinite(product).all() and layer.backward_steps == 2 * 6


def test_an_unprepared_one_has_an_empty_checkpoint() -> None:
    emulator = Emulator("small", NETWORK)
    emulator.load_state_dict({})
    assert emulator.state_dict() == {}
