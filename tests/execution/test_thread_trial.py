"""The trial of torch's threads: which number it settles on, what it costs, and that whoever has chosen is left alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepzero_sim import SolverLayer, SolverSpec, as_solver, vjp
from deepzero_sim.execution import thread_trial
from deepzero_sim.execution.thread_trial import ThreadTrial, default_threads


class Machine:
    """A machine whose updates take as long as is said for each number of threads."""

    def __init__(self, seconds: Callable[[int], float], threads: int = 8) -> None:
        self.seconds, self.threads, self.now = seconds, threads, 0.0
        self.used: list[int] = []
        self.trial = ThreadTrial(lambda: self.now, lambda: self.threads, self.set_threads, 8)

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def run(self, updates: int) -> list[int]:
        for _ in range(updates):
            self.trial.start_update()
            self.used.append(self.threads)
            self.now += self.seconds(self.threads)
        return self.used


@pytest.fixture(autouse=True)
def nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in thread_trial.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("one", "many", "best"), [(0.1, 0.8, 1), (0.8, 0.1, 8), (0.1, 0.1, 1), (0.1, 0.08, 8), (1e-4, 2e-4, 1)]
)
def test_it_settles_on_the_faster_number_and_says_so_once(
    one: float, many: float, best: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(lambda threads: one if threads == 1 else many)
    with caplog.at_level(logging.INFO, logger="deepzero_sim"):
        machine.run(5000)
    assert machine.trial.is_over and set(machine.used[-1000:]) == {best}
    assert [f"torch computes with {best} of 8 threads" in record.message for record in caplog.records] == [True]
    assert set(machine.used) == {1, 8}  # both were tried


def test_a_number_that_is_far_slower_is_given_up_after_two_updates() -> None:
    used = Machine(lambda threads: 0.0125 if threads == 1 else 0.3).run(200)
    assert used.count(8) == 2


def test_a_large_network_spends_two_updates_on_one_thread() -> None:
    used = Machine(lambda threads: 80.0 if threads == 1 else 10.0).run(50)
    assert used.count(1) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_single_slow_updates_change_nothing(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    machine = Machine(lambda threads: (0.01 if threads == 1 else 0.02) * (10 if numbers.random() < 0.05 else 1))
    assert set(machine.run(300)[-100:]) == {1}


@pytest.mark.parametrize("threads", [1, 4])
def test_another_number_than_torchs_own_is_a_choice(threads: int) -> None:
    assert set(Machine(lambda _: 0.1, threads).run(100)) == {threads}


@pytest.mark.parametrize("name", thread_trial.CHOSEN_BY)
def test_a_variable_is_a_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "8")
    assert set(Machine(lambda _: 0.1).run(100)) == {8}


@pytest.mark.parametrize("after", [1, 3, 6, 9])
def test_a_choice_in_the_middle_of_it_ends_it(after: int) -> None:
    machine = Machine(lambda _: 0.1)
    machine.run(after)
    machine.set_threads(3)
    assert set(machine.run(100)[after:]) == {3} and machine.trial.is_over


def layer() -> SolverLayer:
    spec = SolverSpec(name="plain", state_shape=(1, 6), dt=1.0, dtype="float64", stencil=0)
    return SolverLayer(as_solver(lambda s: s, spec), vjp.StraightThrough())


def test_only_rollouts_that_are_differentiated_count_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda _: 0.1)
    monkeypatch.setattr(thread_trial, "_trial", machine.trial)
    counted: list[int] = []
    monkeypatch.setattr(machine.trial, "start_update", lambda: counted.append(1))
    step, weight, states = layer(), torch.ones((), dtype=torch.float64, requires_grad=True), torch.ones(1, 1, 6).double()
    with torch.no_grad():
        step(step(states))
    assert not counted
    for _ in range(3):
        coupled = states
        for _ in range(4):
            coupled = step(coupled) * weight
        coupled.sum().backward()
    assert len(counted) == 3


SCRIPT = """
import torch, numpy as np
import deepzero_sim as dz
spec = dz.SolverSpec(name="s", state_shape=(1, 6), dt=1.0, stencil=0)
layer = dz.SolverLayer(dz.as_solver(lambda s: s, spec), dz.vjp.StraightThrough())
w = torch.ones((), requires_grad=True)
for _ in range(400):
    s = torch.ones(1, 1, 6)
    for _ in range(2):
        s = layer(s) * w
    s.sum().backward()
from deepzero_sim.execution import thread_trial
print(torch.get_num_threads(), thread_trial._trial.is_over)
"""


@pytest.mark.skipif(default_threads() == 1, reason="there is one thread to choose from")
@pytest.mark.parametrize(("variables", "threads"), [({}, None), ({"OMP_NUM_THREADS": "2"}, 2)])
def test_a_script_ends_with_the_number_that_was_found_or_chosen(variables: dict[str, str], threads: int | None) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"PATH": "/usr/bin", **variables}, capture_output=True, text=True, check=True
    )
    found, over = run.stdout.split()
    assert over == "True"
    assert int(found) in ({1, default_threads()} if threads is None else {threads})
