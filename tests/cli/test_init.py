"""Settings files to begin with, for a program, a solver in Python, and data: each is taken by the command that it is for."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.cli.commented_yaml import Commented, plain_values, write_commented
from deepzero_sim.cli.main import main
from deepzero_sim.cli.starter_files import FUNCTIONS
from deepzero_sim.common.documents import read_yaml
from deepzero_sim.solver.spec import SolverSpec

DOCS = Path(__file__).parents[2] / "docs" / "wrap"


def block(page: str, title: str) -> str:
    """A file that a page of the documentation shows."""
    found = re.search(rf"```\w+ title={re.escape(title)}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def assert_refused(capsys: pytest.CaptureFixture[str], says: str, *words: str) -> None:
    status, _, err = call(capsys, "init", *words)
    assert status == 2 and err.startswith("deepzero-sim: ") and err.count("\n") == 1, err
    assert re.search(says, err), err


def printed(capsys: pytest.CaptureFixture[str], command: str, *files: str) -> dict[str, Any]:
    """Settings of a command as it reads them from files."""
    with pytest.raises(SystemExit) as left:
        main([*command.split(), *(word for file in files for word in ("--config", file)), "--print_config"])
    assert left.value.code == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


GENERATE = ("--config", "solver.yaml", "--config", "data.yaml")
PROGRAM = (
    *("program", "--command", "./burgers 32 1 {{ params.nu }}", "--input", "u.raw", "--output", "v.raw", "--dt", "0.01"),
    *("--state_shape", "[1, 32]", "--parameters", "[nu]", "--periodic", "true"),
)
REFERENCE = (
    *("--reference_command", "./burgers 64 2 {{ params.nu }}", "--reference_shape", "[1, 64]"),
    *("--params", "[[0.001], [0.003], [0.002]]"),
)


def test_a_program_is_checked_simulated_and_trained_by_what_was_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "burgers.c").write_text(block("programs.md", "burgers.c"))
    compiled(folder / "burgers.c", folder)
    status, out, err = call(capsys, "init", *PROGRAM, *REFERENCE)
    assert (status, err) == (0, "") and "written: solver.yaml, check.yaml, train.yaml, data.yaml, states.py" in out
    both = ("--config", "solver.yaml", "--config")
    status, out, err = call(capsys, "check", *both, "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "") and "'burgers' keeps its contract" in out and "3 sample states" in out
    assert call(capsys, "generate", *GENERATE)[0] == 0
    shortened = "[{method: NON, updates: 3}, {method: suitable, updates: 1, unroll: 2}]"
    status, out, err = call(capsys, "train", *both, "train.yaml", "--stages", shortened)
    assert (status, err) == (0, "") and "trained: runs/first/2-SolverLayer" in out
    assert printed(capsys, "train", "solver.yaml", "train.yaml")["network"]["args"]["padding"] == "circular"
    made = printed(capsys, "generate", "solver.yaml", "data.yaml")["files"]
    assert [file["output"] for file in made] == ["data/train.h5", "data/test.h5"]
    assert made[0]["params"] == [[0.001], [0.003]] and made[1]["params"] == [[0.002]] and made[0]["seed"] != made[1]["seed"]


def test_a_program_with_a_namelist_gets_its_parameters_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("f90nml")
    (folder / "burgers.f90").write_text(block("fortran.md", "burgers.f90"))
    (folder / "step.nml").write_text(block("fortran.md", "step.nml"))
    compiled(folder / "burgers.f90", folder, "gfortran")
    given = ("program", "--command", "./burgers", "--input", "u.dat", "--output", "v.dat", "--format", "fortran")
    given = (*given, "--state_shape", "[1, 32]", "--dt", "0.01", "--parameters", "[nu]", "--namelist", "step.nml")
    given = (*given, "--params", "[[0.001]]")
    assert call(capsys, "init", *given)[0] == 0
    args = yaml.safe_load((folder / "solver.yaml").read_text())["solver"]["args"]
    assert args["namelists"] == {"step.nml": {"file": "step.nml", "values": {"step": {"nu": "{{ params.nu }}"}}}}
    status, out, err = call(capsys, "check", "--config", "solver.yaml", "--config", "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "") and "'burgers' keeps its contract" in out
    assert_refused(capsys, "parameter rho does not reach the program", *given, "--parameters", "[rho]", "--folder", "other")


def test_a_program_with_a_template_gets_its_parameters_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deck.txt.j2").write_text("nu = {{ params.nu }}\n")
    scale = "import numpy\nnu = float(open('deck.txt').read().split()[2])\nnumpy.save('v.npy', nu * numpy.load('u.npy'))\n"
    (folder / "scale").write_text(f"#!{sys.executable}\n{scale}")
    (folder / "scale").chmod(0o755)
    given = ("program", "--command", "./scale", "--input", "u.npy", "--output", "v.npy", "--state_shape", "[2, 8, 8]")
    given = (*given, "--dt", "1", "--parameters", "[nu]", "--template", "deck.txt.j2", "--channels", "[a, b]")
    given = (*given, "--channel_units", "[m, m/s]", "--params", "[[2], [3]]")
    assert call(capsys, "init", *given, "--folder", "new/start")[0] == 0
    said = yaml.safe_load((folder / "new/start/solver.yaml").read_text())["solver"]["args"]
    assert said["templates"] == {"deck.txt": "deck.txt.j2"} and said["inputs"] == [{"path": "u.npy", "format": "npy"}]
    assert said["spec"]["channels"] == ["a", "b"] and said["spec"]["channel_units"] == ["m", "m/s"]
    files = ("--config", "new/start/solver.yaml", "--config", "new/start/check.yaml")
    status, out, err = call(capsys, "check", *files, "--seconds", "5")
    assert (status, err) == (0, "") and "'scale' keeps its contract" in out


def test_a_solver_in_python_is_taken_with_the_functions_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    given = ("python", "--solver", "tracer.py:Tracer", "--args", "{points: 32}", "--reference_args", "{points: 64}")
    status, out, err = call(capsys, "init", *given, "--params", "[[0.5], [1.0], [0.8]]")
    assert (status, err) == (0, "") and "states.py" not in out and not (folder / "states.py").exists()
    simulations = printed(capsys, "generate", "solver.yaml", "data.yaml")["simulations"]
    assert simulations["initial"] == "tracer.py:initial" and simulations["reference"]["args"] == {"points": 64}
    assert call(capsys, "generate", *GENERATE, "--workers.backend", "serial")[0] == 0
    status, _, err = call(capsys, "check", "--config", "solver.yaml", "--config", "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "")
    assert printed(capsys, "train", "solver.yaml", "train.yaml")["stages"][0]["method"] == "NON"


def test_a_solver_without_functions_and_parameters_gets_seeded_states(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "decay.py").write_text(
        "import deepzero_sim as dz\n\n\nclass Decay(dz.Solver):\n"
        "    def __init__(self, n=4):\n"
        "        self.spec = dz.SolverSpec(name='decay', state_shape=(2, n, 2 * n), dt=0.5)\n\n"
        "    def step(self, states, params=None):\n        return 0.9 * states\n"
    )
    status, out, _ = call(capsys, "init", "python", "--solver", "decay.py:Decay", "--reference_args", "{n: 8}")
    assert status == 0 and "states.py has initial states to replace" in out
    assert call(capsys, "generate", *GENERATE, "--workers.backend", "serial")[0] == 0
    status, _, err = call(capsys, "check", "--config", "solver.yaml", "--config", "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "")


def waves(path: Path) -> None:
    """Three simulations of 21 frames on 64 points, as somebody else's program leaves them."""
    t, x = np.arange(21) * 0.02, (np.arange(64) + 0.5) / 64
    np.savez(path, c=np.stack([np.sin(2 * np.pi * (x - speed * t[:, None])) for speed in (0.5, 1.0, 1.5)]), t=t, x=x)


@pytest.mark.parametrize("shape", [(1, 16), (2, 12, 10), (1, 8, 8, 8)])
def test_no_initial_state_is_drawn_constant(shape: tuple[int, ...]) -> None:
    names: dict[str, Any] = {}
    exec(FUNCTIONS, names)  # noqa: S102 - what init writes
    spec = SolverSpec(name="waves", state_shape=shape, dt=1.0, dtype="float64")
    for seed in range(40):
        state = names["initial"](spec, None, seed)
        assert state.shape == (1, *shape) and abs(state.mean(axis=tuple(range(2, state.ndim)))).max() < 1e-12
        assert state.std(axis=tuple(range(2, state.ndim))).min() > 0


def test_data_get_a_solver_that_keeps_states_until_it_is_filled_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waves(folder / "waves.npz")
    assert_refused(capsys, "axes", "data", "--data", "waves.npz")
    assert list(folder.iterdir()) == [folder / "waves.npz"], "nothing is written for data that cannot be read"
    status, out, err = call(capsys, "init", "data", "--data.path", "waves.npz", "--data.axes", "[simulation, time, x]")
    assert (status, err) == (0, "") and "3 simulations, 21 frames (times 0 to 0.4), 1 channels (c), x 64" in out
    status, _, err = call(capsys, "check", "--config", "solver.yaml", "--config", "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "")
    files = ("--config", "solver.yaml", "--config", "train.yaml")
    status, out, err = call(capsys, "train", *files, "--stages", "[{method: NON, updates: 2}]", "--workers.backend", "serial")
    assert (status, err) == (0, "") and "trained: runs/first/1-NON" in out


def test_data_are_proposed_for_a_solver(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    waves(folder / "waves.npz")
    given = ("data", "--data.path", "waves.npz", "--data.axes", "[simulation, time, x]", "--solver", "tracer.py:Tracer")
    status, out, _ = call(capsys, "init", *given, "--folder", "open")
    assert status == 0 and "train_data in train.yaml is to be completed by hand" in out and "no parameter speed" in out
    status, out, _ = call(capsys, "init", *given, "--data.parameters", "{speed: [0.5, 1.0, 1.5]}")
    assert status == 0 and "for tracer they are 3 simulations of 21 frames" in out
    source = printed(capsys, "train", "solver.yaml", "train.yaml")["train_data"]
    assert source["restrict"] == "block_mean" and source["parameters"] == {"speed": [0.5, 1.0, 1.5]}
    files = ("--config", "solver.yaml", "--config", "train.yaml")
    status, _, err = call(capsys, "train", *files, "--stages", "[{method: NON, updates: 2}]", "--workers.backend", "serial")
    assert (status, err) == (0, "")


def test_every_key_has_a_comment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    given = ("python", "--solver", "tracer.py:Tracer", "--reference_args", "{points: 64}", "--params", "[[1], [2]]")
    assert call(capsys, "init", *given)[0] == 0
    for name in ("solver", "check", "train", "data"):
        lines = (folder / f"{name}.yaml").read_text().splitlines()
        keys = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
        assert keys and all(lines[i - 1].startswith("#") for i in keys), name
        assert all(len(line) <= 130 for line in lines), name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say what you have: deepzero-sim init program, init python or init data"),
        (
            ("program",),
            r"needs --command, --output, --format, --state_shape, --dt: give them, or call it at a terminal",
        ),
        (("python",), "init python needs --solver"),
        (("data", "--folder", "a"), "init data needs --data"),
        (("python", "--solver", "a.B", "--dt", "1"), "init python has no use for dt"),
        (("python", "--solver", "none.py:A"), "there is no file none.py"),
        (("program", *PROGRAM[1:]), "burgers"),
        (("program", *PROGRAM[1:], "--command", "./a 'b"), "cannot be split into words"),
        (("program", *PROGRAM[1:], "--command", ""), "needs --command|must name a program"),
        (("program", *PROGRAM[1:], "--state_shape", "[32]"), "such as .2, 64, 64."),
        (("program", *PROGRAM[1:], "--dt", "0"), "dt must be a positive number"),
        (("data", "--data", "none.npz"), "none.npz"),
        (("pyhton",), "must be one of program, python, data"),
    ],
)
def test_what_cannot_be_begun_with_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert_refused(capsys, says, *words)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--reference_args", "{points: 48}", "--params", "[[1]]"), "tracer.py:restrict raised ValueError"),
        (("--reference_args", "{points: 64}"), "with 1 numbers .speed., not"),
        (("--reference_args", "{points: 64}", "--params", "[[1, 2]]"), "with 1 numbers .speed., not"),
        ((), "with 1 numbers .speed., not nothing: give --params, such as '..1.0., .2.0"),
        (("--args", "{pionts: 64}"), "pionts"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    assert_refused(capsys, says, "python", "--solver", "tracer.py:Tracer", *words)
    assert not list(folder.glob("*.yaml"))


TRACER = ("python", "--solver", "tracer.py:Tracer", "--params", "[[1]]")


def test_no_file_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    (folder / "train.yaml").write_text("mine")
    assert_refused(capsys, "train.yaml is there already", *TRACER)
    assert (folder / "train.yaml").read_text() == "mine" and not (folder / "solver.yaml").exists()


def test_a_terminal_is_asked(folder: Path) -> None:
    """Answers that cannot be used are asked again; an empty one leaves out what need not be there."""
    (folder / "tracer.py").write_text(block("python.md", "tracer.py"))
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "deepzero_sim.cli", "init"]
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    program = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=terminal, close_fds=True)
    os.close(inner)
    given = ["{points: 64}", "[[1], [2]]", "", "perhaps", "true"]
    answers = ["pyhton", "python", "tracer.py:Tracer", "{points: 32}", "points", *given]
    said = ""
    for answer in answers:
        said += _said(outer)
        os.write(outer, f"{answer}\n".encode())
    while (more := _said(outer)) or program.poll() is None:
        said += more
    assert program.wait(60) == 0, said
    assert "must be one of program, python, data, not pyhton" in said and "periodic must be true or false" in said
    assert "circular" in (folder / "train.yaml").read_text() and "points: 64" in (folder / "data.yaml").read_text()


def _said(terminal: int, quiet: float = 1.0) -> str:
    """What a program writes to a terminal until it waits for an answer."""
    said, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], quiet if said else 5.0)
        if not ready:
            break
        try:
            said += os.read(terminal, 4096)
        except OSError:  # the program has ended
            break
    return said.decode(errors="replace")


def test_commented_yaml_is_read_as_it_was_written() -> None:
    inner = {"a": Commented([1, "on"], "First."), "b": Commented("{{ x }}", "word " * 60)}
    whole = {"c": Commented(inner, "Both."), "d": Commented([{"e": None}, {"f": 1e-5}]), "g": Commented({"h": "1e3"})}
    text = write_commented(whole, ["Title.", ""])
    assert (
        read_yaml(text)
        == plain_values(whole)
        == {
            "c": {"a": [1, "on"], "b": "{{ x }}"},
            "d": [{"e": None}, {"f": 1e-5}],
            "g": {"h": "1e3"},
        }
    )
    assert max(map(len, text.splitlines())) <= 115


def test_axes_spacing_and_a_function_of_the_users_are_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "burgers.c").write_text(block("programs.md", "burgers.c"))
    compiled(folder / "burgers.c", folder)
    (folder / "states.py").write_text(FUNCTIONS.replace("def initial", "def begin"))
    assert_refused(capsys, "name your function of initial states by --initial FILE:NAME", *PROGRAM, *REFERENCE)
    given = (*PROGRAM, *REFERENCE, "--initial", "states.py:begin", "--axes", "[x]", "--spacing", "[0.03125]")
    assert_refused(capsys, "no function|has no|begins", *given, "--initial", "states.py:begins")
    status, out, err = call(capsys, "init", *given)
    assert (status, err) == (0, "") and "initial states to replace" not in out
    spec = yaml.safe_load((folder / "solver.yaml").read_text())["solver"]["args"]["spec"]
    assert spec["axes"] == ["x"] and spec["spacing"] == [0.03125] and spec["offsets"] == [[0.5]]
    assert "offsets of 0.5 are written, as block_mean suits" in out
    made = printed(capsys, "generate", "solver.yaml", "data.yaml")
    assert made["simulations"]["reference"]["args"]["spec"]["spacing"] == [0.03125 / 2]
    assert made["simulations"]["initial"] == "states.py:begin" and made["files"][0]["starts"] > 1
    status, out, _ = call(capsys, "generate", *GENERATE)
    assert status == 0 and "offsets" not in out
    data = dz.datasets.load("data/train.h5")
    assert data.metadata is not None
    np.testing.assert_allclose(data.metadata.positions[0, 0][:2], [0.5 * 0.03125, 1.5 * 0.03125])
    status, _, err = call(capsys, "check", "--config", "solver.yaml", "--config", "check.yaml", "--seconds", "5")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("given", "offsets", "words"),
    [
        ((), [[0.5]], "offsets of 0.5 are written"),
        (("--offsets", "[[0.5]]"), [[0.5]], ""),
        (("--offsets", "[[0]]"), [[0.0]], ""),
        (("--reference_shape", "[1, 63]"), [[0.0]], "offsets of 0 are written, as injection suits"),  # nodes: 32 and 2 * 31 + 1
    ],
)
def test_offsets_are_those_of_the_grid(
    folder: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], offsets: list[list[float]], words: str
) -> None:
    (folder / "burgers.c").write_text(block("programs.md", "burgers.c"))
    compiled(folder / "burgers.c", folder)
    status, out, err = call(capsys, "init", *PROGRAM, *REFERENCE, "--spacing", "[0.03125]", *given)
    spec = yaml.safe_load((folder / "solver.yaml").read_text())["solver"]["args"]["spec"]
    assert (status, err) == (0, "") and spec["offsets"] == offsets
    assert words in out if words else "offsets" not in out


def test_a_spacing_whose_offsets_nobody_can_tell_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "burgers.c").write_text(block("programs.md", "burgers.c"))
    compiled(folder / "burgers.c", folder)
    given = (*PROGRAM, "--params", "[[0.001], [0.002]]")
    assert_refused(capsys, "offsets", *given, "--spacing", "[0.03125]", "--offsets", "[0.5]")
    status, out, err = call(capsys, "init", *given, "--spacing", "[0.03125]")
    spec = yaml.safe_load((folder / "solver.yaml").read_text())["solver"]["args"]["spec"]
    assert (status, err) == (0, "") and "offsets" not in spec and "--offsets '[[0.5]]' if in cells" in out


NODES = """
import numpy as np
import deepzero_sim as dz

class Nodes(dz.Solver):
    def __init__(self, n=5):
        self.spec = dz.SolverSpec(name="nodes", state_shape=(1, n), dt=0.5)

    def step(self, states, params=None):
        return 0.9 * states
"""


@pytest.mark.parametrize(("reference", "walls"), [("{n: 9}", True), ("{n: 10}", False)])
def test_walls_are_told_where_grids_end_at_them(
    folder: Path, capsys: pytest.CaptureFixture[str], reference: str, *, walls: bool
) -> None:
    (folder / "nodes.py").write_text(NODES)
    assert call(capsys, "init", "python", "--solver", "nodes.py:Nodes", "--reference_args", reference)[0] == 0
    said = " ".join((folder / "train.yaml").read_text().replace("#", "").split())
    assert ("Grids of nodes end at walls: replicate suits those." in said) == walls


def test_a_package_that_is_missing_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "fem.py").write_text("import no_such_package.meshes\n")
    says = "no_such_package.* is not installed: pip install it, or put its folder on PYTHONPATH"
    assert_refused(capsys, says, "python", "--solver", "fem.py:Fem")
