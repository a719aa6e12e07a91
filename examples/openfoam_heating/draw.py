"""The temperature that was found beside the true one, and errors with it on simulations that training did not see.

Run: python examples/openfoam_heating/draw.py   (after the commands of README.md; from the root of the repository)
Writes runs/openfoam_heating/heating.png.
"""

from pathlib import Path

import numpy as np
from heating import REST, UNIT, felt, heating

import deepzero_sim as dz
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.datasets import load

RUN, DATA = Path("runs/openfoam_heating/field"), Path("data/heating_test.h5")


def draw(loop: dz.SolverLoop, evaluations: dict[str, dz.Evaluation]) -> tuple[np.ndarray, np.ndarray]:
    """Draw temperatures and errors, and return what the fluid feels of the true one and of the one that was found."""
    (values,) = loop.model.parameters()
    found = REST + UNIT * values.detach().numpy()[0]
    true = heating(len(found))
    fields = {"true": true - REST, "true, as felt": felt(true), "found, as felt": felt(found)}
    most = np.abs(true - REST).max()
    plot = pyplot()
    figure, axes = plot.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for ax, (name, values_in_k) in zip(axes, fields.items(), strict=False):
        image = ax.imshow(values_in_k.T, origin="lower", extent=(0, 1, 0, 1), vmin=-most, vmax=most, cmap="RdBu_r")
        ax.set(title=f"temperature: {name}", xlabel="x (m)", ylabel="y (m)" if name == "true" else "")
    figure.colorbar(image, ax=axes[:3], label="difference from 300 K (K)")
    for name, evaluation in evaluations.items():
        errors = evaluation.errors.mean(dim=0)
        axes[3].plot(loop.solver.spec.dt * np.arange(1, len(errors) + 1), errors, label=name)
    axes[3].set(yscale="log", xlabel="time (s)", ylabel="mean absolute error (m/s)", title="unseen simulations")
    axes[3].legend(loc="center right", frameon=False)
    save(plot, RUN.parent / "heating.png", figure)
    return felt(true), felt(found)


def main() -> None:
    data, loop = load(DATA), dz.load_run(RUN)
    alone = dz.SolverLoop(loop.solver, dz.models.NoCorrection())
    evaluations = {"without the temperature": dz.evaluate(alone, data), "with the one found": dz.evaluate(loop, data)}
    true, found = draw(loop, evaluations)
    off = np.abs(found - true).mean()
    print(f"temperature as felt: {np.abs(true).mean():.3g} K on average, found to within {off:.3g} K")
    for name, evaluation in evaluations.items():
        print(f"{name}: mean absolute error {evaluation.mae:.3g} m/s")


if __name__ == "__main__":
    main()
