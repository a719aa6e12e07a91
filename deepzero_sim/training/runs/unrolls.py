"""Lengths of rollouts in training: the same for all updates, or growing from one number of updates to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, TypeAlias

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.errors import ConfigError


def _require_unroll(key: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        require(is_count(value, most=2**31 - 1), f"{key} must be a positive number below 2**31", value)
        return
    counts = len(value) > 0 and all(is_count(number, most=2**31 - 1) for pair in value.items() for number in pair)
    good = counts and list(value) == sorted(value)
    expected = f"{key} must have positive numbers of updates by growing numbers of steps, such as {{1: 500, 8: 1000}}"
    require(good, expected, dict(value))


#: Solver steps of a rollout, or numbers of updates by solver steps, one after the other.
Unroll: TypeAlias = Annotated[int | dict[int, int], _require_unroll]


@dataclass(frozen=True)
class Unrolls:
    """Lengths of rollouts over the updates of a training.

    Args:
        parts: Solver steps of a rollout with the number of the first update that takes so many, in their order.
        planned: Number of updates that the settings plan; None if they leave it open.
    """

    parts: tuple[tuple[int, int], ...]
    planned: int | None = None

    @classmethod
    def of(cls, unroll: int | Mapping[int, int]) -> Unrolls:
        """Return the lengths that a setting says."""
        if not isinstance(unroll, Mapping):
            return cls(((unroll, 0),))
        ends = list(accumulate(unroll.values()))
        return cls(tuple(zip(unroll, (0, *ends[:-1]), strict=True)), ends[-1])

    @property
    def longest(self) -> int:
        """Largest number of solver steps of a rollout."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of solver steps of a rollout, in their order."""
        return tuple(steps for steps, _ in self.parts)

    def at(self, update: int) -> int:
        """Return the solver steps of a rollout at an update, from 0 on; after the planned ones, those of the last."""
        return next(steps for steps, first in reversed(self.parts) if first <= update)

    def total(self, updates: int) -> int:
        """Count the solver steps of one rollout for each of so many updates."""
        begun = [(steps, min(first, updates)) for steps, first in self.parts]
        ends = [*(first for _, first in begun[1:]), updates]
        return sum(steps * (end - first) for (steps, first), end in zip(begun, ends, strict=True))


def planned_updates(unroll: int | Mapping[int, int], updates: int, default: int) -> int:
    """Return the number of updates: as many as a growing unroll plans, unless more are asked for.

    Args:
        unroll: Setting of that name.
        updates: Number of updates as set.
        default: Number that stands where nobody set one.

    Raises:
        ConfigError: Fewer are asked for than are planned.
    """
    planned = Unrolls.of(unroll).planned
    if planned is None:
        return updates
    if updates not in (default, planned) and updates < planned:
        raise ConfigError(
            f"unroll plans {planned} updates, but updates says {updates}: leave out updates, or plan fewer of them."
        )
    return planned if updates == default else updates
