"""What is done when a solver step fails, declared once for a run, and the log of what happened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from deepzero_sim.errors import ConfigError, FailureKind, SolverError

#: What was done about a failure: the step was taken again; the query was left out; the training step was left out; the
#: simulation was given up; or the run ended.
Action: TypeAlias = Literal["retried", "dropped", "skipped", "lost", "aborted"]

#: Most retries that may be declared: beyond it a slip of the finger is more likely than patience.
MOST_RETRIES = 100

_FORM = re.compile(r"(?:retry\((?P<retries>\d+)\)(?:\s*,\s*(?P<then>abort|drop))?)|(?P<only>abort|drop)")

_WORDS = "abort, drop, retry(3), or retry(3), drop"


@dataclass(frozen=True)
class Response:
    """What is done about one kind of failure.

    Args:
        retries: how often the step is taken again, at most.
        drop: whether what asked for the step is then left out, instead of the run's end.
    """

    retries: int = 0
    drop: bool = False


class FailurePolicy:
    """What is done when a solver step fails: `abort`, `retry(n)` or `drop`, for all kinds of failure or for each.

    `abort` ends the run with a sentence that says the kind, the query and where the working folder was kept. `retry(n)` takes
    the step again, up to `n` times, and aborts then; `retry(n), drop` drops then. A deterministic solver that diverged would do
    so again, and is not asked. `drop` leaves the query out: the gradient of its coordinate is 0 this time, of central
    differences both go. A failure of what all queries share, such as the rollout of the network as it is, costs the training
    step instead: it is skipped.

    Args:
        policy: one of these, or a mapping from kinds of :data:`deepzero_sim.errors.FailureKind`, and ``default`` for all others
            (abort if it is not there).

    Raises:
        ConfigError: other words, or unknown kinds.
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
        """What is done about a failure. What is no failure of a step, or of a kind that cannot be, ends the run."""
        return Response() if error.kind is None else self._by_kind.get(error.kind, self._default)

    def retries(self, error: SolverError, deterministic: bool) -> int:
        """How often a step is taken again that failed so.

        Args:
            error: how.
            deterministic: whether the solver gives the same for the same.
        """
        return 0 if error.diverged and deterministic else self.response(error).retries

    @property
    def ever_drops(self) -> bool:
        """Whether anything is left out in the end for any kind of failure."""
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
    """A policy of the words that declare it."""
    return policy if isinstance(policy, FailurePolicy) else FailurePolicy(policy)


class Incident(NamedTuple):
    """One failure, and what was done about it.

    Args:
        kind: of failure.
        action: what was done.
        message: of the error.
        query: what was asked for, in words; where else it happened, if all queries share it.
        kept: the working folder that was kept, or empty.
    """

    kind: str
    action: Action
    message: str
    query: str = ""
    kept: str = ""


def incident(error: SolverError, action: Action, query: str = "") -> Incident:
    """What happened, of an error."""
    return Incident(error.kind or "other", action, str(error), query or error.where, str(error.kept or ""))


@dataclass
class FailureLog:
    """What happened since it was last looked at.

    Args:
        incidents: in order.
        extra_steps: states that were advanced once more: again, or to find which one of several failed.
    """

    incidents: list[Incident] = field(default_factory=list)
    extra_steps: int = 0

    def note(self, error: SolverError, action: Action, query: str = "") -> None:
        """Something failed."""
        self.incidents.append(incident(error, action, query))

    def take(self) -> FailureLog:
        """What happened, which is then forgotten here."""
        taken = FailureLog(self.incidents, self.extra_steps)
        self.incidents, self.extra_steps = [], 0
        return taken

    def add(self, other: FailureLog) -> None:
        """Take what another log holds."""
        self.incidents += other.incidents
        self.extra_steps += other.extra_steps


def counted(incidents: list[Incident], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many there were of each kind and action, such as `{"timeout dropped": 3}`, with those of before."""
    counts = Counter(before or {})
    counts.update(f"{one.kind} {one.action}" for one in incidents)
    return dict(sorted(counts.items()))


def as_line(step: int, one: Incident) -> dict[str, Any]:
    """An incident of a training step, as a line of a log."""
    return {"step": step, **one._asdict()}
