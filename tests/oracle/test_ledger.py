"""The ledger of a long gradient: a run that is killed in its middle goes on there, and ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepzero_sim.estimators import CGE, RGE, Estimator
from deepzero_sim.oracle import ledger
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.ledger import Ledger, Portion
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.queries import Perturbation
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.trainer import Trainer

STEPS = 3


class Counted(ModelOracle):
    """Counts the chunks that it answers, and ends the program when it comes to one of them."""

    def __init__(self, last: int | None = None) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        super().__init__(model, F.cross_entropy, queries_per_chunk=7)
        self.count, self.last = 0, last

    def evaluate(self, prepared: Any, perturbation: Perturbation, only: Collection[int] | None = None) -> Answers:
        if self.count == self.last:
            raise KeyboardInterrupt
        self.count += 1
        return super().evaluate(prepared, perturbation, only)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator)


def trained(folder: Path, oracle: Counted, estimator: Estimator) -> dict[str, torch.Tensor]:
    """The weights after some training steps."""
    optimiser = torch.optim.SGD(oracle.model.parameters(), lr=0.1, momentum=0.9)
    run = RunFolder(folder, {})
    Trainer(oracle, estimator, optimiser, batch, run, checkpoint_every=1).train(STEPS, tensorboard=False)
    return oracle.model.state_dict()


@pytest.fixture
def short_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion is a chunk, and is written at once."""
    monkeypatch.setattr(ledger, "PORTION", 0.0)
    monkeypatch.setattr(ledger, "FIRST", 0.0)


@pytest.mark.usefixtures("short_portions")
@pytest.mark.parametrize("estimator", [CGE(), CGE(scheme="forward"), RGE(num_directions=20)], ids=["CGE", "forward", "RGE"])
def test_killed_anywhere_it_goes_on_there(tmp_path: Path, estimator: Estimator) -> None:
    undisturbed = Counted()
    expected = trained(tmp_path / "undisturbed", undisturbed, estimator)
    for last in range(undisturbed.count):
        killed, resumed = Counted(last), Counted()
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / f"{last}", killed, estimator)
        found = trained(tmp_path / f"{last}", resumed, estimator)
        assert killed.count + resumed.count == undisturbed.count  # nothing is asked twice
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        metrics = [RunFolder(tmp_path / name, {}).metrics() for name in (f"{last}", "undisturbed")]
        assert len({json.dumps([(m["step"], m["loss"], m["queries"]) for m in each]) for each in metrics}) == 1
        assert not (tmp_path / f"{last}" / "answers.jsonl").exists()


def test_killed_for_good_it_goes_on_there(tmp_path: Path) -> None:
    """By SIGKILL, in a process of its own."""
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        import test_ledger
        from deepzero_sim.oracle import ledger
        ledger.PORTION = ledger.FIRST = 0.0
        class Killed(test_ledger.Counted):
            def evaluate(self, *args):
                if self.count == 14:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().evaluate(*args)
        test_ledger.trained(Path({str(tmp_path / "run")!r}), Killed(), test_ledger.CGE())
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "answers.jsonl").exists()
    undisturbed, resumed = Counted(), Counted()
    expected = trained(tmp_path / "undisturbed", undisturbed, CGE())
    found = trained(tmp_path / "run", resumed, CGE())
    assert resumed.count == undisturbed.count - 14
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_short_gradients_write_nothing(tmp_path: Path) -> None:
    killed = Counted(8)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", killed, CGE())
    assert not (tmp_path / "run" / "answers.jsonl").exists()


PORTIONS = [
    Portion(1, [0.1, -1e-300], 3, [1], [["timeout", "dropped", "it hung", "w[3] + 0.1", "kept/1"]]),
    Portion(2, [float("inf"), 5e-324, 1 / 3], 0, [], []),
]


def written(path: Path, portions: list[Portion]) -> Ledger:
    """A ledger that was told of some portions."""
    kept = Ledger(path)
    kept.at(4)
    assert kept.begin(0.5, 10) == []
    for portion in portions:
        kept.append(portion, 1.0, ledger.PORTION)
    return kept


@settings(max_examples=60)
@given(cut=st.integers(0, 200))
def test_cut_off_anywhere_it_holds_whole_portions(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "answers.jsonl"
    written(path, PORTIONS)
    os.truncate(path, min(cut, path.stat().st_size))
    lines = path.read_text(encoding="utf-8").count("\n")
    again = Ledger(path)
    again.at(4)
    whole = PORTIONS[: max(0, lines - 1)]
    assert again.begin(0.5, 10) == whole
    again.append(PORTIONS[0], 1.0, ledger.PORTION)
    last = Ledger(path)
    last.at(4)
    assert last.begin(0.5, 10) == [*whole, PORTIONS[0]]


@pytest.mark.parametrize("garbage", [b"\0\0\0\n", b"[1, 2]\n", b"\xff\n", b"3\n", b"{}\n"])
def test_what_a_power_cut_left_is_not_used(tmp_path: Path, garbage: bytes) -> None:
    path, portion = tmp_path / "answers.jsonl", Portion(1, [0.5], 3, [], [])
    kept = Ledger(path)
    kept.begin(1.0, 2)
    kept.append(portion, 1.0, 100.0)
    whole = path.read_bytes()
    path.write_bytes(whole + garbage + whole.splitlines(keepends=True)[1])
    assert Ledger(path).begin(1.0, 2) == [portion] and path.read_bytes() == whole


@pytest.mark.parametrize(("step", "loss", "queries"), [(5, 0.5, 10), (4, 0.25, 10), (4, 0.5, 11)])
def test_the_answers_to_another_question_are_not_used(tmp_path: Path, step: int, loss: float, queries: int) -> None:
    written(tmp_path / "answers.jsonl", PORTIONS)
    other = Ledger(tmp_path / "answers.jsonl")
    other.at(step)
    assert other.begin(loss, queries) == []
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_second_question_of_a_step_is_another(tmp_path: Path) -> None:
    kept = written(tmp_path / "answers.jsonl", PORTIONS)
    assert kept.begin(0.5, 10) == []


def test_portions_take_as_long_as_they_should(tmp_path: Path) -> None:
    kept = written(tmp_path / "answers.jsonl", [])
    assert kept.size_of_next([1.0] * 160) == 10  # a sixteenth, as nothing is known
    kept.append(Portion(10, [], 0, [], []), 10.0, 5.0)
    assert not (tmp_path / "answers.jsonl").exists()  # too little to be written
    assert kept.size_of_next([1.0] * 150) == ledger.PORTION / 0.5
    assert kept.size_of_next([1.0] * 50) == 50  # no small rest
    assert kept.size_of_next([100.0, 100.0]) == 1
    kept.append(Portion(40, [], 0, [], []), 40.0, 20.0)
    question, *lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(question) == {"step": 4, "question": 0, "loss": (0.5).hex(), "queries": 10}
    assert [json.loads(line)[0] for line in lines] == [10, 40]
