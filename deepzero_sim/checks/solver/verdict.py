"""What is found of one line of the solver contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

#: The solver keeps it; breaks it; what is worth knowing, but breaks nothing; and what could not be looked at.
Outcome: TypeAlias = Literal["holds", "broken", "told", "not tested"]


@dataclass(frozen=True)
class Finding:
    """An outcome in words: what was seen and, if the solver breaks something, what to do."""

    outcome: Outcome
    words: str


@dataclass(frozen=True)
class Verdict:
    """Of a line of the contract.

    Args:
        line: its name.
        outcome: of the test.
        words: what was seen and, if the solver breaks it, what to do.
    """

    line: str
    outcome: Outcome
    words: str


class NotTestedError(Exception):
    """A line cannot be looked at; says why."""


def holds(words: str) -> Finding:
    """The solver keeps it."""
    return Finding("holds", words)


def broken(words: str) -> Finding:
    """The solver breaks it."""
    return Finding("broken", words)


def told(words: str) -> Finding:
    """Worth knowing, but nothing is broken."""
    return Finding("told", words)
