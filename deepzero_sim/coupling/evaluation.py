"""Errors of a corrected rollout against its reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common import machine
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array, to_array, to_array_or_none
from deepzero_sim.coupling.loop import SolverLoop, as_tensor
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories, as_array
from deepzero_sim.errors import ConfigError, DataError, SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, count_failures
from deepzero_sim.solver.stepping import step_with_policy


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a rollout.

    Args:
        errors: Mean absolute error over the active points, of every simulation at every step, `(S, T)`; infinite from the step
            on at which a rollout left the finite numbers; NaN where nothing was observed. Means of errors leave these out.
        rollout: Corrected trajectories, `(S, T, C, *N)`.
        solver_steps: Number of states advanced by one step.
        seconds: Seconds that the rollout took.
        failures: Number of failures of solver steps, by kind and what was done.
        channel_errors: Mean absolute error over each channel's active points, `(S, T, C)`, infinite where `errors` is; NaN of
            a channel without active points.
        scales: Standard deviation of each channel in the reference data, `(C,)`; NaN of a channel that is constant there, by
            which no error can be divided.
    """

    errors: torch.Tensor
    rollout: torch.Tensor
    solver_steps: int
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)
    channel_errors: torch.Tensor = field(kw_only=True)
    scales: torch.Tensor = field(kw_only=True)

    def __repr__(self) -> str:
        """Show the errors in a line; the numbers are in the fields."""
        simulations, steps = self.errors.shape
        channels = ", ".join(f"{error:.3g}" for error in self.channel_mae.tolist())
        return (
            f"Evaluation({simulations} simulations of {steps} steps: relative error {self.relative:.3g}, mean absolute error "
            f"of each channel {channels}; {self.solver_steps} solver steps in {self.seconds:.2g} s)"
        )

    @property
    def given_up(self) -> torch.Tensor:
        """Flag of each simulation that diverged, or failed and was given up, bool `(S,)`."""
        return self.errors.isposinf().any(dim=1)

    @property
    def mae(self) -> float:
        """Mean absolute error over simulations, steps and active points."""
        return float(mean_error(self.errors))

    @property
    def mae_std(self) -> float:
        """Standard deviation over the simulations of their mean errors."""
        return _spread(self.errors)

    @property
    def channel_mae(self) -> torch.Tensor:
        """Mean absolute error of each channel over simulations, steps and its active points, `(C,)`."""
        nothing = self.channel_errors.isnan().flatten(0, 1)
        partly = bool((nothing.any(dim=0) & ~nothing.all(dim=0)).any())
        return self.channel_errors.nanmean(dim=(0, 1)) if partly else self.channel_errors.mean(dim=(0, 1))

    @property
    def relative_errors(self) -> torch.Tensor:
        """Mean over the channels of each one's error, divided by its standard deviation in the reference data, `(S, T)`."""
        return (self.channel_errors / self.scales).nanmean(dim=2)

    @property
    def relative(self) -> float:
        """Mean relative error over simulations and steps; NaN if all channels are constant in the reference data."""
        return float(mean_error(self.relative_errors))

    @property
    def relative_std(self) -> float:
        """Standard deviation over the simulations of their mean relative errors."""
        return _spread(self.relative_errors)


def _spread(errors: torch.Tensor) -> float:
    """Compute the standard deviation over the simulations of their mean errors; infinite if one of them is."""
    if bool(errors.isposinf().any()):
        return float("inf")
    means = mean_error(errors, 1)
    return float(means[~means.isnan()].std(correction=0)) if bool(errors.isnan().any()) else float(means.std(correction=0))


def mean_error(errors: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Compute the mean of errors over axes; of what was observed, if NaN stand for the rest."""
    return errors.nanmean(dim=dim) if bool(errors.isnan().any()) else errors.mean(dim=dim)


def evaluate(
    loop: SolverLoop,
    frames: Trajectories | torch.Tensor | Array | str | Path | DataSource,
    params: torch.Tensor | Array | None = None,
    active: torch.Tensor | NDArray[np.bool_] | None = None,
    steps: int | None = None,
) -> Evaluation:
    """Roll out from the first frame of every simulation and compare with the following ones.

    A simulation that diverges has an infinite error from there on. One that fails in another way ends the evaluation, or is
    given up likewise, as the loop's failure policy says.

    Args:
        loop: Solver and corrector.
        frames: Frames `(S, T, C, *N)`, at least `steps + 1` of them, or the trajectories that hold them with parameters and
            mask, or the path of their file, perhaps with what has to be said of it.
        params: Scenario parameters `(S, K)`; those of the trajectories, or none, if None.
        active: Points that count, bool `(C, *N)`; those of the trajectories, or of the solver's mask, if None.
        steps: Number of steps; all that the frames allow if None.

    Raises:
        ConfigError: No steps are asked for.
        DataError: There are too few frames, or they are not those of the solver.
        SolverError: The solver failed, and the failure policy ends the evaluation.
    """
    if params is None:
        loop.require_known_params()
    data = _as_trajectories(loop, frames, params, active)
    return measure_errors(loop, read_first_frames(data, steps), data.scales()[0])


def read_first_frames(data: Trajectories, steps: int | None) -> Trajectories:
    """Read the frames that an evaluation of so many steps needs; all of them if None.

    Raises:
        ConfigError: No steps are asked for.
        DataError: There are too few frames, or too many for this machine's memory.
    """
    steps = data.frames.shape[1] - 1 if steps is None else steps
    if steps < 1:
        raise ConfigError(f"an evaluation needs a positive number of steps, not {steps}.")
    if data.frames.shape[1] <= steps:
        raise DataError(
            f"{steps} steps of evaluation need {steps + 1} frames, the data have {data.frames.shape[1]}: evaluate fewer steps."
        )
    _require_memory(data, steps)
    return replace(data, frames=data.frames[:, : steps + 1])


def _require_memory(data: Trajectories, steps: int) -> None:
    """Refuse to read more frames from disk than can be compared in memory: rollouts and their errors take as much again."""
    needed = 4 * data.frames.nbytes // data.frames.shape[1] * (steps + 1) if data.on_disk else 0
    if needed > machine.memory():
        raise DataError(
            f"an evaluation of {steps} steps of {data.frames.shape[0]} simulations would take {needed / 2**30:,.0f} GiB, more "
            f"than this machine's memory of {machine.memory() / 2**30:,.0f} GiB: evaluate fewer steps, or some of the "
            "simulations (a path of data may have simulations beside it)."
        )


def _as_trajectories(
    loop: SolverLoop,
    frames: Trajectories | torch.Tensor | Array | str | Path | DataSource,
    params: torch.Tensor | Array | None,
    active: torch.Tensor | NDArray[np.bool_] | None,
) -> Trajectories:
    """Bring what :func:`evaluate` takes into one form."""
    spec = loop.solver.spec
    if isinstance(frames, str | Path | DataSource | Trajectories):
        data = open_trajectories(frames, spec)
    else:
        array = as_array(frames)
        if array.shape[2:] != spec.state_shape:
            raise DataError(
                f"an evaluation needs frames (S, T, C, *N), simulations and times of states of shape {spec.state_shape}, not "
                f"an array of shape {array.shape}: use frames of solver {spec.name!r}."
            )
        data = Trajectories(array, np.empty((len(array), 0), dtype=array.dtype), spec.active())
        if not np.isfinite(array).all():
            raise DataError(
                "an evaluation needs finite frames, not NaN or infinity among them: no error could be told from theirs; leave "
                "such simulations out."
            )
    if params is not None:
        data = replace(data, params=as_array(params))
    return data if active is None else replace(data, mask=as_array(active))


def measure_errors(
    loop: SolverLoop, data: Trajectories, scales: Array, report: Callable[[], None] = lambda: None
) -> Evaluation:
    """Roll out from the first frames of trajectories to their last ones, and compare.

    Args:
        loop: Solver and corrector.
        data: First frames and references, two frames or more of every simulation.
        scales: Standard deviation of each channel in the reference data, `(C,)`.
        report: Function called after every step.

    Raises:
        SolverError: The solver failed, and the failure policy ends the evaluation.
    """
    frames, mask = as_tensor(np.asarray(data.frames)), as_tensor(data.mask)
    require_data(
        bool(data.complete[:, 0].all()),
        "an evaluation begins at the first frame of every simulation, but some have values that were not observed: give these "
        "frames in full.",
    )
    params = as_tensor(data.params) if data.params.shape[1] else None
    started = time.perf_counter()
    with torch.no_grad(), single_threaded():
        rollout, account = roll_out(loop, frames[:, 0], params, frames.shape[1] - 1, report)
    differences = (rollout - frames[:, 1:]).abs()
    if data.unobserved:
        errors, channel_errors = _errors_of_observed(differences, rollout, mask)
    else:
        errors = differences[:, :, mask].mean(dim=2)
        errors = torch.where(errors.isfinite(), errors, torch.inf).double()
        channels = [differences[:, :, c, on].mean(dim=2, dtype=torch.float64) for c, on in enumerate(mask)]
        channel_errors = torch.stack(channels, dim=2)
        channel_errors[~errors.isfinite()] = torch.inf
    channel_errors[:, :, ~mask.flatten(1).any(dim=1)] = torch.nan
    return Evaluation(
        errors,
        rollout,
        account.steps,
        time.perf_counter() - started,
        count_failures(account.incidents),
        channel_errors=channel_errors,
        scales=_scales_or_nan(scales, frames, mask),
    )


def _errors_of_observed(
    differences: torch.Tensor, rollout: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return errors `(S, T)` and those of channels `(S, T, C)`, NaN where nothing was observed, infinite where it diverged.

    Args:
        differences: Absolute differences, `(S, T, C, *N)`, NaN where the reference is.
        rollout: Rollout, `(S, T, C, *N)`.
        mask: True where a state holds values, bool `(C, *N)`.
    """
    diverged = ~rollout[:, :, mask].isfinite().all(dim=2)
    errors = differences[:, :, mask].nanmean(dim=2).double()
    channels = torch.stack([differences[:, :, c, on].double().nanmean(dim=2) for c, on in enumerate(mask)], dim=2)
    errors[diverged], channels[diverged] = torch.inf, torch.inf
    return errors, channels


def _scales_or_nan(scales: Array, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return scales `(C,)` with NaN for channels that vary by no more than rounding: no error can be divided by that."""
    found = torch.from_numpy(np.array(scales, dtype=np.float64))
    for c, on in enumerate(mask):
        values = frames[:, :, c, on]
        values = values[~values.isnan()]
        if not values.numel() or _is_constant(values, float(found[c])):
            found[c] = torch.nan
    return found


def _is_constant(values: torch.Tensor, scale: float) -> bool:
    """Tell whether values are constant but for rounding; a scale of 1 stands for a standard deviation of zero, too."""
    low, high = float(values.min()), float(values.max())
    return (scale == 1 and low == high) or scale <= 4 * torch.finfo(values.dtype).eps * max(abs(low), abs(high))


def roll_out(
    loop: SolverLoop,
    states: torch.Tensor,
    params: torch.Tensor | None,
    steps: int,
    report: Callable[[], None] = lambda: None,
) -> tuple[torch.Tensor, Account]:
    """Roll out all simulations, infinite from where one was given up, and tell what it took.

    Args:
        loop: Solver and corrector.
        states: First states `(S, C, *N)`.
        params: Scenario parameters `(S, K)` or None.
        steps: Number of steps.
        report: Function called after every step.
    """
    rollout = states.new_full((len(states), steps, *states.shape[1:]), torch.inf)
    left, account = torch.arange(len(states)), Account()
    params = loop.scenario(states, params)
    for step in range(steps):
        scenario = None if params is None else params[left]
        taken, output = loop.enter(states, scenario)
        result = step_with_policy(loop.layer.solver, to_array(taken), to_array_or_none(scenario), loop.on_failure)
        account += result.account
        for _, error in sorted(result.failures.items()):
            account = account.with_incident(_require_expendable(error, loop.on_failure), "lost")
        good = [i for i in range(len(left)) if i not in result.failures]
        left = left[good]
        if not len(left):
            break
        advanced, output = torch.from_numpy(result.states[good]), None if output is None else output[good]
        states = loop.leave(advanced, output, None if scenario is None else scenario[good])
        rollout[left, step] = states
        report()
    return rollout, account


def _require_expendable(error: SolverError, policy: FailurePolicy) -> SolverError:
    """Raise an error unless its simulation may be given up; an infinite error is the honest figure of one that diverged."""
    if not error.diverged and not policy.response(error).drop:
        raise error
    return error
