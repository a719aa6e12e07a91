"""Ctrl-C ends the threads that work for the main one, and the programs that they wait for."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import Burgers, wait_until
from programs import running

import deepzero_sim as dz
from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import run_in_order
from deepzero_sim.solver.stepping import checked_step


def interrupt_when(there: Any) -> threading.Thread:
    """A thread that does as Ctrl-C does once something is there."""

    def wait() -> None:
        assert wait_until(there, 20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_threads_take_no_further_step() -> None:
    steps: list[int] = []

    def many_steps(task: int) -> None:
        for _ in range(10_000):
            time.sleep(0.01)
            checked_step(Burgers(), np.ones((1, 1, 16)), None)
            steps.append(task)

    with open_executor("thread", 2) as threads:
        asking = interrupt_when(lambda: len(steps) > 2)
        with pytest.raises(KeyboardInterrupt):
            run_in_order(threads, many_steps, range(4))
        asking.join()
    assert len(steps) < 1000 and not {2, 3} & set(steps)
    assert run_in_order(threads, abs, []) == []
    checked_step(Burgers(), np.ones((1, 1, 16)), None)  # what is asked afterwards goes on


def test_programs_that_threads_wait_for_end(tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}"
    spec = {"name": "slow", "state_shape": [1, 8], "dt": 1.0}
    command = ["sh", "-c", "sleep 1000", mark]
    solver = dz.ExecutableSolver(spec, command, [{"path": "u.npy"}], [{"path": "v.npy"}], kept_folder=tmp_path)

    def step(task: int) -> None:
        checked_step(solver, np.ones((3, 1, 8), np.float32), None)

    began = time.monotonic()
    with open_executor("thread", 2) as threads:
        asking = interrupt_when(lambda: running(mark))
        with pytest.raises(KeyboardInterrupt):
            run_in_order(threads, step, range(2))
        asking.join()
    assert wait_until(lambda: not running(mark), 5) and time.monotonic() - began < 60


def test_a_task_within_a_task_is_a_part_of_it() -> None:
    with cancellation.task():
        with cancellation.task():
            cancellation.check()
        cancellation.cancel()
        with cancellation.task(), pytest.raises(KeyboardInterrupt):
            cancellation.check()
    cancellation.check()
