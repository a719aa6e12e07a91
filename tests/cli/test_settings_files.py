"""Settings, names and run folders that mean harm or were written by accident end in one sentence, and nothing is run."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_main import assert_fails, call
from training_cases import config_file, line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component, build, call_function, load_factory
from deepzero_sim.common.documents import LARGEST, read_json, read_yaml, write_yaml
from deepzero_sim.common.files import LARGEST_TEXT
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.models.build import NETWORK
from deepzero_sim.solver.build import SOLVER
from deepzero_sim.training.active_set import RATIOS
from deepzero_sim.training.build import ESTIMATOR, OPTIMISER, SCHEDULER, VJP
from deepzero_sim.training.checkpoints import read_settings
from deepzero_sim.training.runs import trained_run
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.training import train

#: What nobody should call: it leaves a file.
USER = """
    import os
    from functools import partial
    from os import system
    from pathlib import Path
    from subprocess import Popen

    import torch
    from problems import Burgers

    leave = partial(os.system, "touch called")
    linear = partial(torch.nn.Linear, 1)

    def make(spec):
        Path("called").touch()
        return torch.nn.Conv1d(1, 1, 3, padding=1)

    class Mine(Burgers):
        def __init__(self):
            Path("called").touch()
            super().__init__()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A quick training's data and settings; the current folder, and nothing is trusted yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    line_data(tmp_path / "line.h5")
    config_file(tmp_path / "train.yaml", train_settings(tmp_path / "run", tmp_path / "line.h5", method="NON", updates=1))
    return tmp_path


# ---- YAML and JSON within bounds


def aliases(levels: int, times: int, value: str = "[{}]") -> str:
    """Few bytes that stand for `times ** levels` values."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i + 1}: &a{i + 1} {value.format(','.join([f'*a{i}'] * times))}" for i in range(levels)]
    return "\n".join(lines) + "\n"


BOMBS = {
    "lists": aliases(9, 10),
    "more lists": aliases(30, 9),
    "merged mappings": aliases(9, 10, "{{<<: [{}]}}"),
    "itself": "a: &a [*a]\n",
    "itself by a merge": "a: &a {b: {<<: *a}}\n",
    "deep mappings": "{a: " * 3000 + "1" + "}" * 3000,
    "deep lists": "a: " + "[" * 3000 + "]" * 3000,
    "deep dashes": "a:\n  " + "- " * 3000 + "1\n",
    "many values": "a: [" + "1," * (LARGEST + 1) + "1]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_settings_that_grow_when_they_are_read_are_refused_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("bomb.yaml").write_text(BOMBS[name])
    started = time.process_time()
    with pytest.raises(ConfigError, match=r"contain themselves|aliases written out|deep in one another"):
        read_yaml(BOMBS[name])
    assert_fails(capsys, "contain themselves|aliases written out|deep", "train", "--config", "bomb.yaml")
    assert time.process_time() - started < 4


def test_aliases_and_merges_within_bounds_mean_what_yaml_says() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: [*a, {z: 4, y: 5}]}\nd: [*a, *a]\n"
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "option", ["--solver.args={a: &a [1, *a]}", f"--network.args={{{aliases(9, 10)!r}: 1}}", "--solver={a: 1, a: 2}"]
)
def test_values_on_the_command_line_are_held_to_the_same_bounds(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert_fails(capsys, "themselves|there twice|must be|must hold|cannot", "train", "--config", "train.yaml", option)


def test_text_within_settings_is_held_to_the_same_bounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(Path("train.yaml").read_text()) | {"workers": "{" + aliases(9, 10).replace("\n", ", ") + "}"}
    Path("nested.yaml").write_text(yaml.safe_dump(settings))
    assert_fails(capsys, "aliases written out", "train", "--config", "nested.yaml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed: 1\nseed: 2\n", "'seed'"),
        ("solver: {name: a.B, name: c.D}\n", "'name'"),
        ("solver: {name: a.B, args: {x: {y: 1, 'y': 2}}}\n", "'y'"),
        ("solver: {name: a.B, args: {x: [{1: a, 0x1: b}]}}\n", "1"),
        ("optimiser.name: a.B\noptimiser: {name: c.D}\n", "optimiser.name"),
    ],
)
def test_a_key_is_given_once(folder: Path, capsys: pytest.CaptureFixture[str], text: str, key: str) -> None:
    Path("twice.yaml").write_text(text)
    assert_fails(capsys, f"{key} is there twice", "train", "--config", "train.yaml", "--config", "twice.yaml")


def test_numbers_are_those_that_they_look_like() -> None:
    assert read_yaml("[010, 1:30, 1e5, 1_000, .5, 0x1f, -0, 2024-01-01]") == [
        *("010", "1:30", 1e5, 1000, 0.5, 31, 0, "2024-01-01")
    ]
    for large in ("1e999", "-1e400", "9" * 500, "9" * 5000):
        with pytest.raises(ConfigError, match="write a smaller one"):
            read_yaml(f"a: [{large}]")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text("ab1:.-e0#'\"é \n", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab.", min_size=1, max_size=3), inner, max_size=4),
)


@given(PLAIN)
def test_what_a_run_folder_writes_is_read_as_it_was(value: Any) -> None:
    text = write_yaml({"value": value})
    assert read_yaml(text)["value"] == value == yaml.safe_load(text)["value"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', '{"a": [{"b": 1, "b": 1}]}', "9" * 5000, "nonsense"])
def test_json_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"too deep|is there twice|digits|Expecting"):
        read_json(text)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch called]", "!!set {a}", "!!binary aGk=", "!mine 3"])
def test_tags_are_refused(folder: Path, capsys: pytest.CaptureFixture[str], tag: str) -> None:
    Path("tag.yaml").write_text(f"seed: {tag}\n")
    assert_fails(capsys, "there is a tag", "train", "--config", "tag.yaml")
    assert not Path("called").exists()


# ---- files that are none


def test_a_file_of_settings_is_a_regular_one_of_some_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    with open("large.yaml", "wb") as file:  # noqa: PTH123
        file.truncate(2**30)
    Path("picture.yaml").write_bytes(bytes(range(128, 256)))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("pipe", "/dev/zero", "socket", ".", "large.yaml", "picture.yaml", "none.yaml"):
            assert_fails(capsys, "is a pipe|no regular file|MiB|UTF-8|there is none", "train", "--config", name)
    assert LARGEST_TEXT < 2**30


@pytest.mark.parametrize("key", ["workers", "scheduler", "train_data", "run", "start"])
def test_no_setting_waits_for_a_pipe(folder: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    os.mkfifo("pipe")
    assert_fails(capsys, "a pipe, a socket or a device", "train", "--config", "train.yaml", f"--{key}", "pipe")
    settings = yaml.safe_load(Path("train.yaml").read_text()) | {key: "pipe"}
    Path("piped.yaml").write_text(yaml.safe_dump(settings))
    assert_fails(capsys, "a pipe, a socket or a device", "train", "--config", "piped.yaml")


@pytest.mark.parametrize("key", ["run", "network", "workers", "solver.name", "train_data", "on_failure"])
@pytest.mark.parametrize("letter", ["\0", "\ud800"])
def test_letters_that_no_name_can_have(folder: Path, capsys: pytest.CaptureFixture[str], key: str, letter: str) -> None:
    assert_fails(capsys, "UTF-8 without NUL", "train", "--config", "train.yaml", f"--{key}", f"a{letter}b")
    written = {"\0": r"\0", "\ud800": r"\ud800"}[letter]
    Path("escaped.yaml").write_text(f'{key}: "a{written}b"\n')
    assert_fails(capsys, "UTF-8 without NUL|cannot be read as YAML", "train", "--config", "escaped.yaml")


def test_messages_stay_short_whatever_they_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--updates", "--train_data", "--solver.name", "--workers.backend", "--run"):
        assert main(["train", "--config", "train.yaml", option, "x" * 50_000]) == 2
        assert len(capsys.readouterr().err) < 2100


def test_numbers_beyond_floating_point_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, "write a smaller one", "train", "--config", "train.yaml", f"--sparsity=1{'0' * 400}")


@pytest.mark.parametrize(
    ("args", "says"),
    [({"width": 10**7}, "GiB or more to be trained"), ({"kernel": 10**9 + 1}, "GiB"), ({"blocks": 10**7}, "tensors")],
)
def test_a_network_without_room_is_refused_before_it_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], args: dict[str, int], says: str
) -> None:
    assert_fails(capsys, says, "train", "--config", "train.yaml", "--network.args", str(args))


def test_too_little_memory_is_said(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr("deepzero_sim.training.runs.console.train_with_bar", allocate)
    assert_fails(capsys, "there is not enough memory .*take a smaller network", "train", "--config", "train.yaml")


# ---- names


NOT_MADE = [
    *("os.system", "posix.system", "subprocess.run", "subprocess.Popen", "builtins.exec", "builtins.eval", "shutil.rmtree"),
    *("pickle.loads", "pathlib.Path.unlink", "importlib.import_module", "runpy.run_path", "antigravity.geohash"),
    *("torch.hub.load", "torch.load", "torch.jit.load", "torch.utils.cpp_extension.load", "numpy.load", "yaml.load"),
    *("joblib.load", "cloudpickle.loads", "deepzero_sim.cli.main.main", "deepzero_sim.cli.train.train"),
    *(
        "deepzero_sim.common.files.os",
        "deepzero_sim.common.files.os.system",
        "torch.os.system",
        "deepzero_sim.training.trainer.Trainer",
    ),
    *("user.py:system", "user.py:leave", "user.py:Popen", "user.py:os", "user.py:Path", "user.py:os.system"),
]


@pytest.mark.parametrize("name", NOT_MADE)
def test_a_name_that_makes_something_else_is_not_called(folder: Path, name: str) -> None:
    arguments = {"command": "touch called", "args": ["touch", "called"], "path": "line.h5", "source": "open('called', 'w')"}
    for wanted in (SOLVER, NETWORK, OPTIMISER, SCHEDULER, ESTIMATOR, VJP, RATIOS):
        with pytest.raises(ConfigError, match=r"must make|there is no module|has no"):
            load_factory(name, wanted)
        with pytest.raises(ConfigError):
            build(Component(name, arguments), kind=wanted)
    assert not Path("called").exists() and Path("line.h5").exists()


def test_a_module_of_python_s_own_is_not_even_imported(folder: Path) -> None:
    sys.modules.pop("this", None)
    for refused in (lambda: load_factory("this.s", SOLVER), lambda: call_function("this.s")):
        with pytest.raises(ConfigError, match=r"Python's standard library"):
            refused()
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("problems.Burgers", SOLVER),
        ("deepzero_sim.as_solver", SOLVER),
        ("torch.nn.Linear", NETWORK),
        ("torch.fx.symbolic_trace", NETWORK),
        ("torch.optim.AdamW", OPTIMISER),
        ("deepzero_sim.warm_up_cosine", SCHEDULER),
        ("deepzero_sim.RGE", ESTIMATOR),
        ("deepzero_sim.vjp.Coloured", VJP),
        ("user.py:make", NETWORK),
        ("user.py:linear", NETWORK),
        ("user.py:Burgers", SOLVER),
    ],
)
def test_classes_functions_that_say_so_and_what_a_file_defines_are_taken(folder: Path, name: str, wanted: Any) -> None:
    assert callable(load_factory(name, wanted)) and not Path("called").exists()


@pytest.mark.parametrize("key", ["solver", "network", "optimiser", "scheduler", "differentiable_solver"])
def test_the_parser_makes_nothing_of_classes_that_settings_name(
    folder: Path, capsys: pytest.CaptureFixture[str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    Path("harm.py").write_text("open('called', 'w').close()\nclass Harm:\n    pass\n")
    base = yaml.safe_load(Path("train.yaml").read_text())
    spec = {"class_path": "harm.Harm", "init_args": {}}
    for value in (spec, "harm.Harm", {"name": "problems.Burgers", "args": {"points": spec, "more": [spec]}}):
        Path("harmful.yaml").write_text(yaml.safe_dump(base | {key: value}))
        main(["train", "--config", "harmful.yaml", "--method", "SRC", "--run", "src"])
        shutil.rmtree("src", ignore_errors=True)
        assert "Traceback" not in capsys.readouterr().err
    assert_fails(capsys, "must hold keys", "train", "--config", "train.yaml", f"--{key}", "harm.Harm")
    assert not Path("called").exists() and "harm" not in sys.modules


# ---- runs of others


def foreign(**parts: Any) -> Path:
    """A run folder that somebody else made, with other parts."""
    trained = train_settings(Path("theirs"), Path("line.h5").resolve(), method="NON", updates=1)
    train(trained)
    shutil.rmtree("state")
    config = Path("theirs/config.yaml")
    config.write_text(yaml.safe_dump(read_settings(Path("theirs")) | parts))
    return config.parent


HARM = [
    {"name": "os.system", "args": {"command": "touch called"}},
    {"name": "user.py:Mine", "args": {}},
    {"name": "deepzero_sim.ExecutableSolver", "args": {"command": ["touch", "called"]}},
    {"name": "deepzero_sim.solvers.x/user.py:Mine", "args": {}},
    {"name": "problems.Burgers", "args": {"points": 12}},
]


@pytest.mark.parametrize("solver", HARM)
def test_a_run_of_somebody_else_runs_nothing_unasked(
    folder: Path, capsys: pytest.CaptureFixture[str], solver: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = foreign(solver=solver)
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    Path("deepzero_sim.solvers.x").mkdir()
    shutil.copy("user.py", "deepzero_sim.solvers.x")
    name = solver["name"].replace(".", r"\.")
    for command in (["evaluate", "--run"], ["serve", "--port", "0", "--run"], ["compare"]):
        data = [] if command[0] == "serve" else ["--data", "line.h5"]
        assert_fails(capsys, f"not made by you on this machine, .*{name}.* --trust", *command, run, *data)
    with pytest.raises(RunError, match="--trust"):
        trained_run.trained_loop(run)
    with pytest.raises(RunError, match="--trust"):
        compare({"NON": run}, Path("line.h5"))
    assert not Path("called").exists()


def test_trust_is_asked_once_and_given_to_what_was_shown_only(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = foreign()
    evaluate = ["evaluate", "--run", run, "--data", "line.h5", "--steps", 2]
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    assert_fails(capsys, "--trust", *evaluate)
    assert call(capsys, *evaluate, "--trust")[::2] == (0, "")
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())  # another process
    assert call(capsys, *evaluate)[::2] == (0, "")
    other = {"solver": {"name": "problems.Burgers", "args": {"points": 16}}}
    (run / "config.yaml").write_text(yaml.safe_dump(read_settings(run) | other))
    assert_fails(capsys, "--trust", *evaluate)


def test_a_run_of_one_s_own_needs_no_word_wherever_it_is_moved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for solver in ("problems.Burgers", "user.py:Mine"):
        assert call(capsys, "train", "--config", "train.yaml", "--solver.name", solver)[::2] == (0, "")
        Path("run").rename("moved")
        assert call(capsys, "evaluate", "--run", "moved", "--data", "line.h5", "--steps", 2)[::2] == (0, "")
        shutil.rmtree("moved")


def test_solvers_of_the_package_need_no_trust() -> None:
    from deepzero_sim.training.runs.trust import without_trust  # noqa: PLC0415

    parts = {"solver": Component("deepzero_sim.solvers.WakeFlow", {"resolution": 8}), "network": Component("small")}
    assert not without_trust(parts)
    for name in ("deepzero_sim.ExecutableSolver", "deepzero_sim.UMBridgeSolver", "deepzero_sim.connectors.BMISolver"):
        assert without_trust({"solver": Component(name, {"command": ["ls"]})})


def test_where_nothing_can_be_kept_trust_holds_for_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("nowhere").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "nowhere"))
    settings = train_settings(folder / "run", folder / "line.h5", method="NON", updates=1)
    train(settings)
    assert trained_run.trained_loop(settings.run)
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    with pytest.raises(RunError, match=r"dz\.load_run\(path, trust=True\)"):
        trained_run.trained_loop(settings.run)
    trained_run.trust(settings.run)
    assert trained_run.trained_loop(settings.run)


def test_somebody_at_a_terminal_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = foreign()
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("deepzero_sim.cli.console.console._force_terminal", True)
    asked: list[str] = []
    for answer, status in (("n", 2), ("y", 0), ("n", 0)):
        monkeypatch.setattr("builtins.input", lambda answer=answer: asked.append(answer) or answer)
        found = main(["evaluate", "--run", str(run), "--data", "line.h5", "--steps", "2"])
        said = capsys.readouterr()
        assert found == status, said
    assert asked == ["n", "y"]
