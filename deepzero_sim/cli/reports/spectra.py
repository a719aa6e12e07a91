"""Power spectra of reference, source and corrected states, and the figure that shows them.

A spectrum says how much of a field's variance lies at each length: the power of all waves whose wavenumber `|k|` lies in one
band is summed, so that the bands add up to the variance (Parseval). Bands are as wide as the smallest wavenumber of the longest
axis. An axis whose ends do not meet is windowed (Hann), because the jump between them would show as power at all lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import Figure, name_below, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import Layout, layout_of_comparison, plain
from deepzero_sim.datasets.units import unit_to_show

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: States that spectra are averaged over: simulations, and last steps, of which there are a quarter of all at most.
MOST_SIMULATIONS, MOST_STEPS = 8, 8

#: Points that an axis needs.
FEWEST_POINTS = 8

#: Channels that have a spectrum.
MOST_CHANNELS = 6

#: How much larger than a jump between neighbours the one between an axis' ends may be if they meet.
LARGEST_JUMP = 2.0

#: Share of the largest power below which nothing is shown: it is rounding.
SMALLEST_POWER = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power in bands of wavenumbers.

    Args:
        wavenumbers: Middle of each band, `2 pi / wavelength`.
        power: Power in each band; all of them add up to the variance of a field that is not windowed.
        resolved: Largest wavenumber that every axis resolves.
    """

    wavenumbers: NDArray[np.float64]
    power: NDArray[np.float64]
    resolved: float


def spectrum(fields: NDArray[Any], spacing: Sequence[float], windowed: Sequence[bool] = ()) -> Spectrum:
    """Compute the power spectrum of fields, averaged over them.

    Args:
        fields: Fields `(B, *N)` in 1-D, 2-D, 3-D or more, all finite.
        spacing: Distance of the points along each axis.
        windowed: True for each axis whose ends do not meet; none of them if empty.
    """
    grid = fields.shape[1:]
    axes = tuple(range(1, fields.ndim))
    centred = fields.astype(np.float64) - fields.mean(axis=axes, keepdims=True, dtype=np.float64)
    for axis, window in enumerate(windowed):
        if window:
            centred *= _hann(grid[axis]).reshape([-1 if a == axis else 1 for a in range(len(grid))])
    power = (np.abs(np.fft.fftn(centred, axes=axes)) ** 2).mean(axis=0) / np.prod(grid, dtype=np.float64) ** 2
    waves = [2 * np.pi * np.fft.fftfreq(points, distance) for points, distance in zip(grid, spacing, strict=True)]
    sizes = np.sqrt(sum(wave**2 for wave in np.meshgrid(*waves, indexing="ij")))
    width = 2 * np.pi / max(points * distance for points, distance in zip(grid, spacing, strict=True))
    bands = np.rint(sizes / width).astype(int)
    summed = np.bincount(bands.ravel(), weights=power.ravel())
    return Spectrum(width * np.arange(len(summed)), summed.astype(np.float64), np.pi / max(spacing))


def _hann(points: int) -> NDArray[np.float64]:
    """Return a window that leaves the variance of a field as it is, on average."""
    window = np.hanning(points + 2)[1:-1]
    return np.asarray(window / np.sqrt((window**2).mean()))


def ends_meet(fields: NDArray[Any], axis: int) -> bool:
    """Tell whether fields `(B, *N)` may go on at one end of an axis where they stop at the other.

    Args:
        fields: Fields.
        axis: Number of the axis, from 0.
    """
    moved = np.moveaxis(fields.astype(np.float64), axis + 1, 0)
    jump, step = float(np.square(moved[0] - moved[-1]).mean()), float(np.square(np.diff(moved, axis=0)).mean())
    return bool(jump <= LARGEST_JUMP**2 * step)


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw the spectra of every channel at the last steps, and return the figure written, or a sentence why there is none.

    Args:
        folder: Folder of the figure.
        comparison: Results.
    """
    layout = layout_of_comparison(comparison)
    reason = _why_not(layout)
    if reason:
        return [Figure("", f"No spectra are drawn: {reason}.")]
    plot = pyplot()
    channels = list(range(min(len(layout.channels), MOST_CHANNELS)))
    columns = min(3, len(channels))
    rows = -(-len(channels) // columns)
    figure, axes = plot.subplots(
        rows, columns, figsize=(max(6.5, 4.2 * columns), 3.6 * rows + 0.8), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(channels) :]:
        ax.set_axis_off()
    words = [_draw_channel(ax, layout, channel, comparison) for ax, channel in zip(axes.flat, channels, strict=False)]
    handles: dict[str, Any] = {}
    for ax in axes.flat[: len(channels)]:
        handles |= {label: line for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    name_below(figure, handles)
    figure.suptitle(f"power spectra, {_which(comparison)}", fontsize=11)
    save(plot, folder / "spectra.png", figure)
    left = len(layout.channels) - len(channels)
    left_out = f"; {left} of {len(layout.channels)} channels are not drawn" if left else ""
    return [Figure("spectra.png", f"Power spectra, {_which(comparison)} ({'; '.join(dict.fromkeys(words))}{left_out})")]


def _why_not(layout: Layout) -> str:
    """Say why states have no spectra; empty if they have."""
    for channel in range(len(layout.channels)):
        for number, name in enumerate(layout.axes):
            axis = layout.axis(channel, number)
            if len(axis.positions) < FEWEST_POINTS:
                return f"the axis {name} has {len(axis.positions)} points, and {FEWEST_POINTS} are needed"
            if not axis.is_uniform:
                return f"the points along {name} do not lie equally far apart"
            if not axis.known and name.lower().startswith(("point", "node", "cell", "element")):
                return f"neighbours along {name} need not be neighbours in space"
    return ""


def _states(comparison: Comparison) -> tuple[list[int], list[int]]:
    """Return the simulations and steps that spectra are averaged over."""
    simulations, steps = comparison.references.shape[:2]
    count = min(MOST_STEPS, max(1, steps // 4))
    chosen = np.unique(np.linspace(0, simulations - 1, min(simulations, MOST_SIMULATIONS), dtype=int))
    return chosen.tolist(), list(range(steps - count, steps))


def _which(comparison: Comparison) -> str:
    """Say which states spectra are averaged over, with the times of the first and the last one."""
    simulations, steps = _states(comparison)
    last = layout_of_comparison(comparison).time(comparison.time(steps[-1] + 1))
    which = (
        f"mean of {len(simulations)} of {len(comparison.references)} simulations" if len(simulations) > 1 else "one simulation"
    )
    when = f"steps {steps[0] + 1} to {steps[-1] + 1} (to {last})" if len(steps) > 1 else f"step {steps[-1] + 1} ({last})"
    return f"{which}, {when}"


def _draw_channel(ax: Any, layout: Layout, channel: int, comparison: Comparison) -> str:
    """Draw the spectra of a channel, and say how its ends and holes were handled."""
    mask = layout.mask[channel]
    held = [np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]
    box = tuple(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(None) for places in held)
    simulations, steps = _states(comparison)

    def fields(states: Any) -> NDArray[Any]:
        found = np.stack([np.asarray(states[s, t])[channel] for s in simulations for t in steps])
        return np.where(mask, found, found[:, mask].mean(axis=1).reshape([-1] + [1] * mask.ndim))[(slice(None), *box)]

    reference = fields(comparison.references)
    spacing = [abs(float(np.diff(layout.axis(channel, a).positions[:2])[0])) for a in range(mask.ndim)]
    windowed = [not ends_meet(reference, axis) if known is None else not known for axis, known in enumerate(layout.periodic)]
    drawn = {name: line for name, (line, _) in styles(comparison.methods).items()}
    true = spectrum(reference, spacing, windowed)
    last = max(3, int(np.searchsorted(true.wavenumbers, true.resolved * 1.0001)))
    shown = slice(1, last)
    for name, result in comparison.methods.items():
        found = fields(result.evaluation.rollout)
        finite = np.isfinite(found).reshape(len(found), -1).all(axis=1)
        label = plain(name) if finite.all() else f"{plain(name)} ({finite.sum()} of {len(finite)} states are finite)"
        power = spectrum(found[finite], spacing, windowed).power[shown] if finite.any() else np.full(last - 1, np.nan)
        ax.plot(true.wavenumbers[shown], power, label=label, **drawn[name])
    ax.plot(true.wavenumbers[shown], true.power[shown], color="grey", linestyle="--", linewidth=2.5, label="reference")
    _scale_axes(ax, true.power[shown])
    known = any(layout.axis(channel, a).known for a in range(mask.ndim))
    unit = unit_to_show(layout.units[channel])
    ax.set(xlabel="wavenumber |k|" if known else "wavenumber |k| (1/points)", title=layout.label(channel))
    ax.set_ylabel(f"power in a band ({plain(unit)})²" if unit else "power in a band")
    return _explain_edges(layout, windowed, bool(mask[box].all()))


def _scale_axes(ax: Any, power: NDArray[np.float64]) -> None:
    """Set logarithmic axes, down to what is not mere rounding."""
    ax.grid(alpha=0.3, which="both")
    largest = float(power.max(initial=0.0))
    if largest > 0:
        ax.set(xscale="log", yscale="log")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, largest * SMALLEST_POWER), min(high, largest * 1e3))


def _explain_edges(layout: Layout, windowed: Sequence[bool], whole: bool) -> str:
    names = [name for name, window in zip(layout.axes, windowed, strict=True) if window]
    words = ["mean removed"]
    if names:
        words.append(f"Hann window along {' and '.join(names)}, whose ends do not meet")
    if not whole:
        words.append("points without a value set to the mean")
    return ", ".join(words)
