"""What became of a program, in words."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from deepzero_sim.connectors.programs.processes import Ended
from deepzero_sim.connectors.programs.telling_lines import telling_lines
from deepzero_sim.connectors.programs.working_folder import STDERR, STDOUT
from deepzero_sim.errors import (
    ExitCodeError,
    FailureKind,
    SolverError,
    SolverKilledError,
    SolverTimeoutError,
    WorkingFolderError,
)

#: Bytes of what a program said last that are looked through for its telling lines.
LAST_BYTES = 2**16

#: What to do.
REMEDIES: dict[FailureKind | None, str] = {
    "timeout": "raise timeout if it only needs longer, or find out what it waits for",
    "signal": "run its command {there} to find out why; where it diverged, use a smaller step or correction",
    "exit-code": "run its command {there} to find out why; where it diverged, use a smaller step or correction",
    "non-finite": "it diverged or fails on such a state; use a smaller step, a smaller correction or another initial state",
    "missing-output": "check the path in outputs, and that the program writes it in the folder that it starts in",
    "unreadable-output": "check the format of this file in outputs, and that the program writes all of it",
    "wrong-shape": "check the channels, the channel_axis and the state_shape that it should have",
    "working-folder": "free some space or take another disk with the environment variable TMPDIR",
}


@dataclass(frozen=True)
class Said:
    """What a program says: its stdout and stderr, in files of its folder.

    Args:
        descriptors: of these files, open here too, so that it does not matter what the program makes of their names.
    """

    descriptors: tuple[int, int]

    @classmethod
    def in_folder(cls, folder: Path) -> Said:
        """Files that are not there yet."""
        first = _created(folder / STDOUT)
        try:
            return cls((first, _created(folder / STDERR)))
        except OSError:
            os.close(first)
            raise

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def last(self) -> str:
        """The telling ones of the last lines on stderr, or else on stdout, in quotes; empty if there is nothing."""
        stdout, stderr = map(_end_of, self.descriptors)
        lines = telling_lines(stderr, stdout)
        return repr(" / ".join(lines)) if lines else ""


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, LAST_BYTES, max(0, size - LAST_BYTES)).decode(errors="replace")


def _created(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)


def ending(ended: Ended, program: str, timeout: float, allowed: tuple[int, ...]) -> SolverError | None:
    """The failure that the end of a program means, if it means one."""
    if not ended.in_time:
        return SolverTimeoutError(f"{program} took longer than the {timeout:g} s it may, and was ended")
    if ended.status < 0:
        return SolverKilledError(f"{program} was ended by the signal {_signal(-ended.status)}", -ended.status)
    if ended.status not in allowed:
        return ExitCodeError(f"{program} ended with the exit status {ended.status}, not {' or '.join(map(str, allowed))}")
    return None


def _signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:  # of a real-time signal
        return str(number)


def blamed(error: SolverError, folder: Path) -> SolverError:
    """The failure itself, or the full disk that it may come from: a program cannot even say so on one."""
    try:
        full = os.statvfs(folder).f_bavail == 0
    except OSError:
        full = False
    if not full or isinstance(error, WorkingFolderError):
        return error
    return WorkingFolderError(f"the disk of the working folder is full, and {error}")


def complete(error: SolverError, name: str, said: str, kept: Path | str | None) -> None:
    """Make a whole message of what happened: who, what it said last, where its folder is, what to do.

    Args:
        error: whose message says what happened; it is changed.
        name: of the solver.
        said: by the program, in quotes, or nothing.
        kept: the folder, or why it is not, or None.
    """
    words = f"solver {name!r}: {error}"
    if said:
        words += f"; the last it said is {said}"
    if isinstance(kept, Path):
        words += f"; its folder is kept as {kept}"
        error.kept = kept
    elif kept:
        words += f"; of its folder: {kept}"
    remedy = REMEDIES.get(error.kind, "look into it {there}").format(there="there" if isinstance(kept, Path) else "by hand")
    error.args = (f"{words}: {remedy}.",)
