"""What can go wrong, in one tree. Every message says what was expected, what came, and what to do.

DeepZeroError
├── ConfigError          a setting, a name or an option
│   └── ArgumentError        an argument that a class or function does not take, or misses; a TypeError, too
├── DataError            a file or an array of data
├── RunError             a run folder
├── MissingExtraError    an optional dependency
├── DivergedError        training itself left the finite numbers
└── SolverError          the solver broke its contract
    ├── InvalidStateError    wrong shape or dtype, in or out
    ├── NonFiniteError       NaN or infinity in a state
    ├── SolverCrashError     its own code raised an exception
    ├── WorkerLostError      the process it ran in died
    ├── SolverTimeoutError   it took longer than it may
    ├── SolverKilledError    a signal ended its program
    ├── ExitCodeError        its program ended with another exit status than it may
    ├── MissingOutputError   it left no output
    ├── UnreadableOutputError  it left output that cannot be read
    ├── ServerError          its server answered with an error
    ├── ConnectionLostError  its server cannot be reached, or the connection was cut
    ├── WorkingFolderError   the folder it works in cannot be written
    └── StatesFailedError    some states of a batch failed, the others are there
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating[Any]]


class DeepZeroError(Exception):
    """Root of every error the package raises on purpose; the command line prints it as one sentence, exit status 2."""


class ConfigError(DeepZeroError):
    """A setting, a name or a command-line option is not usable."""


class ArgumentError(ConfigError, TypeError):
    """A class or function does not take an argument that it is called with, or misses one."""


class DataError(DeepZeroError):
    """A file or an array of data is missing, foreign, or does not fit what it is used for."""


class RunError(DeepZeroError):
    """A run folder does not fit what is asked of it."""


class MissingExtraError(DeepZeroError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, module: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {module!r}, which is not installed: run pip install 'deepzero-sim[{extra}]'."
        )
        self._arguments = (purpose, module, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return MissingExtraError, self._arguments  # a worker sends it home whole


class DivergedError(DeepZeroError):
    """A loss or a gradient is not finite, so training cannot go on from here."""


#: What can happen to a solver step, by the names that a failure policy and the log use.
FailureKind: TypeAlias = Literal[
    "timeout",
    "signal",
    "exit-code",
    "missing-output",
    "unreadable-output",
    "wrong-shape",
    "non-finite",
    "exception",
    "server-error",
    "connection-lost",
    "worker-lost",
    "working-folder",
]


class SolverError(DeepZeroError):
    """The solver broke its contract.

    Attributes:
        kind: of failure, of the taxonomy; None if it is no failure of a step.
        kept: the working folder that was kept to look into, if there is one; the message names it too.
        where: it happened, in words, if that is known: the query, for one.
        diverged: whether the numbers left what can be computed with: a deterministic solver does so again.
    """

    kind: ClassVar[FailureKind | None] = None
    kept: Path | None = None
    where: str = ""
    diverged: bool = False


class InvalidStateError(SolverError):
    """States or parameters have a wrong shape or dtype, on the way in or out."""

    kind = "wrong-shape"


class NonFiniteError(SolverError):
    """A state holds NaN or infinity."""

    kind = "non-finite"
    diverged = True


class SolverCrashError(SolverError):
    """The solver's own code raised an exception."""

    kind = "exception"


class WorkerLostError(SolverError):
    """A worker process died while it was answering queries."""

    kind = "worker-lost"


class SolverTimeoutError(SolverError):
    """The solver's program or server took longer than it may, and was ended or left."""

    kind = "timeout"


class SolverKilledError(SolverError):
    """A signal ended the solver's program. Programs that trap arithmetic errors end so when they diverge, by SIGFPE.

    Args:
        message: in words.
        number: of the signal.
    """

    kind = "signal"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.diverged = number == signal.SIGFPE

    def __reduce__(self) -> tuple[type[SolverKilledError], tuple[str, int], dict[str, object]]:
        return SolverKilledError, (str(self), self.number), self.__dict__


class ExitCodeError(SolverError):
    """The solver's program ended with an exit status that means failure."""

    kind = "exit-code"


class MissingOutputError(SolverError):
    """The solver ended well, but an output that it should leave is not there."""

    kind = "missing-output"


class UnreadableOutputError(SolverError):
    """The solver left output that is truncated, garbage, or of another format."""

    kind = "unreadable-output"


class ServerError(SolverError):
    """The solver's server answered with an error of its own."""

    kind = "server-error"


class ConnectionLostError(SolverError):
    """The solver's server cannot be reached, or the connection was cut before its answer was whole."""

    kind = "connection-lost"


class WorkingFolderError(SolverError):
    """The folder that the solver works in cannot be made or written: no space, no permission."""

    kind = "working-folder"


class StatesFailedError(SolverError):
    """Some states of a batch failed, each for a reason of its own; the others were advanced.

    A solver that takes each state by itself raises this, so that one failure costs no other state its answer. Its message is
    that of the first failure.

    Args:
        failures: by the state's place in the batch, one or more.
        advanced: `(B, C, *N)`, whatever stands where a state failed.
    """

    def __init__(self, failures: Mapping[int, SolverError], advanced: Array) -> None:
        first = min(failures)
        super().__init__(f"state {first + 1} of {len(advanced)}: {failures[first]}")
        self.failures = dict(failures)
        self.advanced = advanced

    def __reduce__(self) -> tuple[type[StatesFailedError], tuple[dict[int, SolverError], Array]]:
        return StatesFailedError, (self.failures, self.advanced)
