"""The telling lines of what a failed program said: runtimes put backtraces and banners behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import TypeAlias

#: Lines that are told, characters of each, and lines that are looked through.
LINES, LENGTH, MOST = 3, 160, 1000


class _Kind(Enum):
    """What a line is: the first of an error, one of a backtrace, one that says that all has ended, empty, or any other."""

    ERROR = auto()
    FRAME = auto()
    END = auto()
    EMPTY = auto()
    OTHER = auto()


_Marked: TypeAlias = Sequence[tuple[_Kind, str]]

#: How runtimes, and programs, begin to say what is wrong.
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

#: Lines of a backtrace, and what stands around them.
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

#: Lines behind which whatever is indented belongs to a backtrace.
_LEADS = re.compile(
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

#: A line of dashes, and what is said between two of them about the end of a parallel job.
_DASHES = re.compile(r"-{20,}\s*$")
_OF_A_JOB = re.compile(r"MPI_ABORT was invoked|Primary job|(mpirun|prterun) (detected|noticed)")

#: The number of a process, which OpenFOAM and PETSc put in front.
_RANK = re.compile(r"\[\d+\]\s?")


def telling_lines(stderr: str, stdout: str) -> list[str]:
    """The lines, a few at most, that say best what went wrong; the last ones where none stands out.

    The last line that belongs to no backtrace or banner is among them, unless it goes on with an error that is told.
    """
    err, out = _marked(stderr), _marked(stdout)
    own = _of(_Kind.OTHER, err)
    if lines := _error(err):
        return lines
    if lines := _error(out):
        return [*lines[: LINES - 1], own[-1]] if own else lines
    everything = [line for _, line in (*out, *err) if line]
    for said in (own, _of(_Kind.OTHER, out), _of(_Kind.END, err)[:LINES], everything):
        if said:
            return said[-LINES:]
    return []


def _of(wanted: _Kind, marked: _Marked) -> list[str]:
    return [line for kind, line in marked if kind is wanted]


def _error(marked: _Marked) -> list[str]:
    """The last error with what is said about it, and the last line behind that; nothing if there is no error."""
    said = [(kind, line) for kind, line in marked if kind is not _Kind.END]
    errors = {place for place, (kind, _) in enumerate(said) if kind is _Kind.ERROR}
    if not errors:
        return []
    first = end = max(errors)
    while first - 1 in errors:
        first -= 1
    while end < len(said) and said[end][0] in (_Kind.ERROR, _Kind.OTHER):
        end += 1
    about, last = [line for _, line in said[first:end]], _of(_Kind.OTHER, said[first + LINES :])[-1:]
    whole = not last or not any(map(str.isalpha, last[0]))
    return about[:LINES] if whole else [*about[: LINES - 1], last[0]]


def _marked(text: str) -> _Marked:
    """Lines with their kinds, each that holds something once: many processes say the same."""
    lines = [line[: 2 * LENGTH] for line in text.splitlines()[-MOST:]]
    banners, marked, in_frames = _between_dashes(lines), dict[tuple[_Kind, str, int], None](), False
    for place, line in enumerate(lines):
        in_frames = bool(_LEADS.match(line)) or (in_frames and line[:1] in ("", " ", "\t"))
        kind = _Kind.END if place in banners else _kind(_RANK.sub("", line, 1), in_frames=in_frames)
        marked.setdefault((kind, " ".join(line.split())[:LENGTH], place if kind is _Kind.EMPTY else 0))
    return [(kind, line) for kind, line, _ in marked]


def _kind(line: str, *, in_frames: bool) -> _Kind:
    if not line.strip():
        return _Kind.EMPTY
    if in_frames or _FRAME.match(line):
        return _Kind.FRAME
    if _END.match(line):
        return _Kind.END
    return _Kind.ERROR if _ERROR.match(line.lstrip()) else _Kind.OTHER


def _between_dashes(lines: Sequence[str]) -> set[int]:
    """Places of what is said about the end of a parallel job, between one line of dashes and the next."""
    rules, places = [place for place, line in enumerate(lines) if _DASHES.match(line)], set[int]()
    while len(rules) > 1:
        first, last = rules[:2]
        if _OF_A_JOB.search("\n".join(lines[first:last])):
            places |= set(range(first + 1, last))
            del rules[0]
        del rules[0]
    return places
