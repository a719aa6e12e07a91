"""The error that methods are compared by: absolute where all channels have one unit, relative where they do not.

Relative is also the error by which training chooses networks: each channel counts by its own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepzero_sim.coupling.evaluation import Evaluation, mean_error
from deepzero_sim.datasets.units import with_unit
from deepzero_sim.solver.spec import SolverSpec


@dataclass(frozen=True)
class Measure:
    """Error that methods are compared by.

    Args:
        name: Name in tables, `MAE` or `relative error`.
        words: Name in sentences and figures.
        unit: Unit; empty if it has none, or nobody said which.
    """

    name: str
    words: str
    unit: str = ""

    @property
    def is_relative(self) -> bool:
        """True if each channel's error is divided by its standard deviation in the reference data."""
        return self is RELATIVE

    @property
    def head(self) -> str:
        """Name with the unit, for the head of a column."""
        return with_unit(self.name, self.unit)

    @property
    def label(self) -> str:
        """Words with the unit, for the axis of a figure."""
        return with_unit(self.words, self.unit)

    def errors(self, evaluation: Evaluation) -> torch.Tensor:
        """Return errors of every simulation at every step, `(S, T)`; infinite where a rollout diverged."""
        return evaluation.relative_errors if self.is_relative else evaluation.errors

    def mean(self, evaluation: Evaluation) -> float:
        """Return the mean error over simulations and steps."""
        return evaluation.relative if self.is_relative else evaluation.mae

    def spread(self, evaluation: Evaluation) -> float:
        """Return the standard deviation over the simulations of their mean errors."""
        return evaluation.relative_std if self.is_relative else evaluation.mae_std

    def of_simulations(self, evaluation: Evaluation) -> list[float]:
        """Return the mean error of each simulation over the steps."""
        means: list[float] = mean_error(self.errors(evaluation), 1).tolist()
        return means


RELATIVE = Measure("relative error", "mean relative error")


def measure_of(spec: SolverSpec) -> Measure:
    """Return the measure that mixes no units: the mean absolute error of a single channel, or of channels that share a unit.

    Channels of which nobody says the unit may be of any: a temperature in mK would outweigh all others.

    Args:
        spec: Spec of the solver.
    """
    units = _units(spec)
    is_absolute = len(units) == 1 and (spec.state_shape[0] == 1 or units != {""})
    return Measure("MAE", "mean absolute error", units.pop()) if is_absolute else RELATIVE


def explain_measure(spec: SolverSpec) -> str:
    """Say why errors are relative, and what that is; empty if they are not.

    Args:
        spec: Spec of the solver.
    """
    if not measure_of(spec).is_relative:
        return ""
    units = _units(spec)
    why = "have no units (channel_units of the solver's spec)" if units == {""} else "have different units"
    return (
        f"The channels {why}, so that each counts in its own size: the relative error is the mean over channels of each one's "
        "mean absolute error divided by its standard deviation in the reference data. Training chooses networks by it, too."
    )


def _units(spec: SolverSpec) -> set[str]:
    return set(spec.channel_units or [""])
