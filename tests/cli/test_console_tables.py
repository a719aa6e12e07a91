"""Tables on a terminal: no word is broken, and what has no room follows in a second table."""

from __future__ import annotations

import pytest

from deepzero_sim.cli import console as module
from deepzero_sim.cli.console import print_table

HEAD = ("method", "MAE (m/s)", "std over simulations", "MAE / SRC", "solver steps of training", "seconds of training")
FAILURES = "failures in training, here"
METHODS = ("SRC", "NON", "STRAIGHT-THROUGH", "SolverLayer, runs/second-try")


def printed(
    table: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> str:
    monkeypatch.setattr(module.console, "_width", width)
    print_table(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("failures", [False, True])
def test_no_word_is_broken(
    width: int, failures: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ("0.0123", "0.0012", "0.27", "1,234,567", "12345")
    table = [HEAD, *((name, *row) for name in METHODS)]
    if failures:
        table = [(*line, cell) for line, cell in zip(table, (FAILURES, *["2, 0"] * len(METHODS)), strict=True)]
    out = printed(table, capsys, monkeypatch, width)
    assert max(map(len, out.splitlines())) <= width
    found = set(out.replace("│", " ").replace("┃", " ").split())
    wanted = {word for line in table for cell in line for word in cell.split()}
    assert wanted <= found
    for cells in zip(*table, strict=True):  # each column once, the names of rows in every table
        numbers = [word for word in cells[1].split() if word in row]
        assert all(out.count(f" {number} ") == len(METHODS) for number in numbers)


def test_a_table_that_fits_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = [HEAD, ("STRAIGHT-THROUGH", "0.0123", "0.0012", "0.27", "1,234,567", "12345")]
    assert printed(table, capsys, monkeypatch, 80).count("┏") == 1
    assert printed(table, capsys, monkeypatch, 60).count("┏") == 2


def test_a_word_wider_than_the_terminal_is_folded_and_nothing_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "/a/path/" + "x" * 100
    out = printed([("run", "MAE"), (name, "0.1")], capsys, monkeypatch, 50)
    assert max(map(len, out.splitlines())) <= 50 and out.count("x") == 100 and " 0.1 " in out
