"""Gradients that are right, wrong by known amounts, or disturbed by noise, and what a check says of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from problems import (
    Burgers,
    Counting,
    DifferentiableBurgers,
    LogisticSolver,
    assert_untouched,
    burgers_oracle,
    conv_corrector,
    initial_states,
    model_oracle,
    mse,
    sequence,
    snapshot,
)

import deepzero_sim as dz
from deepzero_sim import vjp
from deepzero_sim.checks.gradient.sweep import STEP_SIZES, analyse_slopes
from deepzero_sim.checks.gradient.truth import compare_gradients, compare_slopes
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, NonFiniteError, SolverCrashError, SolverError
from deepzero_sim.solver.contract import DifferentiableSolver

#: Solver steps of a check without those along all directions: the same twice, and eight step sizes along eight directions.
SWEEP = 2 + 8 * 8 * 2


class Wrong(vjp.VectorJacobianProduct):
    """Half the true product, and as much noise as a share of it."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def product(self, taken: vjp.StepTaken, cotangents: Array, probes: Any) -> Array:
        true = vjp.Coloured(1).product(taken, cotangents, probes)
        noise = np.random.default_rng(5).normal(size=true.shape)
        across = noise - true * (noise * true).sum((1, 2), keepdims=True) / (true**2).sum((1, 2), keepdims=True)
        sizes = [np.sqrt((x**2).sum((1, 2), keepdims=True)) for x in (true, across)]
        return np.asarray(0.5 * (true + self.noise * sizes[0] / sizes[1] * across))


class Rounded(Burgers):
    """Writes four decimals to a file, as old programs do."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.round(super().step(states, params), 4)


class Narrow(Burgers):
    """Fails on states that are far from those it is made for."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        if np.abs(states).max() > 1.02 * np.abs(initial_states(2)).max():
            raise ValueError("too large")
        return super().step(states, params)


class Padded(dz.Solver):
    """Refuses states whose padding was touched."""

    def __init__(self) -> None:
        self.spec = dz.SolverSpec(
            name="padded", state_shape=(1, 6), dt=1.0, dtype="float64", mask=np.array([[1, 1, 1, 1, 0, 0]], dtype=bool)
        )

    def step(self, states: Array, params: Array | None = None) -> Array:
        if states[:, :, 4:].any():
            raise ValueError("padding")
        return np.asarray(np.sin(states) * self.spec.active())


class Sines(vjp.VectorJacobianProduct):
    """Of :class:`Padded`."""

    def product(self, taken: vjp.StepTaken, cotangents: Array, probes: Any) -> Array:
        return np.asarray(np.cos(taken.states) * cotangents)


def states(count: int = 4, dtype: str = "float64") -> torch.Tensor:
    return torch.from_numpy(initial_states(count, dtype=dtype))


def twin(there: bool) -> DifferentiableSolver | None:
    return DifferentiableBurgers() if there else None


def loop_oracle(gradient: Any, solver: dz.Solver | None = None) -> tuple[dz.LoopOracle, tuple[Any, ...]]:
    """Burgers, corrected for six steps."""
    _, batch = burgers_oracle(unroll=6)
    torch.manual_seed(0)
    return dz.LoopOracle(dz.SolverLoop(solver or Burgers(), conv_corrector(), 6, gradient), mse), batch


# ---- what is right


@pytest.mark.parametrize("there", [True, False])
def test_a_right_layer(there: bool) -> None:
    found = dz.check_gradient(dz.SolverLayer(Burgers(), vjp.Coloured()), states(), twin=twin(there))
    assert found.exact is there and len(found.agreements) == 4
    assert found.cosine == pytest.approx(1, abs=1e-7) and found.cosine_min == pytest.approx(1, abs=1e-7)
    assert found.norm_ratio == pytest.approx(1, abs=1e-5) and found.cosine_error < 1e-7
    assert found.sweep.noise_floor < 1e-6 and found.sweep.rounding < 1e-14


@pytest.mark.parametrize("there", [True, False])
def test_a_right_layer_of_a_solver_with_parameters(there: bool) -> None:
    params = torch.tensor([[0.3], [0.9]], dtype=torch.float64)
    layer = dz.SolverLayer(LogisticSolver(), vjp.Coloured(1))
    found = dz.check_gradient(layer, (states(2), params), twin=LogisticSolver() if there else None)
    assert found.cosine == pytest.approx(1, abs=1e-8) and found.norm_ratio == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_precisions(dtype: str) -> None:
    layer = dz.SolverLayer(Burgers(dtype=dtype), vjp.Coloured())
    found = dz.check_gradient(layer, states(3, dtype))
    assert found.cosine == pytest.approx(1, abs=1e-5) and found.norm_ratio == pytest.approx(1, abs=5e-3)
    least, noise = {"float32": (1e-6, 1e-9), "float64": (1e-8, 1e-18)}[dtype]
    assert found.sweep.step_sizes[-1] == pytest.approx(least)
    assert noise < found.sweep.rounding < 1e3 * noise


@pytest.mark.parametrize("method", ["through the layer", "exact", "CGE"])
@pytest.mark.parametrize("there", [True, False])
def test_a_right_parameter_gradient(method: str, there: bool) -> None:
    gradient: Any = {"through the layer": vjp.Coloured(), "exact": "exact", "CGE": "detached"}[method]
    oracle, batch = loop_oracle(gradient, DifferentiableBurgers())
    before = snapshot(oracle.model)
    estimator = dz.CGE(1e-4) if method == "CGE" else None
    found = dz.check_gradient(oracle, batch, batch[:3], twin=twin(there), estimator=estimator)
    assert found.cosine == pytest.approx(1, abs=1e-6) and found.norm_ratio == pytest.approx(1, abs=1e-4)
    assert len(found.agreements) == 2
    assert_untouched(oracle.model, before)


def test_a_network_without_a_solver() -> None:
    oracle, batch = model_oracle(sequence(torch.nn.Linear(5, 4), torch.nn.Tanh()).double(), torch.randn(3, 5).double())
    found = dz.check_gradient(oracle, batch)
    assert found.cosine == pytest.approx(1, abs=1e-8) and found.steps.check == found.steps.forward == 0


def test_running_statistics_are_not_touched() -> None:
    network = sequence(torch.nn.Conv1d(2, 3, 3), torch.nn.BatchNorm1d(3), torch.nn.Tanh()).double()
    oracle, batch = model_oracle(network, torch.randn(4, 2, 8).double())
    before = snapshot(network)
    assert dz.check_gradient(oracle, batch).cosine == pytest.approx(1, abs=1e-6)
    assert_untouched(network, before)


def test_padding_is_not_touched() -> None:
    given = np.random.default_rng(0).normal(size=(3, 1, 6)) * Padded().spec.active()
    assert dz.check_gradient(dz.SolverLayer(Padded(), Sines()), given).cosine == pytest.approx(1, abs=1e-8)


# ---- what is wrong


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_a_wrong_layer_is_found_out(noise: float) -> None:
    layer, expected = dz.SolverLayer(Burgers(), Wrong(noise)), (1 + noise**2) ** -0.5
    exact = dz.check_gradient(layer, states(), twin=DifferentiableBurgers())
    assert exact.cosine == pytest.approx(expected, abs=1e-6) and exact.norm_ratio == pytest.approx(0.5 / expected, abs=1e-6)
    assert exact.cosine_error == exact.norm_ratio_error == 0
    measured = dz.check_gradient(layer, states(), directions=128)
    assert 0 < measured.cosine_error < 0.05 and abs((measured.cosine or 0) - expected) < 4 * measured.cosine_error
    assert abs((measured.norm_ratio or 0) - 0.5 / expected) < 4 * measured.norm_ratio_error


@pytest.mark.parametrize("there", [True, False])
def test_no_gradient_has_no_cosine(there: bool) -> None:
    found = dz.check_gradient(dz.SolverLayer(Burgers(), vjp.Detached()), states(), twin=twin(there))
    assert found.cosine is None and found.cosine_min is None and found.norm_ratio == 0
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["cosine"] is None


def test_a_gradient_that_stops_at_the_solver_is_found_out() -> None:
    oracle, batch = loop_oracle("detached")
    exact, measured = (dz.check_gradient(oracle, batch, twin=t, directions=256) for t in (DifferentiableBurgers(), None))
    assert exact.cosine is not None and measured.cosine is not None and exact.norm_ratio is not None
    assert exact.cosine < 0.995 and exact.norm_ratio < 0.9
    assert abs(measured.cosine - exact.cosine) < 4 * measured.cosine_error < 0.2
    assert measured.cosine_min == measured.cosine  # there is one batch


def test_a_flat_solver_has_no_gradient_to_compare_with() -> None:
    flat = dz.as_solver(np.ones_like, dz.SolverSpec(name="flat", state_shape=(1, 6), dt=1.0, dtype="float64"))
    found = dz.check_gradient(dz.SolverLayer(flat, vjp.StraightThrough()), np.ones((2, 1, 6)))
    assert found.cosine is None and found.norm_ratio is None and found.sweep.noise_floor == 0


# ---- noise


def test_a_solver_that_rounds_shows_its_noise() -> None:
    clean, noisy = (
        dz.check_gradient(dz.SolverLayer(s(), vjp.Coloured(step_size=0.05)), states(), directions=64)
        for s in (Burgers, Rounded)
    )
    assert noisy.sweep.noise_floor > 1e-4 > 1e2 * clean.sweep.noise_floor
    assert noisy.sweep.best > clean.sweep.best
    size = float(np.linalg.norm(Burgers().step(initial_states(1))))
    spread = 1e-4 / 12**0.5 * 16**0.5 / size  # of a sum of sixteen numbers rounded to 1e-4
    assert spread / 4 < noisy.sweep.rounding < spread * 4
    assert noisy.cosine == pytest.approx(1, abs=1e-3) and noisy.sweep.cosine_ceiling < clean.sweep.cosine_ceiling
    assert clean.sweep.changes[-1] is not None and noisy.sweep.changes[-2] is None  # steps of 1e-7 change no decimal


def test_steps_that_a_solver_cannot_take_are_left_out() -> None:
    found = dz.check_gradient(dz.SolverLayer(Narrow(), vjp.Coloured()), states(2))
    assert found.sweep.changes[0] is None and found.sweep.changes[-1] is not None
    assert found.cosine == pytest.approx(1, abs=1e-6)
    json.dumps(found.as_dict(), allow_nan=False)


def curve(floor: float, curvature: float) -> dict[float, Any]:
    """Slopes of 1 with errors of known size."""
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    return {mu: 1 + curvature * mu**2 + floor / mu * signs * (-1) ** k for k, mu in enumerate(STEP_SIZES)}


def test_a_sweep_finds_the_plateau() -> None:
    found = analyse_slopes(curve(1e-10, 1.0), np.ones(4), 2.0, 5.0)
    assert found.best == pytest.approx(1e-3) or found.best == pytest.approx(1e-4)
    assert 1e-6 < found.noise_floor < 2e-6  # of an error of 1e-6 by curvature, and of 1e-6 by noise
    assert found.plateau == pytest.approx((1e-5, 1e-3))
    # a change of slopes by 1e-10 / mu, and one tenth of that, for noise of sqrt(2) times that in the value
    assert found.rounding == pytest.approx(2**0.5 * 1.1e-10 * 2.0 / 5.0, rel=0.02)
    assert found.errors[0] == pytest.approx(1e-2) and found.errors[-1] == pytest.approx(1e-2)
    assert found.changes[0] == pytest.approx(1e-2, rel=0.02) and found.changes[-1] == pytest.approx(1.1e-2, rel=0.2)


def test_standard_errors_are_what_estimates_scatter_by() -> None:
    generator, apart = np.random.default_rng(0), []
    for _ in range(400):
        true, noise = generator.normal(size=(2, 60))
        found, directions = true + 0.5 * noise, generator.normal(size=(64, 60))
        exact, estimate = compare_gradients(found, true), compare_slopes(directions @ found, directions @ true)
        assert estimate.cosine is not None and exact.cosine is not None
        assert estimate.norm_ratio is not None and exact.norm_ratio is not None
        errors = estimate.cosine - exact.cosine, estimate.norm_ratio - exact.norm_ratio
        apart.append((errors[0] / estimate.cosine_error, errors[1] / estimate.norm_ratio_error))
    assert np.std(apart, axis=0) == pytest.approx(1, abs=0.15) and np.abs(np.mean(apart, axis=0)).max() < 0.2


# ---- what it costs


@pytest.mark.parametrize("there", [True, False])
def test_steps_of_a_layer_are_counted(there: bool) -> None:
    solver = Counting(Burgers())
    layer = dz.SolverLayer(solver, vjp.Coloured())
    found = dz.check_gradient(layer, states(3), twin=twin(there), directions=20)
    coloured = 4 * 2  # sixteen points in five parts of three or four
    assert (found.steps.forward, found.steps.backward) == (3, 3 * coloured) and layer.backward_steps == 3 * coloured
    assert found.steps.check == SWEEP + (1 if there else 3 * 20 * 2)  # one step to look whether the twin is one
    assert solver.states == found.steps.forward + found.steps.backward + found.steps.check
    assert found.steps_per_gradient == 1 + coloured


@pytest.mark.parametrize("there", [True, False])
def test_steps_of_an_oracle_are_counted(there: bool) -> None:
    solver = Counting(Burgers())
    oracle, batch = loop_oracle(vjp.Coloured(), solver)
    found = dz.check_gradient(oracle, batch, batch, twin=twin(there), directions=10)
    rollout, queries = 2 * 6, 2 * 2 * 5  # a rollout of two states, and the two queries of a direction
    assert found.steps.forward == 2 * rollout and found.steps.backward == 2 * 2 * 5 * 8
    along = 1 if there else 2 * 10 * queries + rollout  # of two batches, the first of which was prepared for the sweep
    assert found.steps.check == 2 * rollout + 8 * 8 * queries + along
    assert solver.states == found.steps.forward + found.steps.backward + found.steps.check


# ---- what cannot be checked


def test_what_is_random_is_refused() -> None:
    generator = np.random.default_rng(0)

    class Chance(Burgers):
        def step(self, states: Array, params: Array | None = None) -> Array:
            return super().step(states, params) * (1 + 1e-9 * generator.random())

    with pytest.raises(ConfigError, match="the same is answered to the same, but solver 'burgers' gave states up to"):
        dz.check_gradient(dz.SolverLayer(Chance(), vjp.Detached()), states())
    oracle, batch = loop_oracle("detached", Chance())
    with pytest.raises(ConfigError, match="but the oracle gave losses of"):
        dz.check_gradient(oracle, batch)


def test_what_fails_is_said() -> None:
    def check(solver: dz.Solver, given: Any = None, **options: Any) -> None:
        dz.check_gradient(dz.SolverLayer(solver, vjp.Detached()), states() if given is None else given, **options)

    infinite = states().clone()
    infinite[0, 0, 0] = float("inf")
    spec = Burgers().spec
    with pytest.raises(NonFiniteError, match="the states at which a gradient is checked must be finite"):
        check(Burgers(), infinite)
    with pytest.raises(SolverError, match=r"is checked must have shape \(batch, 1, 16\), not \(4, 1, 15\)"):
        check(Burgers(), states()[:, :, 1:])
    with pytest.raises(NonFiniteError, match="what solver 'burgers' returned must be finite"):
        check(dz.as_solver(lambda s: s * np.nan, spec))
    alone = states()[:1].numpy()
    with pytest.raises(SolverCrashError, match="raised ValueError: elsewhere"):  # at every step size

        def only_there(s: Array) -> Array:
            if not np.array_equal(s, alone):
                raise ValueError("elsewhere")
            return s.copy()

        check(dz.as_solver(only_there, spec), alone)


@pytest.mark.parametrize("directions", [0, -1, 7, 9.5, None])
def test_too_few_directions(directions: Any) -> None:
    with pytest.raises(ConfigError, match="directions must be a whole number of 8 or more, not"):
        dz.check_gradient(dz.SolverLayer(Burgers(), vjp.Detached()), states(), directions=directions)


def test_misuse() -> None:
    layer = dz.SolverLayer(Burgers(), vjp.Detached())
    oracle, batch = loop_oracle("detached")
    model, inputs = model_oracle(sequence(torch.nn.Linear(2, 1)).double(), torch.randn(3, 2).double())
    for arguments, options, says in (
        ((Burgers(), states()), {}, "a dz.SolverLayer or an oracle has a gradient to be checked, not Burgers"),
        ((layer,), {}, "a layer is checked at one batch, .*, not 0"),
        ((layer, states(), states()), {}, "a layer is checked at one batch, .*, not 2"),
        ((layer, (states(), None, None)), {}, "a layer is checked at states or .states, params., not tuple"),
        ((layer, states()[:0]), {}, "at one state or more, but none were given"),
        ((layer, states()), {"estimator": dz.CGE()}, "an estimator asks an oracle, not a layer"),
        ((layer, states()), {"twin": Burgers()}, "a twin must be a dz.DifferentiableSolver, not Burgers"),
        ((layer, states()), {"twin": DifferentiableBurgers(8)}, r"states of shape \(1, 16\), not float64 states of .*\(1, 8\)"),
        ((layer, states()), {"twin": DifferentiableBurgers(dtype="float32")}, "float64 states .*, not float32 states"),
        ((layer, states()), {"seed": -1}, "a seed must be a whole number"),
        ((oracle,), {}, "on one batch or more, but none were given"),
        ((oracle, batch[:2]), {}, "a batch must be .states, params, references."),
        ((model, inputs), {"twin": DifferentiableBurgers()}, "only the solver of a LoopOracle has a twin"),
    ):
        with pytest.raises(ConfigError, match=says):
            dz.check_gradient(*arguments, **options)  # type: ignore[arg-type]


def test_a_twin_without_a_gradient() -> None:
    class Numpy(DifferentiableBurgers):
        def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return torch.from_numpy(self.step(states.detach().numpy()))

    class NaN(DifferentiableBurgers):
        def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return states * float("nan")

    layer = dz.SolverLayer(Burgers(), vjp.Coloured())
    with pytest.raises(ConfigError, match="the twin 'burgers' has no gradient: look for detach"):
        dz.check_gradient(layer, states(), twin=Numpy())
    with pytest.raises(NonFiniteError, match="what the twin 'burgers' returned must be finite"):
        dz.check_gradient(layer, states(), twin=NaN())


@pytest.mark.parametrize("subject", ["layer", "oracle"])
def test_a_twin_that_takes_another_step(subject: str) -> None:
    class Twice(DifferentiableBurgers):
        def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return states + 2 * (super().differentiable_step(states, params) - states)

    oracle, batch = burgers_oracle()
    asked: tuple[Any, ...] = (dz.SolverLayer(Burgers(), vjp.Coloured()), states()) if subject == "layer" else (oracle, batch)
    with pytest.raises(ConfigError, match=r"a twin takes the solver's step, but 'burgers' and 'burgers' are .* apart after"):
        dz.check_gradient(*asked, twin=Twice())
