"""Files of others, which no report is written over; and its own, which every report is."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.html import to_html
from deepzero_sim.cli.reports.ownership import require_own_files, write_page
from deepzero_sim.common.documents import write_yaml
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.training.run_folder import RunFolder

FILES = ("report.md", "report.html", "error_*.png", "results.json")


def test_a_report_may_be_written_over_its_own_files_alone(tmp_path: Path) -> None:
    require_own_files(tmp_path / "new", FILES, "--output")
    write_page(tmp_path / "report.md", "# Title\n")
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "notes.md").write_text("of no report's name")
    require_own_files(tmp_path, FILES, "--output")
    (tmp_path / "report.md").write_text("# mine\n")
    with pytest.raises(ConfigError, match=r"report\.md was not made by deepzero-sim, .* name another with --output"):
        require_own_files(tmp_path, FILES, "--output")


@pytest.mark.parametrize("name", ["report.md", "report.html", "error_map.png", "results.json"])
def test_a_file_of_others_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="was not made by deepzero-sim"):
        require_own_files(tmp_path, FILES, "--output")


def test_numbers_of_others_are_refused_next_to_a_picture_of_ours(tmp_path: Path) -> None:
    plot = pyplot()
    save(plot, tmp_path / "error_map.png", plot.figure())
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"results\.json was not made by"):
        require_own_files(tmp_path, FILES, "--output")


def test_a_page_from_before_pages_had_a_mark_is_told_by_its_pictures(tmp_path: Path) -> None:
    plot = pyplot()
    save(plot, tmp_path / "error_map.png", plot.figure())
    (tmp_path / "report.md").write_text("# Correctors compared\n")
    (tmp_path / "results.json").write_text("{}")
    require_own_files(tmp_path, FILES, "--output")


def test_a_folder_in_the_place_of_a_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(ConfigError, match=r"report\.md was not made by"):
        require_own_files(tmp_path, FILES, "--output")


def test_the_mark_of_a_page_is_not_shown(tmp_path: Path) -> None:
    write_page(tmp_path / "report.md", "# Title\n\n```yaml\na: 1\n```\n")
    text = (tmp_path / "report.md").read_text()
    assert "deepzero-sim report" in text
    body = to_html(text, tmp_path).partition("<body>")[2]
    assert "deepzero-sim" not in body
    assert "a: 1" in body


_GRADIENT = "check-gradient --train_data line.h5 --solver.name problems.Burgers --output out"


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("check problems.Burgers --output out", "out/solver_check.md"),
        ("check problems.Burgers --output out", "out/solver_check.json"),
        (_GRADIENT, "out/gradient_check.md"),
        (_GRADIENT, "out/gradient_check.png"),
        ("compare run --data line.h5 --output out --trust", "out/results.json"),
        ("compare run --output out --trust", "out/training_loss.png"),
        ("evaluate --run run --data line.h5 --output out --trust", "out/report.md"),
        ("evaluate --run run --data line.h5 --trust", "run/report.md"),
        ("classify --run out --data nowhere", "out/report.md"),
        ("classify --run out --data nowhere", "out/accuracy_over_epochs.png"),
        ("demo --run out", "out/report.md"),
        ("bench wake --output out", "out/report.md"),
        ("bench flows --output out", "out/results.json"),
        ("bench flows --output out", "out/report.md"),
    ],
)
def test_no_command_writes_over_files_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line_data(tmp_path / "line.h5")
    for folder in ("out", "run"):
        (tmp_path / folder).mkdir()
    run = train_settings(tmp_path / "run", tmp_path / "line.h5")
    (tmp_path / "run" / "config.yaml").write_text(write_yaml(settings_to_dict(run)))
    (tmp_path / path).write_text("mine\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert main(call.split()) == 2
    assert f"{path} was not made by deepzero-sim, and would be overwritten in" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "validation.jsonl", "accuracy.jsonl", "failures.jsonl", "state.json", "answers.jsonl",
     "preparation.jsonl", "ratios.json", "checkpoint.safetensors"],
)  # fmt: skip
def test_no_run_begins_in_a_folder_that_has_files_of_its_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(RunError, match=r"but no config\.yaml that says how it was made"):
        RunFolder(tmp_path, {"updates": 1}, may_grow=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
