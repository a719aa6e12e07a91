"""Losses of single values: squared errors at some or all points, channels and steps, or of means over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.requirements import Words, did_you_mean, is_count, require
from deepzero_sim.coupling.losses.base import Loss, Measure, error_scales
from deepzero_sim.coupling.rollout_loss import RolloutLoss
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec


@final
@dataclass(frozen=True)
class Rollout(Loss):
    """Mean squared error at every step and point, see :class:`~deepzero_sim.RolloutLoss`.

    Args:
        noise: Standard deviation of the noise in each channel, in whose units its errors are counted; None for the standard
            deviation of the channel in the training data.
    """

    noise: Sequence[float] | None = None

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        return _of_points(spec, data, self.noise, data.mask)


@final
@dataclass(frozen=True)
class Terminal(Loss):
    """Mean squared error at the last step of a rollout alone.

    Args:
        noise: Standard deviation of the noise in each channel, as in :class:`Rollout`.
    """

    noise: Sequence[float] | None = None

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        return _OfSteps(_of_points(spec, data, self.noise, data.mask), slice(-1, None))


@final
@dataclass(frozen=True)
class Every(Loss):
    """Mean squared error at every `k`-th step of a rollout: `k, 2 k, ...`.

    Args:
        k: Steps from one that counts to the next.
        noise: Standard deviation of the noise in each channel, as in :class:`Rollout`.

    Raises:
        ConfigError: `k` is not positive.
    """

    k: int
    noise: Sequence[float] | None = None

    def __post_init__(self) -> None:
        require(is_count(self.k), "k of loss every must be a positive number of steps", self.k, "a whole one")

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        return _OfSteps(_of_points(spec, data, self.noise, data.mask), slice(self.k - 1, None, self.k))

    def require_sight(self, steps: int) -> None:
        require(steps >= self.k, f"loss every with k = {self.k} needs rollouts of {self.k} steps at least", steps, _LONGER)


@final
@dataclass(frozen=True)
class Observed(Loss):
    """Mean squared error at the points, channels and steps that are observed; values that the data miss are not.

    Args:
        points: Grid indices of the observed points, a list of `len(N)` numbers for each; all points if None.
        channels: Names or numbers of the observed channels; all of them if None.
        steps: Observed steps of a rollout, counted from 1; all of them if None.
        noise: Standard deviation of the noise in each channel of the solver, as in :class:`Rollout`.

    Raises:
        ConfigError: One of the lists is empty, or no list of steps.
    """

    points: Sequence[Sequence[int]] | None = None
    channels: Sequence[str | int] | None = None
    steps: Sequence[int] | None = None
    noise: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for key in ("points", "channels", "steps"):
            value = getattr(self, key)
            is_list = value is None or (isinstance(value, Sequence | np.ndarray) and not isinstance(value, str))
            require(is_list and (value is None or len(value) > 0), f"{key} of loss observed must be a list, or left out", value)
        good = self.steps is None or all(is_count(step) for step in self.steps)
        require(good, "steps of loss observed must be numbers of steps, from 1 on", self.steps)

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        seen = data.mask & _channels_seen(spec, self.channels) & _points_seen(spec, self.points)
        require(bool(seen.any()), "loss observed must see a value of the solver's", Words("padding only"), "name other points")
        measure = _of_points(spec, data, self.noise, seen, unobserved=data.unobserved)
        return measure if self.steps is None else _OfSteps(measure, [step - 1 for step in sorted(set(self.steps))])

    @property
    def takes_unobserved(self) -> bool:
        return True

    def require_sight(self, steps: int) -> None:
        last = 1 if self.steps is None else max(self.steps)
        require(steps >= last, f"loss observed with step {last} needs rollouts of {last} steps at least", steps, _LONGER)


@final
@dataclass(frozen=True)
class TimeMean(Loss):
    """Mean squared error of each point's mean over the steps of a rollout, `1/T sum_t s_t`.

    Args:
        noise: Standard deviation of the noise in each channel, as in :class:`Rollout`.
    """

    noise: Sequence[float] | None = None

    def build(self, spec: SolverSpec, data: Trajectories) -> Measure:
        return _OfMean(_of_points(spec, data, self.noise, data.mask))


_LONGER = "unroll more of them"


def _of_points(
    spec: SolverSpec,
    data: Trajectories,
    noise: Sequence[float] | None,
    seen: NDArray[np.bool_],
    unobserved: bool = False,
) -> RolloutLoss:
    """Return the mean squared error over the points that are seen, bool `(C, *N)`."""
    return RolloutLoss(error_scales(spec, data, noise), torch.from_numpy(seen), unobserved)


def _channels_seen(spec: SolverSpec, channels: Sequence[str | int] | None) -> NDArray[np.bool_]:
    """Return where the observed channels are, bool `(C, 1, ...)`."""
    seen = np.zeros(spec.state_shape[0], bool)
    for channel in range(len(seen)) if channels is None else channels:
        seen[_number_of(channel, spec)] = True
    return seen.reshape(-1, *[1] * (len(spec.state_shape) - 1))


def _number_of(channel: str | int, spec: SolverSpec) -> int:
    names = spec.channel_names
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    if is_count(channel, 0) and int(channel) < len(names):
        return int(channel)
    meant = did_you_mean(channel, names) if isinstance(channel, str) else ""
    raise ConfigError(
        f"loss observed must name channels of solver {spec.name!r}, {', '.join(names)}, or their numbers from 0, not "
        f"{channel!r}{meant}."
    )


def _points_seen(spec: SolverSpec, points: Sequence[Sequence[int]] | None) -> NDArray[np.bool_]:
    """Return where the observed points are, bool `N`."""
    grid = spec.state_shape[1:]
    if points is None:
        return np.ones(grid, bool)
    seen = np.zeros(grid, bool)
    for point in points:
        place = tuple(point) if isinstance(point, Sequence | np.ndarray) and not isinstance(point, str) else (point,)
        inside = len(place) == len(grid) and all(is_count(i, 0) and i < n for i, n in zip(place, grid, strict=True))
        expected = f"points of loss observed must be indices on the grid of solver {spec.name!r}, {grid} from 0 on"
        require(inside, expected, Words(point), "leave out what lies outside")
        seen[tuple(map(int, place))] = True
    return seen


@dataclass(frozen=True)
class _OfSteps:
    """A measure of some steps of a rollout.

    Args:
        measure: Measure of what is left.
        steps: Steps that it sees, counted from 0.
    """

    measure: RolloutLoss
    steps: slice | list[int]

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return self.measure(rollout[:, self.steps], references[:, self.steps])

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return self.measure.residuals(rollout[:, self.steps], references[:, self.steps])


@dataclass(frozen=True)
class _OfMean:
    """A measure of the mean over the steps of a rollout.

    Args:
        measure: Measure of a rollout of one step.
    """

    measure: RolloutLoss

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return self.measure(rollout.mean(dim=1, keepdim=True), references.mean(dim=1, keepdim=True))

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return self.measure.residuals(rollout.mean(dim=1, keepdim=True), references.mean(dim=1, keepdim=True))
