"""The trial of torch's threads: which number it settles on, what it costs, and that whoever has chosen is left alone."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

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
            self.trial.end_update()
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
    assert used[1:].count(8) == 2  # the very first one is before the trial


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


@pytest.mark.parametrize("updates", range(1, 30))
def test_who_ends_a_loop_in_the_middle_of_it_has_the_threads_of_before(updates: int) -> None:
    machine = Machine(lambda _: 0.1)
    assert 1 in machine.run(updates) or updates == 1
    assert machine.trial.is_over or machine.threads == 8


def test_rollouts_without_an_optimiser_try_nothing() -> None:
    machine = Machine(lambda _: 0.1)
    for _ in range(10):
        machine.trial.start_update()
        assert machine.threads == 8


@pytest.mark.parametrize("chosen", [None, 3])
def test_an_update_that_does_not_end_is_given_up_after_some_time(chosen: int | None) -> None:
    machine = Machine(lambda _: 0.1)
    machine.run(3)
    machine.trial.start_update()
    assert machine.threads == 1
    machine.trial.give_up_long_update()
    assert machine.threads == 1 and not machine.trial.is_over
    machine.set_threads(chosen or 1)
    machine.now += thread_trial.LONGEST_UPDATE
    machine.trial.give_up_long_update()
    assert machine.threads == (chosen or 8) and machine.trial.is_over
    assert set(machine.run(30)[3:]) == {chosen or 8}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine in place of this one, whose trial is watched as that of a process is."""
    machine = Machine(lambda _: 0.1)
    monkeypatch.setattr(thread_trial, "_trial", machine.trial)
    thread_trial._end_watch()
    yield machine
    thread_trial._end_watch()


def train_a_while(step: SolverLayer, updates: int, machine: Machine) -> list[int]:
    """Train one number in a loop of one's own, two rollouts an update, and return the threads at the end of each update."""
    weight, states, used = torch.ones((), dtype=torch.float64, requires_grad=True), torch.ones(1, 1, 6).double(), list[int]()
    optimiser = torch.optim.SGD([weight], lr=1e-3)
    for _ in range(updates):
        for _ in range(2):
            coupled = states
            for _ in range(4):
                coupled = step(coupled) * weight
            coupled.sum().backward()
        used.append(machine.threads)
        machine.now += 0.1
        optimiser.step()
        assert machine.threads == 8 or machine.trial.is_over
    return used


def test_updates_of_a_loop_end_with_the_step_of_its_optimiser(watched: Machine) -> None:
    step = layer()
    with torch.no_grad():
        step(step(torch.ones(1, 1, 6).double()))
    assert not thread_trial._watches
    used = train_a_while(step, 40, watched)
    assert used[:4] == [8, 1, 1, 1] and 8 in used[1:] and watched.trial.is_over
    assert used[-1] == 1 == watched.threads
    assert not thread_trial._watches and thread_trial._look_at_the_clock not in gc.callbacks


def test_an_update_that_an_error_ended_is_given_up_at_a_garbage_collection(watched: Machine) -> None:
    step = layer()
    train_a_while(step, 3, watched)
    step(torch.ones(1, 1, 6).double())  # and no optimiser
    assert watched.threads == 1
    gc.collect()
    assert watched.threads == 1
    watched.now += thread_trial.LONGEST_UPDATE
    gc.collect()
    assert watched.threads == 8 and watched.trial.is_over


SCRIPT = """
import torch, numpy as np
import deepzero_sim as dz
spec = dz.SolverSpec(name="s", state_shape=(1, 6), dt=1.0, stencil=0)
layer = dz.SolverLayer(dz.as_solver(lambda s: s, spec), dz.vjp.StraightThrough())
w = torch.ones((), requires_grad=True)
optimiser = torch.optim.SGD([w], lr=1e-6)
for _ in range(4000):
    s = torch.ones(1, 1, 6)
    for _ in range(2):
        s = layer(s) * w
    optimiser.zero_grad()
    s.sum().backward()
    optimiser.step()
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
