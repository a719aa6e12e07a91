"""Trainings through a solver of which a fifth of the steps fail at random, by every estimator, against one that never fails.

A step that fails is taken once more, and its query is left out if that fails too (`retry(1), drop`); where the unperturbed
rollout fails, the update is skipped. Errors are those of the network on rollouts that do not fail. The solver counts what it
is asked for itself.

Run: python benchmarks/failing_steps.py [--figure docs/img/failing_steps.png] [--share 0.2] [--solver_steps 40000]
Prints one JSON object, after a few minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.models import small
from deepzero_sim.training.progress import Progress

POINTS, UNROLL, BATCH = 32, 4, 2

#: Estimators, each with the optimiser that it is for.
METHODS: dict[str, tuple[Callable[[], dz.Estimator], Callable[[Any], torch.optim.Optimizer]]] = {
    "CGE": (lambda: dz.CGE(1e-4), lambda p: torch.optim.Adam(p, 5e-3)),
    "CoCD": (lambda: dz.CoCD(24, 0.5, 1e-4), lambda p: torch.optim.Adam(p, 3e-3)),
    "RGE, rows": (lambda: dz.RGE(1e-4, 24, directions="rows"), lambda p: torch.optim.Adam(p, 3e-3)),
    "FZOO": (lambda: dz.RGE(1e-4, 24, directions="rows", normalise=True), lambda p: torch.optim.SGD(p, 0.001)),
    "EvolutionStrategies": (lambda: dz.EvolutionStrategies(num_directions=24), lambda p: torch.optim.Adam(p, 3e-3)),
    "GaussNewton": (dz.GaussNewton, lambda p: torch.optim.SGD(p, 0.5)),
    "EKI": (lambda: dz.EKI(40, signal=0.05, decay=0.9), lambda p: torch.optim.SGD(p, 1.0)),
}


#: Lines of the figure.
STYLES: dict[str, dict[str, Any]] = {
    "no step fails": {"color": "#0072B2"},
    "a fifth fails": {"color": "#D55E00", "linestyle": "--"},
}


class UnreliableBurgers(dz.Solver):
    """Burgers' equation, of which a share of the states cannot be advanced: others at every attempt.

    Args:
        viscosity: Viscosity.
        share: Share of the states that fail.
        seed: Seed of which.
    """

    def __init__(self, viscosity: float, share: float = 0.0, seed: int = 0) -> None:
        self.spec = dz.SolverSpec(name="burgers", state_shape=(1, POINTS), dt=0.01, dtype="float64", deterministic=not share)
        self.viscosity, self.share = viscosity, share
        self.asked = 0
        self._draws = np.random.default_rng(seed)

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.asked += len(states)
        spacing = 2 * np.pi / POINTS
        flux = 0.5 * np.maximum(states, 0) ** 2 + 0.5 * np.roll(np.minimum(states, 0), -1, -1) ** 2
        second = np.roll(states, -1, -1) - 2 * states + np.roll(states, 1, -1)
        advanced = states + 0.01 * (self.viscosity * second / spacing**2 - (flux - np.roll(flux, 1, -1)) / spacing)
        failed = np.flatnonzero(self._draws.random(len(states)) < self.share)
        if len(failed):
            raise dz.StatesFailedError({int(i): dz.ExitCodeError("it ended.") for i in failed}, advanced)
        return np.asarray(advanced)


def rollouts(count: int, seed: int) -> tuple[Array, Array]:
    """Return first states `(B, 1, N)` and references `(B, T, 1, N)` of a more viscous equation."""
    draws, x = np.random.default_rng(seed), np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    phases, sizes = draws.uniform(0, 2 * np.pi, (2, count, 3, 1)), draws.normal(size=(count, 3, 1))
    states = (sizes * np.sin(np.arange(1, 4)[:, None] * x + phases[0])).sum(axis=1, keepdims=True)
    fine, taken = UnreliableBurgers(0.3), [states]
    for _ in range(UNROLL):
        taken.append(fine.step(taken[-1]))
    return states, np.stack(taken[1:], axis=1)


def train(name: str, share: float, solver_steps: int) -> dict[str, Any]:
    """Train by an estimator.

    Returns:
        Errors over updates, in units of the first, with the solver steps until then, and what was counted.
    """
    make, optimiser = METHODS[name]
    solver = UnreliableBurgers(0.05, share)
    torch.manual_seed(0)
    corrector = small(solver.spec, padding="circular", width=4).double()
    oracle = dz.LoopOracle(dz.SolverLoop(solver, corrector, UNROLL, on_failure="retry(1), drop"), F.mse_loss)
    reliable = dz.LoopOracle(dz.SolverLoop(UnreliableBurgers(0.05), corrector, UNROLL), F.mse_loss)
    states, references = rollouts(16, 1000)

    def error() -> float:
        return float(reliable.prepare((states, None, references)).loss)

    first, curve, reached = error(), [(0, 1.0)], Progress()

    def note(progress: Progress) -> None:
        nonlocal reached
        reached = progress
        curve.append((progress.solver_steps, error() / first))

    def batch(step: int) -> Any:
        given, wanted = rollouts(BATCH, step)
        return given, None, wanted

    with tempfile.TemporaryDirectory() as folder:
        run = dz.RunFolder(Path(folder) / "run", {})
        trainer = dz.Trainer(oracle, make(), optimiser(corrector.parameters()), batch, run)
        updates = 0
        while reached.solver_steps < solver_steps:  # an update costs what it costs
            updates += 1
            trainer.train(updates, note, tensorboard=False)
    return {
        "error": round(curve[-1][1], 4),
        "updates": updates,
        "solver steps": reached.solver_steps,
        "asked for": solver.asked,
        "failures": reached.failures,
        "curve": curve,
    }


def draw(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str) -> None:
    """Plot the errors of each estimator over solver steps, with failures and without."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, 4, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    for ax, (name, runs) in zip(axes.flat, found.items(), strict=False):
        for label, style in STYLES.items():
            steps, errors = np.transpose(runs[label]["curve"])
            ax.plot(steps, errors, label=label, **style)
        ax.set_title(name, fontsize=10)
        ax.set_yscale("log")
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    axes.flat[len(found)].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    figure.supxlabel("solver steps of training", fontsize=10)
    figure.supylabel("error of unseen rollouts / that of the start", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--figure")
    options.add_argument("--share", type=float, default=0.2)
    options.add_argument("--solver_steps", type=int, default=40_000)
    given = options.parse_args()
    found = {
        name: {
            label: train(name, share, given.solver_steps)
            for label, share in (("no step fails", 0.0), ("a fifth fails", given.share))
        }
        for name in METHODS
    }
    if given.figure:
        draw(found, given.figure)
    for runs in found.values():
        for run in runs.values():
            del run["curve"]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
