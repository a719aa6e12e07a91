"""Accuracy of finite differences in float32 for the gradient of a rollout, by step size and scheme.

A corrector is trained on single steps (NON) for a while, as the demo does; there CGE's sparse gradient of an eight-step
rollout is compared with the exact one, by back-propagation through PhiFlow's solver.

Run: python benchmarks/step_size.py [--data runs/demo/data/wake_train.h5] [--run runs/demo/NON]   (after the demo)
Prints one JSON object.
"""

import argparse
import json
from pathlib import Path

import torch

import deepzero_sim as dz
from deepzero_sim.datasets import Trajectories, UnrolledBatches, advance_frames, trajectories
from deepzero_sim.solvers import PhiFlowWake
from deepzero_sim.training.runs.trained_run import trained_loop

UNROLL, BATCH = 8, 2


def flat(estimate: dz.GradientEstimate) -> torch.Tensor:
    return torch.cat([grad.flatten().double() for grad in estimate.grads.values()])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("runs/demo/data/wake_train.h5"))
    options.add_argument("--run", type=Path, default=Path("runs/demo/NON"))
    given = options.parse_args()
    solver, corrector = (loop := trained_loop(given.run)).solver, loop.corrector
    data = trajectories.load(given.data, solver.spec)
    data = Trajectories(data.frames[:, :60], data.params, data.mask)
    batch = UnrolledBatches(data, advance_frames(solver, data), BATCH, UNROLL)(0)
    loss = dz.RolloutLoss(torch.from_numpy(data.scales()[0]).view(-1, 1, 1), torch.from_numpy(data.mask))
    mask = dz.RandomMask(0.9)(corrector, 0)
    assert mask is not None  # None stands for all coordinates
    opaque = dz.LoopOracle(dz.SolverLoop(solver, corrector, UNROLL), loss)
    differentiable = dz.LoopOracle(dz.SolverLoop(PhiFlowWake(), corrector, UNROLL, "exact"), loss)
    exact = flat(dz.BackPropagation().estimate(differentiable, batch, mask))
    results = []
    for scheme in ("forward", "central"):
        for step_size in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
            estimate = flat(dz.CGE(step_size, scheme).estimate(opaque, batch, mask))
            cosine = float(estimate @ exact / estimate.norm() / exact.norm())
            error = float((estimate - exact).norm() / exact.norm())
            results.append(
                {"scheme": scheme, "step_size": step_size, "cosine": round(cosine, 4), "relative_error": round(error, 4)}
            )
    print(json.dumps({"coordinates": int(sum(m.sum() for m in mask.values())), "results": results}, indent=2))


if __name__ == "__main__":
    main()
