"""The queries of a chunk on their way through a rollout: one whose solver steps fail is left out, all others answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.errors import SolverError
from deepzero_sim.oracle.queries import Perturbation, named
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy
from deepzero_sim.solver.stepping import advance, leave_out


class Surviving:
    """Advances the states of a chunk's queries, `(P * B, C, *N)`, query by query.

    A query that was left out goes on as the network as it is does, so that all arrays keep their shapes, and every other query
    is computed as if nothing had happened.

    Args:
        solver: whose steps.
        policy: what is done about failures.
        perturbation: `P` queries.
        unperturbed: by step of the rollout after the first, what the solver makes of the network's own states, `(B, C, *N)`.
        only: places of the queries that are asked for; None for all.

    Attributes:
        dropped: places of the queries that were left out.
        log: what failed.
        solver_steps: states advanced.
    """

    def __init__(
        self,
        solver: Solver,
        policy: FailurePolicy,
        perturbation: Perturbation,
        unperturbed: Sequence[torch.Tensor],
        only: Collection[int] | None = None,
    ) -> None:
        self._solver, self._policy, self._perturbation = solver, policy, perturbation
        self._unperturbed = iter(unperturbed)
        self.dropped = set() if only is None else set(range(len(perturbation))) - set(only)
        self.log = FailureLog()
        self.solver_steps = 0

    def step(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        """One solver step of all that are left.

        Raises:
            SolverError: of a query, if the policy ends the run.
        """
        base = next(self._unperturbed)
        rows = self._rows(len(base))
        given = states if len(rows) == len(states) else states[rows]
        scenario = params if params is None or len(rows) == len(states) else params[rows]
        result = advance(
            self._solver,
            to_array(given),
            to_array_or_none(scenario),
            self._policy,
            self.log,
            lambda place: self._named(rows[place] // len(base)),
        )
        self.solver_steps += result.calls
        for row, error in sorted(result.failures.items()):
            self._lose(rows[row] // len(base), error)
        advanced = torch.from_numpy(result.states).to(states.device)
        if not self.dropped:
            return advanced
        whole = base.to(states).repeat(len(self._perturbation), *[1] * (base.dim() - 1))
        left = [i for i, row in enumerate(rows) if row // len(base) not in self.dropped]
        whole[[rows[i] for i in left]] = advanced[left]
        return whole

    def _rows(self, size: int) -> list[int]:
        """Places of the states of queries that are left."""
        left = [p for p in range(len(self._perturbation)) if p not in self.dropped]
        return [p * size + b for p in left for b in range(size)]

    def _named(self, place: int) -> str:
        return f"at {named(self._perturbation, place)}"

    def _lose(self, place: int, error: SolverError) -> None:
        if place in self.dropped:  # by another of its states
            return
        leave_out(error, self._policy, self.log, self._named(place))
        self.dropped.add(place)
