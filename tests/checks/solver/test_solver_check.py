"""Good solvers hold, and each of those that break one line of the contract breaks that line and no other."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest
from broken import Sheared, Stepwise
from problems import Burgers, LinearSolver, LogisticSolver, initial_states

from deepzero_sim import SolverCheck, as_solver, check_solver
from deepzero_sim.checks.solver.record import Record
from deepzero_sim.checks.solver.solver_check import check_made_solver
from deepzero_sim.checks.solver.subject import Training, subject_of
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError, SolverCrashError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers import WakeFlow
from deepzero_sim.solvers.wake import initial_state

#: Too short for a worker process.
SHORT = 2.5


def samples(count: int = 3) -> tuple[Array, Array]:
    """States of `Sheared`, with their viscosities."""
    states = initial_states(count)
    states[..., 14:] = 0
    states[1, 0, 0] = 6  # ReturnsNaN fails there
    return states, np.linspace(0.02, 0.1, count)[:, None]


def check(solver: Solver, seconds: float = SHORT, **options: Any) -> SolverCheck:
    return check_solver(solver, *samples(), seconds=seconds, **options)


def outcomes(check: SolverCheck, outcome: str) -> set[str]:
    return {verdict.line for verdict in check.verdicts if verdict.outcome == outcome}


BROKEN: dict[str, tuple[type[Sheared], str, str]] = {
    "Shape": (broken.Shape, "shape", r"must return \(1, 1, 16\), not \(1, 1, 15\)"),
    "Nothing": (broken.Nothing, "shape", "must return a numpy array, not NoneType"),
    "Type": (broken.Type, "dtype", "must return float64, as its spec says, not float32"),
    "Writes": (broken.Writes, "input unchanged", "changed the states it was given: work on a copy"),
    "WritesParams": (broken.WritesParams, "input unchanged", "changed the params it was given"),
    "ReturnsNaN": (broken.ReturnsNaN, "failures raised", "returned as numbers for sample state 2: .* raise an error"),
    "Padding": (broken.Padding, "padding", "padding must stay zero, but holds values up to 1 "),
    "Chance": (broken.Chance, "deterministic", "the same state has two answers, up to .* apart"),
    "Remembers": (broken.Remembers, "no hidden state", "before and after another one was advanced, are up to"),
    "Mixes": (broken.Mixes, "batches", "two states in one call and each alone are up to .* apart"),
    "FewStates": (broken.FewStates, "largest batch", "64 states in one call fail: .*no room for more than 4"),
    "OneRow": (broken.OneRow, "parameters", r"use params\[b\] for state b, not one row for all"),
    "OneBuffer": (broken.OneBuffer, "threads", "two threads at once got answers up to .* thread_safe=False"),
    "Far": (broken.Far, "stencil", "the spec's stencil is 1, but a step carries information over 7 points: .* stencil=None"),
}

IN_WORKERS: dict[str, tuple[type[Sheared], str, str]] = {
    "Unsendable": (broken.Unsendable, "worker process", "must be picklable to be sent to workers"),
    "Homebound": (broken.Homebound, "worker process", "answers of a worker process and of this one are up to .* apart"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_line_is_broken_and_no_other(name: str) -> None:
    solver, line, says = BROKEN[name]
    found = check(solver())
    assert outcomes(found, "fail") == {line} and not found.holds, found.verdicts
    assert re.search(says, found[line].words), found[line].words


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BROKEN, *IN_WORKERS])
def test_one_line_is_broken_and_no_other_where_workers_are_asked_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, "HERE", [1.0])
    solver, line, says = (BROKEN | IN_WORKERS)[name]
    found = check(solver(), seconds=60)
    assert outcomes(found, "fail") == {line}, found.verdicts
    assert re.search(says, found[line].words), found[line].words


def test_what_depends_on_a_broken_line_is_not_tested() -> None:
    found = check(broken.Chance())
    assert found["batches"].words == "'deterministic' failed: mend that first." and found.step_sizes is None
    found = check(broken.Shape())
    assert outcomes(found, "pass") == {"dtype", "input unchanged"} and found.gradients is None and not found.times


@lru_cache(maxsize=1)
def good() -> SolverCheck:
    return check(Sheared(), 4.9)


def test_a_good_solver_holds() -> None:
    found = good()
    assert found.holds and not outcomes(found, "fail") and not found.made_up and not found.left_out
    assert outcomes(found, "skipped") == set(found.out_of_time) <= {"worker process"}
    assert "viscosity changes a step; without them it fails, as it should" in found["parameters"].words
    assert "over 3 points of 16" in found["stencil"].words  # around the ends of 14, across the padding
    assert "say stencil=3" in found["stencil"].words and found.seconds < 10


@pytest.mark.slow
def test_good_solvers_hold_in_all_lines() -> None:
    for solver, given in (
        (Sheared(), samples()),
        (Burgers(), (None, None)),
        (LinearSolver(np.eye(16) * 0.9), (None, None)),
        (LogisticSolver(), (initial_states(2), np.array([[0.5], [1.0]]))),
        (wake := WakeFlow(16), (initial_state(wake.spec, rows := np.array([[100.0], [300.0]], np.float32)), rows)),
    ):
        found = check_solver(solver, *given)
        assert found.holds and not found.left_out, found
        assert outcomes(found, "skipped") <= {"padding", "parameters"}
        assert "NaN: " in found["extreme states"].words and "bit for bit" in found["worker process"].words


def test_made_up_states_and_what_a_spec_leaves_out() -> None:
    found = check_solver(Burgers(), seconds=SHORT)
    assert found.made_up and found.holds and "channels, channel_units, axes, spacing" in found["spec"].words
    assert "no farther than the stencil of 1" in found["stencil"].words and found["padding"].outcome == "skipped"


def test_a_solver_that_says_that_it_is_not_deterministic_is_not_blamed() -> None:
    found = check(broken.Chance(deterministic=False))
    assert found.holds and found["deterministic"].outcome == "info" and "apart" in found["deterministic"].words
    assert "not deterministic" in found.left_out["step sizes"]


def test_what_a_solver_says_of_threads_and_batches_is_believed() -> None:
    found = check(broken.OneBuffer(thread_safe=False))
    assert found.holds and found["threads"].outcome == "skipped"
    found = check(broken.Mixes(max_batch=1))
    assert found.holds and found["batches"].outcome == "skipped" and [entry.batch for entry in found.times] == [1]


def test_a_failure_of_one_sample_state_is_told() -> None:
    def step(states: Array, params: Array | None) -> Array:
        if (states[:, 0, 0] > 5).any():
            raise ValueError("too fast")
        return Sheared().step(states, params)

    found = check(as_solver(step, Sheared().spec))
    assert found.holds and "too fast" in found["sample states"].words and found["sample states"].outcome == "info"


def test_many_sample_states_are_looked_at_and_spread_over_all() -> None:
    """A solver that fails for one state in ten, of which the first four that are looked at are none."""

    def step(states: Array) -> Array:
        if (states[:, 0, 0] % 10 == 5).any():
            raise ValueError("not that one")
        return states * 0.9

    spec = SolverSpec(name="tenth", state_shape=(1, 16), dt=0.1, dtype="float64")
    states = np.arange(100.0)[:, None, None] * np.ones((1, 16))
    found = check_solver(as_solver(step, spec), states, seconds=SHORT)
    failed, looked_at = map(int, re.findall(r"\d+", found["sample states"].words)[:2])
    assert looked_at == 64 and 3 < failed < 10 and "not that one" in found["sample states"].words
    few = check_solver(as_solver(step, spec), states[:5], seconds=SHORT)
    assert few["sample states"].words == "no failure at 5 sample states, spread over all that there are."


def test_no_more_sample_states_are_looked_at_than_there_is_time_for() -> None:
    def slow(states: Array) -> Array:
        time.sleep(0.05 * len(states))
        return states * 0.9

    spec = SolverSpec(name="slow", state_shape=(1, 16), dt=0.1, dtype="float64")
    found = check_solver(as_solver(slow, spec), np.ones((100, 1, 16)), seconds=1.5)
    assert 4 <= int(re.findall(r"\d+", found["sample states"].words)[0]) < 10 and found.seconds < 3


def test_a_solver_that_returns_nan_for_every_state_is_broken() -> None:
    check = check_solver(as_solver(lambda states: np.nan * states, Burgers().spec), initial_states(2), seconds=SHORT)
    assert not check.holds and outcomes(check, "fail") == {"failures raised"}
    assert check["sample states"].outcome == "skipped"


def test_failures_that_come_and_go_are_found() -> None:
    found = check(broken.Flaky())
    (line,) = outcomes(found, "fail")
    assert found[line].words.startswith("states that were advanced before were not: ")
    assert "the licence server did not answer" in found[line].words


def test_a_parameter_without_effect_is_told() -> None:
    spec = SolverSpec(name="still", state_shape=(1, 16), dt=0.1, dtype="float64", parameters=("unused", "rate"))
    solver = as_solver(lambda states, params: states * (1 + 0.1 * params[:, 1:, None]), spec)
    found = check_solver(solver, initial_states(2), np.ones((2, 2)), seconds=SHORT)
    assert found["parameters"].outcome == "info" and re.fullmatch(
        r"no effect of unused on a step from any of 2 sample states, nor in 16 steps of a rollout: is it used\?",
        found["parameters"].words,
    )


def pendulum(states: Array, params: Array) -> Array:
    """Take a step of a body on a spring, with friction; it begins at rest, where friction has no effect yet."""
    place, speed = states[:, :1], states[:, 1:]
    return np.concatenate([place + 0.1 * speed, speed - 0.1 * place - 0.1 * params[:, :, None] * speed], axis=1)


def at_rest(step: Callable[[Array, Array], Array], states: Array) -> SolverCheck:
    spec = SolverSpec(name="pendulum", state_shape=(2, 1), dt=0.1, dtype="float64", parameters=("friction",))
    return check_solver(as_solver(step, spec), states, np.full((len(states), 1), 0.5), seconds=SHORT)


@pytest.mark.parametrize("count", [1, 3])
def test_a_parameter_that_has_no_effect_at_a_start_at_rest_is_looked_at_later(count: int) -> None:
    states = np.arange(1.0, count + 1)[:, None, None] * np.array([[1.0], [0.0]])
    found = at_rest(pendulum, states)["parameters"]
    assert found.outcome == "pass" and "friction changes a step" in found.words
    mixed = at_rest(lambda states, params: pendulum(states, np.broadcast_to(params[:1], params.shape)), states)["parameters"]
    assert mixed.outcome == "fail" and "use params[b] for state b" in mixed.words


def test_states_that_stand_still_say_nothing_on_a_parameter() -> None:
    found = at_rest(pendulum, np.zeros((2, 2, 1)))["parameters"]
    assert found.outcome == "info" and "2 sample states, which stand still: give states that move" in found.words


def test_results_in_the_same_memory_are_told() -> None:
    buffer = np.empty((1, 1, 16))

    def step(states: Array) -> Array:
        if states.shape != buffer.shape:
            return states * 0.5
        np.multiply(states, 0.5, out=buffer)
        return buffer

    spec = SolverSpec(name="half", state_shape=(1, 16), dt=0.1, dtype="float64", thread_safe=False)
    found = check_solver(as_solver(step, spec), seconds=SHORT)
    assert found.holds and "every step returns the same memory" in found["result's memory"].words
    view = check_solver(as_solver(lambda states: states[...], spec), seconds=SHORT)
    assert "memory of its input" in view["result's memory"].words


def test_a_slow_solver_ends_in_time_and_says_what_was_left_out() -> None:
    def slow(states: Array) -> Array:
        time.sleep(0.05 * len(states))
        return states * 0.9

    spec = SolverSpec(name="slow", state_shape=(1, 16), dt=0.1, dtype="float64")
    found = check_solver(as_solver(slow, spec), seconds=1.5)
    assert found.holds and found.seconds < 3 and "left out for time: it takes 64 steps" in found["largest batch"].words
    assert "left out for time" in found["stencil"].words and found.times
    assert {"largest batch", "stencil", "step sizes"} <= set(found.out_of_time)


def test_a_solver_that_takes_no_longer_for_many_states_is_asked_many_at_once() -> None:
    def together(states: Array) -> Array:
        time.sleep(0.04)
        return states * 0.9

    spec = SolverSpec(name="together", state_shape=(1, 16), dt=0.1, dtype="float64")
    found = check_solver(as_solver(together, spec), seconds=5)  # 64 states one by one are half of that
    assert found["largest batch"].outcome == "pass" and found["stencil"].outcome == "info" and found.step_sizes
    assert found.gradients is not None and found.recommended_batch is not None and found.recommended_batch > 16
    assert found.gradients.methods["ZO-SOL, CGE central"].seconds < 0.02 * found.gradients.methods["ZO-SOL, CGE central"].steps


@pytest.mark.parametrize("count", [1, 6])
def test_states_are_surveyed_no_longer_than_there_is_time(count: int) -> None:
    def slow(states: Array) -> Array:
        time.sleep(0.4 * len(states))
        return states * 0.9

    spec = SolverSpec(name="slow", state_shape=(1, 16), dt=0.1, dtype="float64")
    found = check_solver(as_solver(slow, spec), initial_states(count), seconds=1.6)
    assert found.holds and found.seconds < 1.2 * 1.6 + 0.4 and [entry.batch for entry in found.times] == [1]


def test_what_it_takes_to_begin_counts_but_leaves_a_share() -> None:
    record = Record(8.0, 1.0)
    record.spend(3.0)
    assert record.seconds_left == 5.0
    record.spend(100.0)
    assert record.seconds_left == 1.25
    found = check_made_solver(lambda: subject_of(Burgers(), None, None, Training(None, 8, 2, 0)), 4.0, time.monotonic() - 60)
    assert found.holds and found["deterministic"].outcome == "pass" and "worker process" in found.out_of_time
    assert 60 < found.seconds < 63


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda s: s * 0.5, "linear"),
        (lambda s: s + 0.1 * s**2, "smooth"),
        (lambda s: s + 0.3 * np.abs(s), "kinks"),
        (lambda s: s + 0.05 * np.floor(4 * s), "jumps"),
    ],
)
def test_smoothness(function: Callable[[Array], Array], says: str) -> None:
    found = check_solver(Stepwise(function), seconds=SHORT).step_sizes
    assert found is not None and says in found.words, found


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((0.0, 0.1, 0.2), "smooth"),
        ((0.0, 0.0, 0.0), "linear, to rounding"),
        ((0.0, -0.1, 0.0), "not smooth: it has kinks (limiters, absolute values)"),
    ],
)
def test_a_step_is_called_what_it_is_at_all_sample_states(rows: tuple[float, ...], says: str) -> None:
    def step(states: Array, params: Array) -> Array:  # linear where the slope is 0, which comes first
        slope = params[:, :, None]
        return states + np.where(slope < 0, np.abs(slope * states), slope * states**2)

    spec = SolverSpec(name="sloped", state_shape=(1, 2048), dt=0.1, dtype="float64", parameters=("slope",))
    found = check_solver(as_solver(step, spec), None, np.array(rows)[:, None], seconds=SHORT).step_sizes
    assert found is not None and found.smoothness == says and found.where.startswith("at all 3 sample states")
    linear = rows.count(0.0)
    assert ("linear, to rounding" in found.where) == (0 < linear < 3) and found.orders.count(None) == linear
    if says == "smooth":  # its step size is not the one of the linear state, which any would suit
        worst = check_solver(as_solver(step, spec), None, np.array(rows)[-1:, None], seconds=SHORT).step_sizes
        assert worst is not None and found.recommended <= 10 * worst.recommended


@pytest.mark.parametrize(("dtype", "courant"), [("float32", 0.1), ("float32", 0.3), ("float64", 0.02), ("float64", 0.3)])
def test_the_stencil_of_substeps_is_their_whole_reach(dtype: str, courant: float) -> None:
    def step(states: Array) -> Array:  # four substeps, each of which reaches one point far
        for _ in range(4):
            states = states - courant * (states - np.roll(states, 1, -1))
        return states

    spec = SolverSpec(name="substeps", state_shape=(1, 64), dt=0.1, dtype=dtype)
    words = check_solver(as_solver(step, spec), seconds=SHORT)["stencil"].words
    assert "over 4 points of 64" in words and "say stencil=4" in words
    assert ("all but" in words and "approximate" in words) == (courant < 0.3)
    short = SolverSpec(name="substeps", state_shape=(1, 64), dt=0.1, dtype=dtype, stencil=2)
    said = check_solver(as_solver(step, short), seconds=SHORT)["stencil"]
    assert said.outcome == ("info" if courant < 0.3 else "fail") and "4" in said.words


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 64), r"say stencil=1 .*: Coloured suits it\."),
        ((2, 15, 15), "Coloured is exact then, but takes 36 solver steps"),
    ],
)
def test_the_stencil_that_is_advised_comes_with_what_coloured_takes(shape: tuple[int, ...], says: str) -> None:
    def step(states: Array) -> Array:  # one substep along each axis, which reaches the corners, too
        for axis in range(2, states.ndim):
            states = states - 0.3 * (2 * states - np.roll(states, 1, axis) - np.roll(states, -1, axis))
        return states

    spec = SolverSpec(name="diffusion", state_shape=shape, dt=0.1, dtype="float64")
    words = check_solver(as_solver(step, spec), seconds=SHORT)["stencil"].words
    assert re.search(says, words), words


def test_rounding_that_reaches_everywhere_is_no_reach() -> None:
    kernel = np.zeros(64)
    kernel[[0, 1, 2]] = 0.5, 0.3, 0.2

    def step(states: Array) -> Array:  # rounding of Fourier transforms couples all points
        return np.fft.ifft(np.fft.fft(states) * np.fft.fft(kernel)).real

    spec = SolverSpec(name="spectral", state_shape=(1, 64), dt=0.1, dtype="float64")
    assert "say stencil=2" in check_solver(as_solver(step, spec), seconds=SHORT)["stencil"].words


@pytest.mark.parametrize(("dtype", "least", "most"), [("float32", 1e-3, 1e-2), ("float64", 1e-6, 1e-4)])
def test_the_noise_of_a_step_is_that_of_its_dtype(dtype: str, least: float, most: float) -> None:
    found = check_solver(Stepwise(np.sin, dtype=dtype), seconds=SHORT).step_sizes
    assert found is not None and 0.003 * np.finfo(dtype).eps < found.sweep.rounding < 30 * np.finfo(dtype).eps
    assert least <= found.recommended <= most and found.absolute == (found.recommended * found.sizes[0],)


def test_a_step_of_low_precision_wants_a_longer_difference() -> None:
    rough = Stepwise(lambda s: np.sin(s).astype(np.float16))
    found, exact = (check_solver(solver, seconds=SHORT).step_sizes for solver in (rough, Stepwise(np.sin)))
    assert found is not None and exact is not None
    assert found.recommended >= 10 * exact.recommended and found.sweep.rounding > 1e3 * exact.sweep.rounding


def test_times_by_batch_and_the_batch_that_is_recommended() -> None:
    def step(states: Array) -> Array:
        time.sleep(2e-3 + 1e-3 * max(0, len(states) - 4))  # nothing is won beyond 4
        return states * 0.9

    spec = SolverSpec(name="four", state_shape=(1, 16), dt=0.1, dtype="float64", max_batch=16)
    found = check_solver(as_solver(step, spec), seconds=4.0)
    assert [entry.batch for entry in found.times] == [1, 2, 4, 8, 16] and found.recommended_batch in (4, 8, 16)
    assert found.times[0].seconds == pytest.approx(2e-3, rel=0.8) and found.times[0].states_per_second < 600


def test_nothing_but_the_solver_is_asked_more_than_there_is_time_for(tmp_path: Path) -> None:
    def step(states: Array) -> Array:
        with (tmp_path / "calls").open("a") as file:
            file.write(".")
        return states * 0.5

    found = check_solver(as_solver(step, Burgers().spec), seconds=SHORT)
    assert found["deterministic"].outcome == "pass" and (tmp_path / "calls").stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((3,), {}, "needs a solver with a spec, .* not int"),
        ((Burgers(),), {"seconds": 0}, "seconds must be a positive number"),
        ((Burgers(),), {"unroll": 0}, "unroll must be a positive whole number"),
        ((Burgers(),), {"batch_size": 1.5}, "batch_size must be a positive whole number"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[Any, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_solver(*arguments, **options)


def test_a_solver_that_cannot_be_run() -> None:
    with pytest.raises(InvalidStateError, match=r"needs parameters of shape \(4, 1\) \(viscosity\), got None"):
        check_solver(Sheared())
    with pytest.raises(InvalidStateError, match=r"must have shape \(batch, 1, 16\)"):
        check_solver(Burgers(), np.zeros((2, 1, 8)))

    def fails(states: Array) -> Array:
        raise SystemExit(3)

    with pytest.raises(SolverCrashError, match="raised SystemExit: 3: run its step alone"):
        check_solver(as_solver(fails, Burgers().spec))
