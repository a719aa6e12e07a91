"""Solvers of the flows: exact products, compiled steps, and how far the coarse ones are from their references."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch

pytest.importorskip("exponax")
pytest.importorskip("skfem")
pytest.importorskip("phi")

import jax
import skfem

from deepzero_sim.benchmarks.flows import channel, mesh
from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.jax_solver import JaxSolver
from deepzero_sim.cli.settings.bench import FlowName
from deepzero_sim.common.components import call_function
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.generation.restrictions import restriction_of
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import DifferentiableSolver, Solver

NAMES = get_args(FlowName)
OURS = [name for name in NAMES if name != "wake-2d"]  # whose twin has tests of its own
COMPILED = [name for name in OURS if name != "burgers-mesh"]


@cache
def solver(name: FlowName, part: str) -> Any:
    return build_solver(getattr(FLOWS[name], part))


def first_states(name: FlowName, part: str, count: int = 2) -> Array:
    made = solver(name, part)
    none = np.zeros((1, 0), dtype=np.float32)
    return np.concatenate([call_function(FLOWS[name].initial, made.spec, none, seed) for seed in range(count)])


def advance(made: Solver, states: Array, steps: int) -> Array:
    for _ in range(steps):
        states = made.step(states)
    return states


def test_every_flow_of_the_settings_is_in_the_catalogue() -> None:
    assert tuple(FLOWS) == NAMES


@pytest.fixture(params=OURS)
def name(request: pytest.FixtureRequest) -> Iterator[FlowName]:
    yield request.param


def test_products_are_those_of_central_differences(name: FlowName) -> None:
    made, random = solver(name, "twin"), np.random.default_rng(0)
    states = advance(made, first_states(name, "coarse"), 2)
    active = made.spec.active()
    v, w = (random.standard_normal(states.shape).astype(np.float32) * active for _ in range(2))
    step = np.float32(1e-2 * states[:, active].std())
    slopes = (made.step(states + step * v).astype(np.float64) - made.step(states - step * v)) / (2 * step)
    given = torch.from_numpy(states).requires_grad_()
    assert isinstance(made, DifferentiableSolver)
    advanced = made.differentiable_step(given)
    assert np.array_equal(advanced.detach().numpy(), made.step(states))
    (product,) = torch.autograd.grad(advanced, given, torch.from_numpy(w))
    axes = tuple(range(1, states.ndim))
    scale = np.sqrt((slopes**2).sum(axis=axes) * (w**2).sum(axis=axes))
    assert (np.abs((product.numpy() * v - slopes * w).sum(axis=axes)) / scale).max() < 2e-5


@pytest.mark.parametrize(
    ("name", "part"), [*((name, "coarse") for name in COMPILED), pytest.param("burgers-3d", "fine", marks=pytest.mark.slow)]
)
def test_compiled_steps_are_those_of_single_operations(name: FlowName, part: str) -> None:
    """Jax 0.10 compiles some transforms in three dimensions wrongly."""
    made: JaxSolver = solver(name, part)
    states = first_states(name, part, 1)
    with jax.disable_jit():
        alone = np.asarray(made.advance(states[0]))
    assert np.abs(made.step(states)[0] - alone).max() <= 1e-5 * np.abs(alone).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kuramoto-sivashinsky-1d", "navier-stokes-2d", "burgers-3d", "channel-2d"])
def test_compiled_products_are_those_of_single_operations(name: FlowName) -> None:
    made: JaxSolver = solver(name, "coarse")
    states = first_states(name, "coarse", 1)
    w = np.random.default_rng(0).standard_normal(states.shape).astype(np.float32)
    with jax.disable_jit():
        (alone,) = jax.vjp(made.advance, states[0])[1](w[0])
    assert np.abs(made.pull_back(states, w)[0] - np.asarray(alone)).max() <= 1e-5 * np.abs(np.asarray(alone)).max()


def test_the_coarse_solver_errs_by_some_percent(name: FlowName) -> None:
    flow, coarse, fine = FLOWS[name], solver(name, "coarse"), solver(name, "fine")
    restrict = restriction_of(flow.restrict, fine.spec, coarse.spec)
    steps = 8 if name in ("burgers-mesh", "burgers-3d") else 32
    reference = advance(fine, first_states(name, "fine"), min(flow.warm_up, 100))
    states = restrict(reference)
    active = coarse.spec.active()
    states, expected = advance(coarse, states, steps), restrict(advance(fine, reference, steps))
    error = np.sqrt(((states - expected)[:, active] ** 2).mean()) / expected[:, active].std()
    assert 0.005 < error < 0.7


def test_a_solver_is_sent_to_other_processes_by_its_name(name: FlowName) -> None:
    made = solver(name, "coarse")
    states = first_states(name, "coarse", 1)
    assert np.array_equal(pickle.loads(pickle.dumps(made)).step(states), made.step(states))  # noqa: S301 - our own


def test_arithmetic_stays_in_single_precision(name: FlowName) -> None:
    assert solver(name, "coarse").spec.dtype == "float32" and not jax.config.jax_enable_x64


def test_velocities_in_the_channel_have_no_divergence_and_stop_at_walls() -> None:
    for factor in (1, channel.FINER):
        fluid = channel._fluid(factor)
        faces = channel._faces(fluid)
        divergence = np.diff(faces.v, axis=0) + np.diff(faces.u, axis=1)
        assert np.abs(divergence).max() < 1e-10
        assert np.abs(faces.v[[0, -1]]).max() == 0 and faces.u[fluid.all(axis=1)].min() > 0
        solid = ~fluid
        assert np.abs(faces.u[:, 1:-1][solid[:, 1:] & solid[:, :-1]]).max() < 1e-10
        assert not faces.k_columns[:, 1:-1][solid[:, 1:] | solid[:, :-1]].any()


def test_a_uniform_concentration_of_one_changes_only_from_the_inflow() -> None:
    made = solver("channel-2d", "coarse")
    states = np.asarray(made.spec.active()[None], dtype=np.float32)
    advanced = made.step(states)
    assert np.abs((advanced - states)[..., made.spec.stencil :]).max() < 1e-5
    assert np.abs((advanced - states)[..., 0]).max() > 1e-3


def test_matrices_of_the_mesh_are_those_of_scikit_fem() -> None:
    made = solver("burgers-mesh", "coarse")
    basis = skfem.Basis(made.mesh, skfem.ElementTriP1())
    x, y = made.mesh.p
    u = np.sin(3 * x) + y**2
    b = mesh.DIRECTION

    def convection(p: Any, v: Any, w: Any) -> Any:
        return v * w["u"] * (b[0] * p.grad[0] + b[1] * p.grad[1])

    def slope(p: Any, v: Any, w: Any) -> Any:
        return v * p * (b[0] * w["u"].grad[0] + b[1] * w["u"].grad[1])

    for ours, form in ((made.assembly.convection(u), convection), (made.assembly.slope(u), slope)):
        theirs = skfem.BilinearForm(form).assemble(basis, u=basis.interpolate(u))
        assert abs(ours - theirs).max() < 1e-12


def test_the_coarse_vertices_come_first_in_the_fine_mesh() -> None:
    coarse, fine = solver("burgers-mesh", "coarse").mesh, solver("burgers-mesh", "fine").mesh
    assert np.abs(fine.p[:, : coarse.nvertices] - coarse.p).max() < 1e-15


def test_the_gradient_on_the_mesh_is_that_of_a_plane() -> None:
    operators = mesh.vertex_operators(mesh.coarse_mesh())
    x, y = mesh.coarse_mesh().p
    plane = 2 * x - 3 * y + 1
    assert np.abs(operators[1] @ plane * (mesh.SIDE - 1) - 2).max() < 1e-10
    assert np.abs(operators[2] @ plane * (mesh.SIDE - 1) + 3).max() < 1e-10
    assert np.abs(operators[0] @ np.ones(len(x)) - 1).max() < 1e-12
