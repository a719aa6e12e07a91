"""Errors of the package, in one tree. Every message says what was expected, what came, and what to do.

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
    """Unusable setting, name or command-line option."""


class ArgumentError(ConfigError, TypeError):
    """Argument that a class or function does not take, or misses."""


class DataError(DeepZeroError):
    """File or array of data that is missing, foreign, or does not fit its use."""


class RunError(DeepZeroError):
    """Run folder that does not fit what is asked of it."""


class MissingExtraError(DeepZeroError):
    """Optional dependency that is not installed."""

    def __init__(self, purpose: str, module: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {module!r}, which is not installed: run pip install 'deepzero-sim[{extra}]'."
        )
        self._arguments = (purpose, module, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return MissingExtraError, self._arguments  # a worker sends it home whole


class DivergedError(DeepZeroError):
    """Loss or gradient that is not finite, so that training cannot go on from here."""


#: Kinds of failure of a solver step, by the names that a failure policy and the log use.
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
    """Breach of the contract by a solver.

    Attributes:
        kind: Kind of failure, of the taxonomy; None if it is no failure of a step.
        kept: Working folder that was kept to look into, if there is one; the message names it too.
        where: Place in words, such as the query, if that is known.
        diverged: True if the numbers left what can be computed with: a deterministic solver does so again.
        account: Cost of the work that the error ended, an :class:`~deepzero_sim.solver.failure_policy.Account` if it was noted.
    """

    kind: ClassVar[FailureKind | None] = None
    kept: Path | None = None
    where: str = ""
    diverged: bool = False
    account: object = None


class InvalidStateError(SolverError):
    """Wrong shape or dtype of states or parameters, on the way in or out."""

    kind = "wrong-shape"


class NonFiniteError(SolverError):
    """NaN or infinity in a state."""

    kind = "non-finite"
    diverged = True


class SolverCrashError(SolverError):
    """Exception that the solver's own code raised."""

    kind = "exception"


class WorkerLostError(SolverError):
    """Death of a worker process while it was answering queries."""

    kind = "worker-lost"


class SolverTimeoutError(SolverError):
    """Program or server of the solver that took longer than it may, and was ended or left."""

    kind = "timeout"


class SolverKilledError(SolverError):
    """Signal that ended the solver's program. Programs that trap arithmetic errors end by SIGFPE when they diverge.

    Args:
        message: Message in words.
        number: Number of the signal.
    """

    kind = "signal"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.diverged = number == signal.SIGFPE

    def __reduce__(self) -> tuple[type[SolverKilledError], tuple[str, int], dict[str, object]]:
        return SolverKilledError, (str(self), self.number), self.__dict__


class ExitCodeError(SolverError):
    """Exit status of the solver's program that means failure."""

    kind = "exit-code"


class MissingOutputError(SolverError):
    """Output that the solver should leave but did not, although it ended well."""

    kind = "missing-output"


class UnreadableOutputError(SolverError):
    """Output of the solver that is truncated, garbage, or of another format."""

    kind = "unreadable-output"


class ServerError(SolverError):
    """Error that the solver's server answered with."""

    kind = "server-error"


class ConnectionLostError(SolverError):
    """Server of the solver that cannot be reached, or whose connection was cut before its answer was whole."""

    kind = "connection-lost"


class WorkingFolderError(SolverError):
    """Folder of the solver that cannot be made or written: no space, no permission."""

    kind = "working-folder"


class ScaleWarning(UserWarning):
    """Warning of inputs that a network learns badly with: they are far from unit size."""


class TrainingWarning(UserWarning):
    """Warning of a training that made the network worse."""


class StatesFailedError(SolverError):
    """Failure of some states of a batch, each for a reason of its own; the others were advanced.

    A solver that advances states one by one raises this, so that one failure costs no other state its answer. Its message is
    that of the first failure.

    Args:
        failures: Errors by the state's place in the batch, one or more.
        advanced: States after the step, `(B, C, *N)`; anything where a state failed.
    """

    def __init__(self, failures: Mapping[int, SolverError], advanced: Array) -> None:
        first = min(failures)
        super().__init__(f"state {first + 1} of {len(advanced)}: {failures[first]}")
        self.failures = dict(failures)
        self.advanced = advanced

    def __reduce__(self) -> tuple[type[StatesFailedError], tuple[dict[int, SolverError], Array]]:
        return StatesFailedError, (self.failures, self.advanced)
