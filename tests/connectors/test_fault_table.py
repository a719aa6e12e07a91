"""Every kind of failure of a real program against every policy, in the queries of a gradient.

Nothing hangs, no process is left behind, no query is lost, and none changes another's answer by a bit.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Network, mse, wait_until
from programs import compiled, running

import deepzero_sim as dz
from deepzero_sim.estimators.base import query_steps
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.queries import Coordinates
from deepzero_sim.solver.failure_policy import Incident

POINTS, UNROLL, STEP = 8, 3, 0.4

#: What the program does, and what that is called.
FAULTS = {
    "hang": "timeout",
    "segfault": "signal",
    "trap": "signal",
    "exit": "exit-code",
    "missing": "missing-output",
    "truncated": "unreadable-output",
    "garbage": "unreadable-output",
    "shape": "wrong-shape",
    "nan": "non-finite",
    "disk": "working-folder",
}

#: Such a fault is no chance if the solver is deterministic.
DIVERGED = ("trap", "nan")

Make = Callable[..., dz.ExecutableSolver]


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`limited.c`, compiled."""
    return compiled(Path(__file__).with_name("limited.c"), tmp_path_factory.mktemp("limited"))


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


@pytest.fixture
def make(limited: Path, mark: str, tmp_path: Path) -> Make:
    """The program as a solver that fails on states beyond a limit."""

    def made(mode: str = "none", limit: float = math.inf, times: int = 10**6, **settings: Any) -> dz.ExecutableSolver:
        (flags := tmp_path / "flags").mkdir(exist_ok=True)
        return dz.ExecutableSolver(
            {"name": "limited", "state_shape": [1, POINTS], "dt": 1.0, "dtype": "float64"},
            [str(limited), mode, repr(limit), str(times), str(flags), mark],
            [{"path": "u.raw", "format": "raw"}],
            [{"path": "v.npy", "format": "npy"}],
            **{"kept_folder": tmp_path / "kept", "timeout": 0.7 if mode == "hang" else 30.0, **settings},
        )

    return made


def network() -> Network:
    torch.manual_seed(1)
    conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
    return Network(conv, torch.nn.Tanh(), torch.nn.Conv1d(1, 1, 1)).double()


def asked(solver: dz.Solver, policy: str, executor: Any = None, chunk: int = 5) -> tuple[Answers, list[Incident]]:
    """What all central differences answer, and the failures of these and of the rollout that they share."""
    oracle = dz.LoopOracle(dz.SolverLoop(solver, network(), UNROLL, on_failure=policy), mse, executor, queries_per_chunk=chunk)
    states = np.sin(np.linspace(0, 2 * np.pi, POINTS))[None, None]
    prepared = oracle.prepare((states, None, np.zeros((1, UNROLL, 1, POINTS))))
    steps = query_steps(STEP, "central")
    queries = [
        Coordinates(name, tuple(i for i in range(p.numel()) for _ in steps), steps * p.numel())
        for name, p in oracle.model.named_parameters()
    ]
    answers = oracle.ask(prepared, queries)
    return answers, [*prepared.account.incidents, *answers.incidents]


class Recording(dz.Solver):
    """The program's step in numpy, noting the largest number of each state."""

    def __init__(self) -> None:
        self.spec = dz.SolverSpec(name="limited", state_shape=(1, POINTS), dt=1.0, dtype="float64", max_batch=1)
        self.seen: list[float] = []

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        self.seen += np.abs(states).max(axis=(1, 2)).tolist()
        return states + 0.1 * (states.mean(axis=2, keepdims=True) - states)


def limit_and_lost() -> tuple[float, list[int]]:
    """A limit that three queries exceed, and which."""
    recording = Recording()
    answers, _ = asked(recording, "abort", chunk=1)
    largest = torch.tensor(recording.seen[UNROLL:]).view(len(answers.changes), -1).amax(dim=1)
    limit = float(largest.sort().values[-4:-2].mean())
    assert max(recording.seen[:UNROLL]) < limit
    return limit, (largest > limit).nonzero().view(-1).tolist()


LIMIT, LOST = limit_and_lost()


def assert_nothing_is_left(mark: str, folders: Path) -> None:
    assert wait_until(lambda: not running(mark), 5), running(mark)
    assert list(folders.iterdir()) == []


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folders: Path) -> Path:
    """Where working folders are: on a small disk, for the fault that fills it."""
    if "disk" not in request.node.callspec.params.values():
        return folders
    disk = request.getfixturevalue("tiny_disk")
    (small := disk / "folders").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(small))
    return small  # type: ignore[no-any-return]


def at_once(fault: str) -> int:
    """One run that fills the disk takes what another needs: two at once would both be right to fail."""
    return 1 if fault == "disk" else 2


@pytest.fixture
def whole(make: Make) -> torch.Tensor:
    return asked(make(), "abort")[0].changes


@pytest.mark.parametrize("fault", FAULTS)
def test_abort(make: Make, mark: str, place: Path, tmp_path: Path, fault: str) -> None:
    with pytest.raises(dz.SolverError) as caught:
        asked(make(fault, LIMIT, at_once=at_once(fault)), "abort")
    said = str(caught.value)
    assert f"failure: {FAULTS[fault]}, at layers." in said and said.endswith(f"{STEP}).") and "\n" not in said
    assert caught.value.kept is not None and str(caught.value.kept) in said and caught.value.kept.is_dir()
    assert_nothing_is_left(mark, place)


@pytest.mark.parametrize("fault", FAULTS)
def test_drop(make: Make, mark: str, place: Path, whole: torch.Tensor, fault: str) -> None:
    answers, incidents = asked(make(fault, LIMIT, at_once=at_once(fault)), "drop")
    expected = whole.clone()
    expected[LOST] = 0
    assert list(answers.dropped) == LOST and torch.equal(answers.changes, expected)
    assert [(one.kind, one.action) for one in incidents] == [(FAULTS[fault], "dropped")] * len(LOST)
    assert all(one.query and one.kept for one in incidents)
    assert_nothing_is_left(mark, place)


@pytest.mark.parametrize("fault", FAULTS)
def test_retry_of_what_passes(make: Make, mark: str, place: Path, whole: torch.Tensor, fault: str) -> None:
    """The first two runs beyond the limit fail; a program that gives another answer the next time is not deterministic."""
    solver = make(fault, LIMIT, times=2, at_once=at_once(fault))
    object.__setattr__(solver.spec, "deterministic", fault not in DIVERGED)
    answers, incidents = asked(solver, "retry(2)")
    assert answers.dropped == () and torch.equal(answers.changes, whole)
    assert [(one.kind, one.action) for one in incidents] == [(FAULTS[fault], "retried")] * 2
    assert_nothing_is_left(mark, place)


@pytest.mark.parametrize("fault", FAULTS)
def test_retry_of_what_stays(make: Make, mark: str, place: Path, fault: str) -> None:
    """What diverged is not even tried again."""
    with pytest.raises(dz.SolverError, match=rf"failure: {FAULTS[fault]}, at layers\."):
        asked(make(fault, LIMIT, at_once=1), "retry(1)")
    assert_nothing_is_left(mark, place)


@pytest.mark.parametrize("fault", ["hang", "segfault", "nan"])
def test_in_threads_and_worker_processes_all_is_the_same(
    make: Make, mark: str, folders: Path, whole: torch.Tensor, fault: str
) -> None:
    expected = whole.clone()
    expected[LOST] = 0
    for backend in ("thread", "process"):
        with open_executor(backend, 2) as executor:  # type: ignore[arg-type]
            answers, _ = asked(make(fault, LIMIT), "drop", executor)
        assert list(answers.dropped) == LOST and torch.equal(answers.changes, expected)
    assert wait_until(lambda: not running(mark), 5), running(mark)
