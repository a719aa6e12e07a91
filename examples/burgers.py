"""Bring a solver of your own: a coarse 1-D Burgers solver, corrected towards one eight times finer.

    u_t + u u_x = nu u_xx, periodic; first-order upwind in space, explicit Euler in time

The solver is plain numpy and offers no gradient. A network of 57 parameters is trained three times from scratch: on single
steps by back-propagation (NON); through 8 coupled steps by back-propagation, past the solver by few probes of each step,
which are exact because it is local (LAYER); and from losses alone (ZO-SOL), which would serve as well for a network that cannot
be differentiated.

Run: python examples/burgers.py
Prints, in about a minute on 2 cores, the mean absolute error over 100 steps of 8 unseen trajectories: SRC 0.0330, NON 0.0182,
LAYER 0.0225 after 302,400 solver steps, ZO-SOL 0.0226 after 1,948,800. Burgers forgets quickly, so single steps teach nearly
all there is to learn and NON is hard to beat; the wake (`make demo`) is where the loop matters.
"""

import tempfile

import numpy as np
import torch

import deepzero_sim as dz
from deepzero_sim.datasets import Trajectories, UnrolledBatches, advance_frames
from deepzero_sim.models import small


class Burgers(dz.Solver):
    def __init__(self, points: int, substeps: int = 1) -> None:
        self.spec = dz.SolverSpec(name="burgers", state_shape=(1, points), dt=0.01, stencil=substeps, channels=("u",))
        self.substeps, self.dx = substeps, 1 / points

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        u, dt = states, self.spec.dt / self.substeps
        for _ in range(self.substeps):
            left, right = np.roll(u, 1, axis=-1), np.roll(u, -1, axis=-1)
            slope = np.where(u > 0, u - left, right - u) / self.dx
            u = u - dt * u * slope + 0.002 * dt * (left - 2 * u + right) / self.dx**2
        return u.astype(np.float32)


# 40 trajectories of the fine solver from random waves, seen on the coarse grid; 32 to train on, 8 to test
coarse, fine = Burgers(32), Burgers(256, substeps=8)
x, random = np.arange(256) / 256, np.random.default_rng(0)
waves = [a * np.sin(2 * np.pi * (k * x + p)) for k in (1, 2, 3) for a, p in [random.random((2, 40, 1)) / k]]
states = sum(waves)[:, None].astype(np.float32)
frames = []
for _ in range(101):
    frames.append(states.reshape(40, 1, 32, 8).mean(axis=-1))
    states = fine.step(states)
data = Trajectories(np.stack(frames, axis=1), np.zeros((40, 0), dtype=np.float32), np.ones((1, 32), dtype=bool))
train_data, test_data = (Trajectories(data.frames[part], data.params[part], data.mask) for part in (slice(32), slice(32, 40)))

scale, _ = map(torch.from_numpy, train_data.scales())
advanced = advance_frames(coarse, train_data)


def new_corrector() -> torch.nn.Module:
    torch.manual_seed(0)
    corrector = small(coarse.spec, width=8, blocks=0, padding="circular")
    corrector.set_scales(scale, torch.ones(0))
    return corrector


def train(
    unroll: int, estimator: dz.Estimator, updates: int, batch: int, rate: float, past: dz.vjp.VectorJacobianProduct
) -> torch.nn.Module:
    loop = dz.SolverLoop(coarse, new_corrector(), unroll, past)
    oracle = dz.LoopOracle(loop, dz.RolloutLoss(scale, torch.from_numpy(test_data.mask)), queries_per_chunk=32)
    optimiser = torch.optim.Adam(loop.corrector.parameters(), lr=rate, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    batches = UnrolledBatches(train_data, advanced, batch, unroll)
    with tempfile.TemporaryDirectory() as folder:  # a folder that stays would make the run resumable
        trainer = dz.Trainer(oracle, estimator, optimiser, batches, dz.RunFolder(folder, {}), scheduler=scheduler)
        print(f"  trained with {trainer.train(updates, tensorboard=False).solver_steps:,} solver steps")
    return loop.corrector


def error(corrector: torch.nn.Module) -> float:
    loop = dz.SolverLoop(coarse, corrector)
    return dz.evaluate(loop, torch.from_numpy(test_data.frames), None, torch.from_numpy(test_data.mask), steps=100).mae


none, back = dz.vjp.Detached(), dz.BackPropagation()  # nothing passes the solver; torch goes back through the network
print(f"SRC     the solver alone               error {error(new_corrector()):.4f}")  # it starts from no correction
print(f"NON     trained on single steps        error {error(train(1, back, 1500, 32, 3e-3, none)):.4f}")
print(f"LAYER   trained through 8 solver steps error {error(train(8, back, 600, 8, 1e-2, dz.vjp.Coloured())):.4f}")
print(f"ZO-SOL  trained through 8 solver steps error {error(train(8, dz.CGE(1e-5, 'forward'), 600, 8, 1e-2, none)):.4f}")
