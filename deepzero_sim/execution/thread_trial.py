"""Short trial of torch's threads in a user's own training loop: the number that torch has by default against one.

Networks for small solvers are several times faster on one thread than on many, which wait for each other, all the more on a
machine with other things to do. Large networks are not. The time of a few updates tells which is which.

An update goes from the first solver step of a rollout to the end of the optimiser's step. Between updates torch has the number
that it had: who ends a loop in the middle of the trial goes on as before it. An update that does not end, because no optimiser
follows or an error ended the loop, is given up after some time.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from statistics import median

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

#: Updates of a window, of which the first one does not count: what is cold is slow. Least and most seconds of a window.
UPDATES, LEAST_SECONDS, MOST_SECONDS = 6, 0.05, 1.0

#: Seconds after which an update is given up, and with it the trial: nobody knows whether it goes on.
LONGEST_UPDATE = 20.0

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
        self._clock, self._get, self._set = clock, get_threads, set_threads
        self._default = default_threads() if default is None else default
        self._rest: Generator[int, float, None] | None = self._run()
        self._trains = False
        self._threads = self._default
        self._started: float | None = None

    @property
    def is_over(self) -> bool:
        """True if nothing is left to try."""
        return self._rest is None

    def start_update(self) -> None:
        """Note that a rollout begins; it is one of an update if an optimiser has made a step before."""
        if not self._trains or self._started is not None or self._rest is None:
            return
        if self._default == 1 or self._get() != self._default or any(name in os.environ for name in CHOSEN_BY):
            self._rest = None  # there is nothing to choose, or somebody has chosen
            return
        self._set(self._threads)
        self._started = self._clock()

    def end_update(self) -> None:
        """Note that an optimiser has made its step."""
        if not self._trains and self._rest is not None:
            self._trains, self._threads = True, next(self._rest)
        elif self._started is not None and self._rest is not None:
            seconds, self._started = self._clock() - self._started, None
            self._go_on(self._rest, seconds)

    def _go_on(self, rest: Generator[int, float, None], seconds: float) -> None:
        """Take the time of an update, and torch's own number of threads until the next one."""
        if self._get() != self._threads:  # somebody chose another number meanwhile
            self._rest = None
            return
        self._set(self._default)
        try:
            self._threads = rest.send(seconds)
        except StopIteration:
            self._rest = None

    def give_up_long_update(self) -> None:
        """End the trial, with the number of threads as it was, if an update takes too long."""
        if self._started is None or self._clock() - self._started < LONGEST_UPDATE:
            return
        if self._get() == self._threads:
            self._set(self._default)
        self._rest = self._started = None

    def _run(self) -> Generator[int, float, None]:
        """Yield the number of threads for each update, and take its seconds."""
        default = self._default
        times: dict[int, list[float]] = {1: [], default: []}
        for threads in (1, default, 1, default):
            window = yield from _window(threads, times[default if threads == 1 else 1])
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


def _window(threads: int, others: list[float]) -> Generator[int, float, list[float]]:
    """Measure updates with one number of threads: seconds of each; few of them where they are far slower than others."""
    window = list[float]()
    while not _is_long_enough(window) and not (len(window) > 1 and others and min(window) > PLAIN * median(others)):
        window.append((yield threads))
    return window[1:] or window


def _is_long_enough(window: list[float]) -> bool:
    return (len(window) >= UPDATES and sum(window[1:]) >= LEAST_SECONDS) or sum(window) >= MOST_SECONDS


def _ratio(a: list[float], b: list[float]) -> float:
    one, other = median(a), median(b)
    return max(one, other) / max(min(one, other), 1e-9)


#: Trial of this process.
_trial = ThreadTrial()

#: Functions that take away what watches the trial; none before it begins and when it is over.
_watches: list[Callable[[], None]] = []


def note_rollout(first: torch.Tensor) -> None:
    """Note that a solver step is asked for in a user's loop; a rollout that is to be differentiated begins an update.

    Args:
        first: States that the step starts from: not computed by anything that autograd goes back through, if a rollout begins.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if _trial.is_over:
        _end_watch()
    elif torch.is_grad_enabled() and first.grad_fn is None:
        _begin_watch()
        _trial.start_update()


def _begin_watch() -> None:
    """Follow the steps of all optimisers, and look at the clock now and then, which Python's garbage collection is."""
    if not _watches:
        gc.callbacks.append(_look_at_the_clock)
        _watches.append(lambda: gc.callbacks.remove(_look_at_the_clock))
        _watches.append(register_optimizer_step_post_hook(_note_optimiser).remove)


def _end_watch() -> None:
    """Take away what watches; never from inside of it, where an optimiser may be calling all its hooks."""
    while _watches:
        _watches.pop()()


def _note_optimiser(*_: object) -> None:
    if threading.current_thread() is threading.main_thread():
        _trial.end_update()


def _look_at_the_clock(phase: str, _: object) -> None:
    if phase == "stop" and threading.current_thread() is threading.main_thread():
        _trial.give_up_long_update()
