"""Cost of a query: along a coordinate, along a random direction of a row, along one of all parameters.

Coordinates are drawn uniformly from all parameters, directions of rows in the same proportions, so that all ask about the same
layers. They take turns; ratios are medians over the turns.

Run: python benchmarks/direction_cost.py [--queries 600] [--turns 5]
Prints one JSON object for ResNet-20 on 64 images and for the corrector of the wake through 8 steps of 2 rollouts, after some
minutes on one thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import deepzero_sim as dz
from deepzero_sim.cli import demo
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.estimators.base import by_parameter, coordinate_queries
from deepzero_sim.estimators.random_directions import draw_directions
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models import resnet20
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.queries import Perturbation
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solvers.wake import initial_state
from deepzero_sim.training.runs.settings import small_network
from deepzero_sim.training.runs.trained_run import build_corrector

STEP = 1e-3


def coordinates(parameters: dict[str, torch.Tensor], count: int) -> list[Perturbation]:
    """Draw coordinates of all parameters."""
    size = sum(p.numel() for p in parameters.values())
    drawn = torch.randint(size, (count,), generator=new_generator(0)).sort().values
    return [*coordinate_queries(by_parameter(drawn, parameters), STEP, "forward")]


def ways(oracle: dz.Oracle, count: int) -> dict[str, tuple[int, Sequence[Perturbation]]]:
    """List the ways to ask, each with its number of queries."""
    parameters = trainable(oracle.model)
    few = max(1, count // 16)
    return {
        "coordinates": (count, coordinates(parameters, count)),
        "rows": (count, draw_directions("rows", count, parameters, None, 0).queries([STEP])),
        "network": (few, draw_directions("network", few, parameters, None, 0).queries([STEP])),
    }


def measure(oracle: dz.Oracle, batch: object, count: int, turns: int) -> dict[str, float]:
    """Time the ways in turns: milliseconds of a query of a coordinate, and the others' ratios to it."""
    prepared = oracle.prepare(batch)
    asked = ways(oracle, count)
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(turns + 1):
        for name, (queries, perturbations) in asked.items():
            taken = _seconds(oracle, prepared, perturbations) / queries
            if turn:  # the first one warms up
                seconds[name].append(taken)
    ratios = {name: statistics.median(np.divide(some, seconds["coordinates"])) for name, some in seconds.items()}
    milliseconds = 1e3 * statistics.median(seconds["coordinates"])
    return {
        "ms of a coordinate": round(milliseconds, 3),
        "rows / coordinate": round(ratios["rows"], 2),
        "network / coordinate": round(ratios["network"], 2),
    }


def _seconds(oracle: dz.Oracle, prepared: object, perturbations: Sequence[Perturbation]) -> float:
    started = time.perf_counter()
    oracle.ask(prepared, perturbations)
    return time.perf_counter() - started


def classifier() -> tuple[dz.Oracle, object]:
    """ResNet-20 on random images."""
    torch.manual_seed(0)
    images, classes = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    return dz.ModelOracle(resnet20(), F.cross_entropy), (images, classes)


def wake() -> tuple[dz.Oracle, object]:
    """Corrector of the demo on states of the wake."""
    solver = build_solver(demo.WAKE)
    corrector = build_corrector(small_network(), solver.spec, 0)
    params = np.array([[300.0], [500.0]], dtype=np.float32)
    states = initial_state(solver.spec, params)
    references = torch.zeros(2, 8, *solver.spec.state_shape)
    return dz.LoopOracle(dz.SolverLoop(solver, corrector, 8), F.mse_loss), (states, params, references)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--queries", type=int, default=600)
    options.add_argument("--turns", type=int, default=5)
    given = options.parse_args()
    with single_threaded():
        found = {
            name: measure(*make(), given.queries, given.turns) for name, make in (("ResNet-20", classifier), ("wake", wake))
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
