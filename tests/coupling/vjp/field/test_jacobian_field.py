"""Jacobian fields: products of flows whose Jacobians are known, their error bars, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import JacobianField, StepTaken
from deepzero_sim.coupling.vjp.field import saved_field
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver

#: Step of a tensor of one state, `(C, *N)`, in float64.
Step = Callable[[torch.Tensor], torch.Tensor]


def shift(values: torch.Tensor, by: int, axis: int) -> torch.Tensor:
    return torch.roll(values, by, axis)


def burgers(s: torch.Tensor) -> torch.Tensor:
    """One channel a velocity, on one or two periodic axes."""
    change = torch.zeros_like(s)
    for axis in range(1, s.ndim):
        ahead, behind = shift(s, -1, axis), shift(s, 1, axis)
        change = change - 0.1 * s[axis - 1] * (ahead - behind) + 0.1 * (ahead - 2 * s + behind)
    return s + change


def vorticity(s: torch.Tensor) -> torch.Tensor:
    """A flow whose velocity depends on the vorticity everywhere."""
    size = s.shape[-1]
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    kx, ky = k[:, None], k[None, :size]
    squares = kx**2 + ky**2
    inverse = torch.where(squares > 0, 1 / torch.where(squares > 0, squares, torch.ones_like(squares)), 0.0)
    spectrum = torch.fft.fft2(s[0])
    u, v, sx, sy = (
        torch.fft.ifft2(factor * spectrum).real for factor in (1j * ky * inverse, -1j * kx * inverse, 1j * kx, 1j * ky)
    )
    diffused = torch.fft.ifft2(torch.exp(-0.01 * squares) * spectrum).real
    return (diffused - 0.1 * (u * sx + v * sy))[None]


def transported(s: torch.Tensor, keep: Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
    """Velocities that carry themselves along, of whose changes something is kept: a function of their spectrum and of waves."""
    size = s.shape[-1]
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    waves = [k[:, None].expand(size, size), k[None].expand(size, size)]
    spectrum = torch.fft.fft2(s)
    slopes = [torch.fft.ifft2(1j * wave * spectrum).real for wave in waves]
    change = torch.fft.fft2(s[:1] * slopes[0] + s[1:] * slopes[1])
    diffused = torch.exp(-0.01 * (waves[0] ** 2 + waves[1] ** 2)) * spectrum
    return torch.fft.ifft2(diffused - 0.03 * keep(change, waves)).real


def dealiased(s: torch.Tensor) -> torch.Tensor:
    """Changes of two thirds of all waves."""
    return transported(s, lambda change, waves: change * ((waves[0].abs() < 6) & (waves[1].abs() < 6)))


def projected(s: torch.Tensor) -> torch.Tensor:
    """Changes without divergence."""

    def project(change: torch.Tensor, waves: list[torch.Tensor]) -> torch.Tensor:
        k = torch.stack(waves).to(change.dtype)
        return change - k * (k * change).sum(0) / (k * k).sum(0).real.clamp(min=1)

    return transported(s, project)


def walled(s: torch.Tensor) -> torch.Tensor:
    """Diffusion and a reaction between walls along the first axis, around the second."""
    padded = torch.nn.functional.pad(s, (0, 0, 1, 1))
    along = padded[:, 2:] - 2 * s + padded[:, :-2]
    around = shift(s, -1, 2) - 2 * s + shift(s, 1, 2)
    return s + 0.2 * along + 0.1 * around - 0.03 * s**2


def varied(s: torch.Tensor) -> torch.Tensor:
    """Diffusion whose coefficient varies from point to point, past an obstacle that nothing passes, and a reaction."""
    size = s.shape[-1]
    places = torch.arange(size, dtype=torch.float64)
    open_faces = torch.ones(size, size, dtype=torch.float64)
    open_faces[5:9, 6:10] = 0
    coefficient = 0.1 * (1 + 0.8 * torch.sin(places / 3)[:, None] * torch.cos(places / 2)) * open_faces
    down = coefficient[:-1] * (s[0, 1:] - s[0, :-1])
    right = coefficient[:, :-1] * (s[0, :, 1:] - s[0, :, :-1])
    change = torch.nn.functional.pad(down, (0, 0, 0, 1)) - torch.nn.functional.pad(down, (0, 0, 1, 0))
    change = change + torch.nn.functional.pad(right, (0, 1)) - torch.nn.functional.pad(right, (1, 0))
    return s + change[None] - 0.02 * s**2


def heat(s: torch.Tensor) -> torch.Tensor:
    return s + 0.2 * (shift(s, -1, 1) - 2 * s + shift(s, 1, 1))


def solver_of(step: Step, shape: tuple[int, ...], dtype: str = "float64") -> Solver:
    spec = dz.SolverSpec(name="flow", state_shape=shape, dt=1.0, dtype=dtype)

    def advance(states: Array) -> Array:
        return np.stack([step(torch.from_numpy(state.astype(np.float64))).numpy() for state in states]).astype(dtype)

    return dz.as_solver(advance, spec)


def waves(shape: tuple[int, ...], count: int, seed: int = 0, dtype: str = "float64") -> Array:
    """Smooth random states of size 1."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    axes = tuple(range(2, noise.ndim))
    spectrum = np.fft.fftn(noise, axes=axes)
    for axis in axes:
        k = np.abs(np.fft.fftfreq(noise.shape[axis], 1 / noise.shape[axis]))
        spectrum = spectrum * (k < 4).reshape([-1 if other == axis else 1 for other in range(noise.ndim)])
    smooth = np.fft.ifftn(spectrum, axes=axes).real
    return np.asarray(smooth / smooth.std(axes, keepdims=True), dtype=dtype)


def rollouts(solver: Solver, count: int = 8, steps: int = 8, seed: int = 1) -> Array:
    """States along rollouts, `(count steps, C, *N)`."""
    frames = [waves(solver.spec.state_shape, count, seed, solver.spec.dtype)]
    for _ in range(steps - 1):
        frames.append(solver.step(frames[-1]))
    return np.concatenate(frames)


def exact(step: Step, state: Array, w: Array) -> Array:
    s = torch.from_numpy(state.astype(np.float64)).requires_grad_()
    return torch.autograd.grad(step(s), s, torch.from_numpy(w.astype(np.float64)))[0].numpy()


def cosine_through(
    step: Step, method: JacobianField, solver: Solver, start: Array, steps: int, w: Array | None = None
) -> float:
    """Compare the product through some steps with autograd's, by default for the difference of two states."""
    trajectory = [start]
    for _ in range(steps):
        trajectory.append(solver.step(trajectory[-1]))
    probes = SolverProbe(solver)
    found = waves(solver.spec.state_shape, 1, 99, solver.spec.dtype) if w is None else w
    expected = found[0]
    for before, after in zip(trajectory[-2::-1], trajectory[:0:-1], strict=True):
        found = method.product(StepTaken(before, None, after), found, probes)
        expected = exact(step, before[0], expected)
    assert probes.steps == 0, "products take no steps"
    return float((found[0] * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("step", "shape", "dtype", "least", "periodic"),
    [
        (burgers, (1, 48), "float64", (0.9995, 0.995), (True,)),
        (burgers, (1, 48), "float32", (0.9995, 0.995), (True,)),
        (burgers, (2, 16, 16), "float64", (0.995, 0.95), (True, True)),
        (vorticity, (1, 24, 24), "float64", (0.999, 0.99), (True, True)),
        (walled, (1, 20, 16), "float64", (0.999, 0.99), (False, True)),
        (varied, (1, 16, 16), "float64", (0.998, 0.97), (False, False)),
        (heat, (1, 32), "float32", (0.9999, 0.9999), (True,)),
    ],
)
def test_products_are_those_of_the_state(
    step: Step, shape: tuple[int, ...], dtype: str, least: tuple[float, float], periodic: tuple[bool, ...]
) -> None:
    solver, method = solver_of(step, shape, dtype), JacobianField()
    probes = SolverProbe(solver)
    method.prepare(rollouts(solver), None, probes)
    assert probes.steps <= 300
    start = waves(shape, 1, 5, dtype)
    found = [cosine_through(step, method, solver, start, steps) for steps in (1, 8)]
    assert found[0] >= least[0], found
    assert found[1] >= least[1], found
    assert method.report is not None
    assert method.report.periodic == periodic
    assert method.report.steps == probes.steps - 2, "two steps tell the solver from others"
    assert probes.steps <= method.steps_to_measure(solver.spec)


@pytest.mark.parametrize("step", [dealiased, projected])
def test_what_a_solver_does_to_all_changes_is_found(step: Step) -> None:
    shape = (2, 16, 16)
    solver, method = solver_of(step, shape), JacobianField(64)
    method.prepare(rollouts(solver), None, SolverProbe(solver))
    w = np.random.default_rng(0).normal(size=(1, *shape))  # rough, as errors of a coarse solver are
    found = [cosine_through(step, method, solver, waves(shape, 1, 5), steps, w) for steps in (1, 8)]
    assert found[0] > 0.996, found
    assert found[1] > 0.99, found


def small_method(**arguments: object) -> tuple[JacobianField, Solver, SolverProbe]:
    """A prepared field of Burgers' equation."""
    solver = solver_of(burgers, (1, 32))
    method, probes = JacobianField(**arguments), SolverProbe(solver)  # type: ignore[arg-type]
    method.prepare(rollouts(solver), None, probes)
    return method, solver, probes


def product_of(method: JacobianField, solver: Solver) -> Array:
    start = waves(solver.spec.state_shape, 3, 7, solver.spec.dtype)
    return method.product(StepTaken(start, None, solver.step(start)), waves((1, 32), 3, 8), SolverProbe(solver))


def test_a_seed_fixes_everything_and_what_was_learnt_is_restored_to_the_bit() -> None:
    method, solver, probes = small_method()
    again, _, counted = small_method()
    np.testing.assert_array_equal(product_of(again, solver), product_of(method, solver))
    assert counted.steps == probes.steps
    other, _, _ = small_method(seed=1)
    assert not np.array_equal(product_of(other, solver), product_of(method, solver))
    restored = JacobianField()
    restored.load_state_dict({name: array.copy() for name, array in method.state_dict().items()})
    np.testing.assert_array_equal(product_of(restored, solver), product_of(method, solver))
    assert restored.report == method.report


def test_a_field_is_found_again_in_its_file_and_costs_the_same(tmp_path: Path) -> None:
    first, solver, probes = small_method(file=tmp_path / "field.safetensors")
    calls = 0

    def counting(s: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return burgers(s)

    found, counted = JacobianField(file=tmp_path / "field.safetensors"), SolverProbe(solver_of(counting, (1, 32)))
    states = rollouts(solver)
    found.prepare(states, None, counted)
    assert calls == 2, "only the two steps by which a solver is known"
    assert counted.steps == probes.steps
    np.testing.assert_array_equal(product_of(found, solver), product_of(first, solver))
    weaker = SolverProbe(solver_of(lambda s: 0.9 * burgers(s), (1, 32)))
    other = JacobianField(file=tmp_path / "field.safetensors")
    other.prepare(states, None, weaker)
    assert not np.array_equal(product_of(other, solver), product_of(first, solver)), "another solver's is measured"


def test_a_solver_that_differs_at_large_states_alone_is_told_apart(tmp_path: Path) -> None:
    """The first state is quiet, as initial states often are."""

    def limited(rate: float) -> Step:
        return lambda s: burgers(s) - rate * torch.where(s.abs() > 1.5, s, torch.zeros_like(s))

    states = waves((1, 32), 40)
    states[0] *= 0.1
    file, found = tmp_path / "field.safetensors", []
    for rate in (0.0, 0.05):
        layer = dz.SolverLayer(solver_of(limited(rate), (1, 32)), JacobianField(file=file))
        layer.vjp.prepare(states, None, layer.probes)
        found.append(layer.vjp.state_dict()["kept.answers"])
    assert not np.array_equal(*found)


def test_a_field_without_states_of_its_own_says_what_it_learnt_from() -> None:
    solver = solver_of(burgers, (1, 32))
    states, warned = waves((1, 32), 4), list[str]()
    field, probes = JacobianField(), SolverProbe(solver)
    probes.warn = warned.append
    for _ in range(2):
        field.product(StepTaken(states, None, solver.step(states)), states, probes)
    (said,) = warned
    assert said.startswith("JacobianField of solver 'flow' learnt from the 4 states of its first product alone")
    assert said.endswith("by layer.vjp.prepare(states, params, layer.probes).")


def test_the_field_is_linear_in_cotangents_and_adjoint_to_its_own_products() -> None:
    method, solver, _ = small_method()
    states = waves((1, 32), 2, 3)
    advanced = solver.step(states)
    v, w = waves((1, 32), 2, 4), waves((1, 32), 2, 5)
    field, sizes, _ = saved_field.field_from_tensors(method.state_dict())
    ahead = field.jvp(states / sizes, advanced / sizes, None, v)
    back = field.vjp(states / sizes, advanced / sizes, None, w)
    np.testing.assert_allclose((w * ahead).sum((1, 2)), (v * back).sum((1, 2)), rtol=1e-12)


def test_scenario_parameters_are_features() -> None:
    """A diffusivity that differs from simulation to simulation."""
    spec = dz.SolverSpec(name="heat", state_shape=(1, 32), dt=1.0, dtype="float64", parameters=("nu",))

    def advance(states: Array, params: Array) -> Array:
        return states + params[:, :, None] * (np.roll(states, 1, 2) - 2 * states + np.roll(states, -1, 2))

    solver, rng = dz.as_solver(advance, spec), np.random.default_rng(0)
    method, probes = JacobianField(tolerance=0.01), SolverProbe(solver)
    method.prepare(waves((1, 32), 40), rng.uniform(0.05, 0.4, (40, 1)), probes)
    states, params, w = waves((1, 32), 5, 1), rng.uniform(0.05, 0.4, (5, 1)), rng.normal(size=(5, 1, 32))
    found = method.product(StepTaken(states, params, advance(states, params)), w, probes)
    expected = advance(w, params)  # the step is linear and symmetric
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected - w)


def test_padding_has_no_gradient_and_does_not_disturb() -> None:
    """Two staggered channels that share one array."""
    mask = np.ones((2, 10, 12), dtype=bool)
    mask[0, -1], mask[1, :, -1] = False, False
    spec = dz.SolverSpec(name="staggered", state_shape=(2, 10, 12), dt=1.0, dtype="float64", mask=mask)

    def advance(states: Array) -> Array:
        padded = np.pad(states, [(0, 0), (0, 0), (1, 1), (1, 1)])
        around = padded[:, :, 2:, 1:-1] + padded[:, :, :-2, 1:-1] + padded[:, :, 1:-1, 2:] + padded[:, :, 1:-1, :-2]
        return np.asarray((states + 0.1 * (around - 4 * states) - 0.05 * states**2) * mask)

    solver = dz.as_solver(advance, spec)
    method, probes = JacobianField(), SolverProbe(solver)
    states = waves((2, 10, 12), 40) * mask
    method.prepare(states, None, probes)
    layer = dz.SolverLayer(solver, method)
    tensor = torch.from_numpy(states[:1].copy()).requires_grad_()
    w = waves((2, 10, 12), 1, 9) * mask
    layer(tensor).backward(torch.from_numpy(w))
    assert tensor.grad is not None
    assert not tensor.grad.numpy()[0][~mask].any()
    # the step is symmetric but for its reaction, which is diagonal: J^T w = J w, by differences
    expected = (advance(states[:1] + 1e-6 * w) - advance(states[:1] - 1e-6 * w)) / 2e-6
    assert np.linalg.norm(tensor.grad.numpy() - expected) < 0.1 * np.linalg.norm(expected - w)


def test_states_that_never_change_leave_a_constant_jacobian() -> None:
    solver = solver_of(heat, (1, 16))
    method, probes = JacobianField(), SolverProbe(solver)
    method.prepare(np.full((3, 1, 16), 2.0), None, probes)
    assert method.report is not None
    assert method.report.rank == 0
    assert method.report.cosines[-1] > 0.999


@pytest.mark.parametrize(
    ("step", "fitted"),
    [
        (lambda s: torch.where(torch.sin(40 * s.sum()) > 0, s, -s), "switches"),
        (lambda s: s[:, torch.from_numpy(np.random.default_rng(0).permutation(24))], "a medium without neighbours"),
    ],
)
def test_the_error_bar_says_it_and_a_warning_names_the_fallback(step: Step, fitted: str) -> None:
    solver = solver_of(step, (1, 24))
    method = JacobianField()
    with pytest.warns(UserWarning, match=r"found no Jacobian of solver 'flow' .* Take Coloured .*ReferenceJacobian .*Straight"):
        method.prepare(waves((1, 24), 40), None, SolverProbe(solver))
    assert method.report is not None
    assert method.report.cosines[-1] < 0.9, fitted


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"probes": 0}, "probes must be a positive whole number, not 0"),
        ({"probes": 2.5}, "probes must be a positive whole number, not 2.5"),
        ({"tolerance": 0}, "tolerance must be a positive share of a product, not 0"),
        ({"tolerance": float("inf")}, "tolerance must be a positive share of a product, not inf"),
        ({"probes": 10**20}, "probes must be a positive whole number, not 10{20}"),
        ({"block": 10**20}, "block must be a positive whole number of points, or None, not 10{20}"),
        ({"check_every": 10**20}, "check_every must be a positive whole number of states, or None, not 10{20}"),
        ({"step_size": 10**400}, "step_size must be a positive number, or None to be chosen, not 10{400}"),
        ({"block": 0}, "block must be a positive whole number of points, or None, not 0"),
        ({"seed": -1}, "seed must be 0 or a positive whole number, not -1"),
        ({"file": ""}, "file must be a path, or None to keep nothing, not ''"),
        ({"probes": 3}, "needs 4 probes or more, not 3: raise probes, or take StraightThrough"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small_method(**arguments)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 2, 2)])
def test_the_smallest_states_are_taken(shape: tuple[int, ...]) -> None:
    solver = solver_of(lambda s: 0.9 * s - 0.1 * s**2, shape)
    method, states = JacobianField(), np.random.default_rng(0).normal(size=(20, *shape))
    method.prepare(states, None, SolverProbe(solver))
    assert method.product(StepTaken(states, None, solver.step(states)), states, SolverProbe(solver)).shape == states.shape


def test_a_measured_jacobian_is_the_common_part_of_a_medium_that_is_not_uniform() -> None:
    """Points far apart are coupled as they please, and a local reaction depends on the state."""
    coupling = 0.05 * np.random.default_rng(3).normal(size=(40, 40)) / np.sqrt(40)
    mixing = torch.from_numpy(np.eye(40) + coupling)

    def step(s: torch.Tensor) -> torch.Tensor:
        return (s - 0.1 * s**2) @ mixing

    solver = solver_of(step, (1, 40))
    method, probes = JacobianField(block=1), SolverProbe(solver)
    frames = [0.5 + 0.3 * waves((1, 40), 10)]
    for _ in range(7):
        frames.append(solver.step(frames[-1]))
    states = np.concatenate(frames)
    method.prepare(states, None, probes)
    assert probes.steps <= method.steps_to_measure(solver.spec) == 290 + 40 + 1
    assert cosine_through(step, method, solver, states[:1], 8) > 0.99
    restored = JacobianField()
    restored.load_state_dict(method.state_dict())
    start = states[:2]
    taken = StepTaken(start, None, solver.step(start))
    found = [one.product(taken, waves((1, 40), 2, 8), SolverProbe(solver)) for one in (method, restored)]
    np.testing.assert_array_equal(*found)


def test_states_of_another_shape_are_refused() -> None:
    method, _, _ = small_method()
    with pytest.raises(dz.SolverError, match="shape"):
        method.prepare(waves((1, 24), 4), None, SolverProbe(solver_of(burgers, (1, 32))))
