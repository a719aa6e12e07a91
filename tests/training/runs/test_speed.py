"""Times of steps: what is timed, what it costs, and why the reference is not timed where it cannot be."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, Network, conv_corrector

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import measure_errors
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.generation.generate import generate
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import DataError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.contract import Solver
from deepzero_sim.training.runs import speed
from deepzero_sim.training.runs.computations import alike
from deepzero_sim.training.runs.reference import parts_of_simulations, reference_of
from deepzero_sim.training.runs.speed import Speed, StepTime, measure_speed
from deepzero_sim.training.runs.trust import trust_parts

#: A reference of smaller steps that takes its time, and which counts its calls in a file.
CODE = """
import time
from pathlib import Path
import numpy as np
from problems import Burgers

class Fine(Burgers):
    def __init__(self, pause=0.02, licence=True):
        super().__init__(parameters=("nu",))
        self.pause, self.licence = pause, licence

    def step(self, states, params=None):
        if not self.licence:
            raise OSError("licence expired")
        with Path("calls").open("a") as calls:
            calls.write(f"{len(states)} {float(states[0, 0, 0]):.17g}\\n")
        time.sleep(self.pause * len(states))
        return super().step(states, params)

class Coarse(Burgers):
    def __init__(self):
        super().__init__(parameters=("nu",))

def initial(spec, params, seed):
    x = np.arange(spec.state_shape[-1]) / spec.state_shape[-1]
    return np.sin(2 * np.pi * (x + np.random.default_rng(seed).uniform()))[None, None].astype(spec.dtype)

def restrict(states, spec):
    return states
"""


class Slow(Burgers):
    """Burgers' equation by a solver that takes a while for every state."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self._pause = pause

    def step(self, states: Array, params: Array | None = None) -> Array:
        time.sleep(self._pause * len(states))
        return super().step(states, params)


def line(simulations: int = 3, frames: int = 4) -> Trajectories:
    states = np.random.default_rng(0).normal(size=(simulations, frames, 1, 16))
    return Trajectories(states, np.zeros((simulations, 0)), np.ones((1, 16), dtype=bool))


def speed_on(solver: Solver, data: Trajectories) -> Speed:
    loops = {"SRC": SolverLoop(solver, NoCorrection()), "NON": SolverLoop(solver, conv_corrector(width=64))}
    evaluations = {name: measure_errors(loop, data, np.ones(1)) for name, loop in loops.items()}
    return measure_speed(loops, evaluations, data)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool = True, **reference: Any) -> Trajectories:
    """Data of the reference above, generated in this folder."""
    monkeypatch.chdir(folder)
    (folder / "own.py").write_text(CODE)
    simulations = Simulations(
        Component("own.py:Fine", {"pause": 0.0, **reference}),
        Component("own.py:Coarse"),
        "own.py:initial",
        "own.py:restrict",
        4,
        0,
    )
    with open_executor("serial") as executor:
        generate(folder / "line.h5", simulations, [[0.05], [0.1]], executor, lambda word: None, starts=2, seed=7)
    (folder / "calls").unlink()
    if trusted:
        trust_parts(parts_of_simulations(simulations))
    return trajectories.load(folder / "line.h5")


def test_one_state_and_all_are_timed_and_their_steps_counted() -> None:
    solver = Counting(Burgers())
    data = line()
    loops = {"SRC": SolverLoop(solver, NoCorrection()), "NON": SolverLoop(solver, conv_corrector())}
    evaluations = {name: measure_errors(loop, data, np.ones(1)) for name, loop in loops.items()}
    before = solver.states
    found = measure_speed(loops, evaluations, data)
    assert found.solver_steps == {"solver": solver.states - before}
    for times in found.times.values():
        assert [one.states for one in times] == [1, 3]
        assert all(speed.LEAST_CALLS <= one.calls <= speed.MOST_CALLS for one in times)
        assert all(one.quartiles is not None and 0 < one.quartiles[0] <= one.seconds <= one.quartiles[1] for one in times)
    assert found.seconds("NON") == found.times["NON"][0].seconds and found.seconds("reference") is None


def test_times_are_those_of_the_step_by_state() -> None:
    found = speed_on(Slow(0.015), line(simulations=4))
    for name in ("SRC", "NON"):
        assert all(0.015 <= one.seconds < 4 * 0.015 for one in found.times[name])  # a busy machine only makes it slower


def test_a_corrected_step_has_the_time_of_its_network() -> None:
    class Sleeping(torch.nn.Module):
        def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
            time.sleep(0.05)
            return torch.zeros_like(states)

    solver, data = Slow(0.001), line(simulations=1)
    loops = {"SRC": SolverLoop(solver, NoCorrection()), "NON": SolverLoop(solver, Sleeping())}
    evaluations = {name: measure_errors(loop, data, np.ones(1)) for name, loop in loops.items()}
    found = measure_speed(loops, evaluations, data)
    corrected, alone = found.seconds("NON"), found.seconds("SRC")
    assert corrected is not None and alone is not None
    assert corrected - alone > 0.04 and alone < 0.05 and len(found.times["NON"]) == 1


def test_none_is_always_timed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower or faster within a round would favour the one that is always called first."""
    monkeypatch.setattr(speed, "MOST_CALLS", 6)
    order: list[str] = []

    def prepare(name: str) -> Any:
        return lambda states: lambda: order.append(name) or states

    stopwatch = speed._Stopwatch()
    stopwatch.measure({"SRC": prepare("SRC"), "NON": prepare("NON")}, 1)
    warm, timed = order[:2], order[2:]
    assert warm == ["SRC", "NON"] and timed == ["NON", "SRC", "SRC", "NON"] * 3
    assert [one.calls for name in ("SRC", "NON") for one in stopwatch.times[name]] == [6, 6]


@pytest.mark.parametrize(
    ("corrected", "coarse", "noise"),
    [
        (StepTime(1, 5, 0.055), StepTime(1, 5, 0.076), True),  # it contains the coarse one
        (StepTime(1, 5, 0.080, (0.070, 0.090)), StepTime(1, 5, 0.076, (0.070, 0.080)), True),
        (StepTime(1, 5, 0.090, (0.085, 0.095)), StepTime(1, 5, 0.076, (0.070, 0.080)), False),
        (StepTime(1, 5, 0.090), StepTime(1, 5, 0.076), False),
    ],
)
def test_a_correction_that_costs_less_than_the_timing_varies_is_noise(
    corrected: StepTime, coarse: StepTime, noise: bool
) -> None:
    assert Speed({"SRC": [coarse], "NON": [corrected]}).is_noise("NON") == noise


def test_a_slow_solver_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LONGEST", 0.05)
    solver = Counting(Slow(0.03))
    data = line(simulations=2)
    loops = {"SRC": SolverLoop(solver, NoCorrection()), "NON": SolverLoop(solver, conv_corrector())}
    evaluations = {name: measure_errors(loop, data, np.ones(1)) for name, loop in loops.items()}
    before = solver.states
    found = measure_speed(loops, evaluations, data)
    assert solver.states == before and not sum(found.solver_steps.values())
    (only,) = found.times["SRC"]
    assert (only.states, only.calls) == (2, 3) and 0.03 <= only.seconds < 2 * 0.03


def test_the_reference_is_timed_from_the_initial_states_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(tmp_path, monkeypatch)
    reference = reference_of(data, Burgers().spec)
    step = reference.steps(4)
    assert step() == 4 and step() == 4
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [int(count) for count, _ in calls] == [4, 4] and float(calls[0][1]) == data.frames[0, 0, 0, 0]
    assert float(calls[1][1]) == pytest.approx(data.frames[0, 1, 0, 0], rel=1e-12)  # it goes on


def test_the_reference_is_found_where_the_run_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust of data is that of the folder where their names lead, not of the current one."""
    data = made(tmp_path, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own.py").write_text("raise SystemExit('this was run')")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(DataError, match="were not made by you in this folder, and name code"):
        reference_of(data, Burgers().spec)
    with pytest.raises(DataError, match="were not made by you in this folder or that of the run, and name code"):
        reference_of(data, Burgers().spec, [elsewhere])
    assert reference_of(data, Burgers().spec, [elsewhere, tmp_path]).steps(4)() == 4
    assert Path.cwd() == elsewhere


def test_a_report_says_how_fast_the_reference_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(tmp_path, monkeypatch)
    slow = json.loads(data.attributes["settings"])
    slow["simulations"]["reference"]["args"] = {"pause": 0.02}
    data = replace(data, attributes={**data.attributes, "settings": json.dumps(slow)})
    assert "own.py:Fine(pause=0.02)" in speed_on_params(data).without_reference  # other code than was trusted
    trust_parts({"reference": Component("own.py:Fine", {"pause": 0.02})})
    found = speed_on_params(data)
    assert not found.without_reference
    fine = found.seconds("reference")
    assert fine is not None and 0.02 <= fine < 4 * 0.02
    counts = [int(line.split()[0]) for line in (tmp_path / "calls").read_text().splitlines()]
    assert found.solver_steps["reference"] == sum(counts) and {1, 4} == set(counts)


def speed_on_params(data: Trajectories) -> Speed:
    loop = SolverLoop(Burgers(parameters=("nu",)), NoCorrection())
    return measure_speed({"SRC": loop}, {"SRC": measure_errors(loop, data, np.ones(1))}, data)


def test_a_reference_too_slow_for_all_states_is_called_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(tmp_path, monkeypatch, pause=0.01)
    monkeypatch.setattr(speed, "LONGEST", 0.005)
    found = speed_on_params(data)
    (only,) = found.times["reference"]
    assert (only.states, only.calls) == (1, 1) and found.solver_steps["reference"] == 1


def test_code_that_nobody_has_trusted_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(tmp_path, monkeypatch, trusted=False)
    (tmp_path / "own.py").write_text("raise SystemExit('this was run')")
    assert speed_on_params(data).without_reference == (
        "the data were not made by you in this folder, and name code that would be imported or run (reference "
        "own.py:Fine(pause=0.0); initial own.py:initial()): make them here with 'deepzero-sim generate'."
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (None, "do not say which solver they were made with"),
        ("no JSON", "do not say which solver they were made with"),
        ({"params": []}, "do not say which solver they were made with"),
        ({"simulations": {"reference": 3}, "params": []}, "what the data say of how they were made cannot be read"),
        ({"simulations": "gone", "params": []}, "what the data say of how they were made cannot be read"),
    ],
)
def test_foreign_data_have_no_reference(settings: Any, why: str) -> None:
    attributes = {} if settings is None else {"settings": settings if isinstance(settings, str) else json.dumps(settings)}
    data = replace(line(), attributes=attributes)
    assert why in speed_on(Burgers(), data).without_reference
    with pytest.raises(DataError, match=why):
        reference_of(data, Burgers().spec)


def test_a_reference_that_cannot_be_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(tmp_path, monkeypatch)
    longer = Burgers().spec
    with pytest.raises(DataError, match=r"a step of 'burgers' is 0.01 long, one of the coarse solver 0.02"):
        reference_of(data, replace(longer, dt=0.02))
    for args, why in (({"licence": False}, "licence expired"), ({"licenced": False}, "licenced")):
        told = json.loads(data.attributes["settings"])
        told["simulations"]["reference"]["args"] = args
        trust_parts({"reference": Component("own.py:Fine", args)})
        found = speed_on_params(replace(data, attributes={"settings": json.dumps(told)}))
        assert why in found.without_reference and "reference" not in found.times and found.times["SRC"]


def test_networks_that_fail_to_step_leave_their_rollouts_time() -> None:
    linear = torch.nn.Conv1d(1, 1, 1).double()
    solver = Burgers()
    loops = {"SRC": SolverLoop(solver, NoCorrection()), "NON": SolverLoop(solver, Network(linear))}
    evaluations = {name: measure_errors(loop, line(), np.ones(1)) for name, loop in loops.items()}
    broken = replace(line(), frames=np.full((3, 4, 1, 16), np.nan))
    found = measure_speed(loops, evaluations, broken)
    assert [one.states for one in found.times["SRC"]] == [3] and found.times["SRC"][0].calls == 3


def test_methods_of_one_computation_share_their_calls() -> None:
    solver, data = Burgers(), line()
    correctors = {
        "SRC": NoCorrection(),
        "NON": conv_corrector(),
        "SolverLayer": conv_corrector(),
        "wide": conv_corrector(width=9),
    }
    loops = {name: SolverLoop(solver, corrector) for name, corrector in correctors.items()}
    evaluations = {name: measure_errors(loop, data, np.ones(1)) for name, loop in loops.items()}
    found = measure_speed(loops, evaluations, data)
    assert found.shared == [["NON", "SolverLayer"]]
    assert found.times["NON"] == found.times["SolverLayer"] and found.times["NON"] != found.times["wide"]
    assert all(one.calls >= 2 * speed.LEAST_CALLS for one in found.times["NON"])


def test_layers_with_other_settings_are_another_computation() -> None:
    class Repeated(torch.nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
            return states * self.times

    loops = {name: SolverLoop(Burgers(), Repeated(times)) for name, times in {"a": 1, "b": 2, "c": 1}.items()}
    assert alike(loops) == [["a", "c"]]
