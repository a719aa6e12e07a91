"""Bring a solver of your own: a coarse 1-D Burgers solver, corrected towards one four times finer.

    u_t + u u_x = nu u_xx, periodic; first-order upwind in space, explicit Euler in time

The solver is plain numpy and offers no gradient; the corrector learns from forward steps alone.
Run: python examples/burgers.py
"""

import numpy as np
import torch

import deepzero_sim as dz
from deepzero_sim.datasets import Trajectories, UnrolledBatches, advance_frames
from deepzero_sim.models import small


class Burgers(dz.Solver):
    def __init__(self, points: int = 64, substeps: int = 1) -> None:
        self.spec = dz.SolverSpec(name="burgers", state_shape=(1, points), dt=0.005, stencil=substeps, channels=("u",))
        self.substeps, self.dx = substeps, 1 / points

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        u, dt = states, self.spec.dt / self.substeps
        for _ in range(self.substeps):
            left, right = np.roll(u, 1, axis=-1), np.roll(u, -1, axis=-1)
            slope = np.where(u > 0, u - left, right - u) / self.dx
            u = u - dt * u * slope + 0.002 * dt * (left - 2 * u + right) / self.dx**2
        return u.astype(np.float32)


coarse, fine = Burgers(64), Burgers(256, substeps=4)
x, random = np.arange(256) / 256, np.random.default_rng(0)
waves = [a * np.sin(2 * np.pi * (k * x + p)) for k in (1, 2, 3) for a, p in [random.random((2, 40, 1)) / k]]
states = sum(waves)[:, None].astype(np.float32)  # 40 random initial states, (40, 1, 256)
frames = []
for _ in range(101):
    frames.append(states.reshape(40, 1, 64, 4).mean(axis=-1))
    states = fine.step(states)
data = Trajectories(np.stack(frames, axis=1), np.zeros((40, 0), dtype=np.float32), np.ones((1, 64), dtype=bool))
train, test = (Trajectories(data.frames[part], data.params[part], data.mask) for part in (slice(32), slice(32, 40)))

torch.manual_seed(0)
corrector = small(coarse.spec, padding="circular")
scale, _ = map(torch.from_numpy, train.scales())
corrector.set_scales(scale, torch.ones(0))
loop = dz.SolverLoop(coarse, corrector, unroll=8)


def error() -> float:
    return dz.evaluate(loop, torch.from_numpy(test.frames), None, torch.from_numpy(test.mask), steps=100).mae


before = error()
trainer = dz.Trainer(
    dz.LoopOracle(loop, dz.RolloutError(scale[:, None], torch.from_numpy(test.mask))),
    dz.CGE(step_size=1e-3, scheme="forward"),
    torch.optim.Adam(corrector.parameters(), lr=3e-3),
    UnrolledBatches(train, advance_frames(coarse, train), batch_size=8, unroll=8),
    dz.RunFolder("runs/burgers", {"example": "burgers"}),
)
progress = trainer.train(200, report=lambda p: print(f"update {p.step}: loss {p.loss:.3e}", end="\r"), tensorboard=False)
print(f"\nerror over 100 steps: {before:.4f} alone, {error():.4f} corrected, after {progress.solver_steps:,} solver steps")
