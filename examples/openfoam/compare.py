"""Comparison of the trained runs of this folder, on parameters and vortices that none of them has seen.

Run: python examples/openfoam/compare.py   (after the commands of README.md; from the root of the repository)
Writes runs/openfoam/comparison/report.md with its figures, and speed.png beside it.
"""

from pathlib import Path

import numpy as np

from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.rollouts import publish
from deepzero_sim.common.types import Array
from deepzero_sim.training.runs.comparison import Comparison, compare

RUNS, OUTPUT, DATA = Path("runs/openfoam"), Path("runs/openfoam/comparison"), Path("data/openfoam_test.h5")
METHODS = {"NON": "NON", "DETACHED": "DETACHED-longer", "SolverLayer": "SolverLayer-longer"}

#: Number of the simulation that is drawn: the one with the fastest lid.
SHOWN = 2

TIMES = (10, 30, 60)


def speeds(velocities: Array) -> Array:
    """Compute speeds `(T, n, n)` of velocities `(T, 2, n, n)`."""
    return np.linalg.norm(velocities, axis=1)


def draw(comparison: Comparison) -> None:
    rollouts = {name: result.evaluation.rollout[SHOWN].numpy() for name, result in comparison.methods.items()}
    reference = comparison.references[SHOWN].numpy()
    rows = {"reference": reference, "icoFoam alone": rollouts["SRC"], "corrected": rollouts["SolverLayer"]}
    plot = pyplot()
    figure, axes = plot.subplots(len(rows), len(TIMES), figsize=(8, 8), layout="constrained")
    for row, (name, velocities) in zip(axes, rows.items(), strict=True):
        for ax, time, speed in zip(row, TIMES, speeds(velocities[np.array(TIMES) - 1]), strict=True):
            image = ax.imshow(
                speed.T, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=speeds(reference).max(), cmap="viridis"
            )
            ax.set(xticks=[], yticks=[], title=f"{time * comparison.spec.dt:.1f} s" if name == "reference" else "")
        row[0].set_ylabel(name)
    figure.colorbar(image, ax=axes, label="speed (m/s)", shrink=0.6)
    save(plot, OUTPUT / "speed.png", figure)


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    comparison = compare({method: RUNS / run for method, run in METHODS.items()}, DATA)
    publish(OUTPUT, "icoFoam, corrected", comparison, {"data": str(DATA)})
    draw(comparison)
    print((OUTPUT / "report.md").read_text())


if __name__ == "__main__":
    main()
