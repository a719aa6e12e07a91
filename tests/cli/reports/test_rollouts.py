"""Reports: numbers for machines, a page for people, pictures that can be opened."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers

from deepzero_sim.cli.reports.figures import COLOURS, styles
from deepzero_sim.cli.reports.results import results
from deepzero_sim.cli.reports.rollouts import publish
from deepzero_sim.cli.reports.tables import rows
from deepzero_sim.common.documents import markdown_table
from deepzero_sim.coupling.evaluation import Evaluation
from deepzero_sim.errors import MissingExtraError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers.wake import WakeGrid
from deepzero_sim.training.run_folder import METRICS, VALIDATION
from deepzero_sim.training.runs.comparison import Comparison, Cost, MethodResult
from deepzero_sim.training.runs.speed import Speed, StepTime

WAKE = WakeGrid(16).spec("wake", "float32")
PLANE = SolverSpec(name="heat", state_shape=(1, 12, 20), dt=1.0, channels=("T",), channel_units=("K",))
FIGURES = ("fields.png", "error_over_time.png", "error_over_cost.png")


def result(spec: SolverSpec, mae: float, cost: Cost, simulations: int = 3, steps: int = 10) -> MethodResult:
    errors = torch.full((simulations, steps), mae, dtype=torch.float64)
    errors[0] *= 2
    rollout = torch.randn(simulations, steps, *spec.state_shape)
    channels = errors[..., None].repeat(1, 1, spec.state_shape[0])
    scales = torch.full((spec.state_shape[0],), 0.5, dtype=torch.float64)
    found = Evaluation(errors, rollout, simulations * steps, 0.1, channel_errors=channels, scales=scales)
    return MethodResult(found, cost)


def comparison(spec: SolverSpec, simulations: int = 3, steps: int = 10, **more: MethodResult) -> Comparison:
    methods = {
        "SRC": result(spec, 0.1, Cost(), simulations, steps),
        "NON": result(spec, 0.05, Cost(100, 1.234, {"timeout retried": 2}), simulations, steps),
    }
    return Comparison(methods | more, torch.randn(simulations, steps, *spec.state_shape), spec)


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_results_say_everything_of_every_method() -> None:
    said = results(comparison(WAKE), {"steps": 10})
    assert said["settings"] == {"steps": 10} and list(said["methods"]) == ["SRC", "NON"]
    errors = torch.tensor([0.1, 0.05, 0.05])
    assert said["methods"]["NON"] == {
        "mae": pytest.approx(float(errors.mean())),
        "mae_std": pytest.approx(float(errors.std(correction=0))),
        "solver_steps": 100,
        "seconds": 1.23,
        "failures": {"training": {"timeout retried": 2}, "evaluation": {}},
    }
    assert said["methods"]["SRC"]["solver_steps"] == 0


def strictly(text: str) -> Any:
    """Read JSON as it is written down, in which there is neither NaN nor infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_results_are_json_whatever_diverged() -> None:
    diverged = result(WAKE, 0.1, Cost(500, 1.0))
    for errors in (diverged.evaluation.errors, diverged.evaluation.channel_errors):
        errors[1:] = torch.inf
    diverged.evaluation.scales[1] = torch.nan
    found = replace(comparison(WAKE, **{"ZO-SOL": diverged}), params=np.array([[100.0], [200.0], [300.0]]))
    said = strictly(json.dumps(results(found, {})))
    assert said["relative"]["ZO-SOL"] == {"error": None, "std": None} and said["relative"]["SRC"]["error"] > 0
    assert said["channels"]["SRC"]["velocity_y"]["unit"] == WAKE.channel_units[0]
    assert said["channels"]["ZO-SOL"]["velocity_y"]["mae"] is None
    assert said["channels"]["ZO-SOL"]["velocity_x"]["std_of_reference"] is None
    assert said["paired"]["methods"]["ZO-SOL"]["NON"] == {
        "difference": None,
        "better": 0,
        "worse": 3,
        "equal": 0,
        "spread": None,
        "p": 0.25,
    }
    assert said["simulations"][2]["parameters"] == {"reynolds": 300.0}
    assert said["simulations"][2]["errors"]["NON"]["mae"] == 0.05 and said["simulations"][2]["errors"]["ZO-SOL"]["mae"] is None
    assert "ZO-SOL: 2 of 3 simulations given up" in said["warnings"][0] and "NON leaves" in said["answer"]


def write_curves(run: Path, updates: int) -> None:
    run.mkdir()
    lines = [{"step": step, "loss": 1 / step} for step in range(1, updates + 1)]
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in [{"step": 0, "loss": None}, *lines]))
    validation = [{"step": 0, "error": None}, {"step": updates, "error": 0.25}]
    (run / VALIDATION).write_text("".join(json.dumps(line) + "\n" for line in validation))


def test_learning_curves_are_thinned_and_damaged_ones_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_curves(tmp_path / "good", 1000)
    write_curves(tmp_path / "bad", 5)
    (tmp_path / "bad" / METRICS).write_text("{}\n" * 3)
    runs = {"NON": tmp_path / "good", "ZO-SOL": tmp_path / "bad"}
    methods = comparison(PLANE, **{"ZO-SOL": result(PLANE, 0.05, Cost(5, 1.0))})
    (tmp_path / "page").mkdir()
    publish(tmp_path / "page", "Learnt", replace(methods, runs=runs), {})
    said = json.loads((tmp_path / "page" / "results.json").read_text())
    loss = said["learning"]["NON"]["loss"]
    assert len(loss) == 200 and loss[0] == [1, 1.0] and loss[-1] == [1000, 0.001]
    assert said["learning"]["NON"]["validation"] == [[1000, 0.25]] and "ZO-SOL" not in said["learning"]
    assert any("the learning curve of ZO-SOL is left out" in sentence for sentence in said["warnings"])
    page = (tmp_path / "page" / "report.md").read_text()
    assert "| NON | 1,000 |" in page and "the learning curve of ZO-SOL is left out" in page


def test_a_page_answers_first_and_goes_into_detail(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    harmful = result(PLANE, 0.2, Cost(5, 1.0))
    found = replace(
        comparison(PLANE, **{"ZO-SOL": harmful}), speed=Speed({"SRC": [StepTime(1, 3, 0.001)]}, {"solver": 3}, "why.")
    )
    publish(tmp_path, "A title", found, {"steps": 10})
    page = (tmp_path / "report.md").read_text()
    assert page.split("\n\n")[1].startswith("NON leaves 50 % of the error of the solver alone")
    heads = ["Warnings", "Figures", "Channels", "Simulations", "Simulation by simulation", "Speed", "Data", "Settings"]
    places = [page.index(f"\n## {head}\n") for head in heads]
    assert places == sorted(places) and page.index("| method | MAE (") < places[0]
    assert "- ZO-SOL is worse than the solver alone" in page and "The reference was not timed: why." in page
    html = (tmp_path / "report.html").read_text()
    assert "NON leaves 50 % of the error" in html and html.count("data:image/png;base64,") == page.count("![")


def test_the_table_compares_with_the_solver_alone() -> None:
    head, source, non = rows(comparison(WAKE))
    assert head[0] == "method" and len(head) == len(source) == len(non) == 7
    assert head[-1] == "failures in training, here" and (source[-1], non[-1]) == ("0, 0", "2, 0")
    without = replace(comparison(WAKE).methods["NON"], cost=Cost(100, 1.23))
    methods = {**comparison(WAKE).methods, "NON": without}
    assert [len(row) for row in rows(replace(comparison(WAKE), methods=methods))] == [6, 6, 6]
    assert source[:4] == ("SRC", "0.1333", "0.0471", "1.00") and non[0] == "NON" and non[3] == "0.50" and non[4] == "100"
    assert markdown_table([("a", "b"), ("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_runs_of_a_method_have_its_colour_and_are_told_apart() -> None:
    found = styles(["SRC", "NON", "NON, longer", "NON, again", "another"])
    lines, points = ([style[place] for style in found.values()] for place in (0, 1))
    assert {style["color"] for style in lines[1:4]} == {COLOURS["NON"]} != {lines[0]["color"]}
    assert len({style["linestyle"] for style in lines[1:4]}) == len({style["marker"] for style in points[1:4]}) == 3
    assert lines[4]["color"] is None  # matplotlib's next one


@pytest.mark.parametrize("kind", ["wake", "line", "plane", "volume"])
def test_a_report_has_numbers_a_page_and_figures(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    spec = {
        "wake": WAKE,
        "line": Burgers().spec,
        "plane": PLANE,
        "volume": SolverSpec(name="heat", state_shape=(2, 6, 8, 10), dt=1.0, axes=("z", "y", "x"), spacing=(1.0, 0.5, 0.5)),
    }[kind]
    publish(tmp_path, "A title", comparison(spec), {"steps": 10, "path": "a/b"})
    said = json.loads((tmp_path / "results.json").read_text())
    assert said["methods"].keys() == {"SRC", "NON"} and said["settings"]["path"] == "a/b"
    page = (tmp_path / "report.md").read_text()
    assert (
        page.startswith("# A title\n")
        and "| NON |" in page
        and "path: a/b" in page
        and f"over 10 steps to t = {10 * spec.dt:g} of 3 simulations" in page
    )
    for name in FIGURES:
        assert f"({name})" in page
        width, height = png_size(tmp_path / name)
        assert 400 < width < 4000 and 200 < height < 4000 and (tmp_path / name).stat().st_size > 5000
    shown = {line.rpartition("(")[2].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    assert shown == {path.name for path in tmp_path.glob("*.png")}


@pytest.mark.parametrize(
    ("spec", "simulations", "steps"),
    [(WAKE, 1, 1), (Burgers().spec, 1, 2), (Burgers().spec, 2, 3)],
    ids=["wake, one step", "line, two steps", "line, three steps"],
)
def test_short_rollouts_have_figures_too(tmp_path: Path, spec: SolverSpec, simulations: int, steps: int) -> None:
    pytest.importorskip("matplotlib")
    publish(tmp_path, "Short", comparison(spec, simulations, steps), {})
    assert all((tmp_path / name).exists() for name in FIGURES)


def test_the_solver_alone_has_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone = Comparison({"SRC": result(PLANE, 0.1, Cost())}, torch.randn(3, 10, *PLANE.state_shape), PLANE)
    publish(tmp_path, "Alone", alone, {})
    assert png_size(tmp_path / "error_over_cost.png")[0] > 400


@pytest.mark.parametrize(("spec", "from_step"), [(PLANE, 0), (PLANE, 5), (Burgers().spec, 5)])
def test_a_method_that_diverged_has_a_report(tmp_path: Path, spec: SolverSpec, from_step: int) -> None:
    pytest.importorskip("matplotlib")
    diverged = result(spec, 0.1, Cost(500, 1.0))
    diverged.evaluation.errors[:, from_step:] = torch.inf
    diverged.evaluation.rollout[:, from_step:] = torch.inf
    publish(tmp_path, "Diverged", comparison(spec, **{"ZO-SOL": diverged}), {})
    assert "| ZO-SOL | inf | inf | inf | 500 | 1 | 0, 0 |" in (tmp_path / "report.md").read_text()
    assert all(png_size(tmp_path / name)[0] > 400 for name in FIGURES)


def test_a_solver_that_is_right_has_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    perfect = {"SRC": result(PLANE, 0.0, Cost()), "NON": result(PLANE, 0.0, Cost(5, 1.0))}
    publish(tmp_path, "Perfect", Comparison(perfect, torch.zeros(3, 10, *PLANE.state_shape), PLANE), {})
    assert "| NON | 0.0000 |" in (tmp_path / "report.md").read_text()


def test_without_matplotlib_the_results_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"drawing figures needs the package 'matplotlib'.*deepzero-sim\[report\]"):
        publish(tmp_path, "No figures", comparison(WAKE), {})
    assert set(json.loads((tmp_path / "results.json").read_text())["methods"]) == {"SRC", "NON"}
    page = (tmp_path / "report.md").read_text()
    assert "| NON |" in page and "drawing figures needs the package 'matplotlib'" in page and "![" not in page
