"""Failure policies: the words that declare them, and what they say of every kind of failure."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from problems import Burgers, conv_corrector

import deepzero_sim as dz
from deepzero_sim import errors
from deepzero_sim.errors import ConfigError, FailureKind, SolverError
from deepzero_sim.solver.failure_policy import (
    Account,
    FailurePolicy,
    Response,
    account_of,
    count_failures,
    incident,
    total,
    with_account,
    with_place,
)

#: One of every kind, as it is raised.
FAILURES: dict[str, SolverError] = {
    "timeout": dz.SolverTimeoutError("slow"),
    "signal": dz.SolverKilledError("segfault", signal.SIGSEGV),
    "exit-code": dz.ExitCodeError("3"),
    "missing-output": dz.MissingOutputError("gone"),
    "unreadable-output": dz.UnreadableOutputError("cut"),
    "wrong-shape": dz.InvalidStateError("(2, 3)"),
    "non-finite": dz.NonFiniteError("NaN"),
    "exception": dz.SolverCrashError("ValueError"),
    "server-error": dz.ServerError("500"),
    "connection-lost": dz.ConnectionLostError("refused"),
    "worker-lost": dz.WorkerLostError("killed"),
    "working-folder": dz.WorkingFolderError("full"),
}


def test_every_kind_is_an_error_of_its_own() -> None:
    assert tuple(FAILURES) == get_args(FailureKind)
    assert {kind: error.kind for kind, error in FAILURES.items()} == {kind: kind for kind in FAILURES}
    known = {cls.kind for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SolverError)}
    assert known == {*FAILURES, None}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_errors_come_home_from_workers_whole(error: SolverError) -> None:
    error.kept = Path("kept/1")
    came = pickle.loads(pickle.dumps(error))  # noqa: S301 - as executors do
    assert type(came) is type(error) and str(came) == str(error)
    assert (came.kept, came.diverged, came.kind) == (error.kept, error.diverged, error.kind)


def test_states_that_failed_come_home_whole() -> None:
    error = dz.StatesFailedError({2: FAILURES["timeout"], 1: FAILURES["signal"]}, np.ones((4, 1, 3)))
    came = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(came) == str(error) == "state 2 of 4: segfault"
    assert came.failures.keys() == {1, 2} and (came.advanced == 1).all() and came.failures[1].number == signal.SIGSEGV


@pytest.mark.parametrize(
    ("words", "response"),
    [
        ("abort", Response()),
        ("drop", Response(0, drop=True)),
        ("retry(3)", Response(3)),
        (" retry(12),abort ", Response(12)),
        ("retry(1), drop", Response(1, drop=True)),
    ],
)
@pytest.mark.parametrize("kind", FAILURES)
def test_one_word_is_for_every_kind(words: str, response: Response, kind: str) -> None:
    assert FailurePolicy(words).response(FAILURES[kind]) == response
    assert FailurePolicy({kind: words}).response(FAILURES[kind]) == response
    others = [FailurePolicy({kind: words}).response(error) for other, error in FAILURES.items() if other != kind]
    assert others == [Response()] * (len(FAILURES) - 1)
    assert FailurePolicy({"default": words, kind: "abort"}).response(FAILURES[kind]) == Response()
    assert FailurePolicy(words).ever_drops == response.drop


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ignore", "on_failure must be abort, drop, retry\\(3\\), or retry\\(3\\), drop, not 'ignore'"),
        ("retry", "must be abort, drop"),
        ("retry(-1)", "must be abort, drop"),
        ("retry(0)", "may retry from 1 to 100 times, not 0"),
        ("retry(101), drop", "may retry from 1 to 100 times, not 101"),
        ("drop, retry(3)", "must be abort, drop"),
        ("__import__('os')", "must be abort, drop"),
        (3, "must be abort, drop, .* not 3"),
        ({"segfault": "drop"}, "knows the kinds default, timeout, signal, .* not 'segfault': check the spelling"),
        ({"timeout": "sometimes"}, "must be abort, drop"),
        ({"timeout": None}, "must be abort, drop"),
    ],
)
def test_other_words_are_refused(words: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        FailurePolicy(words)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        dz.SolverLoop(Burgers(), conv_corrector(), on_failure=words)  # type: ignore[arg-type]


def test_what_diverged_is_not_tried_again() -> None:
    policy = FailurePolicy("retry(3)")
    trap = dz.SolverKilledError("floating point exception", signal.SIGFPE)
    for error in (FAILURES["non-finite"], trap):
        assert policy.retries(error, deterministic=True) == 0
        assert policy.retries(error, deterministic=False) == 3
    assert policy.retries(FAILURES["signal"], deterministic=True) == 3


def test_what_is_no_failure_of_a_step_ends_the_run() -> None:
    assert FailurePolicy("drop").response(SolverError("odd")) == Response()


def test_incidents_are_counted_by_kind_and_action() -> None:
    account = Account(7)
    for action in ("retried", "retried", "dropped"):
        account = account.with_incident(FAILURES["timeout"], action)  # type: ignore[arg-type]
    assert count_failures(account.incidents, {"timeout dropped": 4}) == {"timeout dropped": 5, "timeout retried": 2}
    assert account.steps == 7 and incident(SolverError("odd"), "aborted").kind == "other"


def test_accounts_add_up_and_an_error_carries_that_of_the_work_it_ended() -> None:
    before, spent = Account(3).with_incident(FAILURES["timeout"], "retried"), Account(2)
    assert (before + spent).steps == 5 and total([before, spent]) == before + spent and (before + spent).since(before) == spent
    error = FAILURES["signal"]
    carrying = with_account(with_account(error, spent), before)
    assert account_of(carrying) == before + spent and account_of(error) == Account()  # the error itself is as it was
    assert type(carrying) is type(error) and str(carrying) == str(error)


def test_a_place_is_named_once_however_often_it_is_added() -> None:
    error = with_place(with_place(dz.SolverTimeoutError("it hung."), "in query 3"), "2 training steps before were skipped")
    assert str(error) == "it hung (failure: timeout, in query 3, 2 training steps before were skipped)."
