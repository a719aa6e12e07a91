"""Pictures of states: reference, source and corrected side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import Figure, pyplot, save, styles
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison, MethodResult


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw states of the middle simulation at several times, and return the figures that were written."""
    _Fields(folder, comparison.spec).fields(comparison.methods, comparison.references)
    return [Figure("fields.png", "Reference, source and corrected fields at several times")]


class _Fields:
    """Figures in one folder."""

    def __init__(self, folder: Path, spec: SolverSpec) -> None:
        self._plot = pyplot()
        self._folder = folder
        self._spec = spec

    def fields(self, methods: Mapping[str, MethodResult], references: torch.Tensor) -> None:
        """Draw reference, source and corrected states side by side at several times, of the middle simulation."""
        simulation, steps = len(references) // 2, references.shape[1]
        times = sorted({max(1, steps // 5), max(1, steps // 2), steps})
        shown = {"reference": references[simulation]}
        shown |= {name: r.evaluation.rollout[simulation] for name, r in methods.items()}
        pictures = {
            name: [picture(states[t - 1].numpy().astype(np.float64), self._spec) for t in times]
            for name, states in shown.items()
        }
        if pictures["reference"][0].ndim == 1:
            self._lines(pictures, times)
        else:
            self._images(pictures, times)

    def _lines(self, pictures: dict[str, list[NDArray[np.float64]]], times: list[int]) -> None:
        size = (4 * len(times), 3)
        figure, (axes,) = self._plot.subplots(1, len(times), figsize=size, squeeze=False, sharey=True, layout="constrained")
        positions, drawn = self._spec.coordinates(0, 0), styles(pictures)
        for ax, column in zip(axes, range(len(times)), strict=True):
            for name, series in pictures.items():
                style = {"color": "grey", "linestyle": "--"} if name == "reference" else drawn[name][0]
                ax.plot(positions, series[column], label=name, **style)
            ax.set(title=f"step {times[column]}", xlabel=_axis(self._spec, 0))
        axes[0].set_ylabel(self._label())
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper")
        self._save(figure, "fields.png")

    def _images(self, pictures: dict[str, list[NDArray[np.float64]]], times: list[int]) -> None:
        height, width = pictures["reference"][0].shape
        size = (4.2 * len(times), 3.6 * len(pictures) * width / height + 1)
        figure, axes = self._plot.subplots(len(pictures), len(times), figsize=size, squeeze=False, layout="constrained")
        limit = max(1e-12, float(np.quantile(np.abs(pictures["reference"]), 0.995)))
        extent = [0, height * (self._spec.spacing or (1.0,))[0], 0, width * (self._spec.spacing or (1.0,))[-1]]
        for row, (name, series) in zip(axes, pictures.items(), strict=True):
            for ax, values in zip(row, series, strict=True):
                image = ax.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
        for ax, time in zip(axes[0], times, strict=True):
            ax.set_title(f"step {time}")
        for ax in axes[-1]:
            ax.set_xlabel(_axis(self._spec, 0))
        figure.colorbar(image, ax=axes, label=self._label(), shrink=0.6)
        self._save(figure, "fields.png")

    def _label(self) -> str:
        if is_staggered_flow(self._spec):
            return "vorticity (1/time)"
        return f"{(self._spec.channels or ('state',))[0]} ({self._unit()})"

    def _unit(self) -> str:
        return (self._spec.channel_units or ("1",))[0]

    def _save(self, figure: Any, name: str) -> None:
        save(self._plot, self._folder / name, figure)


def _axis(spec: SolverSpec, axis: int) -> str:
    return (spec.axes or [f"axis {i}" for i in range(len(spec.state_shape) - 1)])[axis]


def is_staggered_flow(spec: SolverSpec) -> bool:
    """Tell whether states are plane velocities on the faces of a staggered grid, as those of the wake."""
    return spec.channels == ("velocity_y", "velocity_x") and spec.offsets == ((0.0, 0.5), (0.5, 0.0))


def picture(state: NDArray[np.float64], spec: SolverSpec) -> NDArray[np.float64]:
    """Return what to draw of a state `(C, *N)`: a plane flow's vorticity, or the first channel, in 3-D its middle plane."""
    if is_staggered_flow(spec):
        return vorticity(state, spec)
    field = state[0]
    return np.asarray(field[len(field) // 2] if field.ndim == 3 else field)


def vorticity(state: NDArray[np.float64], spec: SolverSpec) -> NDArray[np.float64]:
    """Compute `d v_y / dx - d v_x / dy` at inner corners of cells, `(H-1, W-1)`, of `(2, H+1, W+1)` staggered velocities."""
    dy, dx = spec.spacing
    v_y, v_x = state[0, 1:-1, :-1], state[1, :-1, 1:-1]
    with np.errstate(invalid="ignore"):  # of a rollout that diverged there is nothing to draw
        curl: NDArray[np.float64] = (v_y[:, 1:] - v_y[:, :-1]) / dx - (v_x[1:] - v_x[:-1]) / dy
    return curl
