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
        residuals: Changes of the residuals of the loss, `(P, m)`, 0 where a query was dropped; None if nobody asked.
    """

    changes: torch.Tensor
    loss: float
    solver_steps: int
    dropped: tuple[int, ...] = ()
    incidents: tuple[Incident, ...] = ()
    residuals: torch.Tensor | None = None

    @property
    def losses(self) -> torch.Tensor:
        """Losses `l(theta + step v)`, `(P,)`, float64."""
        return self.loss + self.changes

    @property
    def answered(self) -> torch.Tensor:
        """Queries that were not dropped, bool `(P,)`."""
        answered = torch.ones(len(self.changes), dtype=torch.bool)
        answered[list(self.dropped)] = False
        return answered

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
    return Answers(changes, answers[0].loss, account.steps, tuple(dropped), account.incidents, _concatenate_residuals(answers))


def _concatenate_residuals(answers: Sequence[Answers]) -> torch.Tensor | None:
    """Put changes of residuals one after the other, 0 for those that have none: their worker was lost with them."""
    known = next((one.residuals for one in answers if one.residuals is not None), None)
    if known is None:
        return None
    return torch.cat(
        [one.residuals if one.residuals is not None else known.new_zeros(len(one.changes), known.shape[1]) for one in answers]
    )


def combine(first: Answers, second: Answers, places: Collection[int]) -> Answers:
    """Combine the answers to one question, of which a part was answered elsewhere.

    Args:
        first: Answers of all places but some.
        second: Answers of these.
        places: Places that `second` answers.
    """
    changes = first.changes.clone()
    changes[list(places)] = second.changes[list(places)]
    residuals = second.residuals if first.residuals is None else first.residuals.clone()
    if first.residuals is not None and second.residuals is not None:
        assert residuals is not None
        residuals[list(places)] = second.residuals[list(places)]
    dropped = {p for p in first.dropped if p not in places} | {p for p in second.dropped if p in places}
    account = first.account + second.account
    return Answers(changes, first.loss, account.steps, tuple(sorted(dropped)), account.incidents, residuals)
