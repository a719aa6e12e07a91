"""Output of a program: the files that hold it, and the lines of it that tell what went wrong.

Runtimes put backtraces and banners around the one line that matters, each in a form of its own; the patterns below know them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TypeAlias

#: Names of the files of a working folder that stdout and stderr go to.
STDOUT, STDERR = "stdout.log", "stderr.log"

#: Bytes at the end of each that are searched for an error.
LAST_BYTES = 2**16

#: Lines of an excerpt, characters of each, and lines that are searched.
LINES, LENGTH, MOST_LINES = 3, 160, 1000


@dataclass(frozen=True)
class ProgramOutput:
    """Output of a program, stdout and stderr, in files of its folder.

    Args:
        descriptors: Descriptors of these files, open here too, so that it does not matter what becomes of their names.
    """

    descriptors: tuple[int, int]

    @classmethod
    def create(cls, folder: Path) -> ProgramOutput:
        """Create the files, which must not exist yet."""
        stdout = _create(folder / STDOUT)
        try:
            return cls((stdout, _create(folder / STDERR)))
        except OSError:
            os.close(stdout)
            raise

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def excerpt(self) -> str:
        """Quote the lines that tell best what went wrong; empty if there is no output."""
        stdout, stderr = map(_read_end, self.descriptors)
        lines = error_lines(stderr, stdout)
        return repr(" / ".join(lines)) if lines else ""


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _read_end(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, LAST_BYTES, max(0, size - LAST_BYTES)).decode(errors="replace")


class _Kind(Enum):
    """Kind of a line: the first of an error, one of a backtrace, one that says that all has ended, empty, or any other."""

    ERROR = auto()
    FRAME = auto()
    END = auto()
    EMPTY = auto()
    OTHER = auto()


_Lines: TypeAlias = Sequence[tuple[_Kind, str]]

#: First words of an error, as runtimes and programs write them.
_ERROR = re.compile(
    r"""
    At\ line\ \d+\ of\ file\ | Fortran\ runtime\ error: | Program\ received\ signal\ | (?-i:(ERROR\ )?STOP)\s  # gfortran
    | forrtl:\ | -->\ FOAM\ FATAL\                                                                # ifort, OpenFOAM
    | (\w+\.)*(?-i:[A-Z]\w*(Error|Exception|Interrupt|Exit|Fault))(:\ |:?$)                       # Python
    | Exception\ in\ thread\ | Caused\ by:\ | thread\ '.*'\ .*panicked\ at\ | panic:\             # Java, Rust, Go
    | terminate\ called\ | what\(\):\ | .*Assertion\ .*failed | \*\*\*\ (stack\ smashing|buffer\ overflow|Error\ in\ )
    | (free|malloc|realloc|munmap_chunk|malloc_consolidate)\(\):\ | double\ free\ or\ | corrupted\ (size|double)  # glibc
    | .*error\ while\ loading\ shared\ libraries: | ==\d+==\s?ERROR:\ | \S+:\ runtime\ error:\    # the loader, sanitizers
    | (?-i:Error\ (using|in))\ | Undefined\ function\                                             # MATLAB, R
    | Fatal\ error\ in\ | Abort\(\d+\)\ on\ node\ .*Fatal\ error\ in\                             # MPICH
    | mpi(run|exec)\ (was|could|failed|does)\ | There\ are\ not\ enough\ slots                    # Open MPI
    | PETSC\ ERROR:\ | \[(error|fatal|critical)\] | (?-i:ERROR|FATAL|CRITICAL)\s-+\s | \*+\s*(fatal\s+)?error\b
    | ([\w./:-]+:\s+)?\W*((fatal|severe|internal|input|syntax|run-?time)\s+)*error\b\s*[:!](?!\s*[-+.]?\d)
    """,
    re.VERBOSE | re.IGNORECASE,
)

#: Lines of a backtrace, and those around it.
_FRAME = re.compile(
    r"""
    \s*\#\d+\s | \s+at\s+(\S+:(\d+|\?)|[\w.$<>]+\(.*\)) | error\ termination\.\ backtrace
    | .*\bbacktrace(\ for\ this\ error)?:?\s*$
    | Image\s+PC\s+Routine | \S+\s+(?-i:[0-9A-F]{16})\s | Stack\ trace\ terminated                # ifort
    | Traceback\ \(most\ recent | \s+File\ ".*",\ line\ \d | During\ handling\ of\ the\ above\ | The\ above\ exception\ was
    | Stacktrace: | in\ expression\ starting\ at\                                                 # Julia
    | note:\ (run\ with|Some\ details) | goroutine\ \d+\ | exit\ status\ \d+$                     # Rust, Go
    | FOAM\ (parallel\ run\ )?(exiting|aborting) | \s*From\ .*\( | \s*in\ file\ .*\ at\ line\ \d  # OpenFOAM
    | error:\ called\ from | Error\ in\ .*\(line\ \d+\) | Calls:\ | Execution\ halted             # Octave, MATLAB, R
    | PETSC\ ERROR:\ (\#\d|-----|See\ |Configure|Petsc\ |.*\ named\ )
    | SUMMARY:\ \w+Sanitizer | Shadow\ bytes\ | \s+=?>?0x[0-9a-f]+:\s | ==\d+==ABORTING
    | [0-9a-f]{6,16}-[0-9a-f]{6,16}\s[r-] | \S+\([^()]*\)\s?\[0x[0-9a-f]+\]\s*$                       # glibc
    | \[[^\]\s]+:\d+\]\s+(\*\*\*|\[\s*\d+\])                                                      # Open MPI
    | ={6,}.*={6,}\s*$ | [-=*_\#~+^]{6,}\s*$
    """,
    re.VERBOSE | re.IGNORECASE,
)

#: Lines after which whatever is indented belongs to a backtrace.
_FRAME_LEADS = re.compile(
    r"Traceback \(most|\s+File \".*\", line \d|Stacktrace:|stack backtrace:|goroutine \d"
    r"|error: called from|Error in .*\(line \d"
)

#: Lines that say no more than that a program, or a whole parallel job, has ended.
_END = re.compile(
    r"""
    \s*(ERROR\ )?STOP(\ \d+)?\s*$ | Note:\ The\ following\ floating-point\ exceptions | Aborted\b.*core\ dumped
    | =\s{3} | Abort\(\d+\)\ on\ node\ (?!.*Fatal\ error) | application\ called\ MPI_Abort | YOUR\ APPLICATION\ TERMINATED
    | This\ typically\ refers | Please\ see\ the\ FAQ | \[(proxy|mpiexec)\S*\]\s | (srun|slurmstepd|mpirun|mpiexec|prterun):\s
    | \[[^\]\s]+:\d+\]\s+(Signal|Associated|Failing|\d+\ more) | \d+\ total\ process(es)?\ (failed|killed)
    """,
    re.VERBOSE,
)

#: A line of dashes, and words between two of them that tell of the end of a parallel job.
_DASHES = re.compile(r"-{20,}\s*$")
_JOB_END = re.compile(r"MPI_ABORT was invoked|Primary job|(mpirun|prterun) (detected|noticed)")

#: Number of a process, which OpenFOAM and PETSc put in front.
_RANK = re.compile(r"\[\d+\]\s?")


def error_lines(stderr: str, stdout: str) -> list[str]:
    """Select the lines, a few at most, that tell best what went wrong; the last ones where none stands out.

    The last line that belongs to no backtrace or banner is among them, unless it goes on with an error that is selected.
    """
    err, out = _classify_lines(stderr), _classify_lines(stdout)
    own = _of_kind(_Kind.OTHER, err)
    if lines := _first_and_last_error(err):
        return lines
    if lines := _first_and_last_error(out):
        return [*lines[: LINES - 1], own[-1]] if own else lines
    everything = [line for _, line in (*out, *err) if line]
    choices = (own, _of_kind(_Kind.OTHER, out), _of_kind(_Kind.END, err)[:LINES], everything)
    return next((lines[-LINES:] for lines in choices if lines), [])


def _of_kind(wanted: _Kind, lines: _Lines) -> list[str]:
    return [line for kind, line in lines if kind is wanted]


def _first_and_last_error(lines: _Lines) -> list[str]:
    """Select the first error with what is said about it, which often causes the others, and as much of the last as fits."""
    last = _last_error(lines)
    places = [place for place, (kind, _) in enumerate(lines) if kind is _Kind.ERROR]
    if not last:
        return []
    first = [line for kind, line in lines[places[0] : places[0] + LINES - 1] if kind in (_Kind.ERROR, _Kind.OTHER)]
    if first[0] in last or places == list(range(places[0], places[-1] + 1)):
        return last
    return [*first, *(line for line in last if line not in first)][:LINES]


def _last_error(lines: _Lines) -> list[str]:
    """Select the last error with what is said about it, and the last line after that; nothing if there is no error."""
    lines = [(kind, line) for kind, line in lines if kind is not _Kind.END]
    errors = {place for place, (kind, _) in enumerate(lines) if kind is _Kind.ERROR}
    if not errors:
        return []
    first = end = max(errors)
    while first - 1 in errors:
        first -= 1
    while end < len(lines) and lines[end][0] in (_Kind.ERROR, _Kind.OTHER):
        end += 1
    about, last = [line for _, line in lines[first:end]], _of_kind(_Kind.OTHER, lines[first + LINES :])[-1:]
    complete = not last or not any(map(str.isalpha, last[0]))
    return about[:LINES] if complete else [*about[: LINES - 1], last[0]]


def _classify_lines(text: str) -> _Lines:
    """List the lines with their kinds, each text once: many processes say the same."""
    lines = [line[: 2 * LENGTH] for line in text.splitlines()[-MOST_LINES:]]
    banners, kinds, in_frames = _banner_places(lines), dict[tuple[_Kind, str, int], None](), False
    for place, line in enumerate(lines):
        in_frames = bool(_FRAME_LEADS.match(line)) or (in_frames and line[:1] in ("", " ", "\t"))
        kind = _Kind.END if place in banners else _classify(_RANK.sub("", line, 1), in_frames=in_frames)
        kinds.setdefault((kind, " ".join(line.split())[:LENGTH], place if kind is _Kind.EMPTY else 0))
    return [(kind, line) for kind, line, _ in kinds]


def _classify(line: str, *, in_frames: bool) -> _Kind:
    if not line.strip():
        return _Kind.EMPTY
    if in_frames or _FRAME.match(line):
        return _Kind.FRAME
    if _END.match(line):
        return _Kind.END
    return _Kind.ERROR if _ERROR.match(line.lstrip()) else _Kind.OTHER


def _banner_places(lines: Sequence[str]) -> set[int]:
    """Find the lines about the end of a parallel job, which stand between one line of dashes and the next."""
    dashes, places = [place for place, line in enumerate(lines) if _DASHES.match(line)], set[int]()
    while len(dashes) > 1:
        first, last = dashes[:2]
        if _JOB_END.search("\n".join(lines[first:last])):
            places |= set(range(first + 1, last))
            del dashes[0]
        del dashes[0]
    return places
