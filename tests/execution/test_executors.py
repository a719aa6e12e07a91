"""Executors: order, failures as values, workers that die, and parents that do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, burgers_oracle, initial_states, wait_until
from threadpoolctl import threadpool_info, threadpool_limits

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import Coloured
from deepzero_sim.errors import ConfigError, NonFiniteError, SolverCrashError, WorkerLostError
from deepzero_sim.estimators import CGE
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import SerialExecutor, outcome, run_in_order, submit
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.lost_workers import run_with_policy

KINDS = pytest.mark.parametrize("kind", ["serial", "thread", "two processes"])
LOST = "a worker process died while it was answering queries"


def square_or_fail(task: int) -> int:
    time.sleep(0.02 * (task == 0))  # the first to be asked is not the first to answer
    if task == 3:
        raise ValueError("three")
    return task**2


def threads_here(task: int) -> int:
    # OpenMP counts for each thread of its own; torch's is asked, and others may be about, such as scikit-learn's
    return torch.get_num_threads() + sum(pool["num_threads"] != 1 for pool in threadpool_info() if pool["user_api"] == "blas")


def die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


@KINDS
def test_answers_come_in_the_order_asked_and_failures_as_values(executors: dict[str, Executor], kind: str) -> None:
    outcomes = run_in_order(executors[kind], square_or_fail, range(6))
    assert run_in_order(executors[kind], threads_here, range(4)) == [1] * 4
    assert run_in_order(executors[kind], square_or_fail, []) == []
    failure = outcomes.pop(3)
    assert outcomes == [0, 1, 4, 16, 25]
    assert isinstance(failure, ValueError) and str(failure) == "three"


@KINDS
def test_a_task_that_is_submitted_alone_has_one_thread_of_torch(executors: dict[str, Executor], kind: str) -> None:
    """As `generate` submits its simulations, outside of `run_in_order`."""
    torch.set_num_threads(2)
    assert outcome(submit(executors[kind], lambda task: torch.get_num_threads(), 0)) == 1
    assert torch.get_num_threads() == 2


def pools() -> list[tuple[str, int]]:
    return [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]


@KINDS
def test_the_limit_to_one_thread_is_lifted_afterwards(executors: dict[str, Executor], kind: str) -> None:
    torch.set_num_threads(2)
    with threadpool_limits(2):
        before = pools()
        assert {threads for _, threads in before} == {2}
        run_in_order(executors[kind], time.sleep, [0.05, 0.1, 0.1, 0.3])  # the last begins under the limit of others
        with pytest.raises(RuntimeError), single_threaded():
            assert torch.get_num_threads() == 1
            assert {threads for _, threads in pools()} == {1}
            raise RuntimeError
        assert torch.get_num_threads() == 2
        assert pools() == before


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="must be one of serial, thread, process, ranks, not 'gpu'"), open_executor("gpu"):  # type: ignore[arg-type]
        pass
    for count in (0, 1025, 1.5):
        message = f"workers must be a whole number from 1 to 1024, not {count}"
        with pytest.raises(ConfigError, match=message), open_executor("process", count):  # type: ignore[arg-type]
            pass


def test_the_serial_executor_works_in_this_thread() -> None:
    future = SerialExecutor().submit(threading.get_ident)
    assert future.done() and future.result() == threading.get_ident()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_lost_worker_is_said_and_stays_said(workers: int) -> None:
    with open_executor("process", workers) as executor:
        outcomes = run_in_order(executor, die, range(8))
        assert isinstance(outcomes[1], WorkerLostError)
        again = run_in_order(executor, die, [2, 3])  # the pool is broken: even asking raises
    assert all(isinstance(outcome, WorkerLostError) for outcome in again)
    assert str(again[0]).startswith(LOST) and "\n" not in str(again[0])


class Treacherous(Burgers):
    """Burgers, until it is called in a process other than the one it was made in."""

    def __init__(self, failure: str) -> None:
        super().__init__()
        self.failure, self.home = failure, os.getpid()

    def step(self, states: Array, params: Array | None = None) -> Array:
        result = super().step(states, params)
        if os.getpid() == self.home:
            return result
        if self.failure == "exit":
            os._exit(3)
        if self.failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "raise":
            raise ArithmeticError("no convergence")
        return result * np.nan


@pytest.mark.parametrize("failure", [pytest.param("exit", marks=pytest.mark.slow), "killed"])
def test_a_solver_that_ends_its_worker(failure: str) -> None:
    started = time.monotonic()
    with open_executor("process", 2) as executor:
        oracle, batch = burgers_oracle(solver=Treacherous(failure), executor=executor)
        with pytest.raises(WorkerLostError, match=LOST) as caught:
            CGE().estimate(oracle, batch)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60, "it hung"


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        ("raise", SolverCrashError, "solver 'burgers' raised ArithmeticError: no convergence"),
        ("nan", NonFiniteError, "what solver 'burgers' returned must be finite"),
    ],
)
def test_a_solver_that_fails_in_a_worker(
    executors: dict[str, Executor], failure: str, error: type[Exception], words: str
) -> None:
    oracle, batch = burgers_oracle(solver=Treacherous(failure), executor=executors["two processes"])
    with pytest.raises(error, match=words) as caught:
        CGE().estimate(oracle, batch)
    assert "\n" not in str(caught.value)
    oracle, batch = burgers_oracle(executor=executors["two processes"])
    assert CGE().estimate(oracle, batch).queries == 45, "the workers go on"


def test_any_executor_of_the_standard_library_will_do() -> None:
    oracle, batch = burgers_oracle()
    expected = CGE().estimate(oracle, batch)
    with ThreadPoolExecutor(2) as executor:
        oracle.executor = executor
        grads = CGE().estimate(oracle, batch).grads
    assert all(torch.equal(grads[name], expected.grads[name]) for name in grads)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is only waiting to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


PARENT = """
import os, sys, time
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import run_in_order

def pid(task):
    time.sleep(0.3)
    return os.getpid()

if __name__ == "__main__":
    with open_executor("process", 2) as executor:
        pids = set()
        while len(pids) < 2:
            pids |= set(run_in_order(executor, pid, range(4)))
        print(*pids, flush=True)
        {then}
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "then",
    [
        pytest.param("time.sleep(60)", id="idle", marks=pytest.mark.slow),
        pytest.param("run_in_order(executor, time.sleep, [60, 60])", id="busy"),
    ],
)
def test_no_worker_outlives_a_killed_parent(then: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(then=then))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(map(alive, pids)), 5), "workers outlived their parent"


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_worker_outlives_its_executor(fails: bool) -> None:
    pids: list[Any] = []
    try:
        with open_executor("process", 2) as executor:
            pids = run_in_order(executor, own_pid, range(4))
            assert all(map(alive, pids))
            if fails:
                raise KeyboardInterrupt  # noqa: TRY301 - as if a user had pressed Ctrl-C
    except KeyboardInterrupt:
        assert fails
    assert wait_until(lambda: not any(map(alive, pids)), 5)


def own_pid(task: int) -> int:
    return os.getpid()


class Foreign(Executor):
    """No executor of ours."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return SerialExecutor().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(
    ("policy", "warns"),
    [
        ("abort", False),
        ("retry(2)", True),
        ("drop", True),
        ({"worker-lost": "retry(2), drop"}, True),
        ({"timeout": "drop"}, False),
        ({"default": "drop", "worker-lost": "abort"}, False),
    ],
    ids=str,
)
def test_a_policy_on_lost_workers_that_cannot_be_kept_is_said(policy: Any, warns: bool, executors: dict[str, Executor]) -> None:
    said = pytest.warns(UserWarning, match=r"worker-lost.*those of Foreign cannot: a worker that is lost ends the run")
    with said if warns else nullcontext():
        assert run_with_policy(Foreign(), square_or_fail, [1, 2], FailurePolicy(policy))[0] == [1, 4]
    for ours in executors.values():
        assert run_with_policy(ours, square_or_fail, [1, 2], FailurePolicy(policy))[0] == [1, 4]


def test_the_standard_pool_of_a_loop_is_none_whose_workers_start_anew() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        layer = SolverLayer(Burgers(), Coloured(), pool, on_failure="retry(2)")
        states = torch.from_numpy(initial_states(1)).requires_grad_()
        with pytest.warns(UserWarning, match=r"those of ProcessPoolExecutor cannot"):
            layer(states).sum().backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
