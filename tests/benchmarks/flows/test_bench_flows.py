"""The comparison on many flows from end to end, cut short: few simulations, few updates, small networks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("exponax")
pytest.importorskip("skfem")
pytest.importorskip("matplotlib")

from training_cases import without_seconds

from deepzero_sim import vjp
from deepzero_sim.benchmarks.flows import bench, methods, trainings
from deepzero_sim.benchmarks.flows.bench import bench_flows
from deepzero_sim.benchmarks.flows.catalogue import FLOWS, Ensemble
from deepzero_sim.benchmarks.flows.emulator import Emulator
from deepzero_sim.benchmarks.flows.figures import STYLES
from deepzero_sim.benchmarks.flows.measurements import read_measurement, write_sealed
from deepzero_sim.benchmarks.flows.report import errors_table
from deepzero_sim.benchmarks.flows.summaries import Found, collect, gain, near_bound, summarise
from deepzero_sim.benchmarks.flows.trainings import Outcome
from deepzero_sim.cli.main import main
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowMethod, FlowName
from deepzero_sim.common.components import Component
from deepzero_sim.errors import ConfigError

#: Solver steps of the step from every frame, and of the rollouts of a training, whose first steps these are.
FRAMES, ROLLOUTS = 3 * 11, 3 * 4 * (3 - 1)


@pytest.fixture(autouse=True)
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("burgers-1d", "burgers-mesh"):
        flow = FLOWS[name]
        args = {**flow.network.args, "width": 4}
        small = Component(flow.network.name, args)
        changes = {"frames": 12, "train": Ensemble(3), "test": Ensemble(2), "network": small}
        monkeypatch.setitem(FLOWS, name, replace(flow, **changes))
    monkeypatch.setattr(methods, "START_UPDATES", 20)


def short(output: Path, flows: list[FlowName], named: list[FlowMethod], **changes: Any) -> BenchFlowsSettings:
    settings = BenchFlowsSettings(output=output, flows=flows, methods=named, seeds=1, updates=3, unroll=3, steps=8)
    return replace(settings, **changes)


def read_results(output: Path) -> Any:
    return json.loads((output / "results.json").read_text())


def test_products_and_trainings_are_compared(tmp_path: Path) -> None:
    named: list[FlowMethod] = ["DETACHED", "STRAIGHT-THROUGH", "Coloured", "FO-SOL"]
    products, errors, costs = bench_flows(short(tmp_path, ["burgers-1d"], named))
    assert [row[0] for row in products[1:]] == ["burgers-1d, STRAIGHT-THROUGH", "burgers-1d, Coloured"]
    assert errors[0][1:-1] == ("SRC", "NON", "DETACHED", "STRAIGHT-THROUGH", "FO-SOL") and len(errors) == len(costs) == 2
    found = read_results(tmp_path)["flows"]["burgers-1d"]
    coloured = found["products"]["Coloured"]
    assert coloured["solver_steps_to_prepare"] == 0 and coloured["solver_steps_per_product"] == 2 * 10
    assert list(coloured["cosines"]) == ["difference", "noise", "error"]
    assert np.mean(coloured["cosines"]["difference"]["1"]) > 0.99 and np.mean(coloured["cosines"]["error"]["1"]) > 0.9
    assert found["products"]["STRAIGHT-THROUGH"]["solver_steps_per_product"] == 0
    trained = {outcome["method"]: outcome for outcome in found["outcomes"]}
    assert trained["NON"]["solver_steps"] == FRAMES
    measured = trained["DETACHED"]["solver_steps"] - 2 * FRAMES - ROLLOUTS  # of the start, and of the rollouts that measure it
    assert measured > 0
    assert {trained[m]["solver_steps"] for m in ("STRAIGHT-THROUGH", "FO-SOL")} == {2 * FRAMES + ROLLOUTS + measured}
    assert all(len(outcome["errors"]) == 8 and min(outcome["errors"]) > 0 for outcome in trained.values())
    assert len({tuple(outcome["errors"]) for outcome in trained.values()}) == 5, "every method has trained another network"
    page = (tmp_path / "report.md").read_text()
    for figure in ("products.png", "errors.png"):
        assert figure in page and (tmp_path / figure).stat().st_size > 5000


@pytest.mark.slow
def test_estimators_that_ask_for_losses_spend_what_they_may(tmp_path: Path) -> None:
    named = list(methods.BY_QUERIES)
    bench_flows(short(tmp_path, ["burgers-1d"], named, parts=["trainings"], query_steps=5000))
    trained = {outcome["method"]: outcome for outcome in read_results(tmp_path)["flows"]["burgers-1d"]["outcomes"]}
    assert set(trained) == {"SRC", "NON", *named}
    for method in named:
        asked = trained[method]["solver_steps"] - 2 * FRAMES
        assert not trained[method]["why"] and 2000 < asked < 5000 + 2 * ROLLOUTS + 1500, method
    assert len({tuple(outcome["errors"]) for outcome in trained.values()}) == 7, "every method has trained another network"


@pytest.mark.slow
def test_parts_are_reported_together_and_what_is_there_is_kept(tmp_path: Path) -> None:
    bench_flows(short(tmp_path, ["burgers-1d"], ["STRAIGHT-THROUGH"], seeds=0))
    first = read_results(tmp_path)["flows"]["burgers-1d"]
    assert first["outcomes"] == [] and first["verdict"] == "not measured"
    bench_flows(short(tmp_path, ["burgers-mesh"], ["STRAIGHT-THROUGH"]))
    both = read_results(tmp_path)["flows"]
    assert list(both) == ["burgers-1d", "burgers-mesh"] and both["burgers-1d"] == first
    assert {outcome["method"] for outcome in both["burgers-mesh"]["outcomes"]} == {"SRC", "NON", "STRAIGHT-THROUGH"}
    bench_flows(short(tmp_path, ["burgers-mesh", "burgers-1d"], ["STRAIGHT-THROUGH"], seeds=0))
    assert read_results(tmp_path)["flows"] == both


class KilledError(Exception):
    """Ends a benchmark in its middle."""


@contextmanager
def _kill_after_two(title: str, updates: int) -> Iterator[Callable[[Any], None]]:
    def report_progress(progress: Any) -> None:
        if "NON" not in title and progress.step == 2:
            raise KilledError

    yield report_progress


@pytest.mark.slow
@pytest.mark.parametrize("method", ["EMULATOR", "FO-SOL"])
def test_interrupted_it_resumes_and_finds_the_same(method: FlowMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(Emulator.__init__, "__defaults__", (2, 20, 16, 3e-3, 0))  # few steps and updates
    bench_flows(short(tmp_path / "whole", ["burgers-1d"], [method]))
    with monkeypatch.context() as within:
        within.setattr(trainings, "training_bar", _kill_after_two)
        with pytest.raises(KilledError):
            bench_flows(short(tmp_path / "killed", ["burgers-1d"], [method]))
    assert (tmp_path / "killed" / "runs" / "burgers-1d" / "seed0" / method / "checkpoint.safetensors").exists()
    bench_flows(short(tmp_path / "killed", ["burgers-1d"], [method]))
    whole, resumed = (read_results(tmp_path / name)["flows"]["burgers-1d"]["outcomes"] for name in ("whole", "killed"))
    for one, other in zip(resumed, whole, strict=True):
        again = one.pop("solver_steps") - other.pop("solver_steps")
        assert again == (2 if one["method"] == method else 0), "first steps that are read again are tried, and counted"
    assert without_seconds(resumed) == without_seconds(whole)


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "flows", "--output", str(tmp_path), "--flows", "[burgers-1d]", "--methods", "[STRAIGHT-THROUGH]"]
    words += ["--seeds", "0", "--unroll", "3", "--steps", "8"]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--updates", "7"]) == 2
    said = capsys.readouterr().err
    assert "updates 300" in said and "updates 7" in said and "name another output" in said and said.count("\n") == 1


@pytest.mark.parametrize("key", ["steps", "unroll"])
def test_rollouts_beyond_the_data_are_refused_before_anything_is_made(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be at most 11, as far as the data of burgers-1d go, not 12"):
        bench_flows(short(tmp_path / "out", ["burgers-1d"], ["DETACHED"], **{key: 12}))
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_before_hours_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "skfem" else object())
    assert main(["bench", "flows", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "needs the package 'skfem'" in said and "[bench]" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_not_there_is_skipped_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(vjp, "JacobianField", raising=False)
    bench_flows(short(tmp_path, ["burgers-1d"], ["STRAIGHT-THROUGH", "JacobianField"], seeds=0))
    found = read_results(tmp_path)
    assert list(found["flows"]["burgers-1d"]["products"]) == ["STRAIGHT-THROUGH"]
    assert found["skipped"] == ["JacobianField is not part of this version of the package, and was skipped."]
    assert found["skipped"][0] in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_a_method_that_refuses_a_solver_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = replace(FLOWS["burgers-1d"], reference={"memory": 1})
    monkeypatch.setitem(FLOWS, "burgers-1d", flow)
    _, errors, _ = bench_flows(short(tmp_path, ["burgers-1d"], ["STRAIGHT-THROUGH", "ReferenceJacobian", "FO-SOL"]))
    assert errors[1][errors[0].index("ReferenceJacobian")] == "no result"
    page = (tmp_path / "report.md").read_text()
    assert "burgers-1d, products of ReferenceJacobian: " in page and "burgers-1d, ReferenceJacobian, seed 0: " in page


def test_a_method_too_slow_for_a_flow_is_left_out_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLOWS, "burgers-1d", replace(FLOWS["burgers-1d"], untrained=("STRAIGHT-THROUGH",)))
    products, errors, _ = bench_flows(short(tmp_path, ["burgers-1d"], ["STRAIGHT-THROUGH"]))
    assert products[1][0] == "burgers-1d, STRAIGHT-THROUGH" and errors[1][errors[0].index("STRAIGHT-THROUGH")] == "no result"
    assert f"burgers-1d, STRAIGHT-THROUGH, seed 0: {trainings.TOO_SLOW}" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("changes", [{"flows": []}, {"methods": ["FO-SOL", "FO-SOL"]}, {"seeds": -1}, {"unroll": 1}])
def test_settings_that_measure_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} must"):
        BenchFlowsSettings(**changes)


def test_a_result_that_was_changed_is_named(tmp_path: Path) -> None:
    settings = short(tmp_path, ["burgers-1d"], ["STRAIGHT-THROUGH"])
    bench_flows(settings)
    path = tmp_path / "outcomes" / "burgers-1d" / "seed0-NON.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"seed0-NON\.json was changed, .* delete it, and its training is evaluated again"):
        bench_flows(settings)


CONTENT = {"cosines": {"difference": {1: [0.5, float("nan")]}}, "seconds": 1 / 3, "warnings": []}


def test_a_measurement_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out" / "products" / "burgers-1d" / "Coloured.json"
    write_sealed(path, CONTENT)
    (tmp_path / "out").rename(tmp_path / "moved")
    found = read_measurement(tmp_path / "moved" / "products" / "burgers-1d" / "Coloured.json")
    assert found["seconds"] == 1 / 3 and found["cosines"]["difference"]["1"][0] == 0.5 and list(found) == list(CONTENT)


@pytest.mark.parametrize("before, after", [("0.5", "0.9"), ('"sha256"', '"sha"'), ("NaN", "1.0"), ("[]", '["a"]'), ("{", "[{")])
def test_a_measurement_that_was_changed_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str
) -> None:
    path = tmp_path / "products" / "burgers-1d" / "JacobianField.json"
    write_sealed(path, CONTENT)
    path.write_text(path.read_text().replace(before, after, 1))
    assert main(["bench", "flows", "--output", str(tmp_path), "--unroll", "3", "--steps", "8"]) == 2
    said = capsys.readouterr().err
    assert "JacobianField.json was changed, or is of an earlier version: delete it, and it is measured again." in said
    assert said.count("\n") == 1 and not (tmp_path / "data").exists()


def test_the_measurement_of_another_method_or_flow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "products" / "burgers-1d" / "Coloured.json"
    write_sealed(path, CONTENT)
    for other in (path.with_name("JacobianField.json"), tmp_path / "products" / "burgers-2d" / "Coloured.json"):
        other.parent.mkdir(exist_ok=True)
        other.write_text(path.read_text())
        with pytest.raises(ConfigError, match="was changed"):
            read_measurement(other)


# ---- what the report says


def outcomes(method: str, *errors: float, steps: int = 100) -> list[Outcome]:
    given = [[None if math.isinf(error) else error] * 2 for error in errors]
    return [Outcome(method, seed, one, steps, 1.0) for seed, one in enumerate(given)]


def found(**by_method: list[Outcome]) -> Found:
    named = {name.replace("_", "-"): summarise(of_one) for name, of_one in by_method.items()}
    return Found("burgers-1d", {}, named, [])


@pytest.mark.parametrize(
    ("detached", "bound", "words"),
    [
        ((1.2, 1.25, 1.22), (1.0, 1.02, 1.01), "yes: 1.21"),
        ((1.0, 1.3, 1.15), (1.0, 1.1, 1.05), "no, within the seeds: 1.09"),
        ((1.2,), (1.0,), "1.20, one seed"),
        ((1.1, 2.2, 3.4), (1.0, 2.0, 3.0), "yes: 1.11"),
        ((math.inf, 1.0), (1.0, 1.0), "yes: DETACHED diverged"),
        ((1.0, 1.0), (math.inf, 1.0), "no: FO-SOL diverged"),
    ],
)
def test_whether_a_gradient_pays(detached: tuple[float, ...], bound: tuple[float, ...], words: str) -> None:
    one = found(DETACHED=outcomes("DETACHED", *detached), FO_SOL=outcomes("FO-SOL", *bound))
    assert gain(one.trainings)[1] == words
    assert errors_table([one])[1][-1] == words


@pytest.mark.parametrize(
    ("error", "steps", "near"), [(1.04, 140, 1), (1.06, 100, 0), (1.0, 160, 0), (0.9, 100, 1), (math.inf, 1, 0)]
)
def test_methods_as_good_as_the_bound_are_counted(error: float, steps: int, near: int) -> None:
    one = found(EMULATOR=outcomes("EMULATOR", error, steps=steps), FO_SOL=outcomes("FO-SOL", 1.0))
    assert near_bound([one, found(DETACHED=outcomes("DETACHED", 1.0))], "EMULATOR") == (near, 1)


def test_an_outcome_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "outcomes" / "burgers-1d" / "seed0-NON.json"
    kept = Outcome("NON", 0, [0.5, None], 3, 1.5, warnings=["so it is."])
    write_sealed(path, asdict(kept))
    (one,) = collect(tmp_path)
    assert one.outcomes == [kept] and math.isinf(one.trainings["NON"].error)
    assert one.trainings["NON"].by_step == [0.5, None]


def test_every_method_has_a_run_and_a_colour() -> None:
    assert set(STYLES) == {"NON", *get_args(FlowMethod)} - {"FO-SOL"}
