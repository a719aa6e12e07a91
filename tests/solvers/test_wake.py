"""The numpy wake solver: what one step must satisfy, and its pressure against an independent dense solve."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.solvers.wake import (
    TEST_REYNOLDS,
    TRAIN_REYNOLDS,
    PressureSolve,
    WakeFlow,
    WakeGrid,
    diffusion_number,
    downsample,
    initial_state,
    viscosity,
)

REYNOLDS = np.array(TRAIN_REYNOLDS, dtype=np.float32)[:, None]
ROUNDING = {"float32": 2e-5, "float64": 1e-12}


def rough(resolution: int, batch: int, dtype: str = "float32", seed: int = 0) -> Array:
    """`(B, 2, H+1, W+1)`: uniform flow and noise, as unkind as a state gets."""
    solver = WakeFlow(resolution, dtype)
    noise = np.random.default_rng(seed).normal(size=(batch, *solver.spec.state_shape)) * solver.spec.active()
    return np.asarray(initial_state(solver.spec, np.ones((batch, 1))) + (0.3 * noise).astype(dtype))


def divergence(states: Array) -> Array:
    """`(B, H, W)` in cell units."""
    return np.asarray(np.diff(states[:, 0, :, :-1], axis=1) + np.diff(states[:, 1, :-1, :], axis=2))


def laplacian(fluid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(H W, H W)`, cell by cell: zero pressure outside the domain, no gradient into the obstacle, identity inside it."""
    height, width = fluid.shape
    matrix = np.zeros((fluid.size, fluid.size))
    for i in range(height):
        for j in range(width):
            row = matrix[i * width + j]
            if not fluid[i, j]:
                row[i * width + j] = 1.0
                continue
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= k < height and 0 <= m < width
                if inside and not fluid[k, m]:
                    continue
                row[i * width + j] -= 1.0
                if inside:
                    row[k * width + m] = 1.0
    return matrix


def obstacle(shape: tuple[int, int], rows: slice, columns: slice) -> NDArray[np.bool_]:
    fluid = np.ones(shape, dtype=bool)
    fluid[rows, columns] = False
    return fluid


FLUIDS = {
    "none": np.ones((12, 7), dtype=bool),
    "one cell": obstacle((9, 9), slice(4, 5), slice(3, 4)),
    "block": obstacle((16, 11), slice(4, 9), slice(3, 7)),
    "at the first row": obstacle((12, 8), slice(0, 3), slice(2, 5)),
    "in the last corner": obstacle((12, 8), slice(9, 12), slice(5, 8)),
    "a wall from side to side": obstacle((10, 6), slice(4, 6), slice(0, 6)),
    "two bodies": obstacle((14, 9), slice(2, 4), slice(2, 4)) & obstacle((14, 9), slice(8, 11), slice(5, 7)),
    "around an enclosed corner": obstacle((10, 10), slice(2, 7), slice(2, 4)) & obstacle((10, 10), slice(5, 7), slice(2, 8)),
    "circle": WakeGrid(16).fluid(),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fluid", FLUIDS.values(), ids=FLUIDS.keys())
def test_pressure_solves_the_five_point_laplacian(fluid: NDArray[np.bool_], dtype: str) -> None:
    right = np.random.default_rng(1).normal(size=(3, *fluid.shape)) * fluid
    expected = np.linalg.solve(laplacian(fluid), right.reshape(3, -1).T).T.reshape(right.shape)
    given = right.astype(dtype)
    pressure = PressureSolve(fluid, dtype)(given)
    assert pressure.dtype == given.dtype
    np.testing.assert_allclose(pressure, expected, rtol=0, atol=ROUNDING[dtype] * np.abs(expected).max())
    np.testing.assert_array_equal(given, right.astype(dtype), err_msg="the right-hand side was overwritten")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_a_step_leaves_no_divergence_in_the_fluid(resolution: int, dtype: str) -> None:
    states = rough(resolution, 3, dtype)
    result = WakeFlow(resolution, dtype).step(states, REYNOLDS[:3])
    assert np.abs(divergence(states)).max() > 0.5
    assert np.abs(divergence(result)).max() < ROUNDING[dtype]


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_nothing_flows_through_the_obstacle_and_padding_is_zero(resolution: int) -> None:
    solver = WakeFlow(resolution)
    result = solver.step(rough(resolution, 2), REYNOLDS[:2])
    fluid, (open_y, open_x) = solver.grid.fluid(), solver.grid.open_faces()
    assert not result[:, ~solver.spec.active()].any()
    assert not result[:, 0, :, :-1][:, ~open_y].any()
    assert not result[:, 1, :-1, :][:, ~open_x].any()
    assert result[:, 0, :, :-1][:, open_y].all(), "every open face carries some flow here"
    for i, j in np.argwhere(~fluid):
        assert not (open_y[i, j] or open_y[i + 1, j] or open_x[i, j] or open_x[i, j + 1])
    assert (~open_y).sum() == sum(len(set(_runs(column))) for column in fluid.T)
    assert (~open_x).sum() == sum(len(set(_runs(row))) for row in fluid)


def _runs(cells: NDArray[np.bool_]) -> list[int]:
    """Numbers of the faces that bound a solid cell of one line of cells, some twice."""
    return [int(face) for cell in np.flatnonzero(~cells) for face in (cell, cell + 1)]


def test_the_inflow_forgets_the_state_it_was_given() -> None:
    solver = WakeFlow(16, "float64")
    states = rough(16, 1, "float64")
    changed = states.copy()
    changed[:, 0, 0] += 0.7  # diffusion carries row 0 as far as row 1, and both are overwritten
    np.testing.assert_array_equal(solver.step(changed, REYNOLDS[:1])[:, 0], solver.step(states, REYNOLDS[:1])[:, 0])
    changed[:, 0, 3] += 0.7
    assert np.abs(solver.step(changed, REYNOLDS[:1]) - solver.step(states, REYNOLDS[:1])).max() > 0.1


def test_the_flow_enters_near_speed_one_and_stays_bounded() -> None:
    solver = WakeFlow(32)
    states = initial_state(solver.spec, np.ones((len(REYNOLDS), 1)))
    for _ in range(200):
        states = checked_step(solver, states, REYNOLDS)
    assert np.abs(states[:, 0, 0, :-1] - 1.0).max() < 0.1
    assert 1.0 < np.abs(states).max() < 2.0
    assert states[:, 0, 22:26, 15:17].max() < 0.5, "slow flow behind the circle"


def open_channel(pressure: Callable[[Array], Array]) -> WakeFlow:
    """Make a float64 solver without the obstacle, and with another pressure."""
    solver = WakeFlow(16, "float64")
    solver._open_y, solver._open_x = np.ones_like(solver._open_y), np.ones_like(solver._open_x)
    solver._pressure = pressure  # type: ignore[assignment]
    return solver


def test_uniform_flow_without_an_obstacle_does_not_change() -> None:
    solver = open_channel(PressureSolve(np.ones(WakeGrid(16).shape, dtype=bool), "float64"))
    uniform = initial_state(solver.spec, np.ones((1, 1)))
    uniform[:, 1] = 0.0
    np.testing.assert_allclose(solver.step(uniform, REYNOLDS[:1]), uniform, rtol=0, atol=1e-13)


def test_advection_and_diffusion_of_a_linear_profile_without_an_obstacle() -> None:
    """`v_y = 1 + a x` away from the sides: the Laplacian and the displacement along x are zero, so it stays."""
    solver = open_channel(np.zeros_like)
    shear = initial_state(solver.spec, np.ones((1, 1)))
    shear[:, 1] = 0.0
    shear[:, 0, :, :16] = 1.0 + 0.01 * np.arange(16)
    result = solver.step(shear, REYNOLDS[:1])
    np.testing.assert_allclose(result[:, 0, 4:, 2:14], shear[:, 0, 4:, 2:14], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(result[:, 0, :, 0], 1.0)


def test_a_profile_is_carried_along_by_the_flow() -> None:
    """`v_x = f(y)`, linear and small, is carried by `v_y = 1` for one step: `f(y - dt)`, exactly."""
    solver = open_channel(np.zeros_like)
    states = initial_state(solver.spec, np.ones((1, 1)))
    slope = 1e-3
    states[:, 1, :32] = slope * (np.arange(32) + 0.5)[:, None] * solver.grid.spacing
    result = solver.step(states, REYNOLDS[:1])
    np.testing.assert_allclose(result[0, 1, 2:31, 3:14], states[0, 1, 2:31, 3:14] - slope * solver.spec.dt, rtol=0, atol=1e-13)


@pytest.mark.parametrize("resolution", [16, 32])
def test_a_batch_is_its_states_one_by_one(resolution: int) -> None:
    solver = WakeFlow(resolution)
    batch = 40  # several blocks at both resolutions
    states, reynolds = rough(resolution, batch), np.resize(REYNOLDS, (batch, 1))
    together = solver.step(states, reynolds)
    alone = [solver.step(states[i : i + 1], reynolds[i : i + 1]) for i in range(batch)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=ROUNDING["float32"])


def test_the_input_is_unchanged_and_the_step_repeatable() -> None:
    solver, states, reynolds = WakeFlow(16), rough(16, 3), REYNOLDS[:3].copy()
    given = states.copy()
    states.flags.writeable = reynolds.flags.writeable = False
    first = solver.step(states, reynolds)
    np.testing.assert_array_equal(states, given)
    np.testing.assert_array_equal(solver.step(states, reynolds), first)
    assert not np.shares_memory(first, states)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(solver)).step(states, reynolds), first)  # noqa: S301


def test_padding_of_the_input_has_no_influence() -> None:
    solver, states = WakeFlow(16), rough(16, 2)
    dirty = np.where(solver.spec.active(), states, np.float32(9.0))
    np.testing.assert_array_equal(solver.step(dirty, REYNOLDS[:2]), solver.step(states, REYNOLDS[:2]))


def test_float32_follows_float64() -> None:
    single, double = WakeFlow(32), WakeFlow(32, "float64")
    states = initial_state(single.spec, np.ones((len(REYNOLDS), 1)))
    exact: Array = states.astype(np.float64)
    for _ in range(100):
        states, exact = single.step(states, REYNOLDS), double.step(exact, REYNOLDS)
    assert [states.dtype, exact.dtype] == ["float32", "float64"]
    assert 0 < np.abs(states - exact).max() < 1e-4


def test_a_higher_reynolds_number_diffuses_less() -> None:
    states = np.repeat(rough(32, 1, "float64"), 2, axis=0)
    result = WakeFlow(32, "float64").step(states, np.array([[5.0], [5000.0]]))
    roughness = (np.diff(result[:, 0, :, :-1], axis=1) ** 2).sum(axis=(1, 2))
    assert roughness[0] < 0.7 * roughness[1]


def test_too_low_reynolds_numbers_are_refused() -> None:
    for resolution in (32, 128):
        grid = WakeGrid(resolution)
        lowest = 40.0 * (resolution / 128) ** 2
        assert diffusion_number(grid, np.array([[lowest * 1.001]]))[0, 0, 0] == pytest.approx(0.25, rel=0.05)
        for bad in (0.9 * lowest, 0.0, -100.0, np.nan):
            with pytest.raises(ConfigError, match="at least"):
                diffusion_number(grid, np.array([[500.0], [bad]]))
    with pytest.raises(ConfigError, match="at least"):
        WakeFlow(32).step(rough(32, 1), np.array([[1.0]], dtype=np.float32))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        WakeFlow(4)
    with pytest.raises(ConfigError, match="dtype"):
        WakeFlow(16, "float16")
    with pytest.raises(ConfigError, match="params"):
        WakeFlow(16).step(rough(16, 1))


def test_the_published_reynolds_numbers() -> None:
    np.testing.assert_allclose(TRAIN_REYNOLDS, (97.7, 195, 391, 781, 1562, 3125), rtol=2e-3)
    np.testing.assert_allclose(TEST_REYNOLDS, (146, 293, 586, 1172, 2344), rtol=5e-3)
    assert viscosity(TRAIN_REYNOLDS[0]) == pytest.approx(1e4 / 160e3)


def test_the_obstacle_lies_where_it_should() -> None:
    fluid = WakeGrid(128).fluid()
    rows, columns = np.nonzero(~fluid)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((64.0, 64.0))
    assert (~fluid).sum() * WakeGrid(128).spacing ** 2 == pytest.approx(np.pi * 100, rel=0.03)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_downsampling_conserves_flux_and_keeps_linear_fields(factor: int) -> None:
    fine, coarse = WakeGrid(32), WakeGrid(32 // factor)
    states = rough(32, 2, "float64")
    result = downsample(states, factor)
    height, width = coarse.shape
    assert result.shape == (2, 2, height + 1, width + 1)
    assert not result[:, ~coarse.spec("coarse", "float64").active()].any()
    boxes = divergence(states).reshape(2, height, factor, width, factor).sum(axis=(2, 4))
    np.testing.assert_allclose(divergence(result), boxes / factor, rtol=0, atol=1e-13)
    np.testing.assert_allclose(downsample(_linear(fine), factor), _linear(coarse), rtol=0, atol=1e-12)


def _linear(grid: WakeGrid) -> Array:
    """`v_y = 2 + 3 y - x` and `v_x = 1 - 2 y + 4 x` at their own points."""
    spec = grid.spec("linear", "float64")
    state = np.zeros((1, *spec.state_shape))
    for channel, (constant, slope_y, slope_x) in enumerate(((2.0, 3.0, -1.0), (1.0, -2.0, 4.0))):
        y, x = (spec.coordinates(channel, axis) for axis in (0, 1))
        state[0, channel] = constant + slope_y * y[:, None] + slope_x * x[None, :]
    return np.asarray(state * spec.active())


def test_downsampling_keeps_a_projected_state_free_of_divergence() -> None:
    states = WakeFlow(32, "float64").step(rough(32, 2, "float64"), REYNOLDS[:2])
    assert np.abs(divergence(downsample(states, 4))).max() < 1e-12


@pytest.mark.parametrize("factor", [0, -1, 3, 5])
def test_downsampling_by_what_does_not_divide_is_refused(factor: int) -> None:
    with pytest.raises(ConfigError, match="downsample"):
        downsample(rough(32, 1), factor)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((1, 2, 17, 8), "float32", r"must have shape \(batch, 2, 17, 9\)"),
        ((1, 2, 17, 9), "float64", "must be float32, not float64"),
    ],
)
def test_a_wrong_grid_or_type_does_not_pass_where_the_step_is_called_directly(
    shape: tuple[int, ...], dtype: str, words: str
) -> None:
    solver = WakeFlow(8)
    with pytest.raises(InvalidStateError, match=words):
        solver.step(np.zeros(shape, dtype=dtype), np.full((1, 1), 300.0, dtype=dtype))
