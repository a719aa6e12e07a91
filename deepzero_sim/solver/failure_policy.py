"""Failure policy: what is done when a solver step fails, declared once for a run, and the account of what happened."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from deepzero_sim.errors import ConfigError, FailureKind, SolverError

#: What was done about a failure: the step was taken again; the query was left out; the training step was left out; the
#: simulation was given up; or the run ended.
Action: TypeAlias = Literal["retried", "dropped", "skipped", "lost", "aborted"]

#: Most retries that may be declared: beyond it a slip of the finger is more likely than patience.
MOST_RETRIES = 100

_FORM = re.compile(r"(?:retry\((?P<retries>\d+)\)(?:\s*,\s*(?P<then>abort|drop))?)|(?P<only>abort|drop)")

_WORDS = "abort, drop, retry(3), or retry(3), drop"

_Error = TypeVar("_Error", bound=SolverError)


@dataclass(frozen=True)
class Response:
    """Response to one kind of failure.

    Args:
        retries: Number of times that the step is taken again, at most.
        drop: True if what asked for the step is then left out, instead of the run's end.
    """

    retries: int = 0
    drop: bool = False


class FailurePolicy:
    """Responses to failing solver steps: `abort`, `retry(n)` or `drop`, for all kinds of failure or for each.

    `abort` ends the run with a sentence that says the kind, the query and where the working folder was kept. `retry(n)` takes
    the step again, up to `n` times, and aborts then; `retry(n), drop` drops then. A deterministic solver that diverged would do
    so again, and is not asked. `drop` leaves the query out: the gradient of its coordinate is 0 this time, of central
    differences both go. A failure of what all queries share, such as the rollout of the unperturbed network, costs the training
    step instead: it is skipped.

    Args:
        policy: One of these, or a mapping from kinds of :data:`deepzero_sim.errors.FailureKind` to them, with ``default`` for
            all others (abort if it is not there).

    Raises:
        ConfigError: The words are others, or the kinds are unknown.
    """

    def __init__(self, policy: str | Mapping[str, str] = "abort") -> None:
        if not isinstance(policy, Mapping):
            policy = {"default": policy}
        kinds = get_args(FailureKind)
        for kind in policy:
            if kind not in (*kinds, "default"):
                raise ConfigError(f"on_failure knows the kinds default, {', '.join(kinds)}, not {kind!r}: check the spelling.")
        responses = {kind: _response(words) for kind, words in policy.items()}
        self._default = responses.pop("default", Response())
        self._by_kind = responses

    def response(self, error: SolverError) -> Response:
        """Look up the response to a failure. What is no failure of a step, or of a kind that cannot be, ends the run."""
        return Response() if error.kind is None else self._by_kind.get(error.kind, self._default)

    def retries(self, error: SolverError, deterministic: bool) -> int:
        """Look up how often a step that failed is taken again.

        Args:
            error: Failure of the step.
            deterministic: True if the solver gives the same for the same.
        """
        return 0 if error.diverged and deterministic else self.response(error).retries

    @property
    def ever_drops(self) -> bool:
        """True if anything is left out in the end for any kind of failure."""
        return any(response.drop for response in (self._default, *self._by_kind.values()))

    def __repr__(self) -> str:
        return f"FailurePolicy({ {'default': self._default, **self._by_kind} })"


def _response(words: object) -> Response:
    form = _FORM.fullmatch(words.strip()) if isinstance(words, str) else None
    if form is None:
        remedy = ': quote what has a comma, {timeout: "retry(2), drop"}' if "{" in str(words) else ""
        raise ConfigError(f"on_failure must be {_WORDS}, not {words!r}{remedy}.")
    retries = int(form["retries"] or 0)
    if form["only"] is None and not 1 <= retries <= MOST_RETRIES:
        raise ConfigError(f"on_failure may retry from 1 to {MOST_RETRIES} times, not {retries}.")
    return Response(retries, "drop" in (form["then"], form["only"]))


def as_policy(policy: FailurePolicy | str | Mapping[str, str]) -> FailurePolicy:
    """Convert the words that declare a policy; a policy stays itself."""
    return policy if isinstance(policy, FailurePolicy) else FailurePolicy(policy)


class Incident(NamedTuple):
    """One failure, and what was done about it.

    Args:
        kind: Kind of failure.
        action: Action that was taken.
        message: Message of the error.
        query: Query that asked for the step, in words; or where else it happened, if all queries share it.
        kept: Working folder that was kept; empty if there is none.
    """

    kind: str
    action: Action
    message: str
    query: str = ""
    kept: str = ""


def incident(error: SolverError, action: Action, query: str = "") -> Incident:
    """Record an error and the action that was taken; the query is the error's own place if none is given."""
    return Incident(error.kind or "other", action, str(error), query or error.where, str(error.kept or ""))


@dataclass(frozen=True)
class Account:
    """Cost of a piece of work. Accounts are added up with `+` and :func:`total`.

    Args:
        steps: Solver steps: states advanced by one step, retries and searches for the failing state included.
        incidents: Failures on the way, in order.
    """

    steps: int = 0
    incidents: tuple[Incident, ...] = ()

    def __add__(self, other: Account) -> Account:
        return Account(self.steps + other.steps, self.incidents + other.incidents)

    def since(self, before: Account) -> Account:
        """Subtract an earlier state of an account that only grows."""
        return Account(self.steps - before.steps, self.incidents[len(before.incidents) :])

    def with_incident(self, error: SolverError, action: Action, query: str = "") -> Account:
        """Copy the account with one more incident."""
        return Account(self.steps, (*self.incidents, incident(error, action, query)))


#: Cost of work that asks nothing of a solver.
NOTHING = Account()


def total(accounts: Iterable[Account]) -> Account:
    """Add accounts up."""
    return sum(accounts, NOTHING)


def with_account(error: _Error, account: Account) -> _Error:
    """Copy an error together with the cost of the work that it ended, which its own account is added to."""
    same = _copy(error)
    same.account = account + account_of(error)
    return same


def account_of(error: SolverError) -> Account:
    """Cost of the work that an error ended, as far as it was noted."""
    return error.account if isinstance(error.account, Account) else Account()


@contextmanager
def add_account_to_error(before: Sequence[Account]) -> Iterator[None]:
    """Add the cost of earlier work to a solver's error that is raised inside.

    Args:
        before: Costs of the earlier work.
    """
    try:
        yield
    except SolverError as error:
        raise with_account(error, total(before)) from error.__cause__


def with_place(error: _Error, where: str) -> _Error:
    """Copy an error with the place where it happened in its message: `... (failure: KIND, WHERE).`

    Args:
        error: Failure, which may have been given a place already; the new one is put behind that.
        where: Place in words; empty for none.
    """
    if not where:
        return error
    same = _copy(error)
    same.where = f"{error.where}, {where}" if error.where else where
    reason = str(error).removesuffix(f" (failure: {error.kind}, {error.where}).").rstrip(".")
    same.args = (f"{reason} (failure: {error.kind}, {same.where}).", *error.args[1:])
    return same


def _copy(error: _Error) -> _Error:
    same = copy.copy(error)
    same.__cause__, same.__suppress_context__ = error.__cause__, error.__suppress_context__
    return same.with_traceback(error.__traceback__)


def drop(error: SolverError, policy: FailurePolicy, where: str) -> Incident:
    """Record that what failed is left out.

    Args:
        error: Failure.
        policy: Policy that says whether it may be left out.
        where: Place in words.

    Raises:
        SolverError: The policy does not allow it: the error itself, with the place.
    """
    if not policy.response(error).drop:
        raise with_place(error, where)
    return incident(error, "dropped", where)


def count_failures(incidents: Iterable[Incident], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Count incidents by kind and action, such as `{"timeout dropped": 3}`, on top of the counts before."""
    counts = Counter(before or {})
    counts.update(f"{one.kind} {one.action}" for one in incidents)
    return dict(sorted(counts.items()))


def incident_to_dict(step: int, one: Incident) -> dict[str, Any]:
    """Convert an incident of a training step to a line of a log."""
    return {"step": step, **one._asdict()}
