"""What queries gave and cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from deepzero_sim.solver.failure_policy import Incident


@dataclass(frozen=True)
class Answers:
    """What queries gave and cost.

    Args:
        changes: `l(theta + step v) - l(theta)`, `(P,)`, float64, in the order asked; 0 where a query was dropped.
        loss: `l(theta)`.
        solver_steps: states advanced by one step to compute the changes.
        dropped: places of queries whose solver steps failed, and which the failure policy leaves out.
        incidents: failures on the way.
    """

    changes: torch.Tensor
    loss: float
    solver_steps: int
    dropped: tuple[int, ...] = ()
    incidents: tuple[Incident, ...] = ()

    @property
    def losses(self) -> torch.Tensor:
        """`l(theta + step v)`, `(P,)`, float64."""
        return self.loss + self.changes


def joined(answers: Sequence[Answers]) -> Answers:
    """The answers to several questions, one after the other."""
    dropped: list[int] = []
    before = 0
    for one in answers:
        dropped += [before + place for place in one.dropped]
        before += len(one.changes)
    return Answers(
        torch.cat([one.changes for one in answers]),
        answers[0].loss,
        sum(one.solver_steps for one in answers),
        tuple(dropped),
        tuple(incident for one in answers for incident in one.incidents),
    )


def merged(first: Answers, second: Answers, places: Collection[int]) -> Answers:
    """The answers to one question, of which a part was answered elsewhere.

    Args:
        first: of all places but some.
        second: of these.
        places: which.
    """
    changes = first.changes.clone()
    changes[list(places)] = second.changes[list(places)]
    dropped = {p for p in first.dropped if p not in places} | {p for p in second.dropped if p in places}
    steps = first.solver_steps + second.solver_steps
    return Answers(changes, first.loss, steps, tuple(sorted(dropped)), first.incidents + second.incidents)
