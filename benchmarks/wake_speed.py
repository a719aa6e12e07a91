"""States per second of the wake solvers on one thread, by batch size.

Run: python benchmarks/wake_speed.py [--resolution 32] [--repeats 5]
Prints one JSON object: for every solver and batch size the milliseconds of a step, and the best states per second.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solvers import PhiFlowWake, WakeFlow
from deepzero_sim.solvers.wake import initial_state

BATCHES = (1, 16, 64)


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Time a call, warmed up: the median over repeats of its mean."""
    function()
    started = time.perf_counter()
    function()
    calls = max(3, int(0.3 / (time.perf_counter() - started)))
    means = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        means.append((time.perf_counter() - started) / calls)
    return statistics.median(means) * 1e3


def forward_and_backward(solver: PhiFlowWake, states: np.ndarray, params: np.ndarray) -> None:
    given = torch.from_numpy(states).requires_grad_()
    solver.differentiable_step(given, torch.from_numpy(params)).sum().backward()  # type: ignore[no-untyped-call]


def measure(solver: Solver, step: Callable[[np.ndarray, np.ndarray], object], repeats: int) -> dict[str, float]:
    result = {}
    for batch in BATCHES:
        params = np.full((batch, 1), 500.0, dtype=np.float32)
        states = initial_state(solver.spec, params)
        for _ in range(50):
            states = solver.step(states, params)
        result[f"ms at batch {batch}"] = round(milliseconds(functools.partial(step, states, params), repeats), 3)
    result["best states/s"] = round(max(1e3 * batch / result[f"ms at batch {batch}"] for batch in BATCHES))
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--resolution", type=int, default=32)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    ours, phiflow = WakeFlow(given.resolution), PhiFlowWake(given.resolution)
    with single_threaded():
        found = {
            "WakeFlow": measure(ours, ours.step, given.repeats),
            "PhiFlowWake": measure(phiflow, phiflow.step, given.repeats),
            "PhiFlowWake, with gradient": measure(phiflow, lambda s, p: forward_and_backward(phiflow, s, p), given.repeats),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
