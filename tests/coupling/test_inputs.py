"""Fields that a step reads besides its state, and its parameters: gradients past the solver against its twin, by each form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from forced_solvers import FORCED, ForcedDiffusion, ViscousBurgers, case
from problems import LogisticSolver
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.solver.stepped_inputs import inputs_at_rest, with_input_channels, with_inputs_at_rest
from deepzero_sim.solver.stepping import checked_step

STEPS = 6


class Forced(ForcedDiffusion):
    """Forcing that is added, so that what an input does is the same at all states: what a frozen Jacobian can hold."""

    def advance(self, states: Any, params: Any, inputs: Any) -> Any:
        moved = super().advance(states, params, 0 * inputs)
        return moved + 0.1 * (inputs[:, :1] + inputs[:, 1:])


def opaque(twin: Any) -> dz.Solver:
    return dz.as_solver(lambda s, p, u: np.asarray(twin.advance(s, p, u), s.dtype), twin.spec)


def gradients(layer: dz.SolverLayer, given: tuple[Any, ...]) -> list[torch.Tensor]:
    """Gradients with respect to first state, inputs and parameters of a linear functional of the state some steps later."""
    states, params, inputs = (None if one is None else one.clone().requires_grad_() for one in given)
    reached = states
    for _ in range(STEPS):
        reached = layer(reached, params, inputs)
    weights = torch.sin(0.37 * torch.arange(reached.numel(), dtype=reached.dtype).reshape(reached.shape))
    wanted = [one for one in (states, inputs, params) if one is not None]
    return list(torch.autograd.grad((weights * reached).sum(), wanted))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


FORMS: list[tuple[type[Any], Callable[[], VectorJacobianProduct], float]] = [
    (ViscousBurgers, dz.vjp.Coloured, 1 - 1e-6),
    (ForcedDiffusion, dz.vjp.Coloured, 1 - 1e-6),
    (Forced, dz.vjp.Coloured, 1 - 1e-6),
    (ViscousBurgers, dz.vjp.JacobianField, 0.99),
    (ForcedDiffusion, dz.vjp.JacobianField, 0.99),
    (Forced, dz.vjp.JacobianField, 0.99),
    (Forced, dz.vjp.ReferenceJacobian, 0.99),
    (ViscousBurgers, dz.vjp.Auto, 0.99),
    (Forced, dz.vjp.Auto, 0.99),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("make", "product", "least"), FORMS)
def test_gradients_of_inputs_and_parameters_are_the_twins(
    make: type[Any], product: Callable[[], VectorJacobianProduct], least: float, dtype: str
) -> None:
    twin = make(dtype=dtype)
    layer, exact = dz.SolverLayer(opaque(twin), product()), dz.SolverLayer(twin, dz.vjp.Exact())
    states, params, inputs = (None if one is None else one.numpy() for one in case(twin, 64))
    assert states is not None
    layer.prepare(states, params, inputs)
    given = case(twin, 4, seed=5)
    active = torch.from_numpy(twin.spec.active_inputs())
    least = min(least, 1 - 1e-4) if dtype == "float32" else least
    for number, (ours, theirs) in enumerate(zip(gradients(layer, given), gradients(exact, given), strict=True)):
        theirs = theirs * active if number == 1 else theirs  # noqa: PLW2901 - padding has no gradient
        assert cosine(ours, theirs) > least
        assert float(ours.norm() / theirs.norm()) == pytest.approx(1, abs=1e-3 if least > 0.999 else 0.1)


def test_parameters_have_the_gradient_of_the_twin_through_other_solvers_too() -> None:
    twin = LogisticSolver()
    random = torch.Generator().manual_seed(0)
    states = torch.rand(3, *twin.spec.state_shape, dtype=torch.float64, generator=random)
    params = torch.tensor([[0.0], [0.5], [-2.0]], dtype=torch.float64)
    found = []
    for layer in (dz.SolverLayer(opaque_of(twin), dz.vjp.Coloured(radius=1)), dz.SolverLayer(twin, dz.vjp.Exact())):
        rates = params.clone().requires_grad_()
        reached = layer(layer(states, rates), rates)
        found.append(torch.autograd.grad(reached.square().sum(), rates)[0])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def opaque_of(twin: LogisticSolver) -> dz.Solver:
    return dz.as_solver(twin.step, twin.spec)


def test_differences_of_parameters_are_counted_and_need_a_solver_that_repeats_itself() -> None:
    solver = opaque_of(LogisticSolver())
    layer = dz.SolverLayer(solver, dz.vjp.StraightThrough())
    params = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    layer(torch.rand(3, *solver.spec.state_shape, dtype=torch.float64), params).sum().backward()
    assert layer.backward_steps == 2 * 3
    from dataclasses import replace  # noqa: PLC0415

    random = dz.as_solver(LogisticSolver().step, replace(solver.spec, deterministic=False))
    layer = dz.SolverLayer(random, dz.vjp.StraightThrough(), require_deterministic=False)
    with pytest.raises(dz.ConfigError, match="is not deterministic, so that differences of its steps say nothing"):
        layer(torch.rand(3, *solver.spec.state_shape, dtype=torch.float64), params).sum().backward()


# ---- couplings


class Network(nn.Module):
    """A convolution of states to inputs or corrections."""

    def __init__(self, channels: int, outputs: int, axes: int, share: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        make = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
        self.layer: nn.Module = make(channels, outputs, 3, padding=1, padding_mode="circular").double()
        self.share = share

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = self.share * self.layer(states)
        return result


def loop_of(twin: Any, solver: dz.Solver, coupling: str, gradient: Any, **more: Any) -> dz.SolverLoop:
    channels, *grid = twin.spec.state_shape
    outputs = len(twin.spec.inputs) if coupling == "inside" else channels
    network = Network(channels, outputs, len(grid), 0.5 if coupling == "inside" else 0.05)
    return dz.SolverLoop(solver, network, STEPS, gradient, coupling=coupling, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("coupling", ["after", "before", "inside"])
@pytest.mark.parametrize("name", FORCED)
def test_queries_and_products_find_the_gradient_of_the_twin(name: str, coupling: str) -> None:
    twin = FORCED[name]()
    states, params, _ = case(twin, 2)
    references = torch.zeros(2, STEPS, *twin.spec.state_shape, dtype=torch.float64)
    found = []
    for solver, gradient in ((twin, "exact"), (opaque(twin), dz.vjp.Coloured())):
        loop = loop_of(twin, solver, coupling, gradient)
        loss = (loop.rollout(states, params) - references).square().mean()
        found.append((float(loss.detach()), torch.autograd.grad(loss, list(loop.corrector.parameters()))))
    oracle = dz.LoopOracle(loop_of(twin, opaque(twin), coupling, "detached"), lambda s, r: (s - r).square().mean())
    queried = dz.CGE(step_size=1e-5, scheme="central").estimate(oracle, (states, params, references))
    found.append((queried.loss, tuple(queried.grads.values())))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        for ours, theirs in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("coupling", ["before", "inside"])
def test_a_detached_gradient_passes_the_step_that_the_network_acts_on_and_no_other(coupling: str) -> None:
    twin = ViscousBurgers()
    states, params, _ = case(twin, 2)
    loop = loop_of(twin, opaque(twin), coupling, "detached", within=dz.vjp.Coloured())
    grads = torch.autograd.grad(loop.rollout(states, params).square().sum(), list(loop.corrector.parameters()))
    exact = loop_of(twin, twin, coupling, "exact")
    total, current = 0.0, states
    for _ in range(STEPS):
        current = exact.rollout(current.detach(), params, 1)[:, 0]
        total = total + current.square().sum()
    expected = torch.autograd.grad(total, list(exact.corrector.parameters()))
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_a_straight_through_gradient_of_a_network_inside_is_the_identity_for_states_alone() -> None:
    twin = ViscousBurgers()
    states, params, inputs = case(twin, 2)
    loop = loop_of(twin, opaque(twin), "inside", "straight-through", within=dz.vjp.Coloured())
    taken = torch.cat([states, inputs], dim=1).requires_grad_()
    weights = torch.randn(2, 2, 32, dtype=torch.float64)
    weights[:, 1] = 0
    (grad,) = torch.autograd.grad((weights * loop.layer.step(taken, params, "here")[0]).sum(), taken)
    assert torch.equal(grad[:, :1], weights[:, :1])
    exact = dz.SolverLayer(twin, dz.vjp.Exact())
    fields = inputs.clone().requires_grad_()
    (theirs,) = torch.autograd.grad((weights[:, :1] * exact(states, params, fields)).sum(), fields)
    torch.testing.assert_close(grad[:, 1:], theirs, rtol=1e-6, atol=1e-10)


# ---- what is stepped


@pytest.mark.parametrize("name", FORCED)
def test_a_solver_with_inputs_is_stepped_with_those_of_its_spec_where_nobody_provides_them(name: str) -> None:
    twin = FORCED[name]()
    states, params, _ = case(twin, 3)
    given = states.numpy(), None if params is None else params.numpy()
    rest = np.broadcast_to(inputs_at_rest(twin.spec), (3, *twin.spec.input_shape)).copy()
    expected = np.asarray(twin.advance(*given, rest))
    assert np.array_equal(checked_step(with_inputs_at_rest(twin), *given), expected)
    alone = dz.SolverLoop(opaque(twin), dz.models.NoCorrection())
    assert np.array_equal(alone.rollout(*given, steps=1)[:, 0].numpy(), expected)
    assert torch.equal(dz.SolverLayer(opaque(twin), dz.vjp.Detached())(states, params), torch.from_numpy(expected))


def test_channels_of_inputs_stay_what_they_are_and_failures_keep_their_states() -> None:
    spec = ViscousBurgers().spec

    def step(states: Array, params: Array, inputs: Array) -> Array:
        failed = {i: dz.SolverError(f"state {i} failed") for i in np.flatnonzero(inputs.max((1, 2)) > 1)}
        if failed:
            raise dz.StatesFailedError(failed, states + 1)
        return states + 1

    solver = with_input_channels(dz.as_solver(step, spec))
    assert solver.spec.state_shape == (2, 32) and solver.spec.channels == ("u", "viscosity")
    states = np.zeros((3, 2, 32))
    states[1, 1] = 2
    with pytest.raises(dz.StatesFailedError) as caught:
        solver.step(states, np.ones((3, 1)))
    assert set(caught.value.failures) == {1}
    assert np.array_equal(caught.value.advanced, states + np.array([1, 0]).reshape(1, 2, 1))


FIELDS: dict[str, tuple[Any, str]] = {
    "two of a name": (("a", "a"), r"inputs must have different names, not \('a', 'a'\)"),
    "a channel's name": (("u",), "inputs must have other names than channels and parameters, not u"),
    "no name": (({"unit": "m"},), r"an input must have a name, not \{'unit': 'm'\}"),
    "an unknown entry": (({"name": "a", "sclae": 2},), r"sclae"),
    "a number": ((3,), r"an input must be a name, or keys with values, not 3: write \{name: viscosity\}"),
    "no scale": (({"name": "a", "scale": 0},), "scale of input 'a' must be positive, not 0.0"),
    "words": (({"name": "a", "value": "x"},), "value of input 'a' must be a finite number, not 'x'"),
    "bounds that exclude the start": (
        ({"name": "a", "value": 0.5, "least": 1},),
        "value of input 'a' must lie between its least and its most, not 0.5",
    ),
    "a larger grid": (({"name": "a", "shape": [9]},), r"the shape of input 'a' must be at most that of the grid, \(8,\), not"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_no_step_can_read_are_refused(name: str) -> None:
    given, words = FIELDS[name]
    with pytest.raises(dz.ConfigError, match=words):
        dz.SolverSpec(name="any", state_shape=(1, 8), dt=0.1, channels=("u",), inputs=given)


def test_a_step_that_takes_no_inputs_is_refused_where_its_spec_names_some() -> None:
    class Deaf(dz.Solver):
        spec = ViscousBurgers().spec

        def step(self, states: Array, params: Array | None = None) -> Array:
            return states

    class DeafTwin(Deaf, dz.DifferentiableSolver):
        def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
            return states

        def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return states

    words = r"names inputs \(viscosity\) in its spec, and its {} must take them as third argument, but it takes \(states"
    for solver, step in ((Deaf(), "step"), (DeafTwin(), "differentiable_step")):
        for use in (with_input_channels, with_inputs_at_rest):
            with pytest.raises(dz.SolverError, match=words.format(step)):
                use(solver)


def test_inputs_of_another_shape_or_of_a_solver_that_reads_none_are_refused() -> None:
    twin = ViscousBurgers()
    states, params, inputs = case(twin, 2)
    layer = dz.SolverLayer(opaque(twin), dz.vjp.Coloured())
    with pytest.raises(dz.ConfigError, match=r"\(viscosity\) must have shape \(2, 1, 32\), not \(2, 1, 16\): pass one field"):
        layer(states, params, inputs[:, :, :16])
    with pytest.raises(dz.ConfigError, match="reads no inputs, as its spec names none"):
        dz.SolverLayer(LogisticSolver(), dz.vjp.Exact())(states[:, :, :16], params, inputs)
    with pytest.raises(dz.SolverError, match=r"reads inputs \(viscosity\): a float64 array of shape .*, not NoneType"):
        opaque(twin).step(states.numpy(), params.numpy() if params is not None else None)
    with pytest.raises(dz.ConfigError, match=r"must return the solver's inputs, of shape \(2, 1, 32\), not \(2, 2, 32\)"):
        dz.SolverLoop(opaque(twin), Network(1, 2, 1, 0.1), coupling="inside").rollout(states, params)
    with pytest.raises(dz.ConfigError, match=r"must be one of after, before, inside, or a dz\.couplings\.Coupling"):
        dz.SolverLoop(opaque(twin), Network(1, 1, 1, 0.1), coupling="within")  # type: ignore[arg-type]
    with pytest.raises(dz.ConfigError, match=r"must be a coupling, not its class: call it, Inside\(\)"):
        dz.SolverLoop(opaque(twin), Network(1, 1, 1, 0.1), coupling=dz.couplings.Inside)  # type: ignore[arg-type]


def test_what_a_field_learnt_of_inputs_goes_with_it() -> None:
    twin = ViscousBurgers()
    states, params, inputs = (None if one is None else one.numpy() for one in case(twin, 64))
    assert states is not None
    layers = [dz.SolverLayer(opaque(twin), dz.vjp.JacobianField()) for _ in range(2)]
    layers[0].prepare(states, params, inputs)
    layers[1].vjp.load_state_dict(layers[0].vjp.state_dict())
    given = case(twin, 4, seed=5)
    for one, other in zip(*(gradients(layer, given)[:2] for layer in layers), strict=True):
        assert torch.equal(one, other)


class StrictBurgers(ViscousBurgers):
    """The same, refusing what lies beyond the bounds of its viscosity, as a program would."""

    def step(self, states: Any, params: Any = None, inputs: Any = None) -> Any:
        assert inputs is not None and (inputs >= 0).all() and (inputs <= 0.1).all()
        return super().step(states, params, inputs)


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize("product", [dz.vjp.Coloured, dz.vjp.JacobianField])
def test_probes_keep_within_the_bounds_of_inputs(scheme: Any, product: Any) -> None:
    """At states whose fields lie at a bound, where a network's output is cut off, too: within the error of differences."""
    solver = StrictBurgers()
    spec = replace(solver.spec, inputs=(replace(solver.spec.inputs[0], most=0.1),))
    solver.spec = spec
    random = np.random.default_rng(0)
    states = random.normal(size=(24, 1, 32))
    fields = np.clip(random.normal(0.05, 0.06, size=(24, 1, 32)), 0, 0.1)
    assert (fields == 0).any() and (fields == 0.1).any()
    vjp = product(scheme=scheme) if product is dz.vjp.Coloured else product()
    layer = dz.SolverLayer(solver, vjp)
    layer.prepare(states, np.ones((24, 1)), fields)
    given = [torch.from_numpy(values[:3]).requires_grad_() for values in (states, fields)]
    weights = torch.from_numpy(random.normal(size=(3, 1, 32)))
    (layer(given[0], torch.ones(3, 1).double(), given[1]) * weights).sum().backward()
    exact = torch.autograd.grad((solver.advance(given[0], torch.ones(3, 1).double(), given[1]) * weights).sum(), given)
    for found, expected in zip(given, exact, strict=True):
        cosine = torch.nn.functional.cosine_similarity(found.grad.flatten(), expected.flatten(), dim=0)
        assert cosine > (1 - 1e-6 if product is dz.vjp.Coloured else 0.98)


def test_a_field_that_is_fitted_again_keeps_that_of_the_inputs() -> None:
    """States that training comes to are far from the first: the field drifts and is mended; inputs stay as good as before."""
    solver, random = ViscousBurgers(), np.random.default_rng(0)
    product = dz.vjp.JacobianField(check_every=4)
    layer = dz.SolverLayer(solver, product)
    states, params, fields = case(solver, 24)
    layer.prepare((0.02 * states).numpy(), params.numpy(), fields.numpy())
    before = layer.backward_steps
    for number in range(40):
        given = (3 * states).clone().requires_grad_(), fields.clone().requires_grad_()
        weights = torch.from_numpy(random.normal(size=states.shape))
        (layer(given[0], params, given[1]) * weights).sum().backward()
        if product.report.refits and number > 5:
            break
    assert product.report.refits and layer.backward_steps > before and product.report.of_inputs is not None
    inputs = fields.clone().requires_grad_()
    (exact,) = torch.autograd.grad((solver.advance(3 * states, params, inputs) * weights).sum(), inputs)
    cosine = torch.nn.functional.cosine_similarity(given[1].grad.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.9
