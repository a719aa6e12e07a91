"""What `init` writes, run to the end: the commands that it prints, word by word, from a check to a picture."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from deepzero_sim.cli.main import main

#: A rod of nodes from wall to wall: a deck with the state in it, a table of materials, an output with a head and three columns.
ROD = f"""#!{sys.executable} -IS
import json
steel = json.load(open("materials.json"))["steel"]
lines = open("rod.inp").read().split("\\n")
n, drag = int(lines[1]), float(lines[2])
t = [float(x) for x in lines[3].strip("[]").split(",")]
dx, h = 1.0 / (n - 1), 0.01
steps = int(h * steel / dx ** 2 / 0.4) + 1
for _ in range(steps):
    r = [h / steps * (steel * (t[i + 1] - 2 * t[i] + t[i - 1]) / dx ** 2 - drag * t[i] ** 3) for i in range(1, n - 1)]
    t = [t[0], *(t[i + 1] + r[i] for i in range(n - 2)), t[-1]]
with open("rod.csv", "w") as file:
    file.write("temperatures of a rod\\nx,T,flux\\n")
    for i in range(n):
        file.write(f"{{i * dx}},{{t[i]!r}},none\\n")
"""

DECK = "{{ values.title }}\n{{ spec.state_shape[1] }}\n{{ params.drag }}\n{{ state[0] }}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status = main(list(words))
    out, err = capsys.readouterr()
    assert (status, err) == (0, ""), (words, err)
    return out


def commands(out: str) -> dict[str, list[str]]:
    """The commands that init prints, by their names."""
    found = [shlex.split(line.partition(":")[2]) for line in out.splitlines() if line.startswith(("next:", "then:"))]
    assert all(words[0] == "deepzero-sim" for words in found)
    return {words[1]: words[1:] for words in found}


STAGES = "[{method: NON, updates: 10, batch_size: 8}, {method: suitable, updates: 1, batch_size: 1, unroll: 2}]"


def write_rod(folder: Path) -> None:
    (folder / "rod").write_text(ROD)
    (folder / "rod").chmod(0o755)
    (folder / "rod.inp.j2").write_text(DECK)
    (folder / "materials.json").write_text('{"steel": 1.0}')


ROD_WORDS = (
    *("init", "program", "--command", "./rod", "--template", "rod.inp.j2", "--values", "{title: a rod}", "--dt", "0.01"),
    *("--external_input_files", "[materials.json]", "--state_shape", "[1, 9]", "--reference_shape", "[1, 17]"),
    *("--output", "{path: rod.csv, format: text, delimiter: ',', skiprows: 2, usecols: [1]}"),
    *("--params", "[[0], [1], [2]]"),
)


def test_the_solver_is_written_once_and_everything_is_recognised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rod(folder)
    printed = commands(run(capsys, *ROD_WORDS, "--folder", "a rod"))
    assert list(printed) == ["check", "generate", "train", "evaluate"]
    files = {path.name: path.read_text() for path in Path("a rod").iterdir()}
    assert sum("state_shape: [1, 9]" in text for text in files.values()) == 1
    assert sum("deepzero-sim check" in text for text in files.values()) == 1
    assert (
        "restrict: injection" in files["data.yaml"]
        and "reference: {args: {spec: {state_shape: [1, 17]}}}" in files["data.yaml"]
    )
    assert "parameters: [drag]" in files["solver.yaml"] and "inputs:" not in files["solver.yaml"]


@pytest.mark.slow
def test_a_program_goes_from_a_check_to_a_report_by_the_commands_that_are_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rod(folder)
    printed = commands(run(capsys, *ROD_WORDS, "--folder", "a rod"))
    assert "keeps its contract" in " ".join(run(capsys, *printed["check"], "--seconds", "2").split())
    run(capsys, *printed["generate"], "--simulations.steps", "3")
    run(capsys, *printed["train"], "--stages", STAGES)
    run(capsys, *printed["evaluate"], "--steps", "2")
    methods = json.loads(Path("a rod/runs/first/results.json").read_text())["methods"]
    assert methods["SRC"]["mae"] > 0 and len(methods) >= 2


@pytest.mark.slow
def test_a_solver_of_nodes_in_python_goes_the_same_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rod.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            import deepzero_sim as dz

            class Rod(dz.Solver):
                def __init__(self, nodes=9):
                    self.spec = dz.SolverSpec(name="rod", state_shape=(1, nodes, nodes), dt=0.001)

                def step(self, states, params=None):
                    n = states.shape[-1] - 1
                    made = states.copy()
                    inner = states[..., 1:-1, 1:-1]
                    around = states[..., 2:, 1:-1] + states[..., :-2, 1:-1] + states[..., 1:-1, 2:] + states[..., 1:-1, :-2]
                    made[..., 1:-1, 1:-1] = inner + np.float32(0.001) * ((around - 4 * inner) * n * n / 2 - inner**3)
                    return made.astype(np.float32)
            """
        )
    )
    out = run(capsys, "init", "python", "--solver", "rod.py:Rod", "--args", "{nodes: 9}", "--reference_args", "{nodes: 17}")
    printed = commands(out)
    assert "restrict: injection" in Path("data.yaml").read_text()
    run(capsys, *printed["check"], "--seconds", "2")
    run(capsys, *printed["generate"], "--simulations.steps", "3")
    run(capsys, *printed["train"], "--stages", STAGES, "--workers.backend", "serial")
    run(capsys, *printed["evaluate"], "--steps", "2")


@pytest.mark.slow
def test_data_without_a_solver_go_from_a_check_to_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xarray")
    _sea(folder / "sea.nc")
    printed = commands(run(capsys, "init", "data", "--data", "sea.nc", "--folder", "das Meer"))
    assert list(printed) == ["check", "train", "show"]
    run(capsys, *printed["check"], "--seconds", "2")
    run(capsys, *printed["train"], "--stages", STAGES, "--workers.backend", "serial")
    run(capsys, *printed["show"], "--animation", "false", "--steps", "3")
    assert (Path("runs/show/first") / "report.html").exists()


def _sea(path: Path) -> None:
    """Four runs of two channels on cells along x and nodes along y, with land in them, and units for everything."""
    import xarray  # noqa: PLC0415

    t, y, x = np.arange(12) * 0.5, np.arange(6) * 2.0, (np.arange(8) + 0.5) * 3.0
    runs = [np.sin(2 * np.pi * (x / 24 - 0.1 * k * t[:, None, None])) * np.cos(y[:, None] / 10) for k in (1, 2, 3, 4)]
    height = np.stack(runs).astype(np.float32)
    height[..., 3:5, 5:7] = np.nan
    channels = {"height": (height, "m"), "speed": (2 * height, "m/s")}
    axes = {"time": (t, "s"), "y": (y, "m"), "x": (x, "m")}
    xarray.Dataset(
        {name: (("run", "time", "y", "x"), values, {"units": unit}) for name, (values, unit) in channels.items()},
        {name: (name, values, {"units": unit}) for name, (values, unit) in axes.items()},
    ).to_netcdf(path)


def test_the_solver_to_fill_in_says_what_the_file_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xarray")
    _sea(folder / "sea.nc")
    run(capsys, "init", "data", "--data", "sea.nc", "--data.channels", "[speed]")
    names: dict[str, object] = {"__file__": str(folder / "my_solver.py")}
    exec(Path("my_solver.py").read_text(), names)  # noqa: S102 - what init writes
    spec = names["MySolver"]().spec  # type: ignore[operator]
    assert spec.state_shape == (1, 6, 8) and spec.dt == 0.5 and spec.time_unit == "s" and spec.dtype == "float32"
    assert (spec.channels, spec.channel_units, spec.axes) == (("speed",), ("m/s",), ("y", "x"))
    assert spec.spacing == (2.0, 3.0) and spec.offsets == ((0.0, 0.5),)
    assert spec.mask.sum() == 44 and not spec.mask[0, 3:5, 5:7].any()
    text = Path("my_solver.py").read_text()
    assert "# Axis x: from 1.5 to 22.5 m; it may wrap around or not, the file does not say." in text
    assert "# Times of the file: 0 to 5.5 s." in text


def test_data_without_times_are_asked_for_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", np.random.default_rng(0).normal(size=(2, 5, 8)))
    words = ("init", "data", "--data.path", "a.npy", "--data.axes", "[simulation, time, x]")
    assert main(list(words)) == 2
    assert "says no times: give the distance of its frames in time by dt" in capsys.readouterr().err
    run(capsys, *words, "--data.dt", "0.25")
    assert "dt=0.25," in Path("my_solver.py").read_text()
    assert "uneven or unknown distances" in Path("my_solver.py").read_text()


DECKS = {
    "ok.j2": b"{{ state }} {{ params['k'] }}",
    "binary.j2": b"\xff\xfe{{ state }}",
    "unknown.j2": b"{{ state }} {{ foo }}",
    "values.j2": b"{{ state }} {{ values.n }}",
    "syntax.j2": b"{{ state }} {% for",
    "plain.j2": b"nothing",
    "file": b"",
}
GIVEN = ("--command", "./rod", "--output", "v.txt", "--state_shape", "[1, 8]", "--dt", "1", "--folder", "new")
OK = ("--template", "ok.j2", "--params", "[[1]]")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--template", "binary.j2"), "binary.j2 must be a text file"),
        (("--template", "huge.j2"), "it has more than 10000000 bytes"),
        (("--template", "none.j2"), "No such file"),
        (("--template", "."), "must be a text file"),
        (("--template", "unknown.j2"), "unknown.j2 names foo, but there are only params, spec"),
        (("--template", "values.j2"), "has {{ values.n }}, but values has nothing: give --values '{n: 1}', or mend"),
        (("--template", "syntax.j2"), "must be a jinja2 template: line 1"),
        (("--template", "plain.j2"), "the program gets no state: give --input, the file"),
        (("--template", "ok.j2"), "give --params, such as"),
        ((*OK, "--templates", "[ok.j2]"), "two templates become ok in the program's folder: rename one"),
        ((*OK, "--input", "ok"), "two files of the working folder have the path 'ok'"),
        ((*OK, "--parameters", "[k, k]"), "parameters must have different names"),
        ((*OK, "--parameters", "[m]"), "has {{ params.k }}, but parameters has m: give --parameters '[k]'"),
        (
            ("--template", "ok.j2", "--parameters", "[k, m]", "--params", "[[1, 2]]"),
            "the parameter m does not reach the program",
        ),
        (("--template", "ok.j2", "--params", "[[.inf]]"), "params must be finite numbers, not [inf]"),
        (("--template", "ok.j2", "--params", "[[1, 2]]"), "with 1 numbers (k), not"),
        ((*OK, "--values", "{n: 1}"), "values are for placeholders {{ values.NAME }}, of which there is none"),
        ((*OK, "--external_input_files", "[none.msh]"), "there is no file or folder"),
        ((*OK, "--output", "{format: text}"), "a file of the program must have a path, not only format"),
        ((*OK, "--output", "{path: v.txt, format: text, skipwors: 2}"), "skipwors"),
        ((*OK, "--output", "{path: v.txt, format: text, usecols: [-1.5]}"), "usecols must be a column's number"),
        ((*OK, "--params_input", "../p.txt"), "p.txt"),
        ((*OK, "--reference_shape", "[1, 4]"), "the reference's grid must be finer than the solver's"),
        ((*OK, "--reference_shape", "[1, 12]"), "must be a whole multiple of the solver's along every axis, in cells"),
        ((*OK, "--reference_shape", "[1, 0]"), "the number of channels and the points along each axis"),
        ((*OK, "--reference_shape", "[2, 16]"), "must have the same channels and axes"),
        (
            (*OK, "--reference_command", "./rod fine"),
            "reference_command is of a reference: give its grid, too, by reference_shape",
        ),
        (
            (*OK, "--reference_shape", "[1, 16]", "--reference_values", "{n: 1}"),
            "reference_values has n, which values has not",
        ),
        ((*OK, "--folder", "file"), "File exists"),
        ((*OK, "--folder", "file/x"), "Not a directory"),
        ((*OK, "--folder", "a\nb"), "folder must be a path of letters that can be printed"),
    ],
)
def test_what_a_program_cannot_be_begun_with_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    write_rod(folder)
    for name, content in DECKS.items():
        (folder / name).write_bytes(content)
    with (folder / "huge.j2").open("wb") as file:
        file.truncate(10**7 + 1)
    before = sorted(folder.rglob("*"))
    assert main(["init", "program", *GIVEN, *words]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("deepzero-sim: ") and err.count("\n") == 1 and says in err, err
    assert sorted(folder.rglob("*")) == before


def test_a_link_to_nothing_is_not_replaced_either(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rod(folder)
    (folder / "check.yaml").symlink_to("elsewhere.yaml")
    assert main(list(ROD_WORDS)) == 2
    assert "check.yaml is there already" in capsys.readouterr().err
    assert (folder / "check.yaml").is_symlink() and not (folder / "solver.yaml").exists()


def test_names_of_any_letters_are_read_as_they_were_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quotes, spaces, colons and letters of other languages, in folders, files and words of the command."""
    write_rod(folder)
    (folder / 'it\'s: a "deck" ü.j2').write_text(DECK.replace("{{ params.drag }}", "0"))
    words = [*ROD_WORDS[:-2], "--folder", "süß [b] it's", "--command", "./rod 'two words' \"it's\""]
    words[words.index("rod.inp.j2")] = 'it\'s: a "deck" ü.j2'
    printed = commands(run(capsys, *words))
    with pytest.raises(SystemExit):
        main([*printed["generate"], "--print_config"])
    import yaml  # noqa: PLC0415

    args = yaml.safe_load(capsys.readouterr().out)["solver"]["args"]
    assert args["command"] == ["./rod", "two words", "it's"]
    assert args["templates"] == {'it\'s: a "deck" ü': 'it\'s: a "deck" ü.j2'}
