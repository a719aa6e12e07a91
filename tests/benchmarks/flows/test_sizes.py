"""Costs by the number of cells: measured in processes of their own, counted where methods refuse or limits end them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("exponax")
pytest.importorskip("matplotlib")

from deepzero_sim.benchmarks.flows import sizes
from deepzero_sim.benchmarks.flows.bench import bench_flows
from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.measurements import write_sealed
from deepzero_sim.benchmarks.flows.size_report import SizeFound, read_sizes, sizes_section, sizes_table
from deepzero_sim.benchmarks.flows.sizes import Size, count_costs, measure_sizes, simulate, size_path
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowMethod
from deepzero_sim.coupling.vjp import Coloured, ReferenceJacobian
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.build import build_solver

NAME = "burgers-1d"


@pytest.fixture(autouse=True)
def one_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure a flow whose larger domain is cheap, too; children read the catalogue anew, but are told the size."""
    monkeypatch.setitem(FLOWS, NAME, replace(FLOWS[NAME], larger=(2,)))


def test_a_larger_domain_has_more_cells_of_the_same_size_and_waves_of_the_same_lengths() -> None:
    small, large = (build_solver(Size(NAME, larger).solver) for larger in (1, 4))
    assert large.spec.state_shape == (1, 256) and large.spec.spacing == small.spec.spacing
    for solver, longest, shortest in ((small, 1, 4), (large, 4, 16)):
        (state,) = simulate(solver, FLOWS[NAME], 1, 1, seed=0)
        spectrum = np.abs(np.fft.rfft(state[0]))
        others = np.concatenate([spectrum[:longest], spectrum[shortest + 1 :]])
        assert spectrum[[longest, shortest]].min() > 1e-3 * spectrum.max() > 1e2 * others.max()
        assert np.abs(state).max() == pytest.approx(1)


def test_a_method_is_measured_on_a_larger_domain() -> None:
    found = sizes._measure(Size(NAME, 2), "JacobianField")
    one = SizeFound(NAME, "JacobianField", 128, {**found, "counted": count_costs(Size(NAME, 2), "JacobianField")})
    assert one.is_measured and one.cosine("difference", 1) > 0.99 and one.cosine("difference", 8) > 0.97
    assert 100 < one.steps <= one.measured["counted"]["solver_steps_to_prepare"]
    assert 2e8 < found["memory_before"] <= found["memory_to_prepare"] <= one.memory < 8e9
    assert 0 < one.seconds < 60 and one.product_time > 0


@pytest.mark.slow
def test_sizes_are_measured_in_processes_of_their_own_and_reported(tmp_path: Path) -> None:
    named: list[FlowMethod] = ["DETACHED", "STRAIGHT-THROUGH", "Coloured"]
    (table,) = bench_flows(BenchFlowsSettings(tmp_path, [NAME], named, ["sizes"]))
    assert [row[0] for row in table[1:]] == [f"{NAME}, 128, STRAIGHT-THROUGH", f"{NAME}, 128, Coloured"]
    identity, coloured = read_sizes(tmp_path)
    assert identity.is_measured and identity.steps == 0
    assert coloured.steps == coloured.measured["counted"]["solver_steps_per_product"] > 0
    assert not (tmp_path / "data").exists(), "sizes simulate their own"
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert len(results["sizes"]) == 2 and (tmp_path / "sizes.png").stat().st_size > 5000
    assert "sizes.png" in (tmp_path / "report.md").read_text()


def test_what_is_there_is_kept_and_a_changed_file_is_named(tmp_path: Path) -> None:
    path = size_path(tmp_path, NAME, 2, "STRAIGHT-THROUGH")
    write_sealed(path, {"cells": 128})
    before = path.read_text()
    measure_sizes(NAME, ["STRAIGHT-THROUGH"], tmp_path)
    assert path.read_text() == before
    path.write_text("[")
    with pytest.raises(ConfigError, match=r"2-STRAIGHT-THROUGH\.json was changed, .* delete it, and it is measured again"):
        read_sizes(tmp_path)


def test_a_reference_jacobian_that_is_refused_is_counted() -> None:
    spec = build_solver(Size("burgers-3d", 4).solver).spec
    counted = count_costs(Size("burgers-3d", 4), "ReferenceJacobian")
    assert counted["solver_steps_to_prepare"] > 2 * 3 * (64 // 4) ** 3 and counted["bytes"] > 2**32
    with pytest.raises(ConfigError, match="more than the 4 GiB of memory"):
        ReferenceJacobian(block=4).steps_to_measure(spec)


@pytest.mark.parametrize("radius", [1, 5, 40])
def test_coloured_products_are_counted_as_the_class_does(radius: int) -> None:
    spec = build_solver(Size("navier-stokes-2d", 1).solver).spec
    counted = sizes._count_coloured(spec.state_shape, radius)
    assert counted["solver_steps_per_product"] == Coloured().steps_per_product(spec, radius)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "words"), [("SECONDS", 3, "more than 3 s of a core"), ("MEMORY", 2**29, "more than 0.5 GiB of memory")]
)
def test_a_measurement_ends_at_its_limits_and_is_not_begun_on_more_cells(
    limit: str, value: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, limit, value)
    monkeypatch.setitem(FLOWS, NAME, replace(FLOWS[NAME], larger=(2, 4)))
    measure_sizes(NAME, ["EMULATOR"], tmp_path)
    one, larger = read_sizes(tmp_path)
    assert not one.is_measured and words in one.measured["why"]
    assert larger.cells == 256 and "reached a limit on fewer cells" in larger.measured["why"]


def test_counted_and_measured_costs_are_told_apart() -> None:
    why = "the Jacobian would take 256 GiB."
    counted = {"counted": {"solver_steps_to_prepare": 1000, "bytes": 2**31}, "why": why, "warnings": []}
    (row,) = sizes_table([SizeFound(NAME, "ReferenceJacobian", 65536, counted)])[1:]
    assert row == (f"{NAME}, 65,536, ReferenceJacobian", *["-"] * 4, "(1,000)", "-", "-", "(2)", "-", "-")
    assert f"65,536 cells, ReferenceJacobian: {why}" in sizes_section(
        [SizeFound(NAME, "ReferenceJacobian", 65536, counted)], ""
    )
