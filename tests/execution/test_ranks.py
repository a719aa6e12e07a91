"""Ranks: the executor over links within this process, then the real thing, with processes that torchrun starts and we kill."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from problems import burgers_oracle, wait_until
from training_cases import TESTS, assert_same_tensors, config_file, line_data, tensors, train_settings, without_seconds

from deepzero_sim.cli.main import main
from deepzero_sim.errors import ConfigError, MissingExtraError, WorkerLostError
from deepzero_sim.estimators import CGE
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.ranks import RankExecutor, executor, link, worker
from deepzero_sim.execution.ranks.calls import Question
from deepzero_sim.execution.ranks.executor import LostRanks
from deepzero_sim.execution.tasks import run_in_order

# ---- within this process


class Wire:
    """One rank's end of links that are queues; `link.Link` without processes."""

    def __init__(self, rank: int, size: int, queues: dict[tuple[int, int], queue.SimpleQueue[bytes]]) -> None:
        self.rank, self.size, self._queues = rank, size, queues
        self.sent: list[Any] = []

    def send(self, message: object, to: int) -> None:
        self.sent.append(message)
        self._queues[self.rank, to].put(pickle.dumps(message))

    def receive(self, source: int) -> Any:
        data = self._queues[source, self.rank].get()
        if not data:
            raise ConnectionError("cut")
        return pickle.loads(data)  # noqa: S301

    def cut(self, source: int) -> None:
        """Let it seem to this rank that another has died."""
        self._queues[source, self.rank].put(b"")


def serve_to_the_end(wire: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        worker.serve(wire)


class Ranks:
    """Rank 0's executor and what it is made of."""

    def __init__(self, size: int) -> None:
        queues: dict[tuple[int, int], queue.SimpleQueue[bytes]] = {
            (a, b): queue.SimpleQueue() for a in range(size) for b in range(size)
        }
        self.wires: list[Any] = [Wire(rank, size, queues) for rank in range(size)]
        self.serving = [threading.Thread(target=serve_to_the_end, args=(wire,)) for wire in self.wires[1:]]
        for thread in self.serving:
            thread.start()
        self.lost = LostRanks()
        self.executor = RankExecutor(self.wires[0], self.lost)

    def questions(self) -> list[Question]:
        return [message for message in self.wires[0].sent if isinstance(message, Question)]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Rank 0 and one other."""
    made = Ranks(2)
    yield made
    made.executor.shutdown(wait=False, cancel_futures=True)
    for thread in made.serving:
        thread.join(5)
        assert not thread.is_alive()


MEETING = threading.Barrier(2, timeout=20)


def after_meeting(function: Callable[[], Any]) -> Any:
    MEETING.wait()
    return function()


def on_both(executor: RankExecutor, function: Callable[[], Any]) -> list[Any]:
    """Call a function on rank 0 and on the other: neither begins before the other has come."""
    futures = [executor.submit(after_meeting, function) for _ in range(2)]
    return [future.exception() or future.result() for future in futures]


def test_both_ranks_answer_and_answers_come_in_the_order_asked(ranks: Ranks) -> None:
    assert ranks.executor._max_workers == 2
    assert len(set(on_both(ranks.executor, threading.get_ident))) == 2
    assert run_in_order(ranks.executor, lambda task: (time.sleep(0.03 if task == 0 else 0), task**2)[1], range(40)) == [
        task**2 for task in range(40)
    ]
    assert ranks.executor.submit(divmod, 7, 2).result() == (3, 1)
    assert ranks.executor.submit(int, "ff", base=16).result() == 255


def test_gradients_are_those_of_one_process(ranks: Ranks) -> None:
    oracle, batch = burgers_oracle()
    expected = CGE().estimate(oracle, batch)
    oracle.executor = ranks.executor
    estimate = CGE().estimate(oracle, batch)
    assert all(torch.equal(estimate.grads[name], expected.grads[name]) for name in expected.grads)
    assert (estimate.loss, estimate.queries) == (expected.loss, expected.queries)


class Heavy:
    """A function of some size, which also may change."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, task: Any) -> Any:
        MEETING.wait()
        return self.value


def test_a_function_is_sent_once_a_round_as_it_is_then(ranks: Ranks) -> None:
    heavy = Heavy()
    assert run_in_order(ranks.executor, heavy, range(20)) == [0] * 20
    heavy.value = 1
    assert run_in_order(ranks.executor, heavy, range(20)) == [1] * 20
    assert [question.functions is not None for question in ranks.questions()] == [*[True, *[False] * 9] * 2]


class Awkward(Exception):  # noqa: N818
    """Can be pickled, but not unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def lack_extra() -> None:
    raise MissingExtraError("a test", "module", "extra")


def awkward() -> None:
    raise Awkward(1, 2)


def leave() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "kinds", "says"),
    [
        (lack_extra, {MissingExtraError}, r"a test needs the package 'module'.*deepzero-sim\[extra\]"),
        (awkward, {Awkward, RuntimeError}, "1 and 2"),
        (leave, {RuntimeError}, "a task raised SystemExit: 3"),
    ],
)
def test_failures_come_back(ranks: Ranks, function: Callable[[], Any], kinds: set[type], says: str) -> None:
    failures = on_both(ranks.executor, function)
    assert {type(failure) for failure in failures} == kinds
    assert all(re.search(says, str(failure)) for failure in failures)
    assert on_both(ranks.executor, int) == [0, 0], "the ranks go on"


def test_what_cannot_be_sent_fails_alone(ranks: Ranks) -> None:
    with pytest.raises(TypeError, match="pickle"):
        ranks.executor.submit(threading.Lock().acquire).result()
    with pytest.raises(TypeError, match="pickle"):
        ranks.executor.submit(len, threading.Lock()).result()
    made = on_both(ranks.executor, threading.Lock)
    assert sum("cannot be sent to rank 0: TypeError: cannot pickle" in str(outcome) for outcome in made) == 1
    assert on_both(ranks.executor, int) == [0, 0]


def wait_for_end(task: int) -> None:
    BEGUN.append(task)
    END.wait(20)


END = threading.Event()
BEGUN: list[int] = []


def test_a_lost_rank_fails_what_is_under_way_and_what_comes(ranks: Ranks) -> None:
    END.clear()
    futures = [ranks.executor.submit(wait_for_end, task) for task in range(5)]
    assert futures[4].cancel()
    ranks.wires[0].cut(1)
    for future in futures[:4]:
        with pytest.raises(WorkerLostError, match=r"rank 1 of 2 was lost .* start the same command again"):
            future.result(5)  # though both still work on theirs
    with pytest.raises(WorkerLostError, match="rank 1 of 2 was lost"):
        ranks.executor.submit(int).result(5)
    END.set()


def test_signs_of_life_in_idle_times_and_long_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BEAT", 0.05)
    monkeypatch.setattr(worker, "BEAT", 0.05)
    ranks = Ranks(2)
    for wait in (lambda: time.sleep(0.3), lambda: on_both(ranks.executor, lambda: time.sleep(0.3))):
        before = [len(wire.sent) for wire in ranks.wires]
        wait()
        for wire, number in zip(ranks.wires, before, strict=True):
            assert wire.sent[number:].count(link.Sign.BEAT) >= 2
    ranks.executor.shutdown()


def test_shutdown_waits_for_what_is_under_way(ranks: Ranks) -> None:
    futures = [ranks.executor.submit(time.sleep, 0.05) for _ in range(5)]
    ranks.executor.shutdown()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ranks.executor.submit(int)
    with pytest.raises(ConfigError, match="the other ranks have left the program"):
        ranks.executor.require_open()


def test_shutdown_need_not_wait(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    END.clear()
    BEGUN.clear()
    left: list[int] = []

    def leave(status: int) -> None:  # as a rank in the middle of a task does
        left.append(status)
        END.set()

    monkeypatch.setattr(os, "_exit", leave)
    futures = [ranks.executor.submit(wait_for_end, task) for task in range(5)]
    assert wait_until(lambda: len(BEGUN) == 2, 10), "both ranks are in the middle of one"
    ranks.executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.done() and isinstance(future.exception(), RuntimeError) for future in futures)
    assert END.wait(10)
    assert left == [0]


def test_sigterm_is_told_as_a_loss_and_only_once() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(WorkerLostError, match="torchrun ended this program"), LostRanks():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        with LostRanks() as lost:
            lost.report("rank 1 was lost")
            lost.error()
            os.kill(os.getpid(), signal.SIGTERM)  # the loss has been told: let the program say it
            time.sleep(0.1)
        signal.signal(signal.SIGTERM, handler)
        with LostRanks():
            pass
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_tensors_of_other_gpus_are_unpickled_to_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "_package_registry", [*torch.serialization._package_registry])
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:5")
        sent = cloudpickle.dumps(torch.arange(3))
    with pytest.raises(RuntimeError):
        pickle.loads(sent)  # noqa: S301 - there is no such GPU
    link.move_cuda_tensors_to(torch.device("cpu"))
    assert torch.equal(pickle.loads(sent), torch.arange(3))  # noqa: S301


def test_ranks_need_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="start the program by torchrun --nproc-per-node"), open_executor("ranks"):
        pass
    settings = config_file(tmp_path / "train.yaml", train_settings(tmp_path / "run", line_data(tmp_path / "line.h5")))
    assert main(["train", "--config", str(settings), "--workers.backend", "ranks"]) == 2
    assert re.search(r"needs processes that torchrun started.*\n$", capsys.readouterr().err)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--config", str(settings)]) == 2
    assert re.search(r"torchrun started this command 3 times.*--workers.backend ranks.*\n$", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


# ---- processes that torchrun started

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")

#: A program whose rank and process everybody says.
PROGRAM = """
import json, os, signal, sys, time
import deepzero_sim as dz
from deepzero_sim.execution.tasks import run_in_order
from deepzero_sim.execution.ranks import link, executor, worker

def on(rank):
    return os.environ["RANK"] == str(rank)

def say(**facts):
    print(json.dumps(facts), flush=True)

"""


class Program:
    """A command under torchrun; what it and all its processes leave behind can be found."""

    def __init__(self, folder: Path, *command: Any) -> None:
        self.mark = f"DEEPZERO_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", name: value},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def next_facts(self, **facts: Any) -> dict[str, Any]:
        """Read the next line that a rank prints, which must hold some facts."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert facts.items() <= line.items()
        return line

    def end(self, seconds: float) -> tuple[int, str, str]:
        """Exit status, and what is left to read, once it has ended."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def processes(self) -> set[int]:
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
        return found


@contextmanager
def program(folder: Path, *command: Any) -> Iterator[Program]:
    """Start a command under torchrun that must leave no process behind."""
    started = Program(folder, *command)
    try:
        yield started
        assert wait_until(lambda: not started.processes(), 5), "processes were left behind"
    finally:
        for pid in started.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):
            started.process.communicate()


@contextmanager
def script(folder: Path, body: str, *options: Any) -> Iterator[Program]:
    path = folder / "program.py"
    path.write_text(PROGRAM + textwrap.dedent(body))
    with program(folder, *options, path) as started:
        yield started


@needs_proc
def test_a_program_on_two_ranks(tmp_path: Path) -> None:
    body = """
        import torch
        from problems import burgers_oracle

        def who(task):
            time.sleep(0.02)
            if task == 3:
                raise dz.MissingExtraError("a test", "module", "extra")
            return task, os.environ["RANK"], torch.get_num_threads()

        with dz.open_executor("ranks") as executor:
            outcomes = run_in_order(executor, who, range(20))
            failure = outcomes.pop(3)
            say(failure=[type(failure).__name__, str(failure)[:6]], tasks=[task for task, _, _ in outcomes])
            say(ranks=sorted({rank for _, rank, _ in outcomes}), threads=max(threads for _, _, threads in outcomes))
            torch.manual_seed(0)
            oracle, batch = burgers_oracle()
            expected = dz.CGE().estimate(oracle, batch)
            with dz.open_executor("ranks") as same:
                oracle.executor = same
                estimate = dz.CGE().estimate(oracle, batch)
            say(same=all(torch.equal(estimate.grads[name], expected.grads[name]) for name in expected.grads))
            say(open=executor.submit(int).result() == 0)
        say(left=True)
        try:
            with dz.open_executor("ranks"):
                pass
        except dz.ConfigError as error:
            say(again=str(error)[:31])
    """
    with script(tmp_path, body) as started:
        status, out, err = started.end(60)
    assert status == 0, err
    assert [json.loads(line) for line in out.splitlines()] == [
        {"failure": ["MissingExtraError", "a test"], "tasks": [0, 1, 2, *range(4, 20)]},
        {"ranks": ["0", "1"], "threads": 1},
        {"same": True},
        {"open": True},
        {"left": True},
        {"again": "the other ranks have left the p"},
    ]


TELLING = """
try:
    with dz.open_executor("ranks", timeout=20) as executor:
        {inside}
except dz.DeepZeroError as error:
    say(rank=os.environ["RANK"], told=type(error).__name__, error=str(error))
    sys.exit(2)
"""

WORKING = """
def work(task):
    if on(1):
        say(working=os.getpid())
    time.sleep(1 if on(0) else 60)

def work_all(executor):
    for outcome in run_in_order(executor, work, range(4)):
        if outcome is not None:
            raise outcome

""" + TELLING.format(inside="work_all(executor)")


@needs_proc
@pytest.mark.slow
def test_a_rank_that_is_killed_in_the_middle_of_a_task(tmp_path: Path) -> None:
    with script(tmp_path, WORKING) as started:
        os.kill(started.next_facts()["working"], signal.SIGKILL)
        killed = time.monotonic()
        said = started.next_facts(rank="0", told="WorkerLostError")
        assert time.monotonic() - killed < 5
        assert re.fullmatch(r"rank 1 of 2 was lost \(killed, .*\): start the same command again .*\.", said["error"])
        status, out, err = started.end(20)
    assert (status, out) == (1, "") and "exitcode  : 2" in err and "terminate called" not in err


@needs_proc
@pytest.mark.slow
def test_a_rank_that_is_killed_when_nothing_is_asked(tmp_path: Path) -> None:
    with script(tmp_path, TELLING.format(inside="say(other=executor.submit(os.getpid).result()); time.sleep(60)")) as started:
        started.next_facts()
        living = {pid: (Path("/proc") / str(pid) / "environ").read_bytes() for pid in started.processes()}
        os.kill(next(pid for pid, environ in living.items() if b"\0RANK=1\0" in environ), signal.SIGKILL)
        assert "rank 1 of 2 was lost" in started.next_facts(rank="0", told="WorkerLostError")["error"]
        assert started.end(20)[:2] == (1, "")


@needs_proc
@pytest.mark.slow
def test_torchrun_may_start_all_ranks_again(tmp_path: Path) -> None:
    body = """
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

        def work(task):
            time.sleep(0.1)
            if on(1) and attempt == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        with dz.open_executor("ranks") as executor:
            outcomes = run_in_order(executor, work, range(4))
            say(attempt=attempt, lost=any(outcomes))
            sys.exit(2 * any(outcomes))
    """
    with script(tmp_path, body, "--max-restarts", 1) as started:
        status, out, _ = started.end(60)
    assert (status, [*map(json.loads, out.splitlines())]) == (0, [{"attempt": 0, "lost": True}, {"attempt": 1, "lost": False}])


@needs_proc
@pytest.mark.slow
def test_no_rank_outlives_rank_0(tmp_path: Path) -> None:
    with script(tmp_path, WORKING) as started:
        rank_1 = started.next_facts()["working"]
        started.process.kill()  # torchrun would end all ranks; they must see to that themselves
        rank_0 = next(pid for pid in started.processes() if pid not in (rank_1, started.process.pid))
        os.kill(rank_0, signal.SIGKILL)
        assert wait_until(lambda: not started.processes(), 5), "a rank outlived rank 0 in the middle of a task"


@needs_proc
@pytest.mark.slow
def test_a_rank_that_dies_before_it_comes(tmp_path: Path) -> None:
    with script(tmp_path, "if on(1): sys.exit(7)\n" + TELLING.format(inside="pass")) as started:
        assert "another rank failed" in started.next_facts(rank="0", told="WorkerLostError")["error"]
        status, out, err = started.end(20)
    assert (status, out) == (1, "") and "exitcode  : 7" in err


@needs_proc
@pytest.mark.slow
def test_a_rank_that_does_not_come_and_one_that_falls_silent(tmp_path: Path) -> None:
    late = "if on(1): time.sleep(60)\n" + TELLING.format(inside="pass").replace("timeout=20", "timeout=2")
    with script(tmp_path, late) as started:
        error = started.next_facts(rank="0", told="WorkerLostError")["error"]
        assert error.startswith("torchrun's ranks did not come together within 2 seconds")
        started.end(30)
    frozen = "link.SILENCE, executor.BEAT, worker.BEAT = 4.0, 0.5, 0.5\n" + WORKING
    with script(tmp_path, frozen) as started:
        rank_1 = started.next_facts()["working"]
        os.kill(rank_1, signal.SIGSTOP)
        assert "rank 1 of 2 was lost" in started.next_facts(rank="0", told="WorkerLostError")["error"]
        os.kill(rank_1, signal.SIGKILL)
        assert started.end(20)[:2] == (1, "")


@needs_proc
@pytest.mark.slow
def test_training_on_ranks_from_the_command_line(tmp_path: Path) -> None:
    settings = train_settings(tmp_path / "ranks", line_data(tmp_path / "line.h5"), updates=6)
    config_file(tmp_path / "train.yaml", settings)
    command = ("-m", "--", "deepzero_sim.cli", "train", "--config", "train.yaml")
    assert main(["train", "--config", str(tmp_path / "train.yaml"), "--run", str(tmp_path / "serial")]) == 0
    with program(tmp_path, *command, "--workers.backend", "ranks") as started:
        status, out, err = started.end(60)
    assert status == 0, err
    assert out.count("trained: ") == 1
    assert_same_tensors(tensors(tmp_path / "ranks"), tensors(tmp_path / "serial"))
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("ranks", "serial")]
    assert len(lines[0]) == 6
    assert without_seconds([*map(json.loads, lines[0])]) == without_seconds([*map(json.loads, lines[1])])
    with program(tmp_path, *command, "--workers.backend", "ranks", "--seed", 7) as started:
        status, _, err = started.end(60)
    assert status == 1 and err.count("deepzero-sim: ") == 1 and "run with other settings" in err
