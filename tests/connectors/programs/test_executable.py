"""A program as a solver: what it is given, what is taken back, and settings that are not usable."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import yaml

import deepzero_sim as dz
from deepzero_sim.connectors.programs.array_files import input_files
from deepzero_sim.solver.stepping import checked_step

SPEC = {
    "name": "two fields",
    "state_shape": [2, 3, 4],
    "dt": 0.5,
    "dtype": "float64",
    "channels": ["u", "v"],
    "parameters": ["nu", "rate"],
}

STATES = np.random.default_rng(0).normal(size=(3, 2, 3, 4))
PARAMS = np.array([[0.1, 2.0], [0.2, 3.0], [1e-7, 4.0]])

Make = Callable[..., dz.ExecutableSolver]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A solver in a few lines of Python, in `step.py` of the current folder; u and v stand for themselves by default."""
    monkeypatch.chdir(tmp_path)

    def made(code: str, **settings: Any) -> dz.ExecutableSolver:
        Path("step.py").write_text(f"import sys, os, pathlib\nimport numpy as np\n{code}\n")
        files = [{"path": "u.npy"}], [{"path": "v.npy"}]
        given = {"spec": SPEC, "inputs": files[0], "outputs": files[1], "external_input_files": ["step.py"], **settings}
        words = given.pop("arguments", [])
        return dz.ExecutableSolver(command=[sys.executable, "step.py", *words], **given)

    return made


def test_many_files_each_with_some_channels(make: Make) -> None:
    code = """
u, v = np.load("in/u.npy"), np.fromfile("v.raw", ">f4").reshape(4, 3, order="F").T
np.savetxt("out.csv", np.stack([v.ravel() + 1, u.ravel()], -1), delimiter=",")
"""
    solver = make(
        code,
        inputs=[
            {"path": "in/u.npy", "format": "npy", "channels": ["u"], "channel_axis": "none"},
            {"path": "v.raw", "format": "raw", "channels": ["v"], "dtype": ">f4", "channel_axis": "last"},
        ],
        outputs=[{"path": "out.csv", "format": "text", "channels": ["v", "u"], "delimiter": ","}],
    )
    # v is written as (y, x, 1), x running fastest: read as (4, 3) in Fortran's order and transposed it is (y, x) again
    expected = STATES.copy()
    expected[:, 1] = STATES[:, 1].astype(np.float32) + 1.0
    np.testing.assert_allclose(solver.step(STATES, PARAMS), expected, rtol=1e-15)


def test_parameters_go_into_files_arguments_templates_and_namelists(make: Make, tmp_path: Path) -> None:
    (tmp_path / "deck.j2").write_text(
        "nu = {{ params.nu }}\ndt = {{ dt }}\nshape = {{ spec.state_shape }} {{ state[1][0][0] }}\n"
    )
    (tmp_path / "base.nml").write_text("&physics\n nu = 1.0, name = 'water', n = 3\n/\n&other\n a = 1, 2\n/\n")
    code = """
import f90nml
lines = dict(line.split(" = ") for line in open("case/deck.txt").read().splitlines())
lists = f90nml.read("step.nml")
u, p, everything = np.load("u.npy"), np.loadtxt("p.txt"), np.fromfile("all.raw")
assert sys.argv[1:] == ["--rate", lines["nu"], "plain"], sys.argv
assert float(lines["nu"]) == p[0] == lists["physics"]["nu"] and float(lines["dt"]) == 0.5 == lists["physics"]["dt"]
assert lines["shape"] == f"(2, 3, 4) {u[1, 0, 0]}", lines
assert lists["physics"]["name"] == "water" and lists["physics"]["label"] == "nu is " + lines["nu"]
assert lists["other"]["a"] == [1, 5]
assert (everything == np.concatenate([u.ravel(), p])).all()
np.save("v.npy", u * p[1])
"""
    values = {
        "physics": {"nu": "{{ params.nu }}", "dt": "{{ dt }}", "label": "nu is {{ params.nu }}"},
        "other": {"a": [1, "{{ 5 }}"]},
    }
    solver = make(
        code,
        arguments=["--rate", "{{ params.nu }}", "plain"],
        inputs=[
            {"path": "u.npy"},
            {"path": "p.txt", "of": "params", "format": "text"},
            {"path": "all.raw", "of": "all", "format": "raw"},
        ],
        templates={"case/deck.txt": "deck.j2"},
        namelists={"step.nml": {"file": "base.nml", "values": values}},
    )
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES * PARAMS[:, 1, None, None, None])


ONE_DECK = """
coarse: &coarse
  spec: {name: coarse, state_shape: [1, 4], dt: 0.5, dtype: float64}
  command: [python3, step.py, "{{ values.label }}"]
  values: {substeps: 1, factor: 0.5, implicit: true, label: a word}
  inputs: [{path: u.npy}]
  outputs: [{path: v.npy}]
  templates: {deck: deck.j2}
  namelists: {step.nml: {file: base.nml, values: {time: {n: "{{ values.substeps }}"}}}}
  external_input_files: [step.py]
fine:
  <<: *coarse
  values: {substeps: 8, factor: 0.25, implicit: false, label: a word}
"""


def test_one_deck_serves_several_solvers_by_values_of_their_own(make: Make) -> None:
    make("""
import ast, f90nml
deck = ast.literal_eval(open("deck").read())
assert sys.argv[1] == "a word" and f90nml.read("step.nml")["time"]["n"] == deck["n"], (sys.argv, deck)
assert deck["implicit"] is (deck["n"] == 1)
np.save("v.npy", np.load("u.npy") * deck["factor"])
""")
    Path("deck.j2").write_text(
        "{'n': {{ values.substeps }}, 'factor': {{ values.factor }}, 'implicit': {{ values.implicit }}}\n"
    )
    Path("base.nml").write_text("&time\n n = 0\n/\n")
    states = STATES[:, :1, 0]
    for settings, factor in zip(yaml.safe_load(ONE_DECK).values(), (0.5, 0.25), strict=True):
        settings["command"][0] = sys.executable
        np.testing.assert_array_equal(dz.ExecutableSolver(**settings).step(states), states * factor)


def test_a_script_with_headers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell script that wants two header lines, and writes three of its own."""
    monkeypatch.chdir(tmp_path)
    script = """#!/bin/sh
set -e
test "$(head -n 2 in.csv)" = "$(printf 'u,v\\nm/s,m/s')"
{ printf 'made by a script\\nu,v\\nm/s,m/s\\n'; tail -n +3 in.csv; } > out.csv
"""
    Path("step.sh").write_text(script)
    Path("step.sh").chmod(0o755)
    csv = {"format": "text", "delimiter": ","}
    solver = dz.ExecutableSolver(
        SPEC,
        ["./step.sh"],
        [{"path": "in.csv", "header": ["u,v", "m/s,m/s"], **csv}],
        [{"path": "out.csv", "skiprows": 3, **csv}],
    )
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES)


def test_a_template_may_write_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deck.j2").write_text("u v\n{% for u in state[0] %}{{ u }} {{ state[1][loop.index0] }}\n{% endfor %}")
    Path("step.sh").write_text("#!/bin/sh\nexec tail -n +2 deck\n")
    Path("step.sh").chmod(0o755)
    spec = {"name": "pairs", "state_shape": [2, 3], "dt": 1.0, "dtype": "float64"}
    outputs = [{"path": "stdout.log", "format": "text"}]
    solver = dz.ExecutableSolver(spec, ["./step.sh"], outputs=outputs, templates={"deck": "deck.j2"})
    np.testing.assert_array_equal(solver.step(STATES[..., 0]), STATES[..., 0])


def test_a_program_that_takes_batches(make: Make) -> None:
    code = """
u, p = np.load("u.npy"), np.load("p.npy")
assert u.shape == (3, 3, 4, 2) and p.shape == (3, 2) and sys.argv[1] == "[0.1, 0.2, 1e-07]", sys.argv
np.save("v.npy", u * p[:, 1, None, None, None])
"""
    inputs = [{"path": "u.npy", "channel_axis": "last"}, {"path": "p.npy", "of": "params"}]
    settings = {"inputs": inputs, "outputs": [{"path": "v.npy", "channel_axis": "last"}], "arguments": ["{{ params.nu }}"]}
    solver = make(code, batched=True, **settings)
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES * PARAMS[:, 1, None, None, None])
    with pytest.raises(dz.ExitCodeError, match="AssertionError"):  # it is one failure of all, not one a state
        solver.step(STATES[:2], PARAMS[:2])


def test_external_files_and_folders_are_there(make: Make, tmp_path: Path) -> None:
    (tmp_path / "case" / "deep").mkdir(parents=True)
    (tmp_path / "case" / "deep" / "a.txt").write_text("a")
    (tmp_path / "big").write_text("big")
    code = """
assert open("case/deep/a.txt").read() == "a" and not os.path.islink("case/deep/a.txt")
assert open("tables/deep/a.txt").read() == "a" and os.path.islink("tables/deep/a.txt") and os.path.islink("big")
assert not os.path.islink("tables/deep")
open("case/deep/new", "w"), open("tables/deep/new", "w"), open("log", "w")
np.save("v.npy", np.load("u.npy"))
"""
    settings = {
        "external_input_files": ["step.py", "case"],
        "external_input_links": {"tables": tmp_path / "case", "big": "big"},
    }
    solver = make(code, external_output_files=["log", "case/deep/new"], **settings)
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES)
    assert [path.name for path in (tmp_path / "case" / "deep").iterdir()] == ["a.txt"]
    with pytest.raises(dz.StatesFailedError, match="the file other of external_output_files is not there"):
        make(code, external_output_files=["log", "other"], **settings).step(STATES, PARAMS)


def test_what_a_program_prints_may_be_its_output(make: Make) -> None:
    solver = make(
        "np.savetxt(sys.stdout, np.load('u.npy').reshape(2, -1).T)", outputs=[{"path": "stdout.log", "format": "text"}]
    )
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES)


def test_the_environment_and_the_exit_statuses(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    code = """
assert os.environ["INHERITED"] == "yes" and os.environ["OMP_NUM_THREADS"] == "3"
assert not sys.stdin.read()
np.save("v.npy", np.load("u.npy"))
sys.exit(7)
"""
    solver = make(code, environment={"OMP_NUM_THREADS": 3}, allowed_return_codes=[0, 7])
    np.testing.assert_array_equal(solver.step(STATES, PARAMS), STATES)


HALVES = '''
import numpy as np
import deepzero_sim.connectors as connectors


class Halves(connectors.Format):
    """Half of the numbers, in ASCII."""

    def __init__(self, factor=0.5):
        self.factor = factor

    def encode(self, values):
        return " ".join(f"{value * self.factor:.17g}" for value in values.ravel()).encode()

    def decode(self, content, shape, dtype):
        return np.array(content.split(), dtype).reshape(shape) / self.factor
'''


def test_a_format_of_ones_own(make: Make, tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(HALVES)
    code = "open('v.half', 'w').write(open('u.half').read() if len(sys.argv) < 2 else '1 x')"
    own = {"format": "halves.py:Halves", "factor": 0.25}
    settings = {"inputs": [{"path": "u.half", **own}], "outputs": [{"path": "v.half", **own}]}
    np.testing.assert_array_equal(make(code, **settings).step(STATES, PARAMS), STATES)
    with pytest.raises(dz.StatesFailedError, match=r"the output v.half cannot be read .ValueError: could not convert"):
        make(code, arguments=["garbage"], **settings).step(STATES, PARAMS)


#: A format that does as it likes with what it is given, once its states are not all zero, as they are when a solver is made.
GREEDY = """
import ctypes
import numpy as np
import torch
import deepzero_sim.connectors as connectors


class Greedy(connectors.Format):
    kept = []

    def __init__(self, deed):
        self.deed = deed

    def encode(self, values):
        content = values.astype("f8").tobytes()
        if values.any():
            exec(self.deed)
        return content

    def decode(self, content, shape, dtype):
        return np.frombuffer(content).reshape(shape).astype(dtype)
"""

DEEDS = {
    "scales": ("values *= 2", "ValueError: output array is read-only"),
    "sets": ("values[...] = 7", "ValueError: assignment destination is read-only"),
    "sorts": ("values.sort()", "ValueError: sort array is read-only"),
    "fails": ("raise OSError('two\\nlines')", "OSError: two lines"),
    "writes through an address": ("ctypes.memset(values.ctypes.data, 1, values.nbytes)", None),
    "writes after all": ("values.flags.writeable = True; values[...] = 7", None),
    "writes into what it kept": (
        "[old.setflags(write=True) or old.fill(7) for old in self.kept]; self.kept.append(values)",
        None,
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("of", ["state", "params"])
def test_a_format_cannot_change_what_it_is_given(tmp_path: Path, deed: str, of: str) -> None:
    """Also where the solver is asked itself, without the checks of a step."""
    (tmp_path / "greedy.py").write_text(GREEDY)
    code, said = DEEDS[deed]
    given = {"path": "u.raw", "format": f"{tmp_path}/greedy.py:Greedy", "deed": code, "of": of}
    plain = {"format": "raw", "dtype": "float64"}
    copy = ["cp", "u.raw" if of == "state" else "w.raw", "v.raw"]
    solver = dz.ExecutableSolver(SPEC, copy, [given, {"path": "w.raw", **plain}], [{"path": "v.raw", **plain}], keep="never")
    states, params = STATES.copy(), PARAMS.copy()
    if said is None:
        np.testing.assert_array_equal(solver.step(states, params), STATES)
    else:
        with pytest.raises(dz.StatesFailedError) as failed:
            solver.step(states, params)
        assert isinstance(failed.value.failures[0], dz.SolverCrashError)
        assert f"u.raw cannot be written by its format, Greedy ({said})" in str(failed.value.failures[0])
    np.testing.assert_array_equal(states, STATES)
    np.testing.assert_array_equal(params, PARAMS)


@pytest.mark.parametrize("content", ["str(values)", "None", "values", "[1, 2]"])
def test_what_a_format_makes_of_an_array_is_bytes(make: Make, tmp_path: Path, content: str) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY.replace("return content", f"return {content}"))
    with pytest.raises(dz.ConfigError, match=r"^inputs: u.raw: .*encode of its format, Greedy, must return bytes, not \w+\.$"):
        make("", inputs=[{"path": "u.raw", "format": "greedy.py:Greedy", "deed": ""}])


def test_a_solver_is_sent_to_workers(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deck.j2").write_text("{{ params.nu }}")
    solver = make("np.save('v.npy', float(open('deck').read()) * np.load('u.npy'))", templates={"deck": "deck.j2"})
    expected = solver.step(STATES, PARAMS)
    monkeypatch.chdir(os.sep)  # paths were found when it was made
    sent = cloudpickle.loads(cloudpickle.dumps(solver))
    np.testing.assert_array_equal(sent.step(STATES, PARAMS), expected)
    assert sent._per_state._stop.__self__ is sent._runner is not solver._runner  # an interrupt there ends its own


def test_a_failure_in_a_checked_step_says_all(make: Make) -> None:
    with pytest.raises(dz.ExitCodeError, match=r"^solver 'two fields': .* ended with the exit status 3, not 0"):
        checked_step(make("sys.exit(3)"), STATES, PARAMS)
    with pytest.raises(dz.InvalidStateError, match=r"holds an array of shape \(2, 3\), not \(2, 3, 4\)"):
        checked_step(make("np.save('v.npy', np.ones((2, 3)))"), STATES, PARAMS)
    with pytest.raises(dz.InvalidStateError, match="holds int64, not floating-point numbers"):
        checked_step(make("np.save('v.npy', np.ones((2, 3, 4), np.int64))"), STATES, PARAMS)


def test_formats_of_the_package_are_given_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are for code that is not ours; ours neither changes nor keeps what it is given."""
    monkeypatch.setattr("deepzero_sim.connectors.programs.array_files.read_only_copy", None)
    for name in ("npy", "raw", "text", "fortran"):
        (file,) = input_files([{"path": "u", "format": name}], dz.SolverSpec(**SPEC), batched=False)
        assert file.content(STATES[0], None)
    driver = dz.DakotaSolver({"name": "a", "state_shape": [1, 8], "dt": 1.0}, "true")
    assert driver._solver._inputs[0].content(STATES[0, :1, :2].reshape(1, 8).astype(np.float32), None)
