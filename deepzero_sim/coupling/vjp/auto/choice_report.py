"""Choice of a product, with what it was made by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from deepzero_sim.common.documents import read_json
from deepzero_sim.common.requirements import is_count
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.auto.candidates import IDENTITY, Candidate


@dataclass(frozen=True)
class Trial:
    """Product that was tried, or left out.

    Args:
        name: Product, with its arguments.
        cosine: Mean cosine of its products through all steps of the chains to those measured; None if it was left out.
        left_out: Reason why it was left out; empty if it was tried.
        warned: Warning of it, if its cosine is good nevertheless.
    """

    name: str
    cosine: float | None
    left_out: str = ""
    warned: str = ""

    def __str__(self) -> str:
        name = "the identity" if self.name == str(IDENTITY) else self.name
        if self.cosine is None:
            return f"{name} was left out: {self.left_out}"
        return f"{name} has {self.cosine:.4f}{f', but warned: {self.warned}' if self.warned else ''}"


@dataclass(frozen=True)
class ChoiceReport:
    """Choice of a product; as text, one line.

    Args:
        chosen: Product that was chosen.
        reason: Reason, in words.
        steps: Solver steps of all that was measured, also for products that were not chosen.
        trials: Products that were tried or left out, in that order, the chosen one among them.
    """

    chosen: Candidate
    reason: str
    steps: int = 0
    trials: tuple[Trial, ...] = ()

    def __str__(self) -> str:
        cost = f", {self.steps:,} solver steps to measure" if self.steps else ""
        others = "".join(f"; {trial}" for trial in self.trials if trial.name != str(self.chosen))
        return f"{self.chosen} was chosen: {self.reason}{cost}{others}"

    def as_array(self) -> Array:
        """Write it as the numbers of its bytes in UTF-8, for checkpoints, which hold numbers alone."""
        return np.frombuffer(json.dumps(asdict(self)).encode(), np.uint8).astype(np.float64)

    @classmethod
    def from_array(cls, array: Array) -> ChoiceReport:
        """Restore what :meth:`as_array` wrote.

        Raises:
            ValueError: It wrote something else.
        """
        told = read_json(array.astype(np.uint8).tobytes())
        try:
            trials = tuple(Trial(**trial) for trial in told.pop("trials"))
            report = cls(Candidate(**told.pop("chosen")), trials=trials, **told)
            known = report.chosen.is_known and is_count(report.steps, least=0)
            str(report)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("it is no choice of a product") from error
        if not known:
            raise ValueError(f"{report.chosen} of {report.steps} solver steps is no choice of a product")
        return report
