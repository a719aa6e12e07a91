"""Methods compared simulation by simulation: both start from the same states, so that differences say more than two means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pairing:
    """Errors of a method against another's, simulation by simulation.

    Args:
        difference: Mean of the method's error less the other's; infinite or NaN where a rollout diverged.
        better: Number of simulations in which the method's error is smaller.
        worse: Number of simulations in which it is larger.
        equal: Number of simulations in which it is the same.
        spread: Standard deviation over the simulations of the differences; NaN where one is not finite, or of one simulation.
    """

    difference: float
    better: int
    worse: int
    equal: int
    spread: float = math.nan

    @property
    def is_within_spread(self) -> bool:
        """True if the simulations differ among each other by more than the methods do on average."""
        return 0 < abs(self.difference) < self.spread

    @property
    def simulations(self) -> int:
        """Number of simulations."""
        return self.better + self.worse + self.equal

    @property
    def p(self) -> float:
        """Probability of so uneven a count if either were as likely to be better (exact two-sided sign test, ties left out)."""
        count = self.better + self.worse
        tail = sum(math.comb(count, k) for k in range(min(self.better, self.worse) + 1))
        return min(1.0, 2 * tail / (1 << count))


def pair(errors: Sequence[float], others: Sequence[float]) -> Pairing:
    """Compare errors simulation by simulation; a rollout that diverged has an infinite one.

    Args:
        errors: Mean error of the method in each simulation.
        others: Those of the other method.
    """
    pairs = list(zip(errors, others, strict=True))
    better, worse = (sum(a < b for a, b in pairs), sum(a > b for a, b in pairs))
    difference = math.fsum(errors) / len(pairs) - math.fsum(others) / len(pairs)
    differences = [a - b for a, b in pairs]
    known = len(pairs) > 1 and all(map(math.isfinite, differences))
    spread = statistics.stdev(differences) if known else math.nan
    return Pairing(difference, better, worse, len(pairs) - better - worse, spread)
