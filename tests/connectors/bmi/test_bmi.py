"""Components with the Basic Model Interface as solvers, against exact solutions and every fault of theirs."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loky import get_reusable_executor

from deepzero_sim.common.components import Component, load
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.errors import (
    ConfigError,
    InvalidStateError,
    NonFiniteError,
    SolverCrashError,
    StatesFailedError,
)
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import require_thread_safe
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import checked_step

FILE = Path(__file__).with_name("bmi_heat.py")
FIELD = "plate__temperature"
LOSS, ROOM, COUNT = "plate__loss_coefficient", "room__temperature", "sources__count"

#: Grid, shape of the grid, and of the state.
GRIDS = [
    ("uniform_rectilinear", (5, 6), (1, 5, 6)),
    ("rectilinear", (4, 3, 5), (1, 4, 3, 5)),
    ("structured_quadrilateral", (5, 6), (1, 5, 6)),
    ("unstructured", (5, 6), (1, 30)),
    ("points", (7,), (1, 7)),
    ("scalar", (), (1, 1)),
]

Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def write(**said: Any) -> Path:
        path = tmp_path / "heat.json"
        path.write_text(json.dumps(said))
        return path

    return write


@pytest.fixture(autouse=True)
def none_left_alive() -> Any:
    """Whatever happened, every component that was initialised has been finalised."""
    yield
    kinds = [load(f"{FILE}:{name}") for name in ("Heat", "Raising", "Diverging", "Stopped", "Mute")]
    if any(kind.alive for kind in kinds):
        gc.collect()  # what is reused lives as long as its solver
    assert not any(kind.alive for kind in kinds)


def heat(config: Path, name: str = "Heat", **arguments: Any) -> BMISolver:
    return BMISolver(f"{FILE}:{name}", config, **{"state": [FIELD], **arguments})


def mode(shape: tuple[int, ...]) -> tuple[Array, float]:
    """An eigenvector of the discrete Laplacian, and its eigenvalue where points are 0.5 apart."""
    waves = [np.sin(np.pi * np.arange(1, n + 1) / (n + 1)) for n in shape]
    field = np.ones(())
    for wave in waves:
        field = np.multiply.outer(field, wave)
    return np.asarray(field), sum(-4 / 0.25 * np.sin(np.pi / (2 * (n + 1))) ** 2 for n in shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(("kind", "grid", "shape"), GRIDS, ids=[kind for kind, _, _ in GRIDS])
def test_steps_are_the_discrete_solution(
    configure: Configure, kind: str, grid: tuple[int, ...], shape: tuple[int, ...], reuse: bool, dtype: str
) -> None:
    solver = heat(configure(shape=grid, grid=kind), params={"h": LOSS}, reuse=reuse, spec={"dtype": dtype})
    assert (solver.spec.state_shape, solver.spec.dtype) == (shape, dtype)
    field, eigenvalue = mode(grid)
    states = np.stack([field, 3 * field, -field]).reshape(3, *shape).astype(dtype)
    losses = np.array([[0.0], [1.0], [2.0]], dtype=dtype)
    expected = states
    advanced = states
    for _ in range(3):
        advanced = checked_step(solver, advanced, losses)
        expected = expected * (1 + 0.01 * (eigenvalue - losses)).reshape(3, *[1] * len(shape))
    np.testing.assert_allclose(advanced, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-12)
    assert advanced.dtype == dtype
    solver.close()


def test_it_follows_the_exact_solution(configure: Configure) -> None:
    spacing = 1 / 32
    config = configure(shape=(31, 31), spacing=spacing, dt=spacing**2 / 8)
    solver = heat(config, steps_per_call=40)
    x = np.arange(1, 32) * spacing
    start = np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x)[None]
    advanced = checked_step(solver, start[None, None])
    exact = np.exp(-5 * np.pi**2 * solver.spec.dt) * start
    assert np.abs(advanced[0, 0] - exact).max() < 5e-3 * np.abs(exact).max()


@pytest.mark.parametrize("model", ["float32", "float64"])
def test_the_components_dtype_is_taken_and_converted(configure: Configure, model: str) -> None:
    config = configure(dtype=model)
    assert heat(config).spec.dtype == model
    states = np.random.default_rng(0).random((2, 1, 5, 6))
    one, other = (checked_step(heat(config, spec={"dtype": d}), states.astype(d)) for d in ("float32", "float64"))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_spec_is_what_the_component_tells(configure: Configure) -> None:
    spec = heat(configure(), params={"loss": LOSS, "room": ROOM}, state={"temperature": FIELD}, steps_per_call=4).spec
    assert (spec.name, spec.state_shape, spec.dt, spec.dtype) == ("heat", (1, 5, 6), 0.04, "float64")
    assert (spec.channels, spec.channel_units, spec.parameters) == (("temperature",), ("K",), ("loss", "room"))
    assert (spec.parameter_units, spec.axes, spec.spacing) == (("s-1", "K"), ("y", "x"), (0.5, 0.5))
    assert spec.offsets == ((1.0, 1.0),)
    assert not spec.thread_safe
    with open_executor("thread", 2) as threads, pytest.raises(ConfigError, match="thread"):
        require_thread_safe(heat(configure()), threads)


@pytest.mark.parametrize(
    "given",
    [{"stencil": 1, "name": "plate", "dt": 0.01, "channels": ["u"]}, SolverSpec(name="plate", state_shape=(1, 5, 6), dt=0.01)],
    ids=["mapping", "spec"],
)
def test_a_spec_fills_up_what_is_not_told(configure: Configure, given: Any) -> None:
    spec = heat(configure(), spec=given).spec
    assert (spec.name, spec.channel_units) == ("plate", ("K",))
    assert spec.dtype == ("float64" if isinstance(given, dict) else "float32")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dt": 0.02}, r"dt is 0.02, but BMI component Heat says 0.01"),
        ({"state_shape": [1, 6, 5]}, r"state_shape is \(1, 6, 5\), but .* \(1, 5, 6\)"),
        ({"channel_units": ["degC"]}, r"channel_units is \('degC',\), but .* \('K',\)"),
        ({"spacing": [0.5, 0.25]}, "spacing"),
        ({"spacing": "fine"}, "spacing is fine"),
        ({"stensil": 1}, "not 'stensil'"),
        ({"channels": ["u", "v"]}, "channels must have 1 entries"),
        ({"thread_safe": True}, "cannot serve several threads"),
    ],
)
def test_a_contradiction_is_refused(configure: Configure, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        heat(configure(), spec=given, reuse=True)


def test_fresh_and_reused_components_give_the_same_bits(configure: Configure) -> None:
    states = np.random.default_rng(0).random((4, 1, 5, 6))
    fresh, reused = heat(configure()), heat(configure(), reuse=True)
    for _ in range(3):
        np.testing.assert_array_equal(checked_step(fresh, states), checked_step(reused, states))
    assert load(f"{FILE}:Heat").alive == 1  # the one that is reused
    reused.close()
    reused.close()  # nothing is left to end


@pytest.fixture(scope="module")
def plain_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bmi") / "heat.json"
    path.write_text("{}")
    return path


@given(order=st.permutations(range(4)), batch=st.integers(1, 4))
def test_a_step_depends_on_nothing_but_its_state(plain_config: Path, order: list[int], batch: int) -> None:
    solver = heat(plain_config, reuse=True, params=[LOSS])
    states, losses = np.random.default_rng(1).random((4, 1, 5, 6)), np.arange(4.0)[:, None]
    together = solver.step(states, losses)
    for start in range(0, 4, batch):
        part = order[start : start + batch]
        np.testing.assert_array_equal(solver.step(states[part], losses[part]), together[part])
    solver.close()


def test_a_reused_component_starts_anew_at_its_end(configure: Configure) -> None:
    solver = heat(configure(end=0.035), reuse=True)
    states = np.ones((10, 1, 5, 6))
    advanced = checked_step(solver, states)
    np.testing.assert_array_equal(advanced, advanced[:1].repeat(10, axis=0))
    solver.close()


def test_a_component_must_live_for_a_step(configure: Configure) -> None:
    heat(configure(end=0.05), steps_per_call=5)
    with pytest.raises(ConfigError, match="ends before"):
        heat(configure(end=0.05), steps_per_call=6)


def test_where_the_mask_is_false_the_component_keeps_its_own(configure: Configure) -> None:
    mask = np.ones((1, 5, 6), dtype=bool)
    mask[0, 0, 0] = False
    solver = heat(configure(), "Blank", spec={"mask": mask.tolist()})
    states = np.ones((2, 1, 5, 6)) * mask
    advanced = checked_step(solver, states)
    assert not advanced[:, 0, 0, 0].any()
    assert advanced[:, 0, 1, 1].all()


def test_solvers_are_sent_to_workers_without_their_components(configure: Configure) -> None:
    solver = heat(configure(), reuse=True)
    states = np.random.default_rng(0).random((2, 1, 5, 6))
    here = checked_step(solver, states)
    assert solver._current is not None
    assert pickle.loads(cloudpickle.dumps(solver))._current is None  # noqa: S301 - our own
    there = get_reusable_executor(max_workers=1, timeout=5).submit(checked_step, solver, states).result(timeout=60)
    np.testing.assert_array_equal(here, there)
    solver.close()


def test_a_reused_component_is_finalised_when_the_program_ends(configure: Configure, tmp_path: Path) -> None:
    program = f"""
import numpy as np
import deepzero_sim as dz
from deepzero_sim.common.components import load
Heat = load("{FILE}:Heat")
class Telling(Heat):
    def finalize(self):
        print("finalised")
solver = dz.BMISolver(Telling, "{configure()}", ["{FIELD}"], reuse=True)
solver.step(np.ones((1, 1, 5, 6)))
print("end")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["finalised", "end", "finalised"]  # the one that was asked what it is, and the kept one


def test_it_is_built_from_settings(configure: Configure) -> None:
    args = {"component": f"{FILE}:Heat", "config": str(configure()), "state": {"u": FIELD}, "params": {"h": LOSS}}
    solver = build_solver(Component("deepzero_sim.BMISolver", args))
    assert solver.spec.parameters == ("h",)


@pytest.mark.parametrize("where", ["update", "set_value", "get_value", "finalize"])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_component_that_raises_costs_no_other_state_its_answer(configure: Configure, where: str, reuse: bool) -> None:
    config = configure(raise_in=where)
    states = np.ones((3, 1, 5, 6))
    expected = heat(config).step(states)
    states[1] = 1e4
    solver = heat(config, "Raising", reuse=reuse)
    if reuse and where == "finalize":
        assert solver.step(states).shape == states.shape  # nobody ends a component that is reused
        solver.close()
        return
    with pytest.raises(StatesFailedError) as caught:
        solver.step(states)
    assert list(caught.value.failures) == [1]
    failure = caught.value.failures[1]
    assert type(failure) is SolverCrashError
    assert f"raised RuntimeError in {where}(" in str(failure)
    np.testing.assert_array_equal(caught.value.advanced[[0, 2]], expected[[0, 2]])
    with pytest.raises(SolverCrashError, match="no luck"):
        checked_step(solver, states)
    solver.close()


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", ["Diverging", "Mute"])
def test_numbers_that_are_none_are_found(configure: Configure, name: str, reuse: bool) -> None:
    states = np.ones((3, 1, 5, 6))
    states[2] = 1e4
    solver = heat(configure(), name, reuse=reuse)
    with pytest.raises(StatesFailedError) as caught:
        solver.step(states)
    kinds = {place: type(error) for place, error in caught.value.failures.items()}
    assert kinds == dict.fromkeys([2] if name == "Diverging" else [0, 1, 2], NonFiniteError)


def test_a_number_that_float32_cannot_hold_is_found(configure: Configure) -> None:
    solver = heat(configure(conductivity=0.0), params=[LOSS], spec={"dtype": "float32"})
    with pytest.raises(NonFiniteError, match="returned"):
        checked_step(solver, np.full((1, 1, 5, 6), 3e38, np.float32), np.full((1, 1), -100.0, np.float32))


def test_a_component_that_stands_still_is_found(configure: Configure) -> None:
    solver = heat(configure(), "Stopped", reuse=True)
    with pytest.raises(SolverCrashError, match=r"clock by 0.01 a step, but it went from 0.03 to 0.03"):
        checked_step(solver, np.ones((4, 1, 5, 6)))


def test_whole_numbers_are_not_rounded_in_silence(configure: Configure) -> None:
    solver = heat(configure(), params=[COUNT])
    states = np.zeros((1, 1, 5, 6))
    assert checked_step(solver, states, np.array([[2.0]]))[0, 0, 2, 2] == pytest.approx(0.02)
    with pytest.raises(InvalidStateError, match=r"whole numbers \(int32\), but it was given 2.5"):
        checked_step(solver, states, np.array([[2.5]]))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Raising", {}, "raised RuntimeError in initialize"),
        ("ReadOnly", {}, "must set 'plate__temperature', but get_value gives other values"),
        ("Unsettable", {}, "does not implement set_value"),
        ("Overstated", {}, r"60 values on a grid of \(5, 6\)"),
        ("NoModel", {}, "has no update, update_until, finalize, get_value, .*, get_time_step: derive it from bmipy.Bmi"),
        ("FIELD", {}, "it is a str"),
        ("Heat", {"state": ["pressure"]}, "names plate__temperature, .*not 'pressure'"),
        ("Heat", {"params": {"p": "pressure"}}, "not 'pressure'"),
        ("Heat", {"state": FIELD}, "state must be a list"),
        ("Heat", {"state": {"u": 3}}, "state must be a list"),
        ("Heat", {"state": []}, "it is empty"),
        ("Heat", {"state": [COUNT]}, "must hold float32 or float64 .* not int32"),
        ("Heat", {"state": [FIELD, ROOM]}, "as many values"),
        ("Heat", {"steps_per_call": 0}, "steps_per_call must be a whole number of steps, 1 or more, not 0"),
        ("Heat", {"steps_per_call": 1.5}, "steps_per_call"),
    ],
)
def test_what_is_no_solver_is_refused(configure: Configure, name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        heat(configure(), name, **arguments)


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*none\.json .*: check config"):
        heat(tmp_path / "none.json")


def test_a_config_file_that_is_gone_later_is_a_failure_of_the_step(configure: Configure) -> None:
    config = configure()
    solver = heat(config)
    config.unlink()
    with pytest.raises(SolverCrashError, match="raised FileNotFoundError in initialize"):
        checked_step(solver, np.ones((1, 1, 5, 6)))


def test_a_component_that_takes_arguments_is_refused(configure: Configure) -> None:
    def make(size: int) -> None: ...

    with pytest.raises(ConfigError, match="it must take no arguments"):
        BMISolver(make, configure(), [FIELD])
