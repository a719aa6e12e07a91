"""Layer ratios in the report: a table and bars by layer, of the runs that have them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_rollouts import PLANE, comparison, png_size, result
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.cli.reports.layer_ratios import caption, rows
from deepzero_sim.cli.reports.rollouts import publish, ratios_of
from deepzero_sim.common.components import Component
from deepzero_sim.errors import MissingExtraError, RunError
from deepzero_sim.estimators.sparsity import Densities
from deepzero_sim.training.ratios_file import RatiosRecord
from deepzero_sim.training.runs.comparison import Cost, compare
from deepzero_sim.training.runs.training import train

RECORD = RatiosRecord(
    method="zo-grasp",
    sparsity=0.9,
    densities=Densities({"first.weight": 0.051, "second.weight": 1.0, "third.weight": 0.0}, 386, 5404),
    sizes={"first.weight": 2000, "second.weight": 10, "third.weight": 7},
    always_active=1234,
    seconds=2.0,
)


def test_the_table_has_a_row_a_layer_their_sum_and_the_rest() -> None:
    assert rows(RECORD) == [
        ("layer", "parameters", "active", "share"),
        ("`first.weight`", "2,000", "102", "5.1 %"),
        ("`second.weight`", "10", "10", "100.0 %"),
        ("`third.weight`", "7", "1", "14.3 %"),  # a mask keeps at least one
        ("all of these", "2,017", "113", "5.6 %"),
        ("biases, normalisation and others", "1,234", "1,234", "100.0 %"),
    ]
    assert rows(replace(RECORD, always_active=0))[-1][0] == "all of these"


def test_the_heading_says_what_it_took() -> None:
    assert "ZO-SOL: layer ratios zo-grasp at a sparsity of 0.9, found with 386 queries and 5,404 solver steps" in caption(
        "ZO-SOL", RECORD
    )
    assert "found with no queries" in caption("ZO-SOL", replace(RECORD, densities=Densities(RECORD.densities.by_layer)))


def test_a_report_shows_the_ratios_of_the_methods_that_have_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sparse = replace(result(PLANE, 0.05, Cost(500, 3.0)), ratios=RECORD)
    found = comparison(PLANE, **{"ZO-SOL": sparse})
    assert list(ratios_of(found.methods)) == ["ZO-SOL"]
    publish(tmp_path, "Sparse", found, {})
    page = (tmp_path / "report.md").read_text()
    assert "## Active coordinates by layer" in page and "| `first.weight` | 2,000 | 102 | 5.1 % |" in page
    assert "(ratios.png)" in page and page.index("ratios.png") < page.index("## Settings")
    width, height = png_size(tmp_path / "ratios.png")
    assert 600 < width < 1200 and 200 < height < 600


def test_several_methods_stand_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sparse = replace(result(PLANE, 0.05, Cost(500, 3.0)), ratios=RECORD)
    other = replace(RECORD, method="uniform", sizes={"w": 50}, densities=Densities({"w": 0.1}), always_active=0)
    publish(tmp_path, "Two", comparison(PLANE, **{"ZO-SOL": sparse, "another": replace(sparse, ratios=other)}), {})
    page = (tmp_path / "report.md").read_text()
    assert (
        "ZO-SOL: layer ratios zo-grasp" in page and "another: layer ratios uniform" in page and page.count("(ratios.png)") == 1
    )
    assert png_size(tmp_path / "ratios.png")[0] > 1200


def test_a_report_without_ratios_does_not_speak_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    publish(tmp_path, "Dense", comparison(PLANE), {})
    assert "coordinates" not in (tmp_path / "report.md").read_text() and not (tmp_path / "ratios.png").exists()


def test_ratios_need_no_figures_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = replace(result(PLANE, 0.05, Cost(500, 3.0)), ratios=RECORD)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError):
        publish(tmp_path, "No figures", comparison(PLANE, **{"ZO-SOL": sparse}), {})


def test_from_training_to_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    data = line_data(tmp_path / "line.h5")
    ratios = Component("zo-grasp", {"num_directions": 4})
    settings = train_settings(tmp_path / "run", data, sparsity=0.5, layer_ratios=ratios, updates=2)
    train(settings)
    assert compare({"ZO-SOL": settings.run}, data, 2).methods["ZO-SOL"].ratios is not None
    assert main(["evaluate", "--run", str(settings.run), "--data", str(data), "--steps", "2"]) == 0
    page = (settings.run / "report.md").read_text()
    assert "layer ratios zo-grasp at a sparsity of 0.5, found with 10 queries and 40 solver steps" in page
    assert "| `network.0.weight` | 9 |" in page and (settings.run / "ratios.png").stat().st_size > 5000
    (settings.run / "ratios.json").write_text("null")
    with pytest.raises(RunError, match="does not hold the layer ratios of a run"):
        compare({"ZO-SOL": settings.run}, data, 2)


def test_the_command_line_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = line_data(tmp_path / "line.h5")
    common = ["train", "--run", str(tmp_path / "run"), "--train_data", str(data), "--solver.name", "problems.Burgers"]
    common += ["--updates", "1", "--unroll", "2", "--workers.backend", "serial", "--tensorboard", "false"]
    common += ["--method", "ZO-SOL", "--sparsity", "0.5", "--mask_refresh", "5"]
    assert main([*common, "--layer_ratios.name", "magic"]) == 2
    assert "expected an import path" in capsys.readouterr().err
    assert main([*common, "--layer_ratios.name", "zo-grasp", "--layer_ratios.args", "{num_directions: 3}"]) == 0
    assert (tmp_path / "run" / "ratios.json").exists()
