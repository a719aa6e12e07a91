"""A server of a solver of one's own. Run: python served_decay.py PORT [TIMEOUT]"""

from __future__ import annotations

import sys
import time

import numpy as np

import deepzero_sim as dz
from deepzero_sim.common.types import Array


class Slow(dz.Solver):
    """`s' = s / 2`, and as many seconds as the first number of a state says."""

    spec = dz.SolverSpec(name="slow", state_shape=(1, 2), dt=1.0, dtype="float64", thread_safe=False)

    def step(self, states: Array, params: Array | None = None) -> Array:
        time.sleep(max(0.0, float(states[0, 0, 0])))
        return np.asarray(0.5 * states)


if __name__ == "__main__":
    timeout = float(sys.argv[2]) if len(sys.argv) > 2 else 300.0
    dz.serve({"slow": dz.ServedSolver(Slow())}, port=int(sys.argv[1]), timeout=timeout)
