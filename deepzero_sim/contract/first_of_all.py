"""A step that is asked for before anything else, in another process: it may hang, or take the process down."""

from __future__ import annotations

from deepzero_sim.contract.worker_process import WorkerProcess
from deepzero_sim.errors import SolverCrashError, SolverTimeoutError, WorkerLostError
from deepzero_sim.types import Array

#: Seconds that the step is waited for, at least: the process has to start first.
WAIT = 60.0


def require_an_end(process: WorkerProcess, states: Array, params: Array | None, seconds: float) -> None:
    """Ask for one step where nothing is lost by it. Whatever comes of it, as long as something comes, is for others to judge.

    Args:
        process: of any solver; one that cannot be sent to it is not asked.
        states: `(B, C, *N)`.
        params: `(B, K)` or None.
        seconds: to wait, if that is more than a minute.

    Raises:
        SolverTimeoutError: no answer came.
        SolverCrashError: the process ended.
    """
    wait, name = max(WAIT, seconds), process.solver.spec.name
    try:
        process.step(states[:1], None if params is None else params[:1], wait)
    except SolverTimeoutError as error:
        raise SolverTimeoutError(
            f"solver {name!r} gave no answer to one state for {wait:.0f} s: find out what it waits for, or give more seconds."
        ) from error
    except WorkerLostError as error:
        raise SolverCrashError(
            f"solver {name!r} ended the process that asked it for a step: a failure must be raised, not end Python; look for "
            "os._exit, or run its step alone where it crashes."
        ) from error
    except Exception:  # noqa: S110 - the check itself tells of it
        pass
