"""Answers to queries, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from deepzero_sim.solver.failure_policy import NOTHING, Account, Incident, total


@dataclass(frozen=True)
class Answers:
    """Answers to queries, and what they cost.

    Args:
        changes: Changes of the loss, `l(theta + step v) - l(theta)`, `(P,)`, float64, in the order asked; 0 where a query was
            dropped.
        loss: Loss of the unperturbed network, `l(theta)`.
        solver_steps: Number of states advanced by one step to compute the changes, retries included.
        dropped: Places of queries whose solver steps failed, and which the failure policy leaves out.
        incidents: Failures on the way.
    """

    changes: torch.Tensor
    loss: float
    solver_steps: int
    dropped: tuple[int, ...] = ()
    incidents: tuple[Incident, ...] = ()

    @property
    def losses(self) -> torch.Tensor:
        """Losses `l(theta + step v)`, `(P,)`, float64."""
        return self.loss + self.changes

    @property
    def account(self) -> Account:
        """Cost of the answers."""
        return Account(self.solver_steps, self.incidents)


def concatenate(answers: Sequence[Answers], retries: Account = NOTHING) -> Answers:
    """Put the answers to several questions one after the other.

    Args:
        answers: Answers to each question, one or more.
        retries: Cost that belongs to no question by itself.
    """
    dropped: list[int] = []
    before = 0
    for one in answers:
        dropped += [before + place for place in one.dropped]
        before += len(one.changes)
    account = retries + total(one.account for one in answers)
    changes = torch.cat([one.changes for one in answers])
    return Answers(changes, answers[0].loss, account.steps, tuple(dropped), account.incidents)


def combine(first: Answers, second: Answers, places: Collection[int]) -> Answers:
    """Combine the answers to one question, of which a part was answered elsewhere.

    Args:
        first: Answers of all places but some.
        second: Answers of these.
        places: Places that `second` answers.
    """
    changes = first.changes.clone()
    changes[list(places)] = second.changes[list(places)]
    dropped = {p for p in first.dropped if p not in places} | {p for p in second.dropped if p in places}
    account = first.account + second.account
    return Answers(changes, first.loss, account.steps, tuple(sorted(dropped)), account.incidents)
