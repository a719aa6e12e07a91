"""Drivers written for Dakota, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepzero_sim as dz

SPEC = {"name": "driven", "state_shape": [2, 2], "dt": 1.0, "dtype": "float64", "channels": ["u", "v"], "parameters": ["nu"]}

STATES, PARAMS = np.array([[[1.0, 2], [3, 1e-300]], [[5, 6], [7, 8]]]), np.array([[0.1], [3.0]])

#: Doubles the state, as a script that someone has written for Dakota's standard files.
DRIVER = """#!/usr/bin/env python3
import sys
lines = [line.split() for line in open(sys.argv[-2])]
count = int(lines[0][0])
assert lines[0][1] == "variables"
x = {name: float(value) for value, name in lines[1:1 + count]}
assert list(x) == ["u_1", "u_2", "v_1", "v_2", "nu"]
assert lines[1 + count] == ["4", "functions"] and lines[2 + count] == ["1", "ASV_1:u_1"] and lines[-1] == ["1", "eval_id"]
with open(sys.argv[-1], "w") as results:
    if x["nu"] == 3.0 and "FAIL" in sys.argv:
        results.write("  Fail: it does not converge\\n")
    elif "short" in sys.argv:
        results.write("1.0\\n2.0 v\\n")
    elif "words" in sys.argv:
        results.write("one\\n" * 4)
    elif "cut" in sys.argv:
        results.write("1.0\\n2.0\\n3.0\\n4.0")
    else:
        for name in ("u_1", "u_2", "v_1", "v_2"):
            results.write(f"{2 * x[name]!r} {name if name > 'u_1' else ''}\\n")
"""

APREPRO = """{ DAKOTA_VARS = 3 }
{ u1_1 = 1.0000000000000000e+00 }
{ u1_2 = 2.0000000000000000e+00 }
{ nu = 1.0000000000000001e-01 }
{ DAKOTA_FNS = 2 }
{ ASV_1:u1_1 = 1 }
{ ASV_2:u1_2 = 1 }
{ DAKOTA_DER_VARS = 0 }
{ DAKOTA_AN_COMPS = 0 }
{ DAKOTA_EVAL_ID = 1 }
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "driver").write_text(DRIVER)
    path.chmod(0o755)
    return "./driver"


def test_a_driver_takes_steps(driver: str) -> None:
    np.testing.assert_array_equal(dz.DakotaSolver(SPEC, driver).step(STATES, PARAMS), 2 * STATES)


def test_aprepro(driver: str, tmp_path: Path) -> None:
    Path(driver).write_text("#!/bin/sh\ncp $1 $KEEP\necho '1e0\n2e0' > $2\n")
    solver = dz.DakotaSolver(
        {"name": "driven", "state_shape": [1, 2], "dt": 1.0, "dtype": "float64", "parameters": ["nu"]},
        driver,
        parameters_format="aprepro",
        environment={"KEEP": str(tmp_path / "params")},
    )
    np.testing.assert_array_equal(solver.step(np.array([[[1.0, 2.0]]]), PARAMS[:1]), [[[1, 2]]])
    assert (tmp_path / "params").read_text() == APREPRO


def test_fail_is_a_failure(driver: str) -> None:
    with pytest.raises(dz.StatesFailedError) as failed:
        dz.DakotaSolver(SPEC, [driver, "FAIL"]).step(STATES, PARAMS)
    np.testing.assert_array_equal(failed.value.advanced[0], 2 * STATES[0])
    (error,) = failed.value.failures.values()
    assert isinstance(error, dz.ExitCodeError) and "says that the driver failed: 'Fail: it does not converge'" in str(error)
    assert error.kept is not None and (error.kept / "params.in").exists()


@pytest.mark.parametrize(
    ("how", "words"), [("short", "holds 2 numbers, not 4"), ("words", "is no list of numbers"), ("cut", "ends within a line")]
)
def test_other_results_are_unreadable(driver: str, how: str, words: str) -> None:
    with pytest.raises(dz.StatesFailedError, match=words) as failed:
        dz.DakotaSolver(SPEC, [driver, how]).step(STATES, PARAMS)
    assert isinstance(failed.value.failures[0], dz.UnreadableOutputError)


@pytest.mark.parametrize(
    "settings",
    [{"parameters_format": "xml"}, {"driver": "./nowhere"}, {"driver": []}, {"driver": None}, {"driver": 3}, {"timeout": -1}],
)
def test_settings_are_looked_at(driver: str, settings: dict[str, Any]) -> None:
    with pytest.raises(dz.ConfigError):
        dz.DakotaSolver(**{"spec": SPEC, "driver": driver, **settings})
