"""Failures of a program: which error its end means, and a whole message for people."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from deepzero_sim.connectors.programs.processes import Outcome
from deepzero_sim.errors import (
    ExitCodeError,
    FailureKind,
    SolverError,
    SolverKilledError,
    SolverTimeoutError,
    WorkingFolderError,
)

#: What to do besides where a program may have diverged.
_DIVERGED = "; where it diverged, use a smaller step or correction"

#: Words on what a program gets or lacks, which tell of no state that diverged; and words on one that did, which outweigh them.
_OF_INPUT = re.compile(
    r"\busage\b|not found|no such file|cannot (open|read|find|execute)|can't (open|find)|cannot be (read|opened|found)"
    r"|could not (open|read|find)|(unknown|unrecogni[sz]ed|missing|required) (keyword|option|argument|command|card|variable)"
    r"|\breading\b|input (deck|file|error)|card image|syntax ?error|parse error|while loading shared libraries"
    r"|permission denied|\b(Import|ModuleNotFound|FileNotFound|Name|Syntax|Attribute)Error\b|is undefined|licen[cs]e",
    re.IGNORECASE,
)
_OF_STATE = re.compile(r"\bnan\b|\binf(inity)?\b|diverg|converg|overflow|floating|negative|unstable|\bCFL\b", re.IGNORECASE)

#: Exit statuses of shells and loaders for a program that cannot be run, or is not there.
_NOT_RUN = (126, 127)

#: What to do about each kind of failure.
REMEDIES: dict[FailureKind | None, str] = {
    "timeout": "raise timeout if it only needs longer, or find out what it waits for",
    "signal": f"run its command {{there}} to find out why{_DIVERGED}",
    "exit-code": f"run its command {{there}} to find out why{_DIVERGED}",
    "non-finite": "it diverged or fails on such a state; use a smaller step, a smaller correction or another initial state",
    "missing-output": "check the path in outputs, and that the program writes it in the folder that it starts in",
    "unreadable-output": "check the format of this file in outputs, and that the program writes all of it",
    "wrong-shape": "check the channels, the channel_axis and the state_shape that it should have",
    "working-folder": "free some space or take another disk with the environment variable TMPDIR",
}


def failure_at_end(outcome: Outcome, program: str, timeout: float, return_codes: tuple[int, ...]) -> SolverError | None:
    """Return the failure that the end of a program means, or None if it ended well, with one of the return codes."""
    if not outcome.in_time:
        return SolverTimeoutError(f"{program} took longer than the {timeout:g} s it may, and was ended")
    if outcome.status < 0:
        return SolverKilledError(f"{program} was ended by the signal {_signal_name(-outcome.status)}", -outcome.status)
    if outcome.status not in return_codes:
        known = " or ".join(map(str, return_codes))
        return ExitCodeError(f"{program} ended with the exit status {outcome.status}, not {known}")
    return None


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:  # of a real-time signal
        return str(number)


def or_disk_full(error: SolverError, folder: Path) -> SolverError:
    """Return the failure itself, or the full disk that it may come from: a program cannot even say so on one."""
    try:
        full = os.statvfs(folder).f_bavail == 0
    except OSError:
        full = False
    if not full or isinstance(error, WorkingFolderError):
        return error
    return WorkingFolderError(f"the disk of the working folder is full, and {error}")


def complete_message(error: SolverError, name: str, excerpt: str, kept: Path | str | None) -> None:
    """Make the message of a failure whole: which solver, its last output, where its folder is, what to do.

    Args:
        error: Failure whose message says what happened; it is changed.
        name: Name of the solver.
        excerpt: Last output of the program, in quotes, or nothing.
        kept: Folder that is kept, or the reason why it is not, or None.
    """
    message = f"solver {name!r}: {error}"
    if excerpt:
        message += f"; the last it said is {excerpt}"
    if isinstance(kept, Path):
        message += f"; its folder is kept as {kept}"
        error.kept = kept
    elif kept:
        message += f"; of its folder: {kept}"
    remedy = REMEDIES.get(error.kind, "look into it {there}").format(there="there" if isinstance(kept, Path) else "by hand")
    if _is_no_divergence(str(error), excerpt):
        remedy = remedy.removesuffix(_DIVERGED)
    error.args = (f"{message}: {remedy}.",)


def _is_no_divergence(said: str, excerpt: str) -> bool:
    """Tell failures that clearly come from what a program was given: its arguments, input or files."""
    if any(f"exit status {status}," in said for status in _NOT_RUN):
        return True
    return bool(_OF_INPUT.search(excerpt)) and not _OF_STATE.search(excerpt)
