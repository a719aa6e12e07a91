"""Loss of energy spectra, for flows whose statistics count and whose states cannot be followed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from deepzero_sim.common.requirements import Words, require
from deepzero_sim.common.types import Array, is_number
from deepzero_sim.coupling.losses.base import Loss, Measure
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec

#: Ratio of the change from the last point of an axis to its first to that between neighbours, above which it is not periodic.
LARGEST_JUMP = 3.0


@final
@dataclass(frozen=True)
class Spectrum(Loss):
    """Mean squared difference of logarithms of energy spectra, over channels and shells of wave numbers:

        l = 1/(B C K) sum_{b, c, k} ( ln((E_k + e) / (R_k + e)) )^2,   e = floor / K sum_k R_k

    `E_k` is the energy of a channel in the shell of wave numbers `k - 1/2 <= |kappa| < k + 1/2`, in units of the smallest wave
    number of the box, as a mean over the steps of a rollout, and `R_k` that of its references. Without the floor, shells that
    hold nothing but rounding would count as much as all others.

    Args:
        floor: Share `floor` of the mean energy of a shell below which differences are not counted.

    Raises:
        ConfigError: The floor is not positive.
    """

    floor: float = 1e-4

    def __post_init__(self) -> None:
        fits = is_number(self.floor) and 0 < self.floor < np.inf
        require(fits, "floor of loss spectrum must be a positive number", Words(self.floor))

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        whole = bool(data.mask.all())
        remedy = "take another loss, such as time_mean"
        require(whole, f"loss spectrum needs a grid without padding, but solver {spec.name!r} has", Words("a mask"), remedy)
        _require_periodic(spec, data)
        return _SpectrumLoss(EnergySpectrum(spec), self.floor)


def _require_periodic(spec: SolverSpec, data: Trajectories) -> None:
    """Refuse states whose ends do not meet: their spectrum would be that of the jump.

    Raises:
        ConfigError: The change across the ends is larger than those between neighbours.
    """
    frames = data.frames
    some = np.concatenate([frames[s, :: max(1, frames.shape[1] // 8)] for s in range(min(8, frames.shape[0]))])
    for axis, name in enumerate(spec.axis_names, start=2):
        across = np.take(some, 0, axis) - np.take(some, -1, axis)
        between = np.diff(some, axis=axis)
        jump, usual = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (across, between))
        require(
            jump <= LARGEST_JUMP * usual,
            f"loss spectrum needs states that are periodic along {name!r}, as those of solver {spec.name!r} are not",
            Words(f"a change of {jump:.3g} from the last point to the first, against {usual:.3g} between neighbours"),
            "take another loss, such as time_mean",
        )


def _wave_numbers(spec: SolverSpec) -> list[Array]:
    """Return the wave number of each function of :func:`_real_waves` along each axis, in units of the box's smallest one."""
    grid = spec.state_shape[1:]
    lengths = [n * abs(dx) for n, dx in zip(grid, spec.spacing or (1.0,) * len(grid), strict=True)]
    return [(np.arange(n) + 1) // 2 * max(lengths) / length for n, length in zip(grid, lengths, strict=True)]


def _real_waves(points: int) -> Array:
    """Return the real Fourier basis of a periodic axis, orthonormal under the mean over its points, `(n, n)`, a row each:
    1, then `sqrt(2) sin(k x), sqrt(2) cos(k x)` for `k = 1, 2, ...`; the last row of an even `n` is 1, -1, 1, and so on.
    """
    numbers = (np.arange(points) + 1) // 2
    phases = 2 * np.pi / points * (numbers[:, None] * np.arange(points) % points)
    waves: Array = np.sqrt(2) * np.where(np.arange(points)[:, None] % 2, np.sin(phases), np.cos(phases))
    waves[0] = 1
    if points % 2 == 0:
        waves[-1] = np.cos(phases[-1])  # its sine is zero at every point
    return waves


@dataclass(frozen=True)
class _SpectrumLoss:
    """The loss of :class:`Spectrum`.

    Args:
        energies: Energy spectra of states.
        floor: Share of the mean energy of a shell below which differences are not counted.
    """

    energies: EnergySpectrum
    floor: float

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return self._differences(rollout, references).square().mean()

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        differences = self._differences(rollout, references).flatten()
        return differences / math.sqrt(len(differences))

    def _differences(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Compute the differences of the logarithms, `(B, C, K)`."""
        theirs = self.energies(references)
        least = self.floor * theirs.mean(dim=-1, keepdim=True) + torch.finfo(theirs.dtype).tiny
        differences: torch.Tensor = ((self.energies(rollout) + least) / (theirs + least)).log()
        return differences


class EnergySpectrum:
    """Energies of states in shells of wave numbers, by matrices of real waves: differences of losses pass these without loss of
    digits, which they would not pass complex numbers. The sum over the shells is the mean square over the grid (Parseval).

    Args:
        spec: Spec of the solver, on a periodic grid.
    """

    def __init__(self, spec: SolverSpec) -> None:
        self._waves = [torch.from_numpy(_real_waves(n)) / n for n in spec.state_shape[1:]]
        squares = [np.square(numbers) for numbers in _wave_numbers(spec)]
        norms = np.sqrt(sum(np.meshgrid(*squares, indexing="ij")))
        self._shells = torch.from_numpy(np.rint(norms).astype(np.int64).ravel())

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Compute a mean over the steps: states `(B, T, C, *N)` to energies `(B, C, K)`."""
        found = states
        for axis, waves in enumerate(self._waves, start=3):
            found = (found.movedim(axis, -1) @ waves.to(found).T).movedim(-1, axis)
        energy = found.square().mean(dim=1).flatten(2)
        shells = self._shells.to(energy.device)
        return energy.new_zeros(*energy.shape[:2], int(shells.max()) + 1).index_add(2, shells, energy)
