"""Partial answers of a long question on disk, so that a killed run resumes mid-gradient."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepzero_sim.common.files import digest, require_regular, write_text
from deepzero_sim.errors import RunError

#: Seconds of a portion of a question's queries: a kill loses so much work, and a shorter gradient writes nothing.
PORTION = 20.0

#: Share of a question that is its first portion, before the pace is known.
FIRST = 1 / 16


class Portion(NamedTuple):
    """Answers of some chunks.

    Args:
        chunks: Number of chunks, in the order asked.
        changes: Changes of the loss, a number a query.
        solver_steps: Solver steps that they took.
        dropped: Places of the queries that were left out.
        incidents: Failures on the way, each as the values of an :class:`~deepzero_sim.solver.failure_policy.Incident`.
    """

    chunks: int
    changes: list[float]
    solver_steps: int
    dropped: list[int]
    incidents: list[list[Any]]


class Ledger:
    """Persists the answers to one question at a time in a file: a line that names the question, then a line a portion.

    A question is named by the training step, which of the step's questions it is, the loss and how many queries it has: in a
    run that resumes with the same bits no other has that name. Each portion ends with a checksum of the run, the question and
    all portions up to there.

    Args:
        path: File; it is there only while a question is being answered that takes more than a portion.
        run: Name of the run that the file belongs to.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self._path = path
        self._run = run
        self._checksum = ""  # of what was written so far
        self._step = 0
        self._asked = 0
        self._question = ""
        self._pace: float | None = None  # seconds a unit of cost
        self._unwritten: list[Portion] = []
        self._unwritten_seconds = 0.0

    def at(self, step: int) -> None:
        """Begin a training step."""
        self._step, self._asked = step, 0

    def begin(self, loss: float, queries: int) -> list[Portion]:
        """Begin a question, and read the portions of it that were answered before.

        Args:
            loss: Loss of the unperturbed network.
            queries: Number of queries.

        Raises:
            RunError: Answers were changed, or are another run's.
        """
        names = {"step": self._step, "question": self._asked, "loss": loss.hex(), "queries": queries}
        self._question = json.dumps(names) + "\n"
        self._checksum = digest([self._run, self._question])
        self._asked += 1
        self._unwritten, self._unwritten_seconds = [], 0.0
        require_regular(self._path)
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        if not text.startswith(self._question):
            self.delete()
            return []
        portions, whole = [], self._question
        for line in text.splitlines(keepends=True)[1:]:
            read = _parse(line)
            if read is None:
                write_text(self._path, whole)
                break
            portion, checksum = read
            self._checksum = self._next_checksum(portion)
            if checksum != self._checksum:
                raise RunError(
                    f"{self._path} holds answers that were changed, or those of another run: restore it, or delete it to have "
                    "the queries of this gradient answered anew."
                )
            portions.append(portion)
            whole += line
        return portions

    def _next_checksum(self, portion: Portion) -> str:
        return digest([self._checksum, json.dumps(portion)])

    def size_of_next(self, costs: Sequence[float]) -> int:
        """Count the chunks of the next portion, at least one, by the costs of those that are left."""
        most = FIRST * sum(costs) if self._pace is None else PORTION / self._pace
        if self._pace is not None and sum(costs) <= 1.5 * most:  # rather than a small rest
            return len(costs)
        count, spent = 1, costs[0]
        while count < len(costs) and spent + costs[count] <= most:
            spent += costs[count]
            count += 1
        return count

    def append(self, portion: Portion, cost: float, seconds: float) -> None:
        """Append the answers of a portion.

        Args:
            portion: Answers.
            cost: Cost of its chunks.
            seconds: Seconds that they took.
        """
        if cost > 0:
            self._pace = seconds / cost
        self._unwritten.append(portion)
        self._unwritten_seconds += seconds
        if self._unwritten_seconds > PORTION / 2:
            self._write()

    def _write(self) -> None:
        text = ""
        for portion in self._unwritten:
            self._checksum = self._next_checksum(portion)
            text += json.dumps([*portion, self._checksum]) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text if file.tell() else self._question + text)
        self._unwritten, self._unwritten_seconds = [], 0.0

    def delete(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _parse(line: str) -> tuple[Portion, str] | None:
    """Parse a line of the file and its checksum; None where a kill cut it off, or a power cut left something else."""
    try:
        content: list[Any] = json.loads(line) if line.endswith("\n") else []
        return Portion(*content[:-1]), str(content[-1])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
