"""A scenario parameter that is trained, as settings describe it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepzero_sim.common.requirements import Words, require, require_flag
from deepzero_sim.common.types import is_number


@dataclass(frozen=True)
class TrainedParameter:
    """A scenario parameter that is trained.

    Args:
        start: Value that training begins with; None for that of the data, their mean if it is shared.
        least: Lower bound, which is never reached; None for none.
        most: Upper bound, which is never reached; None for none.
        per_simulation: True for a value of its own for every simulation of the training data, False for one of all.
        pace: Factor by which the parameter learns faster than a weight of a network. With a learning rate of 1e-3 and the
            default of 10, an update of Adam changes the parameter by up to 1 %.

    Raises:
        ConfigError: A value is of another kind, or the bounds exclude the start.
    """

    start: float | None = None
    least: float | None = None
    most: float | None = None
    per_simulation: bool = False
    pace: float = 10.0

    def __post_init__(self) -> None:
        for key in ("start", "least", "most"):
            value = getattr(self, key)
            fits = value is None or (is_number(value) and math.isfinite(value))
            require(fits, f"{key} of a trained parameter must be a finite number, or left out", value)
        require_flag(self.per_simulation, "per_simulation of a trained parameter")
        fits = is_number(self.pace) and 0 < self.pace < math.inf
        require(fits, "pace of a trained parameter must be a positive number", self.pace)
        low, high = self.bounds
        require(low < high, "least of a trained parameter must lie below its most", Words(f"{low:g} and {high:g}"))
        if self.start is not None:
            self.require_within("a trained parameter", self.start)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most value, infinite for none."""
        return (-math.inf if self.least is None else self.least), (math.inf if self.most is None else self.most)

    def require_within(self, what: str, start: float) -> None:
        """Refuse bounds that exclude the start.

        Args:
            what: Name of the parameter, for messages.
            start: Value that training begins with.

        Raises:
            ConfigError: They do.
        """
        low, high = self.bounds
        expected = f"{what} must start between its bounds, {low:g} and {high:g}"
        require(low < start < high, expected, start, "give it another start, or wider bounds")
