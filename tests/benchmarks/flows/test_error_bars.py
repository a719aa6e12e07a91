"""Error bars of Jacobian fields against their true errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("exponax")
pytest.importorskip("matplotlib")

from deepzero_sim.benchmarks.flows import error_bar_report, error_bars
from deepzero_sim.benchmarks.flows.bench import bench_flows
from deepzero_sim.benchmarks.flows.catalogue import FLOWS, Ensemble
from deepzero_sim.benchmarks.flows.error_bar_report import ErrorBarFound, count_honest, error_bars_table, read_error_bars
from deepzero_sim.benchmarks.flows.error_bars import DRAWN, FIRST
from deepzero_sim.benchmarks.flows.products import first_frames, random_frames
from deepzero_sim.cli.settings.bench import BenchFlowsSettings
from deepzero_sim.datasets.trajectories import Trajectories

NAME = "burgers-1d"


def test_error_bars_are_compared_with_exact_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLOWS, NAME, replace(FLOWS[NAME], frames=20, train=Ensemble(6), test=Ensemble(3)))
    for module in (error_bars, error_bar_report):
        monkeypatch.setattr(module, "PROBES", (32, 64))
    settings = BenchFlowsSettings(tmp_path, [NAME], ["JacobianField"], ["error-bars"], unroll=3, steps=8)
    (table,) = bench_flows(settings)
    assert [row[:2] for row in table[1:]] == [(f"{NAME}, 32", "32"), (f"{NAME}, 64", "64")]
    first, second = found = read_error_bars(tmp_path)
    assert first.predicted(8) != second.predicted(8), "every field has chains of its own"
    for one in found:
        for states in (DRAWN, FIRST):
            assert 0 < one.true(states, 1) < one.true(states, 8) < 0.3
        assert 0.1 < one.ratio(DRAWN, 8) < 10
        assert len(one.measured["cosines"][DRAWN]["difference"]["8"]) == 30, "all 60 frames, in pairs"
    page = (tmp_path / "report.md").read_text()
    assert f"first frames, 8 steps: {count_honest(found, FIRST, 8)[0]} of 2 within a factor of 2." in page
    assert "error_bars.png" in page and (tmp_path / "error_bars.png").stat().st_size > 5000
    assert len(json.loads((tmp_path / "results.json").read_text())["error_bars"]) == 2
    before = {path: path.read_bytes() for path in tmp_path.glob("error_bars/*/*.json")}
    bench_flows(settings)
    assert {path: path.read_bytes() for path in before} == before, "what is there is kept"


def cosines(drawn: float, first: float) -> dict[str, dict[str, dict[str, list[float]]]]:
    return {kind: {"difference": {"1": [cosine], "8": [cosine]}} for kind, cosine in ((DRAWN, drawn), (FIRST, first))}


def test_those_within_a_factor_of_two_are_counted_and_others_marked() -> None:
    told = {"1": 0.995, "8": 0.995}  # an error of 0.0999
    inside = ErrorBarFound(NAME, 32, {"predicted": told, "products": 32, "cosines": cosines(0.999, 0.9)})  # 0.0447, 0.436
    outside = ErrorBarFound(NAME, 64, {"predicted": told, "products": 64, "cosines": cosines(0.9999, 0.99)})  # 0.0141, 0.141
    refused = ErrorBarFound(NAME, 96, {"why": "no."})
    some = [inside, outside, refused]
    assert (count_honest(some, DRAWN, 8), count_honest(some, FIRST, 8)) == ((0, 2), (1, 2))
    rows = error_bars_table(some)[1:]
    assert rows[0][4] == "2.23 *" and rows[1][4] == "7.06 *" and set(rows[2][1:]) == {"-"}


def test_frames_are_drawn_once_each_with_others_to_differ_from() -> None:
    frames = np.arange(12.0, dtype=np.float32).reshape(3, 4, 1, 1)
    test = Trajectories(frames, np.arange(3.0, dtype=np.float32)[:, None], np.ones((1, 1), bool))
    cases = random_frames(test, 5, seed=0)
    others = cases.states - cases.differences
    assert len(np.unique(np.concatenate([cases.states, others]))) == 10
    assert cases.params is not None and (cases.params[:, 0] == cases.states[:, 0, 0] // 4).all()
    assert len(random_frames(test, 50, seed=0).states) == 6
    first = first_frames(test)
    assert first.states.ravel().tolist() == [0, 4, 8] and first.differences.ravel().tolist() == [-2, -2, -2]
