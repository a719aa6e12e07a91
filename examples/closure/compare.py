"""Closures by all methods, three seeds each, on waves that none of them has seen, beside the best constant viscosity.

Run: python examples/closure/compare.py   (after the commands of README.md; from the root of the repository)
Trains what is missing in runs/closure, about an hour on a core, and writes runs/closure/comparison.md and closure.png.
"""

from pathlib import Path

import numpy as np
import torch

import deepzero_sim as dz
from deepzero_sim.cli.main import main as command
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.datasets import load
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.folders import last_stage

RUNS, DATA, HERE = Path("runs/closure"), Path("data/closure_test.h5"), Path("examples/closure")
SEEDS = (0, 1, 2)

#: Method and file of the network, by the names of the runs.
METHODS = {
    "constant": ("FO-SOL", "constant.yaml"),
    "NON": ("NON", "closure.yaml"),
    "DETACHED": ("DETACHED", "closure.yaml"),
    "STRAIGHT-THROUGH": ("STRAIGHT-THROUGH", "closure.yaml"),
    "SolverLayer": ("SolverLayer", "closure.yaml"),
    "FO-SOL": ("FO-SOL", "closure.yaml"),
}

#: Simulation, frames and method that are drawn.
SHOWN, FRAMES, DRAWN = 3, (24, 64), "SolverLayer"


def train(name: str, seed: int) -> Path:
    """Train a run, or go on with it, and return its folder.

    Closures are trained in two stages: the second measures the solver's Jacobian anew, at viscosities that the first came to.
    """
    run = RUNS / f"{name}-{seed}"
    method, network = METHODS[name]
    files = [word for file in ("solver.yaml", network) for word in ("--config", str(HERE / file))]
    stages = [] if name == "constant" else ["--stages", f"[{{method: {method}}}, {{method: {method}}}]"]
    if command(["train", *files, "--method", method, *stages, "--seed", str(seed), "--run", str(run)]):
        raise SystemExit(f"{name} of seed {seed} was not trained: see above.")
    return run


def table(data: dz.datasets.Trajectories) -> tuple[str, dict[str, list[dz.Evaluation]]]:
    """Return the table of errors, and all evaluations by method."""
    found: dict[str, list[dz.Evaluation]] = {}
    lines = [
        "| method | MAE, mean of three seeds | spread | MAE / constant | solver steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    steps: dict[str, int] = {}
    for name in METHODS:
        runs = [train(name, seed) for seed in SEEDS]
        found[name] = [dz.evaluate(dz.load_run(run), data) for run in runs]
        steps[name] = cost(last_stage(runs[0])).solver_steps
    alone = dz.SolverLoop(dz.load_run(RUNS / "constant-0").solver, dz.models.NoCorrection())
    found = {"the value at rest, 0.02": [dz.evaluate(alone, data)], **found}
    constant = np.mean([one.mae for one in found["constant"]])
    for name, evaluations in found.items():
        errors = [one.mae for one in evaluations]
        mean, spread = np.mean(errors), f"{np.std(errors):.5f}" if len(errors) > 1 else "-"
        lines.append(f"| {name} | {mean:.5f} | {spread} | {mean / constant:.2f} | {steps.get(name, 0):,} |")
    return "\n".join(lines) + "\n", found


def draw(data: dz.datasets.Trajectories, found: dict[str, list[dz.Evaluation]]) -> None:
    loop, plot = dz.load_run(RUNS / f"{DRAWN}-0"), pyplot()
    figure, axes = plot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    x = 2 * np.pi * (np.arange(64) + 0.5) / 64
    (field,) = loop.solver.spec.inputs
    for ax, frame in zip(axes, FRAMES, strict=False):
        state = found[DRAWN][0].rollout[SHOWN, frame - 1]
        with torch.no_grad():
            eddy = (field.value + field.scale * loop.corrector(state[None], None)[0, 0]).clamp(field.least, field.most)
        ax.plot(x, data.frames[SHOWN, frame, 0], color="k", label="reference")
        ax.plot(x, found["constant"][0].rollout[SHOWN, frame - 1, 0], label="best constant viscosity")
        ax.plot(x, state[0], label=f"closure ({DRAWN})")
        ax.set(title=f"u at t = {frame * loop.solver.spec.dt:g}", xlabel="x")
        beside = ax.twinx()
        beside.fill_between(x, eddy, color="0.5", alpha=0.25, linewidth=0)
        beside.set(ylim=(0, 0.3), ylabel="eddy viscosity of the closure (grey)")
    axes[0].legend(frameon=False, loc="upper right", fontsize=8)
    times = loop.solver.spec.dt * np.arange(1, data.frames.shape[1])
    for name, evaluations in found.items():
        axes[2].plot(times, np.mean([one.errors.mean(dim=0).numpy() for one in evaluations], axis=0), label=name)
    axes[2].set(title="mean absolute error of unseen waves", xlabel="t", yscale="log")
    axes[2].legend(frameon=False, fontsize=8)
    save(plot, RUNS / "closure.png", figure)


def main() -> None:
    data = load(DATA)
    text, found = table(data)
    (RUNS / "comparison.md").write_text(text)
    print(text)
    draw(data, found)


if __name__ == "__main__":
    main()
