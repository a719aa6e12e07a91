"""What a run keeps and reads again: flipped bits and other runs' files are refused, or change nothing."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import assert_same_tensors, config_file, line_data, tensors, train_settings, without_seconds

from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.errors import DeepZeroError, RunError
from deepzero_sim.oracle import ledger
from deepzero_sim.training.checkpoints import CHECKPOINT, Checkpoint, load_checkpoint, snapshot
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.ratios_file import load_ratios
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.comparison import Cost, compare, cost
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

FORWARD = Component("deepzero_sim.CGE", {"step_size": 1e-4, "scheme": "forward"})
SPARSE: dict[str, Any] = {"sparsity": 0.5, "layer_ratios": Component("zo-grasp", {"num_directions": 3})}
#: Bytes of each file that are changed, one after the other: the first ones, the last ones, and some all over it.
PLACES = 16


class StoppedError(Exception):
    """Ends a training."""


@pytest.fixture(scope="module")
def short_portions() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "PORTION", 0.0)
        patch.setattr(ledger, "FIRST", 0.0)
        yield


def stopped(settings: TrainSettings) -> None:
    """Train up to the middle of the fourth gradient, past the checkpoint of the second, as a kill leaves it."""
    keep, asked = ledger.Ledger.append, [0]

    def counted(self: ledger.Ledger, *args: Any) -> None:
        keep(self, *args)
        asked[0] += self._step == 3
        if asked[0] == 2:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(ledger.Ledger, "append", counted)
        train(settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_data(tmp_path_factory.mktemp("data") / "line.h5")


def zo_settings(run: Path, data: Path, **changes: Any) -> TrainSettings:
    return train_settings(run, data, **{"estimator": FORWARD, "checkpoint_every": 3, "updates": 5, **SPARSE, **changes})


class _Stopped:
    """A run that was stopped, and what it ends with when it goes on."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.settings = zo_settings(folder / "stopped", data)
        stopped(self.settings)
        self.data, self.folder, self.count = data, folder, 0
        self.expected = self.resumed(lambda run: None)

    def resumed(self, change: Callable[[Path], None]) -> tuple[Progress, Cost, dict[str, torch.Tensor], float]:
        """The end of a copy that was changed."""
        self.count += 1
        run = self.folder / f"of{self.count}" / "run"
        shutil.copytree(self.settings.run, run)
        change(run)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*damaged and are left out")
            progress = train(replace(self.settings, run=run))
        found = compare({"ZO-SOL": run}, self.data, 3).methods["ZO-SOL"].evaluation.mae
        spent = replace(cost(run), seconds=0.0)
        return without_seconds(vars(progress)), spent, tensors(run), found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, short_portions: None) -> _Stopped:
    return _Stopped(tmp_path_factory.mktemp("stopped"), data)


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def places(size: int, count: int = PLACES) -> list[int]:
    ends = {0, 7, 9, size // 2, size - 2, size - 1}
    return sorted({place for place in (*ends, *range(3, size, max(1, size // count))) if 0 <= place < size})


KEPT = ["checkpoint.safetensors", "answers.jsonl", "ratios.json", "first_steps.safetensors", "preparation.jsonl"]
TOLD = ["state.json", "metrics.jsonl", "config.yaml"]


@pytest.mark.parametrize("name", [*KEPT, *TOLD])
def test_a_flipped_bit_is_refused_or_changes_nothing(run: _Stopped, name: str) -> None:
    size, refused, taken = (run.settings.run / name).stat().st_size, 0, 0
    for place in places(size, PLACES if name in KEPT else 4):
        try:
            found = run.resumed(lambda copy, place=place: flip(copy / name, place, place % 7))  # type: ignore[misc]
        except DeepZeroError as error:
            assert str(copy_of(run) / name) in str(error) or name == "config.yaml", error
            refused += 1
            continue
        assert found[:2] == run.expected[:2] and found[3] == run.expected[3], (name, place)
        assert_same_tensors(found[2], run.expected[2])
        taken += 1
    assert refused or name in TOLD
    assert taken or name not in {"state.json", "metrics.jsonl", "answers.jsonl"}


def copy_of(run: _Stopped) -> Path:
    return run.folder / f"of{run.count}" / "run"


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "answers.jsonl", "ratios.json", "preparation.jsonl"])
@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"estimator": Component("deepzero_sim.CGE", {"step_size": 2e-4, "scheme": "forward"})}], ids=str
)
def test_the_files_of_another_run_are_refused(
    tmp_path: Path, run: _Stopped, data: Path, name: str, changes: dict[str, Any]
) -> None:
    other = zo_settings(tmp_path / "other", data, **changes)
    stopped(other)

    def swapped(copy: Path) -> None:
        assert (copy / name).exists()
        (copy / name).write_bytes((other.run / name).read_bytes())

    try:
        found = run.resumed(swapped)
    except RunError as error:
        assert name in str(error)
    else:  # of another question, forgotten
        assert name == "answers.jsonl"
        assert_same_tensors(found[2], run.expected[2])


def test_a_torn_last_line_heals(run: _Stopped) -> None:
    for name in ("answers.jsonl", "metrics.jsonl", "preparation.jsonl"):
        for torn in (b'{"step": 4, "lo', b"\0\0\0\0\n", *([] if name == "preparation.jsonl" else [b"[[\n", b"\xff\xfe\n"])):

            def tear(copy: Path, name: str = name, torn: bytes = torn) -> None:
                with (copy / name).open("ab") as file:
                    file.write(torn)

            found = run.resumed(tear)
            assert found[:2] == run.expected[:2]
            assert_same_tensors(found[2], run.expected[2])


def test_damaged_lines_of_a_log_stop_no_training(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    run = RunFolder(tmp_path / "free", {})
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
    log = run.path / "metrics.jsonl"
    before = log.read_bytes().replace(b'{"step": 2}', b'{"step": 2')
    log.write_bytes(before)
    with pytest.warns(UserWarning, match=r"1 lines of .*metrics.jsonl were damaged and are left out; the file as it was is"):
        run.drop_metrics_after(3)
    assert [line["step"] for line in run.metrics()] == [1, 3]
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == before
    assert train(settings).step == 4


@pytest.mark.parametrize("command", ["evaluate", "train", "compare", "start"])
def test_the_command_line_says_it_in_a_sentence(
    tmp_path: Path, data: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings)
    flip(settings.run / CHECKPOINT, (settings.run / CHECKPOINT).stat().st_size - 3, 2)  # in a weight
    start = replace(settings, run=tmp_path / "other", start=settings.run)
    given = {
        "evaluate": ["evaluate", "--run", settings.run, "--data", data],
        "compare": ["compare", settings.run, "--data", data, "--output", tmp_path / "compared"],
        "train": ["train", "--config", config_file(tmp_path / "train.yaml", settings)],
        "start": ["train", "--config", config_file(tmp_path / "start.yaml", start)],
    }
    assert main([str(word) for word in given[command]]) == 2
    said = capsys.readouterr().err
    assert f"{settings.run / CHECKPOINT} is not a checkpoint of this package" in said
    assert "does not fit its checksum: it was changed or damaged" in said and "delete it to train anew, or restore it" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -5),
        ("step", 4.5),
        ("step", "x"),
        ("step", True),
        ("step", None),
        ("step", 10**9),
        ("loss", "low"),
        ("queries", -1),
        ("queries", [1]),
        ("solver_steps", 1.5),
        ("seconds", -1.0),
        ("seconds", float("nan")),
        ("seconds", "long"),
        ("failures", []),
        ("failures", {"timeout dropped": "many"}),
        ("unknown", 1),
    ],
)
def test_a_checkpoint_that_says_what_cannot_be_is_refused(tmp_path: Path, data: Path, key: str, value: Any) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings)
    whole = load_checkpoint(settings.run)
    run = RunFolder.__new__(RunFolder)
    run.path, run._identity = settings.run, _identity_of(settings.run)
    run.save(Checkpoint(whole.tensors, {**whole.state, "progress": {**whole.state["progress"], key: value}}))
    for use in (lambda: train(settings), lambda: cost(settings.run), lambda: compare({"NON": settings.run}, data, 2)):
        with pytest.raises(RunError, match=r"the checkpoint in .* (does not say how far it is|says that 1000000000 training)"):
            use()


def _identity_of(run: Path) -> Any:
    from deepzero_sim.training.checkpoints import load_with_identity  # noqa: PLC0415

    return load_with_identity(run)[1]


def test_a_changed_setting_is_not_evaluated(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings)
    config = settings.run / "config.yaml"
    config.write_text(config.read_text().replace("unroll: 3", "unroll: 7"))
    with pytest.raises(RunError, match=r"checkpoint.safetensors is of another run, it holds another unroll .*3, not 7"):
        compare({"NON": settings.run}, data, 2)


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    settings = train_settings(tmp_path / "run", line_data(tmp_path / "line.h5"), method="NON")
    with pytest.raises(StoppedError):
        train(settings, lambda progress: _stop_at(progress, 3))
    line_data(settings.train_data, simulations=4)
    with pytest.raises(RunError, match=r"trained with a train_data that held something else than it does now: restore that"):
        train(settings)


def _stop_at(progress: Progress, step: int) -> None:
    if progress.step == step:
        raise StoppedError


def test_a_snapshot_in_anothers_place_is_refused(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings, keep=(1, 3))
    first, third = (snapshot(settings.run, step) / CHECKPOINT for step in (1, 3))
    assert load_checkpoint(third.parent).state["progress"]["step"] == 3
    third.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match="is a checkpoint of training step 1, not 3"):
        load_checkpoint(third.parent)


def test_counters_for_people_are_the_checkpoints(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings)
    state = settings.run / "state.json"
    written = state.read_text()
    state.write_text(written.replace('"step": 4', '"step": 1000000000'))
    assert train(settings).step == 4 and state.read_text() == written


def test_a_checkpoint_without_a_checksum_is_of_an_earlier_version(tmp_path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({"network.w": torch.zeros(3)}, tmp_path / CHECKPOINT, metadata={"state": "{}"})
    with pytest.raises(RunError, match=r"no checksum, as those of earlier versions.: delete it to train anew, or restore it"):
        load_checkpoint(tmp_path)


def test_changed_ratios_are_not_reported(run: _Stopped) -> None:
    def change(copy: Path) -> None:
        ratios = copy / "ratios.json"
        ratios.write_text(ratios.read_text().replace('"queries": ', '"queries": 1'))
        with pytest.raises(RunError, match=r"ratios.json was changed, or is another run's"):
            load_ratios(copy)

    with pytest.raises(RunError, match=r"ratios.json was changed"):
        run.resumed(change)
