"""Queries whose worker died: asked again one task at a time, to find the one that is the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import torch

from deepzero_sim.errors import WorkerLostError
from deepzero_sim.execution.executors import revive, run_in_order
from deepzero_sim.oracle.answers import Answers, joined, merged
from deepzero_sim.oracle.queries import Perturbation, named
from deepzero_sim.solver.failure_policy import incident

#: Answers chunks; of every chunk only some places, if they are told.
Task = Callable[..., Answers]


def answered_one_by_one(executor: Executor, task: Task, chunks: Sequence[Perturbation], loss: float) -> Answers:
    """The answers to chunks, one of which ended its worker: the queries that do so are dropped, all others answered.

    Args:
        executor: whose workers can be started anew.
        task: answers a list of chunks.
        chunks: one or more.
        loss: of the network as it is.

    Raises:
        Exception: what a query raised.
    """
    return joined([_answered(executor, task, chunk, range(len(chunk)), loss) for chunk in chunks])


def _answered(executor: Executor, task: Task, chunk: Perturbation, places: range, loss: float) -> Answers:
    """The answers of some places of a chunk, by halves where they end a worker."""
    only = None if len(places) == len(chunk) else tuple(places)
    revive(executor)
    (outcome,) = run_in_order(executor, functools.partial(task, only=only), [[chunk]])
    if isinstance(outcome, Answers):
        return outcome
    if not isinstance(outcome, WorkerLostError):
        raise outcome
    if len(places) == 1:
        nothing = torch.zeros(len(chunk), dtype=torch.float64)
        lost = incident(outcome, "dropped", f"at {named(chunk, places[0])}")
        return Answers(nothing, loss, 0, tuple(places), (lost,))
    middle = len(places) // 2
    first, second = (_answered(executor, task, chunk, half, loss) for half in (places[:middle], places[middle:]))
    return merged(first, second, places[middle:])
