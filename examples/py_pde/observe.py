"""Sparse, noisy observations of the coarse reaction, whose true rates a calibration is to find.

Run: python examples/py_pde/observe.py   (from the root of the repository)
Writes data/py_pde_observations.h5: the first frame of each simulation in full, and of all others the values at a twentieth of
the points, with noise of one percent of each substance's standard deviation. The file says other rates: a first guess.
"""

from pathlib import Path

import numpy as np
from gray_scott import GrayScott, initial

from deepzero_sim.datasets import Trajectories, save

#: Feed and kill: the truth, and the first guess.
TRUTH, GUESS = (0.037, 0.06), (0.03, 0.065)

SIMULATIONS, STEPS, SHARE, NOISE = 4, 40, 0.05, 0.01


def main() -> None:
    solver, random = GrayScott(), np.random.default_rng(0)
    rates = np.array([TRUTH] * SIMULATIONS)
    starts = np.array([[feed + 1e-6 * number, kill] for number, (feed, kill) in enumerate(rates)])  # spots of their own
    frames = [initial(solver.spec, starts)]
    for _ in range(STEPS):
        frames.append(solver.step(frames[-1], rates))
    whole = np.stack(frames, axis=1)
    noise = NOISE * whole.std(axis=(0, 1, 3, 4))[:, None, None] * random.normal(size=whole.shape)
    seen = np.broadcast_to(random.random((SIMULATIONS, 1, 1, *whole.shape[3:])) < SHARE, whole.shape).copy()  # sensors stay
    noise[:, 0], seen[:, 0] = 0, True
    observed = np.where(seen, whole + noise, np.nan)
    path = Path("data/py_pde_observations.h5")
    path.parent.mkdir(exist_ok=True)
    save(path, Trajectories(observed, np.array([GUESS] * SIMULATIONS), unobserved=True), solver.spec)
    print(f"{path}: {np.isfinite(observed[:, 1:]).mean():.1%} of the values after the first frames")


if __name__ == "__main__":
    main()
