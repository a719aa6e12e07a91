"""Chunks of queries, dealt out to the workers of an executor, in portions that a killed run resumes from."""

from __future__ import annotations

import bisect
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeAlias

import torch

from deepzero_sim.errors import WorkerLostError
from deepzero_sim.execution.tasks import can_revive, revive, run_in_order
from deepzero_sim.oracle.answers import Answers, combine, concatenate
from deepzero_sim.oracle.ledger import Ledger, Portion
from deepzero_sim.oracle.queries import Perturbation, name_query
from deepzero_sim.solver.failure_policy import FailurePolicy, Incident, incident
from deepzero_sim.solver.lost_workers import WorkerRetries

#: Shares of a worker's part of a question that its tasks take, one after the other: ever less, so that workers end together
#: however well their speed was known, and few of them, since they take time to be sent.
SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16)

#: Function that answers chunks, here or in a worker; of every chunk only the places that `only` says, if it does.
Task: TypeAlias = Callable[..., Answers]


class _Asker(Protocol):
    """An oracle, as far as dealing out needs to know it."""

    executor: Executor
    on_failure: FailurePolicy


def deal_in_portions(
    asker: _Asker, task: Task, chunks: Sequence[Perturbation], costs: Sequence[float], loss: float, ledger: Ledger
) -> Answers:
    """Answer chunks, a portion after the other, each kept in the ledger; what was answered before a kill is read from there.

    Args:
        asker: Oracle whose executor and failure policy count.
        task: Function that answers a list of chunks.
        chunks: All chunks.
        costs: Cost of each chunk, in any unit.
        loss: Loss of the unperturbed network.
        ledger: File of the answers.
    """
    portions = ledger.begin(loss, sum(map(len, chunks)))
    answers = [_answers_of(portion, loss) for portion in portions]
    first = sum(portion.chunks for portion in portions)
    while first < len(chunks):
        end = first + ledger.size_of_next(costs[first:])
        started = time.perf_counter()
        answers.append(deal(asker, task, chunks[first:end], costs[first:end], loss))
        seconds = time.perf_counter() - started
        if end < len(chunks):  # otherwise the gradient is there in a moment
            ledger.append(_portion_of(end - first, answers[-1]), sum(costs[first:end]), seconds)
        first = end
    return concatenate(answers)


def _portion_of(chunks: int, answers: Answers) -> Portion:
    incidents = [list(one) for one in answers.incidents]
    return Portion(chunks, answers.changes.tolist(), answers.solver_steps, list(answers.dropped), incidents)


def _answers_of(portion: Portion, loss: float) -> Answers:
    changes = torch.tensor(portion.changes, dtype=torch.float64)
    incidents = tuple(Incident(*one) for one in portion.incidents)
    return Answers(changes, loss, portion.solver_steps, tuple(portion.dropped), incidents)


def deal(asker: _Asker, task: Task, chunks: Sequence[Perturbation], costs: Sequence[float], loss: float) -> Answers:
    """Answer chunks, dealt out to the executor's workers; see :func:`deal_in_portions` for the arguments."""
    # an executor that does not tell its size is taken to have four workers
    bundles = bundle(chunks, costs, getattr(asker.executor, "_max_workers", 4))
    retries = WorkerRetries(asker.executor, asker.on_failure)
    outcomes = run_in_order(asker.executor, task, bundles, retries.allow)
    answers = []
    for lot, outcome in zip(bundles, outcomes, strict=True):
        if isinstance(outcome, Answers):
            answers.append(outcome)
        elif _drops_lost(asker, outcome):
            answers.append(retry_after_worker_loss(asker.executor, task, lot, loss))
        else:
            raise outcome
    return concatenate(answers, retries.account)


def bundle(chunks: Sequence[Perturbation], costs: Sequence[float], workers: int) -> list[list[Perturbation]]:
    """Bundle chunks in order, in tasks of about the costs that :data:`SHARES` says; answers do not depend on it."""
    part = sum(costs) / workers
    ends = list(itertools.accumulate(part * share for share in SHARES for _ in range(workers)))
    bundles: list[list[Perturbation]] = [[] for _ in ends]
    spent = 0.0
    for chunk, cost in zip(chunks, costs, strict=True):
        bundles[min(bisect.bisect(ends, spent + cost / 2), len(ends) - 1)].append(chunk)
        spent += cost
    return [lot for lot in bundles if lot]


def _drops_lost(asker: _Asker, error: Exception) -> bool:
    """Tell whether a failure is that of a worker, and the queries that are its reason are to be left out."""
    lost = isinstance(error, WorkerLostError) and asker.on_failure.response(error).drop
    return lost and can_revive(asker.executor)


def retry_after_worker_loss(executor: Executor, task: Task, chunks: Sequence[Perturbation], loss: float) -> Answers:
    """Answer chunks one by one, one of which ended its worker: the queries that do so are dropped, all others answered.

    Args:
        executor: Executor whose workers can be started anew.
        task: Function that answers a list of chunks.
        chunks: One chunk or more.
        loss: Loss of the unperturbed network.

    Raises:
        Exception: A query raised it.
    """
    return concatenate([_search(executor, task, chunk, range(len(chunk)), loss) for chunk in chunks])


def _search(executor: Executor, task: Task, chunk: Perturbation, places: range, loss: float) -> Answers:
    """Answer some places of a chunk, by halves where they end a worker."""
    only = None if len(places) == len(chunk) else tuple(places)
    revive(executor)
    (outcome,) = run_in_order(executor, functools.partial(task, only=only), [[chunk]])
    if isinstance(outcome, Answers):
        return outcome
    if not isinstance(outcome, WorkerLostError):
        raise outcome
    if len(places) == 1:
        nothing = torch.zeros(len(chunk), dtype=torch.float64)
        lost = incident(outcome, "dropped", f"at {name_query(chunk, places[0])}")
        return Answers(nothing, loss, 0, tuple(places), (lost,))
    middle = len(places) // 2
    first, second = (_search(executor, task, chunk, half, loss) for half in (places[:middle], places[middle:]))
    return combine(first, second, places[middle:])
