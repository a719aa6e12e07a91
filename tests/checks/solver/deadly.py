"""Solvers that end, or block, the process that asks them, each in one way and at one occasion."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec


def hold_lock() -> None:
    """Sleep in C, with Python's lock."""
    ctypes.PyDLL(None).sleep(1000)


ENDS: Mapping[str, Callable[[], object]] = {
    "SIGSEGV": lambda: ctypes.string_at(0),
    "write": lambda: ctypes.memset(16, 0, 8),
    "SIGABRT": os.abort,
    "SIGFPE": lambda: os.kill(os.getpid(), signal.SIGFPE),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "status 0": lambda: os._exit(0),
    "STOP": lambda: ctypes.CDLL(None).exit(0),
    "status 3": lambda: os._exit(3),
    "closed files": lambda: (os.closerange(3, 2**12), time.sleep(1000)),
    "hang": lambda: time.sleep(1000),
    "hang with the lock": hold_lock,
}

_inside = threading.Lock()


class Deadly(Solver):
    """Halves states, and ends at an occasion: `"first"`, `"batch"`, `"threads"`, `"NaN"`, ..."""

    def __init__(self, end: str = "SIGSEGV", at: str = "first", **spec: Any) -> None:
        self.end, self.at, self.calls, self.sent = end, at, 0, 0
        self.spec = SolverSpec(name="deadly", state_shape=(1, 8), dt=1.0, dtype="float64", **spec)

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.calls += 1
        alone = _inside.acquire(blocking=False)
        try:
            time.sleep(2e-4)
            if self._ends(states, params, alone):
                ENDS[self.end]()
        finally:
            if alone:
                _inside.release()
        return np.asarray(0.5 * states * (1 if params is None else params[:, :, None]))

    def _ends(self, states: Array, params: Array | None, alone: bool) -> bool:
        return {
            "first": True,
            "second": self.calls == 3,
            "one state": states[0, 0, 0] == 6,
            "batch": len(states) == 2,
            "large batch": len(states) == 64,
            "larger batch": len(states) > 64,
            "parameters": params is not None and not np.isin(params, [1.0, 2.0]).all(),
            "no parameters": params is None,
            "small changes": len(states) == 1 and 0 < abs(np.abs(states).max() - 1) < 0.2,
            "threads": not alone,
            "NaN": bool(np.isnan(states).any()),
            "large": bool(np.nanmax(np.abs(states), initial=0) > 1e4),
            "not finite": not bool(np.isfinite(states).all()) or bool(np.abs(states).max() > 1e4),
            "worker": self.sent == 2,
        }[self.at]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sent": self.sent + 1, "calls": 0}


class Locked(Deadly):
    """Cannot be pickled."""

    def __init__(self, end: str = "SIGSEGV", at: str = "first", **spec: Any) -> None:
        super().__init__(end, at, **spec)
        self.lock = threading.Lock()


class Unloadable(Deadly):
    """Cannot be unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        ENDS[state["end"]]()


class Deadlock(Deadly):
    """Two threads take two locks, in either order."""

    locks = (threading.Lock(), threading.Lock())

    def step(self, states: Array, params: Array | None = None) -> Array:
        first, second = self.locks[:: 1 if threading.current_thread().name.endswith("0") else -1]
        with first:
            time.sleep(5e-3)
            with second:
                return 0.5 * states

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


class Messy(Deadly):
    """Prints, goes elsewhere, and leaves a thread and a program behind."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        print("step", len(states))  # noqa: T201
        os.write(1, b"\xff\n")
        os.chdir("/")
        if self.calls == 0:
            threading.Thread(target=time.sleep, args=(1000,)).start()
            subprocess.Popen(["sleep", "1234.5"])  # noqa: S607
        self.calls += 1
        return 0.5 * states
