"""Gradients past a wake solver whose Jacobian does not fit into memory: cost and quality of blocks.

The states are the solver's own, from 600 steps after the start on, at three Reynolds numbers; references are taken among other
times. Products through `T` steps are compared with the exact `J_1^T ... J_T^T w` of a differentiable twin, for random `w`.

Run: python benchmarks/large_grid.py                     184 x 92 cells, eight times those of the demo; some five minutes
     python benchmarks/large_grid.py --resolution 32     the demo's grid
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.machine import peak_memory_gb
from deepzero_sim.common.types import Array
from deepzero_sim.coupling import vjp
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import ReferenceJacobian, VectorJacobianProduct
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.solvers import PhiFlowWake, WakeFlow
from deepzero_sim.solvers.wake import initial_state

REYNOLDS = np.array([[195.3125], [781.25], [3125.0]], dtype=np.float32)
FIRST, EVERY, TIMES = 600, 7, 24
UNROLLED = (1, 8)

#: Step that autograd goes back through: `(states, params) -> states`.
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def trajectory(solver: WakeFlow) -> Array:
    """Simulate states `(times, simulations, C, *N)`."""
    states, frames = initial_state(solver.spec, REYNOLDS), []
    for step in range(FIRST + EVERY * TIMES):
        states = checked_step(solver, states, REYNOLDS)
        if step >= FIRST and (step - FIRST) % EVERY == 0:
            frames.append(states)
    return np.stack(frames)


def pull_back(step: Step, start: Array, w: torch.Tensor, unrolled: int) -> torch.Tensor:
    """Compute `J_1^T ... J_T^T w` at the start."""
    states = first = torch.from_numpy(start).requires_grad_()
    for _ in range(unrolled):
        states = step(states, torch.from_numpy(REYNOLDS))
    return torch.autograd.grad(states, first, w)[0]


def cosines(step: Step, start: Array, w: torch.Tensor, exact: dict[int, torch.Tensor]) -> dict[str, list[float]]:
    """Compute the cosine of every simulation's product to the exact one, by number of steps."""
    products = {unrolled: pull_back(step, start, w, unrolled).flatten(1) for unrolled in UNROLLED}
    return {
        str(unrolled): torch.nn.functional.cosine_similarity(product, exact[unrolled].flatten(1)).tolist()
        for unrolled, product in products.items()
    }


def measure(solver: WakeFlow, method: VectorJacobianProduct, states: Array, compare: Callable[[Step], Any]) -> dict[str, Any]:
    """Measure a method's cosines and its cost."""
    layer = SolverLayer(solver, method)
    started = time.perf_counter()
    references = states[1::2].reshape(-1, *solver.spec.state_shape)
    method.prepare(references, np.tile(REYNOLDS, (len(states[1::2]), 1)), layer.probes)
    steps_once, seconds = layer.backward_steps, time.perf_counter() - started
    cosine = compare(layer)
    later = layer.backward_steps - steps_once
    size = {"mib": method.value_count(solver.spec) * 4 / 2**20} if isinstance(method, ReferenceJacobian) else {}
    return {"cosines": cosine, "steps_once": steps_once, "steps_for_products": later, "seconds_once": seconds, **size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=92, help="cells across the flow")
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8], help="points along a side")
    given = parser.parse_args()
    solver, twin = WakeFlow(given.resolution), PhiFlowWake(given.resolution)
    states = trajectory(solver)
    start = states[len(states) // 2 // 2 * 2]
    w = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)) * torch.from_numpy(solver.spec.active())
    exact = {unrolled: pull_back(twin.differentiable_step, start, w, unrolled) for unrolled in UNROLLED}
    methods: dict[str, VectorJacobianProduct] = {"StraightThrough": vjp.StraightThrough(), "Coloured(2)": vjp.Coloured(2)}
    methods |= {f"ReferenceJacobian(block={block})": ReferenceJacobian(block=block) for block in given.blocks}
    found = {
        name: measure(solver, method, states, lambda step: cosines(step, start, w, exact)) for name, method in methods.items()
    }
    points = int(solver.spec.active().sum())
    facts = {
        "cells": int(np.prod(solver.grid.shape)),
        "points": points,
        "whole_jacobian_mib": points**2 * 4 / 2**20,
        "peak_memory_gb": peak_memory_gb(),
    }
    print(json.dumps({**facts, "methods": found}, indent=2))


if __name__ == "__main__":
    main()
