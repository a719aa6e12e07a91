"""Both rates over the solver steps of each calibration, and the observations that they come from.

Run: python examples/py_pde/show_calibration.py   (after the commands of README.md; from the root of the repository)
Writes runs/py_pde/calibration.png.
"""

import json
from pathlib import Path

from observe import GUESS, TRUTH

from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.datasets import load

RUNS = {"SolverLayer": Path("runs/py_pde/calibration-SolverLayer"), "ZO-SOL": Path("runs/py_pde/calibration-ZO-SOL")}

#: Frame that is drawn.
SHOWN = 40


def main() -> None:
    plot = pyplot()
    figure, axes = plot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    data = load(Path("data/py_pde_observations.h5"))
    frame = data.frames[0, SHOWN, 1]
    axes[0].imshow(frame.T, origin="lower", extent=(0, 64, 0, 64), cmap="viridis")
    axes[0].set(title=f"v where it was observed, after {SHOWN} steps", xlabel="x", ylabel="y", facecolor="0.9")
    for method, run in RUNS.items():
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for ax, name, guess, truth in zip(axes[1:], ("feed", "kill"), GUESS, TRUTH, strict=True):
            errors = [abs(guess / truth - 1), *(abs(line["params"][name] / truth - 1) for line in lines)]
            ax.plot([0, *(line["solver_steps"] for line in lines)], errors, label=method)
            ax.set(title=f"error of {name}", xlabel="solver steps", yscale="log")
            last = lines[-1]
            print(f"{method}: {name} {last['params'][name]:.6f} ({errors[-1]:.3%} off), {last['solver_steps']:,} solver steps")
    for ax in axes[1:]:
        ax.axhline(0.01, color="0.5", linewidth=0.8, linestyle="--")
        ax.set(ylabel="share of the truth")
    axes[1].legend(frameon=False)
    save(plot, Path("runs/py_pde/calibration.png"), figure)


if __name__ == "__main__":
    main()
