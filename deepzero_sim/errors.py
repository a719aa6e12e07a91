"""What can go wrong, in one tree. Every message says what was expected, what came, and what to do.

DeepZeroError
├── ConfigError          a setting, a name or an option
├── DataError            a file or an array of data
├── RunError             a run folder
├── MissingExtraError    an optional dependency
├── DivergedError        training itself left the finite numbers
└── SolverError          the solver broke its contract
    ├── InvalidStateError    wrong shape or dtype, in or out
    ├── NonFiniteError       NaN or infinity in a state
    ├── SolverCrashError     its own code raised an exception
    └── WorkerLostError      the process it ran in died
"""

from __future__ import annotations


class DeepZeroError(Exception):
    """Root of every error the package raises on purpose; the command line prints it as one sentence, exit status 2."""


class ConfigError(DeepZeroError):
    """A setting, a name or a command-line option is not usable."""


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


class SolverError(DeepZeroError):
    """The solver broke its contract."""


class InvalidStateError(SolverError):
    """States or parameters have a wrong shape or dtype, on the way in or out."""


class NonFiniteError(SolverError):
    """A state holds NaN or infinity."""


class SolverCrashError(SolverError):
    """The solver's own code raised an exception."""


class WorkerLostError(SolverError):
    """A worker process died while it was answering queries."""
