"""Short trial of torch's threads in a user's own training loop: the number that torch has by default against one.

Networks for small solvers are several times faster on one thread than on many, which wait for each other, all the more on a
machine with other things to do. Large networks are not. The time of a few updates tells which is which.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from statistics import median

import torch

#: Updates of a window, of which the first one does not count: what is cold is slow. Least and most seconds of a window.
UPDATES, LEAST_SECONDS, MOST_SECONDS = 6, 0.05, 1.0

#: Ratio of times that needs no second look.
PLAIN = 1.5

#: Ratio of times by which more threads must be faster: fewer leave others alone.
WORTH_IT = 1.1

#: Variables by which a user chooses the number of threads: nothing is tried then.
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_log = logging.getLogger("deepzero_sim")


def default_threads() -> int:
    """Return the number of threads that torch computes with if nobody chooses another."""
    cores = torch.get_num_interop_threads()  # torch takes the number of cores for both
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores


class ThreadTrial:
    """Trial of torch's default number of threads against one, in windows of a few updates that alternate.

    Args:
        clock: Function that tells seconds.
        get_threads: Function that returns the present number of threads.
        set_threads: Function that sets it.
        default: Number that torch has if nobody chooses another; found out if None.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        get_threads: Callable[[], int] = torch.get_num_threads,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        default: int | None = None,
    ) -> None:
        self._clock, self._get, self._set, self._default = clock, get_threads, set_threads, default
        self._rest: Generator[None, None, None] | None = self._run()

    def start_update(self) -> None:
        """Note that an update of the user's loop begins; a generator goes on with the trial from one to the next."""
        if self._rest is not None and next(self._rest, self) is self:
            self._rest = None

    @property
    def is_over(self) -> bool:
        """True if nothing is left to try."""
        return self._rest is None

    def _run(self) -> Generator[None, None, None]:
        default = default_threads() if self._default is None else self._default
        if default == 1 or self._get() != default or any(name in os.environ for name in CHOSEN_BY):
            return
        times: dict[int, list[float]] = {1: [], default: []}
        for threads in (1, default, 1, default):
            self._set(threads)
            window = yield from self._window(threads, times[default if threads == 1 else 1])
            if self._get() != threads:  # somebody chose another number meanwhile
                return
            times[threads] += window
            if all(times.values()) and _ratio(times[1], times[default]) > PLAIN:
                break
        one, many = median(times[1]), median(times[default])
        best = default if one > WORTH_IT * many else 1
        self._set(best)
        _log.info(
            "torch computes with %d of %d threads from now on: an update took %.3g s with one and %.3g s with %d (choose "
            "yourself with the environment variable OMP_NUM_THREADS).",
            *(best, default, one, many, default),
        )

    def _window(self, threads: int, others: list[float]) -> Generator[None, None, list[float]]:
        """Measure updates with one number of threads: seconds of each; few of them where they are far slower than others."""
        window = list[float]()
        while not _is_long_enough(window) and not (len(window) > 1 and others and min(window) > PLAIN * median(others)):
            started = self._clock()
            yield
            if self._get() != threads:
                break
            window.append(self._clock() - started)
        return window[1:] or window


def _is_long_enough(window: list[float]) -> bool:
    return (len(window) >= UPDATES and sum(window[1:]) >= LEAST_SECONDS) or sum(window) >= MOST_SECONDS


def _ratio(a: list[float], b: list[float]) -> float:
    one, other = median(a), median(b)
    return max(one, other) / max(min(one, other), 1e-9)


#: Trial of this process.
_trial = ThreadTrial()


def note_rollout(first: torch.Tensor) -> None:
    """Note that a solver step is asked for in a user's loop; a rollout that is to be differentiated begins an update.

    Args:
        first: States that the step starts from: not computed by anything that autograd goes back through, if a rollout begins.
    """
    begins = not _trial.is_over and torch.is_grad_enabled() and first.grad_fn is None
    if begins and threading.current_thread() is threading.main_thread():
        _trial.start_update()
