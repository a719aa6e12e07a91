"""The solver loop: its formula, and what autograd sees of the solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, LinearSolver, LogisticSolver, Network, conv_corrector, initial_states
from torch import nn

from deepzero_sim import vjp
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.named_gradients import SolverGradient
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.models import small
from deepzero_sim.solver.contract import as_solver
from deepzero_sim.solver.spec import SolverSpec


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_rollout_is_the_formula(steps: int) -> None:
    solver, corrector = Burgers(), conv_corrector()
    states = initial_states(3)
    expected, current = [], states
    with torch.no_grad():
        for _ in range(steps):
            advanced = solver.step(current)
            current = advanced + corrector(torch.from_numpy(advanced)).numpy()
            expected.append(current)
        rollout = SolverLoop(solver, corrector, unroll=2).rollout(states, steps=steps)
    assert rollout.shape == (3, steps, 1, 16)
    np.testing.assert_array_equal(rollout.numpy(), np.stack(expected, axis=1))


def test_rollout_takes_its_length_from_unroll_and_passes_parameters_on() -> None:
    class Corrector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, states: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
            return self.weight * params[:, :, None] * states

    solver, states, params = LogisticSolver(), initial_states(2), np.array([[0.5], [1.5]])
    rollout = SolverLoop(solver, Corrector(), unroll=3).rollout(states, params).detach().numpy()
    current = states
    for step in range(3):
        current = solver.step(current, params) * (1 + 0.5 * params[:, :, None])
        np.testing.assert_allclose(rollout[:, step], current, rtol=1e-12)


def test_a_known_first_step_is_not_taken_again() -> None:
    solver, states = Counting(Burgers()), initial_states(3)
    loop = SolverLoop(solver, conv_corrector(), unroll=4)
    whole = loop.rollout(states)
    assert solver.states == 12
    known = loop.rollout(states, advanced=loop.advance(torch.from_numpy(states)))
    assert solver.states == 12 + 3 + 9
    assert torch.equal(whole, known)


def test_the_corrector_keeps_its_own_dtype() -> None:
    corrector = conv_corrector().float()
    rollout = SolverLoop(Burgers(), corrector).rollout(initial_states(2), steps=2)
    assert rollout.dtype == torch.float64
    assert (
        SolverLoop(Burgers(dtype="float32"), conv_corrector()).rollout(initial_states(2, dtype="float32")).dtype
        == torch.float32
    )


def test_a_corrector_without_parameters_works() -> None:
    states = initial_states(2)
    rollout = SolverLoop(Burgers(), Network(nn.Tanh()), unroll=1).rollout(states)
    advanced = torch.from_numpy(Burgers().step(states))
    assert torch.equal(rollout[:, 0], advanced + advanced.tanh())


@pytest.mark.parametrize(
    ("corrector", "came"),
    [(Network(nn.Conv1d(1, 1, 3)), r"\(2, 1, 14\)"), (Network(nn.Conv1d(1, 2, 1)), r"\(2, 2, 16\)")],
)
def test_a_correction_of_wrong_shape_is_refused(corrector: nn.Module, came: str) -> None:
    with pytest.raises(ConfigError, match=rf"shape \(2, 1, 16\), not {came}: check its padding"):
        SolverLoop(Burgers(), corrector.double()).rollout(initial_states(2))


@pytest.mark.parametrize("gradient", ["detached", "straight-through", "auto"])
def test_a_solver_need_not_be_deterministic_where_nothing_is_asked_of_it(gradient: SolverGradient) -> None:
    loop = SolverLoop(Burgers(deterministic=False), conv_corrector(), gradient=gradient)
    assert loop.rollout(torch.from_numpy(initial_states(2)), steps=2).requires_grad
    with pytest.raises(ConfigError, match="solver 'burgers' is not deterministic"):
        SolverLoop(Burgers(deterministic=False), conv_corrector(), gradient=vjp.Coloured())


def test_settings_are_checked() -> None:
    solver, corrector = Burgers(), conv_corrector()
    for unroll in (0, 1.5, "a", None):
        with pytest.raises(ConfigError, match=f"unroll must be a positive number of steps, not {unroll!r}"):
            SolverLoop(solver, corrector, unroll=unroll)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a loop needs a solver, which dz\.as_solver makes of a function, not function"):
        SolverLoop(lambda states: states, corrector)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a loop needs a torch\.nn\.Module that corrects, not NoneType"):
        SolverLoop(solver, None)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError,
        match=r"gradient must be one of detached, .* product of dz\.vjp, not 'adjoint'",
    ):
        SolverLoop(solver, corrector, gradient="adjoint")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="solver 'burgers' offers no gradient"):
        SolverLoop(solver, corrector, gradient="exact")
    for steps in (0, -1, 2.5):
        with pytest.raises(ConfigError, match=f"positive number of steps, not {steps}"):
            SolverLoop(solver, corrector).rollout(initial_states(1), steps=steps)


class Scaling(nn.Module):
    """`C(s) = theta s`."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return self.theta * states


def by_hand(matrix: Array, theta: float, start: Array, steps: int, gradient: SolverGradient) -> float:
    """`d/dtheta` of the sum of the last state, with `s' = (1 + theta) A s`, through as much of `A` as autograd sees."""
    seen = {"detached": np.zeros_like(matrix), "straight-through": np.eye(len(matrix)), "exact": matrix}[gradient]
    state, slope = start, np.zeros_like(start)
    for _ in range(steps):
        state, slope = (1 + theta) * matrix @ state, matrix @ state + (1 + theta) * seen @ slope
    return float(slope.sum())


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("gradient", ["detached", "straight-through", "exact"])
def test_gradient_is_what_it_says(gradient: SolverGradient, steps: int) -> None:
    rng = np.random.default_rng(0)
    matrix, start = rng.normal(size=(5, 5)), rng.normal(size=5)
    corrector = Scaling(0.3)
    states = torch.from_numpy(start[None, None])
    rollout = SolverLoop(LinearSolver(matrix), corrector, gradient=gradient).rollout(states, steps=steps)
    rollout[:, -1].sum().backward()
    assert corrector.theta.grad is not None
    assert float(corrector.theta.grad) == pytest.approx(by_hand(matrix, 0.3, start, steps, gradient), rel=1e-12)


@pytest.mark.parametrize("gradient", ["detached", "straight-through", "exact"])
def test_the_choice_of_gradient_does_not_change_the_values(gradient: SolverGradient) -> None:
    states, params, corrector = initial_states(3), np.full((3, 1), 0.8), conv_corrector()
    expected = SolverLoop(LogisticSolver(), corrector).rollout(states, params)
    rollout = SolverLoop(LogisticSolver(), corrector, gradient=gradient).rollout(states, params)
    torch.testing.assert_close(rollout, expected, rtol=1e-13, atol=1e-13)


def test_a_rollout_that_diverges_says_so() -> None:
    class Exploding(Scaling):
        def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return self.theta * states / 0.0

    states = initial_states(1)
    with pytest.raises(NonFiniteError, match="what is given to solver 'burgers' must be finite"):
        SolverLoop(Burgers(), Exploding(1.0)).rollout(states)
    with pytest.raises(NonFiniteError, match="what solver 'logistic' returned must be finite"):
        SolverLoop(LogisticSolver(), Exploding(1.0), gradient="exact").rollout(states, np.ones((1, 1)))


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda states: None, "NoneType"),
        (lambda states: (states,), "tuple"),
        (lambda states: states.detach().numpy(), "ndarray"),
        (lambda states: states.long(), "int64"),
        (lambda states: states + 0j, "complex128"),
    ],
)
def test_a_correction_that_is_no_tensor_of_numbers_is_refused(returned: Any, says: str) -> None:
    class Returns(nn.Module):
        def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> Any:
            return returned(states)

    with pytest.raises(ConfigError, match=f"must return a tensor of real floating-point numbers, not .*{says}"):
        SolverLoop(Burgers(), Returns(), unroll=1).rollout(initial_states(2))


_AS_ARRAY, _AS_TENSOR, _AS_LEAF = (
    lambda array: array,
    torch.from_numpy,
    lambda array: torch.from_numpy(array).requires_grad_(),
)


@pytest.mark.parametrize(
    ("states", "params", "recorded"),
    [
        (_AS_ARRAY, _AS_ARRAY, False),
        (_AS_ARRAY, _AS_TENSOR, True),
        (_AS_TENSOR, _AS_ARRAY, True),
        (_AS_TENSOR, _AS_TENSOR, True),
        (_AS_LEAF, _AS_TENSOR, True),
    ],
)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("gradient", ["detached", "straight-through", "exact"])
def test_a_rollout_is_recorded_where_tensors_ask_for_it(
    states: Any, params: Any, recorded: bool, trained: bool, enabled: bool, gradient: SolverGradient
) -> None:
    corrector, start, rates = conv_corrector().requires_grad_(trained), initial_states(2), np.full((2, 1), 0.8)
    loop = SolverLoop(LogisticSolver(), corrector, gradient=gradient)
    with torch.no_grad():
        expected = loop.rollout(torch.from_numpy(start), torch.from_numpy(rates), steps=2)
    with torch.set_grad_enabled(enabled):
        rollout = loop.rollout(states(start), params(rates), steps=2)
        assert torch.is_grad_enabled() == enabled
    assert isinstance(rollout, torch.Tensor) and torch.equal(rollout, expected)
    wanted = recorded and enabled and (trained or (states is _AS_LEAF))
    assert rollout.requires_grad == wanted
    if not recorded:
        np.testing.assert_array_equal(rollout.numpy(), np.asarray(rollout))


def test_a_known_first_step_that_asks_for_a_gradient_gets_it() -> None:
    loop, states = SolverLoop(Burgers(), conv_corrector()), initial_states(2)
    advanced = loop.advance(torch.from_numpy(states)).requires_grad_()
    loop.rollout(states, steps=1, advanced=advanced).sum().backward()
    assert advanced.grad is not None and bool(advanced.grad.isfinite().all())


def test_arrays_that_must_not_be_written_are_rolled_out_without_a_warning() -> None:
    states = initial_states(2)
    states.flags.writeable = False
    assert SolverLoop(Burgers(), conv_corrector()).rollout(states, steps=1).shape == (2, 1, 1, 16)


def test_a_loop_says_what_it_is() -> None:
    spec = SolverSpec(name="plain", state_shape=(1, 6), dt=1.0)
    loop = SolverLoop(as_solver(lambda s: s, spec), small(spec), unroll=3)
    assert repr(loop) == (
        "SolverLoop(FunctionSolver(SolverSpec('plain': 1 channel on 6 points, dt=1, float32)),\n"
        "    Corrector of 133 weights, unroll=3, gradient=Detached)"
    )
