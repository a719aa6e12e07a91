"""Split of the time of a zeroth-order gradient: solver, network, and our own bookkeeping.

One sparse CGE gradient of the demo's network and settings. The solver's time is measured inside `step`; the network's is
that of as many plain forward passes on batches of the same size. The rest is ours: perturbing, losses, sending work.

Run: python benchmarks/gradient_split.py [--sparsity 0.9] [--repeats 5]
Prints one JSON object.
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

import deepzero_sim as dz
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models import small
from deepzero_sim.solvers import WakeFlow
from deepzero_sim.solvers.wake import TRAIN_REYNOLDS, initial_state

BATCH, UNROLL, QUERIES = 2, 8, 16


class TimedSolver(dz.Solver):
    """Solver that adds up the time spent in another."""

    def __init__(self, solver: dz.Solver) -> None:
        self.spec, self.solver, self.seconds = solver.spec, solver, 0.0

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        started = time.perf_counter()
        result = self.solver.step(states, params)
        self.seconds += time.perf_counter() - started
        return result


def trajectory(solver: dz.Solver) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make a batch of the demo's size, from a developed wake."""
    params = np.array(TRAIN_REYNOLDS[:BATCH], dtype=np.float32)[:, None]
    states = [initial_state(solver.spec, params)]
    for _ in range(100 + UNROLL):
        states.append(solver.step(states[-1], params))
    frames = torch.from_numpy(np.stack(states[100:], axis=1))
    return frames[:, 0], torch.from_numpy(params), frames[:, 1 : 1 + UNROLL]


def seconds_of(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sparsity", type=float, default=0.9)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    solver = TimedSolver(WakeFlow())
    torch.manual_seed(0)
    corrector = small(solver.spec)
    corrector.set_scales(torch.tensor([0.3, 0.3]), torch.tensor([1000.0]))
    batch = trajectory(solver)
    loop = dz.SolverLoop(solver, corrector, UNROLL)
    loss = dz.RolloutLoss(torch.full((2, 1, 1), 0.3), torch.from_numpy(solver.spec.active()))
    oracle = dz.LoopOracle(loop, loss, queries_per_chunk=QUERIES)
    mask = dz.RandomMask(given.sparsity)(corrector, 0)
    cge = dz.CGE(step_size=1e-3, scheme="forward")
    states = batch[0].repeat(QUERIES, 1, 1, 1)
    params = batch[1].repeat(QUERIES, 1)
    splits = []
    with single_threaded(), torch.no_grad():
        cge.estimate(oracle, batch, mask)  # warm-up
        for _ in range(given.repeats):
            solver.seconds = 0.0
            started = time.perf_counter()
            estimate = cge.estimate(oracle, batch, mask)
            total = time.perf_counter() - started
            passes = estimate.queries * UNROLL / QUERIES
            network = statistics.median(seconds_of(lambda: corrector(states, params)) for _ in range(20)) * passes
            splits.append((total, solver.seconds / total, network / total))
    total, in_solver, in_network = (statistics.median(column) for column in zip(*splits, strict=True))
    with dz.open_executor("process", 2) as executor:
        parallel = dz.LoopOracle(loop, loss, executor, QUERIES)
        cge.estimate(parallel, batch, mask)
        both = statistics.median(seconds_of(lambda: cge.estimate(parallel, batch, mask)) for _ in range(given.repeats))
    print(
        json.dumps(
            {
                "queries": estimate.queries,
                "solver_steps": estimate.solver_steps,
                "seconds": round(total, 3),
                "share_solver": round(in_solver, 3),
                "share_network": round(in_network, 3),
                "share_solver_and_network": round(in_solver + in_network, 3),
                "solver_steps_per_second": round(estimate.solver_steps / total),
                "solver_steps_per_second_two_workers": round(estimate.solver_steps / both),
            }
        )
    )


if __name__ == "__main__":
    main()
