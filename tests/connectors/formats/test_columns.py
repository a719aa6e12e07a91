"""Columns of a text file that are read, among others that the state does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.connectors.formats import Text


def decode(content: str, shape: tuple[int, ...], **options: Any) -> np.ndarray:
    return Text(**options).decode(content.encode(), shape, np.dtype(np.float64))


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("0 1.5 a\n1 2.5 b\n", {"usecols": 1}, [[1.5], [2.5]]),
        ("0 1.5 a\n\n1 2.5 b\n", {"usecols": [1, 0]}, [[1.5, 0], [2.5, 1]]),
        ("x,u,v\n0,1,2\n1,3,4,\n", {"usecols": [-2, -1], "delimiter": ",", "skiprows": 1}, [[1, 2], [3, 4]]),
        ("x,u,v,\n0,1,2,\n1,3,4,\n", {"usecols": [1, 2], "delimiter": ",", "skiprows": 1}, [[1, 2], [3, 4]]),
        ("# x u\nleft 1.0D+00 # so\nright 0.1-149\n", {"usecols": 1}, [[1.0], [1e-150]]),
        ("7 2*1.5\n8 2.5 3.5\n", {"usecols": [1, 2]}, [[1.5, 1.5], [2.5, 3.5]]),
        ("0 nan\n1 inf\n", {"usecols": 1}, [[np.nan], [np.inf]]),
    ],
)
def test_chosen_columns_are_read(content: str, options: dict[str, Any], expected: list[list[float]]) -> None:
    shape = (len(expected), len(expected[0]))
    np.testing.assert_array_equal(decode(content, shape, **options), expected)


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("0 1\n1 2 3\n", {"usecols": 1}, "holds 3 columns in line 2, not 2: there is more"),
        ("0 1 2\n1 2\n", {"usecols": 1}, "holds 2 columns in line 2, not 3: it is truncated"),
        ("0 1\n1 2\n", {"usecols": 2}, "has 2 columns, not 3"),
        ("0 1\n1 2\n", {"usecols": -3}, "has 2 columns, not 3"),
        ("0 a\n1 2\n", {"usecols": 1}, "'a' is no number"),
        ("0 1\n", {"usecols": 1}, "holds 1 lines of numbers, not 2"),
        ("0 1\n1 2", {"usecols": 1}, "ends within a line"),
        ("", {"usecols": 1}, "holds 0 lines of numbers, not 2"),
        ("0 1\n1 9999999999*2\n", {"usecols": 1}, "columns in line 2, not 2"),
    ],
)
def test_files_of_another_layout_are_refused(content: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(dz.UnreadableOutputError, match=says):
        decode(content, (2, 1), **options)


@pytest.mark.parametrize("usecols", [[], "1", 1.5, [1, 1], [True], {}, 5000, [0, None]])
def test_columns_that_cannot_be_chosen_are_refused(usecols: Any) -> None:
    with pytest.raises(dz.ConfigError, match="usecols"):
        Text(usecols=usecols)


def test_there_is_a_column_for_each_number() -> None:
    with pytest.raises(dz.ConfigError, match=r"one column for each of the 1 numbers .* not \[0, 1\]"):
        decode("0 1\n", (1, 1), usecols=[0, 1])


#: A program that writes what most do: a line of names, the place of a point, and two fields of which one is wanted.
C = r"""
#include <stdio.h>
int main(void) {
    double u[4];
    FILE *in = fopen("u.txt", "r"), *out = fopen("out.csv", "w");
    for (int i = 0; i < 4; i++) if (fscanf(in, "%lf", u + i) != 1) return 1;
    fprintf(out, "x,u,speed\n");
    for (int i = 0; i < 4; i++) fprintf(out, "%g,%.17g,%s\n", 0.25 * i, u[i] / 2, u[i] > 0 ? "fast" : "slow");
    return 0;
}
"""


def test_a_program_s_table_is_read_by_columns(tmp_path: Path) -> None:
    (source := tmp_path / "halve.c").write_text(C)
    spec = dz.SolverSpec(name="halve", state_shape=(1, 4), dt=1.0, dtype="float64")
    table = {"path": "out.csv", "format": "text", "delimiter": ",", "skiprows": 1}
    program = [str(compiled(source, tmp_path))]
    states = np.array([[[1.0, -2.0, 3.0, 1 / 3]]])
    solver = dz.ExecutableSolver(spec, program, [{"path": "u.txt", "format": "text"}], [{**table, "usecols": 1}])
    np.testing.assert_array_equal(solver.step(states), states / 2)
    unchosen = dz.ExecutableSolver(spec, program, [{"path": "u.txt", "format": "text"}], [table], keep="never")
    with pytest.raises(dz.StatesFailedError, match=r"no table of numbers .'(fast|slow)' is no number"):
        unchosen.step(states)


def test_columns_of_an_input_cannot_be_chosen() -> None:
    spec = dz.SolverSpec(name="copy", state_shape=(1, 4), dt=1.0, dtype="float64")
    files = ([{"path": "u.txt", "format": "text", "usecols": 0}], [{"path": "v.txt", "format": "text"}])
    with pytest.raises(dz.ConfigError, match=r"u.txt: usecols chooses columns .* leave it out there"):
        dz.ExecutableSolver(spec, ["cp", "u.txt", "v.txt"], *files, keep="never")
