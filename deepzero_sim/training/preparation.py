"""Preparation of a run: solver steps and seconds besides training, to which every start of the run adds lines in one file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepzero_sim.common.files import digest, require_regular, write_text
from deepzero_sim.common.requirements import is_count
from deepzero_sim.common.types import is_number
from deepzero_sim.errors import RunError

#: Name of the file, in a run folder.
PREPARATION = "preparation.jsonl"

#: Entry of layer ratios.
RATIOS_FOUND = "layer ratios"

#: Entry of a classifier's results.
RESULTS = "results"


@dataclass(frozen=True)
class Entry:
    """Line of the file.

    Args:
        what: Name of what was prepared, for people.
        solver_steps: Number of states that were advanced for it, checks and repetitions included.
        seconds: Time that it took.
        found: Number of solver steps that another run had taken, and this one did not.
        content: Digest of a file that was written then, if one was.
    """

    what: str
    solver_steps: int = 0
    seconds: float = 0.0
    found: int = 0
    content: str = ""


class Preparation:
    """Entries of a run, in a file: one a line, each with a checksum of the run and all lines up to there.

    Args:
        path: Path of the file.
        run: Name of the run; None to accept the one that the file names.

    Attributes:
        run: Name of the run; empty where there is no file yet that names it.
        entries: Entries so far.

    Raises:
        RunError: The file was changed, or is another run's.
    """

    def __init__(self, path: Path, run: str | None = None) -> None:
        self._path = path
        self.run = run or ""
        self.entries: list[Entry] = []
        require_regular(path)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        *lines, rest = text.split("\n")
        self._torn = rest != "" or any("\0" in line for line in lines[-1:])  # by a kill, or by a power cut
        if self._torn and (not rest or not _is_torn(rest)):
            lines = [*lines, rest] if rest else lines[:-1]
        read = [_parse(line) for line in lines]
        if run is None and read and read[0] is not None:
            self.run = read[0][0]
        self._checksum = digest([self.run])
        for line in read:
            if line is None or line[0] != self.run or line[2] != self._next_checksum(line[1]):
                raise RunError(
                    f"{path} was changed, or is another run's: restore it, or delete the folder to train anew; only this file "
                    "says what the run asked of its solver."
                )
            self.entries.append(line[1])
            self._checksum = line[2]

    def add(self, entry: Entry) -> None:
        """Add a line."""
        if self._torn:
            self._checksum, self._torn = digest([self.run]), False
            write_text(self._path, "".join([self._line(earlier) for earlier in self.entries]))
        self.entries.append(entry)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(entry))

    @property
    def solver_steps(self) -> int:
        """Number of states that were advanced in all."""
        return sum(entry.solver_steps for entry in self.entries)

    @property
    def seconds(self) -> float:
        """Time in all."""
        return sum(entry.seconds for entry in self.entries)

    @property
    def steps_of_others(self) -> int:
        """Number of solver steps that other runs had taken."""
        return sum(entry.found for entry in self.entries)

    def content(self, what: str) -> str:
        """Look up the digest of the file that something was last written to; empty if none was."""
        return next((entry.content for entry in reversed(self.entries) if entry.what == what), "")

    def _next_checksum(self, entry: Entry) -> str:
        return digest([self._checksum, json.dumps(asdict(entry))])

    def _line(self, entry: Entry) -> str:
        """Write the next line, whose checksum covers those before it."""
        self._checksum = self._next_checksum(entry)
        return json.dumps({**asdict(entry), "run": self.run, "sha256": self._checksum}) + "\n"


def _is_torn(rest: str) -> bool:
    """Tell a last line without an end that is part of a line from a line whose end was changed."""
    return _parse(rest) is None and _parse(rest[:-1]) is None


def _parse(line: str) -> tuple[str, Entry, str] | None:
    """Parse a line's run, entry and checksum; None if it is none."""
    try:
        content: dict[str, Any] = json.loads(line)
        run, checksum = content.pop("run"), content.pop("sha256")
        entry = Entry(**content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = all(isinstance(text, str) for text in (run, entry.what, entry.content))
    counts = is_count(entry.solver_steps, least=0) and is_count(entry.found, least=0)
    fits = texts and counts and is_number(entry.seconds) and 0 <= entry.seconds < float("inf")
    return (run, entry, checksum) if fits else None
