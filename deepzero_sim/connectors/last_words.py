"""The telling lines of what a failed program said: runtimes put backtraces and banners behind them."""

from __future__ import annotations

import re

#: Lines that are told, and characters of each.
LINES, LENGTH = 3, 160

#: Frames of backtraces, and what stands around them.
_FRAMES = re.compile(
    r"""^(?:[ ]+\[\d+\][ \t].*|[ \t]*(?:\[\d+\][ \t]*)?(?:     # Julia; OpenFOAM puts the number of a process in front
    \#\d+[ \t].*                                               # gfortran, gdb, OpenFOAM, sanitizers
    | at[ \t](?:\S+:(?:\d+|\?)|.*\(\S*\))                      # and where that is; Java, JavaScript
    | Image[ \t]+PC[ \t]+Routine.* | \S+[ \t]+[0-9A-F]{16}[ \t].*     # ifort
    | \[\S+:\d+\][ \t]+(?:\[[ \t]*\d+\]|\*\*\*).*              # Open MPI
    | (?:Error\ termination\.\ )?Backtrace(?:\ for\ this\ error)?:?
    | \S+\([^()]*\)[ \t]?\[0x[0-9a-f]+\]                       # glibc
    | Traceback\ \(most\ recent\ call\ last\):                 # Python, with the line of the source and its mark
    | File\ ".*",\ line\ \d+.*(?:\n[ ]{4}.*)*
    | Stacktrace: | @[ \t].*                                   # Julia
    | From[ \t].*\(.* | in\ file[ \t].*\ at\ line\ \d+\.?          # OpenFOAM
    | FOAM\ (?:parallel\ run\ )?(?:exiting|aborting).*
    | ==\d+==ABORTING
    | [-=*_\#~^][-=*_\#~^ \t]*                                 # rules
    ))[ \t\r]*$""",
    re.MULTILINE | re.VERBOSE,
)

#: What launchers say of a program that failed, between two rules.
_BANNER = re.compile(
    r"^-{20,}\s*\n"
    r"(?=(?:(?!-{20}).*\n){0,20}?.*(?:Primary job|(?:mpirun|prterun) (?:detected|noticed)|MPI_ABORT was invoked))"
    r"(?:(?!-{20}).*\n){1,20}-{20,}\s*$",
    re.MULTILINE,
)

_TELLING = re.compile(
    r"error|fatal|severe|fail|exception(?!s are signalling)|abort|can(?:not|'t)|could not|no such|not found|invalid|illegal"
    r"|missing|segmentation|overflow|\bSIG[A-Z]+|diverge|\bnan\b|out of memory|assert|denied|panic|corrupt"
    r"|terminate called|what\(\):",
    re.IGNORECASE,
)

#: On stdout, where a solver may well print the errors of a solution.
_TELLING_ON_STDOUT = re.compile(r"^\W*(?i:error|fatal|exception|abort\w*)\b(?!\s*=)|\b(?:ERROR|FATAL)\b(?!\s*=)")


def telling_lines(stderr: str, stdout: str) -> list[str]:
    """The lines, a few at most, that say best what went wrong; the last ones where none stands out."""
    err, out = _without_frames(stderr), _without_frames(stdout)
    return (
        _around(err, _TELLING)
        or _around(out, _TELLING_ON_STDOUT)
        or next((lines[-LINES:] for lines in (err, out, _lines(stderr), _lines(stdout)) if lines), [])
    )


def _without_frames(text: str) -> list[str]:
    return _lines(_FRAMES.sub("", _BANNER.sub("", text)))


def _lines(text: str) -> list[str]:
    """Lines that hold something, each once: many processes say the same."""
    return list(dict.fromkeys(" ".join(line.split())[:LENGTH] for line in text.splitlines() if line.strip()))


def _around(lines: list[str], telling: re.Pattern[str]) -> list[str]:
    """The last lines, if one of them is telling, or else those from the last telling one on."""
    places = [place for place, line in enumerate(lines) if telling.search(line)]
    if not places:
        return []
    start = min(places[-1], max(0, len(lines) - LINES))
    return lines[start : start + LINES]
