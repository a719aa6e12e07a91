"""`ratios.json`: what was found comes back, and damage is one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratic import convolutional, oracle_of
from torch import nn

from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.estimators.sparsity import Densities, ErdosRenyi, RandomMask
from deepzero_sim.training.ratios_file import load_ratios, record_of, require_ratios_of, save_ratios

NETWORK = convolutional()
FOUND = record_of(NETWORK, "erdos-renyi", 0.9, ErdosRenyi().densities(oracle_of(NETWORK), None, 0.9), 1.5)
RECORD = replace(FOUND, failures={"timeout dropped": 3})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_ratios(tmp_path, RECORD)
    return tmp_path


def test_what_was_found_comes_back(folder: Path) -> None:
    assert load_ratios(folder) == RECORD
    assert RECORD.sizes == {"0.weight": 500, "2.weight": 70, "3.weight": 3} and RECORD.always_active == 10 + 20 + 7 + 1
    require_ratios_of(RECORD, NETWORK, folder)


@given(shares=st.lists(st.floats(0, 1), min_size=3, max_size=3), queries=st.integers(0, 2**62), steps=st.integers(0, 2**62))
def test_every_number_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shares: list[float], queries: int, steps: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    record = replace(RECORD, densities=Densities(dict(zip(RECORD.sizes, shares, strict=True)), queries, steps))
    save_ratios(folder, record)
    assert load_ratios(folder) == record


def test_people_read_what_a_mask_draws(folder: Path) -> None:
    said = json.loads((folder / "ratios.json").read_text())
    masks = RandomMask(densities=RECORD.densities.by_layer)(NETWORK, 0)
    assert masks is not None
    assert {name: layer["active"] for name, layer in said["layers"].items()} == {n: int(masks[n].sum()) for n in RECORD.sizes}
    assert said["method"] == "erdos-renyi" and said["sparsity"] == 0.9 and said["queries"] == said["solver_steps"] == 0


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_ratios(tmp_path) is None


def damaged(key: str, value: Any) -> str:
    content = {
        "method": "m",
        "sparsity": 0.5,
        "layers": {"a": {"parameters": 2, "active": 1, "share": 0.5}},
        "always_active": 0,
        "queries": 0,
        "solver_steps": 0,
        "seconds": 0.0,
        "failures": {},
    }
    return json.dumps({**content, key: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "3",
        "\udcff",
        "[" * 100_000,
        damaged("layers", []),
        damaged("layers", {}),
        damaged("layers", {"a": 1}),
        damaged("layers", {"a": {"parameters": 2, "share": 0.5}}),
        damaged("layers", {"a": {"parameters": 2, "active": 1, "share": 1.5}}),
        damaged("layers", {"a": {"parameters": 2, "active": 1, "share": float("nan")}}),
        damaged("layers", {"a": {"parameters": 2, "active": 1, "share": "0.5"}}),
        damaged("layers", {"a": {"parameters": 0, "active": 0, "share": 0.5}}),
        damaged("layers", {"a": {"parameters": True, "active": 1, "share": 0.5}}),
        damaged("queries", -1),
        damaged("queries", 1.5),
        damaged("solver_steps", None),
        damaged("seconds", float("inf")),
        damaged("sparsity", 1.5),
        damaged("always_active", "2"),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "ratios.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"ratios.json does not hold the layer ratios of a run \(\w+: .*: restore it, or delete"):
        load_ratios(tmp_path)


def test_cut_off_at_any_byte_it_is_damaged(folder: Path) -> None:
    path = folder / "ratios.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="does not hold the layer ratios"):
            load_ratios(folder)


@pytest.mark.parametrize(
    "other", [nn.Linear(3, 1), nn.Sequential(nn.Conv2d(2, 10, 5), nn.BatchNorm2d(10), nn.Conv2d(10, 7, 1))]
)
def test_ratios_of_another_network_are_refused(folder: Path, other: nn.Module) -> None:
    with pytest.raises(RunError, match="holds the layer ratios of another network"):
        require_ratios_of(RECORD, other, folder)


@pytest.mark.parametrize(
    "found",
    [
        {"0.weight": 0.5},
        Densities({"0.weight": 0.5}),
        Densities({"0.weight": 0.5, "2.weight": 0.5, "3.weight": 1.5}),
        Densities({"0.weight": 0.5, "2.weight": 0.5, "3.weight": float("nan")}),
        Densities({**RECORD.densities.by_layer, "0.bias": 1.0}),
    ],
    ids=str,
)
def test_what_a_user_s_class_finds_is_checked(found: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"layer_ratios 'mine' must find (deepzero_sim.Densities, not dict|a share in \[0, 1\])"
    ):
        record_of(NETWORK, "mine", 0.5, found, 0.0)
