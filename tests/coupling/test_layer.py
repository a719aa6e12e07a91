"""Solvers as layers: gradients against Jacobians that are known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
import torch
from jacobians import advection, exact_jacobian, masked, projection, random_states
from problems import Burgers, LinearSolver, LogisticSolver, initial_states

from deepzero_sim import SolverLayer, SolverLoop, SolverSpec, as_solver, vjp
from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.coupling.named_gradients import SolverGradient
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.errors import ConfigError, InvalidStateError, NonFiniteError, SolverCrashError
from deepzero_sim.solver.contract import Solver

SOLVERS: dict[str, Callable[[], Solver]] = {
    "advection": advection,
    "with walls": lambda: advection(periodic=False),
    "on a line": lambda: advection((11,), 3),
    "on short axes": lambda: advection((2, 7), 1),
    "Burgers": Burgers,
    "masked": masked,
}

METHODS: dict[str, Callable[[], vjp.VectorJacobianProduct]] = {
    "coloured": vjp.Coloured,
    "forward": lambda: vjp.Coloured(scheme="forward"),
    "wider": lambda: vjp.Coloured(radius=2),
    "reference": lambda: vjp.ReferenceJacobian(4),
    "reference, forward": lambda: vjp.ReferenceJacobian(4, scheme="forward"),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("method", METHODS)
def test_products_are_those_of_the_jacobian(name: str, method: str) -> None:
    solver = SOLVERS[name]()
    states = random_states(solver, 3).requires_grad_()
    layer = SolverLayer(solver, METHODS[method]())
    w = torch.randn(3, *solver.spec.state_shape, dtype=torch.float64)
    (found,) = torch.autograd.grad(layer(states), states, w)
    for state, cotangent, product in zip(states.detach().numpy(), w.numpy(), found.numpy(), strict=True):
        expected = cotangent.reshape(-1) @ exact_jacobian(solver, state)
        np.testing.assert_allclose(product.reshape(-1), expected, rtol=1e-5, atol=1e-6)
    assert layer.forward_steps == 3 and layer.backward_steps > 0


def test_a_projection_is_measured_whole() -> None:
    solver = projection()
    states = random_states(solver, 2).requires_grad_()
    layer = SolverLayer(solver, vjp.ReferenceJacobian(1))
    assert torch.autograd.gradcheck(layer, (states,), eps=1e-6, atol=1e-6)
    assert layer.backward_steps == 1 + 2 * (1 + 9 + 3)  # once for all products


def test_coloured_counts_its_steps() -> None:
    layer = SolverLayer(advection((12, 9), 2), vjp.Coloured(scheme="forward"))
    states = random_states(layer.solver, 5).requires_grad_()
    layer(states).sum().backward()
    assert layer.backward_steps == 5 * 2 * 3 * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_free_baselines_cost_nothing(dtype: str) -> None:
    solver = masked(dtype)
    states = random_states(solver, 2).requires_grad_()
    active = torch.from_numpy(solver.spec.active())
    for method, expected in ((vjp.Detached(), 0.0), (vjp.StraightThrough(), 1.0)):
        layer = SolverLayer(solver, method)
        (found,) = torch.autograd.grad(layer(states).sum(), states)
        assert torch.equal(found, expected * active.to(states).expand_as(found)) and layer.backward_steps == 0


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_float32_states_keep_some_digits(scheme: Scheme) -> None:
    states = random_states(masked("float32"), 3)
    found, expected = (
        torch.autograd.grad(SolverLayer(masked(str(s.dtype)[6:]), vjp.Coloured(scheme=scheme))(s).square().sum(), s)[0]
        for s in (states.requires_grad_(), states.detach().double().requires_grad_())
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=5e-3 if scheme == "forward" else 2e-4)


@pytest.mark.parametrize("make", [lambda: vjp.Coloured(1), lambda: vjp.ReferenceJacobian(8)], ids=["coloured", "reference"])
def test_a_rollout_with_parameters_has_the_gradient_of_a_differentiable_solver(
    make: Callable[[], vjp.VectorJacobianProduct],
) -> None:
    solver = LogisticSolver()
    network = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular").double()
    params = torch.tensor([[0.5], [0.9]], dtype=torch.float64)
    gradients = []
    layer = SolverLayer(solver, make())
    if isinstance(layer.vjp, vjp.ReferenceJacobian):  # at every state of the rollout, so that it is exact
        seen, at = [], torch.from_numpy(initial_states(2))
        for _ in range(4):
            seen.append(at)
            at = solver.differentiable_step(at, params)
            at = (at + 0.1 * network(at)).detach()
        layer.vjp.measure(torch.cat(seen).numpy(), params.repeat(4, 1).numpy(), layer.probes)
    for step in (layer, solver.differentiable_step):
        states = torch.from_numpy(initial_states(2))
        for _ in range(4):
            states = step(states, params)
            states = states + 0.1 * network(states)
        gradients.append(torch.autograd.grad(states.square().mean(), list(network.parameters())))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_workers_change_nothing(executors: dict[str, Executor]) -> None:
    found = {}
    for name, executor in executors.items():
        states = random_states(masked(), 4).requires_grad_()
        layer = SolverLayer(masked(), vjp.Coloured(), executor)
        (found[name],) = torch.autograd.grad(layer(states).square().sum(), states)
    assert all(torch.equal(gradient, found["serial"]) for gradient in found.values())


def test_linear_is_its_own_jacobian() -> None:
    solver = LinearSolver(np.random.default_rng(0).normal(size=(7, 7)))
    states = random_states(solver, 2).requires_grad_()
    layer = SolverLayer(solver, vjp.ReferenceJacobian(1, scheme="forward"))
    w = torch.randn_like(states)
    (found,) = torch.autograd.grad(layer(states), states, w)
    torch.testing.assert_close(found, w @ torch.from_numpy(solver.matrix), rtol=1e-6, atol=1e-7)


def test_a_layer_takes_the_names_that_a_loop_takes() -> None:
    names: list[SolverGradient] = ["detached", "straight-through", "auto"]
    assert [type(SolverLayer(Burgers(), name).vjp) for name in names] == [vjp.Detached, vjp.StraightThrough, vjp.Auto]
    assert type(SolverLoop(Burgers(), torch.nn.Identity(), gradient="auto").gradient) is vjp.Auto
    with pytest.raises(ConfigError, match=r"gradient must be .* product, not its class: call it, Auto\(\.\.\.\)"):
        SolverLoop(Burgers(), torch.nn.Identity(), gradient=vjp.Auto)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, of its jvp
def test_transforms_of_functions_are_refused_in_a_sentence() -> None:
    layer, states = SolverLayer(Burgers(), vjp.StraightThrough()), torch.from_numpy(initial_states(2))
    transforms: list[Callable[[], Any]] = [
        lambda: torch.func.grad(lambda s: layer(s).sum())(states),
        lambda: torch.func.jvp(layer, (states,), (states,)),
        lambda: torch.func.vmap(lambda s: layer(s[None]))(states),
    ]
    for transform in transforms:
        with pytest.raises(ConfigError, match=r"torch\.func's grad, jvp and vmap do not pass a SolverLayer of solver"):
            transform()


def test_refusals() -> None:
    wild = as_solver(lambda s: s, SolverSpec(name="wild", state_shape=(1, 4), dt=1.0, deterministic=False))
    with pytest.raises(ConfigError, match="solver 'wild' is not deterministic"):
        SolverLayer(wild, vjp.Detached())
    with pytest.raises(ConfigError, match=r"vjp must be one of detached, .* product of dz\.vjp, not 'adjoint'"):
        SolverLayer(Burgers(), "adjoint")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"vjp must be .* product, not its class: call it, JacobianField\(\.\.\.\)\."):
        SolverLayer(Burgers(), vjp.JacobianField)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="solver 'burgers' offers no gradient"):
        SolverLayer(Burgers(), "exact")
    with pytest.raises(ConfigError, match=r"a SolverLayer holds a solver, which .* makes of a function, not function"):
        SolverLayer(lambda s: s, vjp.Detached())  # type: ignore[arg-type]
    states = random_states(projection(), 1).requires_grad_()
    with pytest.raises(ConfigError, match="solver 'projection' carries information over 4 points or more of 9, too far"):
        SolverLayer(projection(), vjp.Coloured())(states).sum().backward()
    with pytest.raises(ConfigError, match=r"solver 'projection' and 1 references would take .* GiB, more than .* take block=2"):
        SolverLayer(projection(), vjp.ReferenceJacobian(1, memory=100))(states).sum().backward()
    with pytest.raises(ConfigError, match="step_size 1e-17 is below the noise floor of float64 states"):
        SolverLayer(projection(), vjp.ReferenceJacobian(1, step_size=1e-17))(states).sum().backward()
    for wrong in (0, -1.0, float("nan"), "a"):
        with pytest.raises(ConfigError, match="step_size must be a positive number"):
            vjp.Coloured(step_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scheme must be one of forward, central, not 'backward'"):
        vjp.ReferenceJacobian(scheme="backward")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="radius must be a whole number of points"):
        vjp.Coloured(radius=-1)
    with pytest.raises(ConfigError, match="references must be a positive whole number"):
        vjp.ReferenceJacobian(0)


def test_a_solver_that_fails_on_the_way_back_is_said() -> None:
    def step(states: Array) -> Array:
        if len(states) > 1:
            raise RuntimeError("too many")
        return states

    solver = as_solver(step, SolverSpec(name="fragile", state_shape=(1, 6), dt=1.0, dtype="float64", stencil=0))
    states = random_states(solver, 1).requires_grad_()
    advanced = SolverLayer(solver, vjp.ReferenceJacobian(1))(states)
    with pytest.raises(SolverCrashError, match="solver 'fragile' raised RuntimeError: too many"):
        advanced.sum().backward()


@pytest.mark.parametrize("method", [vjp.Coloured(1), vjp.ReferenceJacobian(), vjp.RandomProbes(2, vjp.ReferenceJacobian())])
def test_what_was_learnt_of_one_solver_is_not_taken_for_another(method: vjp.VectorJacobianProduct) -> None:
    solver = masked()
    layer = SolverLayer(solver, method)
    assert copy.deepcopy(layer).vjp is not method and SolverLayer(solver, method).vjp is method
    with pytest.raises(ConfigError, match=r"belongs to another solver object already, 'masked', .* wrong for 'projection'"):
        SolverLayer(projection(), getattr(method, "control", method))


@pytest.mark.parametrize(
    "make",
    [lambda: vjp.Coloured(scheme="forward"), lambda: vjp.ReferenceJacobian(2, secants=True), lambda: vjp.RandomProbes(3)],
)
def test_what_is_written_in_place_changes_no_gradient(make: Callable[[], vjp.VectorJacobianProduct]) -> None:
    solver = masked()
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    gradients = []
    for in_place in (True, False):
        layer, states = SolverLayer(solver, make()), random_states(solver, 2)
        for _ in range(3):
            states = layer(states)
            if in_place:
                states += network(states.clone())
            else:
                states = states + network(states)
        gradients.append(torch.autograd.grad(states.square().mean(), list(network.parameters())))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    states = random_states(solver, 2).requires_grad_() * 1.0
    advanced = SolverLayer(solver, make())(states)
    states += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        advanced.sum().backward()


def test_a_layer_is_differentiated_once() -> None:
    layer, states = SolverLayer(masked(), vjp.Coloured()), random_states(masked(), 1).requires_grad_()
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((layer(weight * states) ** 2).sum(), states, create_graph=True)
    with pytest.raises(ConfigError, match="a SolverLayer can be differentiated once"):
        torch.autograd.grad(slope.square().sum(), weight)
    with pytest.raises(ConfigError, match="a SolverLayer can be differentiated once"):
        torch.autograd.functional.hessian(lambda s: layer(s).square().sum(), states)


class Wrong(vjp.VectorJacobianProduct):
    """Gives what it was told to."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def product(self, taken: vjp.StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return self.result


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, r"Wrong.product must return float64 \(1, 2, 5, 4\), not NoneType"),
        (np.zeros((1, 2, 5, 5)), r"must return float64 \(1, 2, 5, 4\), not float64 \(1, 2, 5, 5\)"),
        (np.zeros((1, 2, 5, 4), np.float32), r"must return float64 .*, not float32"),
    ],
)
def test_products_are_looked_at(result: Any, says: str) -> None:
    states = random_states(masked(), 1).requires_grad_()
    with pytest.raises(ConfigError, match=says):
        SolverLayer(masked(), Wrong(result))(states).sum().backward()
    with pytest.raises(NonFiniteError, match="Wrong found a product of solver 'masked' that is not finite"):
        SolverLayer(masked(), Wrong(np.full((1, 2, 5, 4), np.nan)))(states).sum().backward()


def test_padding_of_cotangents_does_not_matter() -> None:
    solver, states = masked(), random_states(masked(), 2).requires_grad_()
    for method in (vjp.StraightThrough(), vjp.RandomProbes(2), vjp.CoordinateProbes(2), vjp.Coloured()):
        layer = SolverLayer(solver, method)
        w = torch.ones_like(states)
        (expected,) = torch.autograd.grad(layer(states), states, w)
        w = w.masked_fill(~torch.from_numpy(solver.spec.active()), float("nan"))
        (found,) = torch.autograd.grad(layer(states), states, w)
        assert torch.equal(found, expected)


def test_tensors_that_no_solver_takes() -> None:
    layer = SolverLayer(LogisticSolver(), vjp.ReferenceJacobian())
    states, params = torch.zeros(2, *layer.solver.spec.state_shape, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    for wrong in (None, states.numpy(), states.bfloat16(), states.to("meta"), states.to_sparse(), states.long()):
        with pytest.raises(
            ConfigError, match=r"the states of solver 'logistic' must be a dense float32 or float64 tensor, not"
        ):
            layer(wrong, params)
    with pytest.raises(ConfigError, match=r"the params of solver 'logistic' must be a dense .* tensor, not ndarray"):
        layer(states, params.numpy())
    with pytest.raises(ConfigError, match="an executor must have submit"):
        SolverLayer(LogisticSolver(), vjp.Detached(), "thread")  # type: ignore[arg-type]
    none = states[:0].requires_grad_()
    assert torch.autograd.grad(layer(none, params[:0].detach()).sum(), none)[0].shape == none.shape
    nothing = random_states(LogisticSolver(), 1)  # wants no gradient: nothing is asked for
    assert not layer(nothing, params[:1].detach()).requires_grad and layer.backward_steps == 0


@pytest.mark.parametrize(("dtype", "other", "to"), [("float32", torch.float64, "float"), ("float64", torch.float32, "double")])
def test_advice_for_tensors_of_another_type_is_for_tensors(dtype: str, other: torch.dtype, to: str) -> None:
    solver = as_solver(lambda s: s, SolverSpec(name="plain", state_shape=(1, 6), dt=1.0, dtype=dtype, stencil=0))
    layer = SolverLayer(solver, vjp.Coloured())
    with pytest.raises(InvalidStateError, match=rf"'plain' must be {dtype}, not .*: convert it with \.{to}\(\)"):
        layer(torch.ones(1, 1, 6, dtype=other))


def test_a_layer_says_what_it_is() -> None:
    layer = SolverLayer(as_solver(lambda s: s, SolverSpec(name="plain", state_shape=(1, 6), dt=1.0, stencil=0)), vjp.Coloured())
    assert repr(layer) == (
        "SolverLayer(FunctionSolver(SolverSpec('plain': 1 channel on 6 points, dt=1, float32)), vjp=Coloured)"
    )
