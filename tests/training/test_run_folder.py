"""Run folders: settings that must not change, metrics that may be cut off, checkpoints that are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from training_cases import assert_same_tensors, unfinished

from deepzero_sim.errors import RunError
from deepzero_sim.training.checkpoints import CHECKPOINT, Checkpoint, load_checkpoint, read_settings
from deepzero_sim.training.run_folder import RunFolder

SETTINGS = {"method": "ZO-SOL", "solver": {"name": "a.B", "args": {"resolution": 8}}, "workers": 2, "rates": [1e-3, 0.1]}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", SETTINGS, free=("workers",))


def test_settings_are_kept_and_may_come_again(run: RunFolder) -> None:
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == SETTINGS == read_settings(run.path)
    RunFolder(run.path, dict(reversed(SETTINGS.items())), free=("workers",))


def test_free_settings_may_differ(run: RunFolder) -> None:
    RunFolder(run.path, SETTINGS | {"workers": 5}, free=("workers",))
    with pytest.raises(RunError, match="workers is 2 there, 5 here"):
        RunFolder(run.path, SETTINGS | {"workers": 5})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "NON"}, "method is 'ZO-SOL' there, 'NON' here"),
        ({"solver": {"name": "a.B", "args": {"resolution": 9}}}, "solver is .*8.* there, .*9.* here"),
        ({"seed": 1}, "seed is None there, 1 here"),
        ({"rates": [1e-3]}, r"rates is \[0.001, 0.1\] there, \[0.001\] here"),
    ],
)
def test_other_settings_are_refused_by_name(run: RunFolder, changes: dict[str, Any], says: str) -> None:
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(RunError, match=f"holds a run with other settings .{says}.: name another folder"):
        RunFolder(run.path, SETTINGS | changes, free=("workers",))
    assert (run.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [("[1, 2", "cannot be read as YAML"), ("- 1\n", "must hold settings as key: value lines, not list"), ("", "not NoneType")],
)
def test_damaged_settings_are_named(run: RunFolder, text: str, says: str) -> None:
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=says):
        RunFolder(run.path, SETTINGS)


def test_bytes_that_are_no_text(run: RunFolder) -> None:
    (run.path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="cannot be read as YAML"):
        read_settings(run.path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected a run folder at .*, but there is no config.yaml"):
        read_settings(tmp_path)
    with pytest.raises(RunError, match=r"expected a trained run in .*, but there is no checkpoint.safetensors: train it first"):
        load_checkpoint(tmp_path)


def test_metrics_are_lines_and_a_torn_last_one_does_not_count(run: RunFolder) -> None:
    assert run.metrics() == []
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.1 / step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3] and run.metrics()[2]["loss"] == 0.1 / 3
    run.drop_metrics_after(2)
    run.append_metrics({"step": 3})
    assert [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("line", [b"\x00\x00", b"\xff\xfe", b"3", b"null", b"[1]", b'{"loss": 1}', b'{"step": null}'])
def test_damaged_metrics_are_named(run: RunFolder, line: bytes) -> None:
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl must hold one JSON object a line"):
        run.metrics()


def checkpoint(value: float) -> Checkpoint:
    tensors = {"network.w": torch.full((2, 3), value), "optimiser.0.step": torch.tensor(7), "empty": torch.zeros(0)}
    return Checkpoint(tensors, {"progress": {"step": 7, "loss": 0.1}, "text": "Größe"})


def test_a_checkpoint_comes_back_as_it_was(run: RunFolder) -> None:
    assert run.load() is None
    run.save(checkpoint(1.0))
    run.save(checkpoint(2.0))
    loaded = run.load()
    assert loaded is not None and loaded.state == checkpoint(2.0).state
    assert_same_tensors(loaded.tensors, checkpoint(2.0).tensors)
    assert json.loads((run.path / "state.json").read_text()) == loaded.state
    assert not unfinished(run.path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(run: RunFolder) -> None:
    run.save(checkpoint(1.0))
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError):  # safetensors refuses memory that two tensors share
        run.save(Checkpoint({"a": shared, "b": shared[:2]}, {}))
    assert load_checkpoint(run.path).state == checkpoint(1.0).state and not unfinished(run.path)


def test_a_process_that_was_killed_while_it_wrote_leaves_nothing(run: RunFolder) -> None:
    left = run.path / f".{CHECKPOINT}.99999999.part"
    left.write_bytes(b"half")
    run.save(checkpoint(1.0))
    assert not left.exists()


def test_a_checkpoint_without_the_settings_it_was_made_with_is_not_gone_on_from(run: RunFolder) -> None:
    run.save(checkpoint(1.0))
    (run.path / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"holds a checkpoint but no config.yaml"):
        RunFolder(run.path, SETTINGS)


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_one_at_a_time(run: RunFolder) -> None:
    with run.in_use():
        with pytest.raises(RunError, match="another process is training in"), RunFolder(run.path, SETTINGS).in_use():
            pass
        run.save(checkpoint(1.0))
    with run.in_use():
        assert run.load() is not None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES = {
    "cut off": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is text, long enough to be a header"),
    "foreign": lambda path: save_file({"w": torch.zeros(3)}, path),
    "foreign state": lambda path: save_file({"w": torch.zeros(3)}, path, metadata={"state": "not JSON"}),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_checkpoints_are_named(run: RunFolder, damage: str) -> None:
    run.save(checkpoint(1.0))
    DAMAGES[damage](run.path / CHECKPOINT)
    with pytest.raises(RunError, match=r"checkpoint.safetensors is not a checkpoint of this package .*: delete it"):
        run.load()
