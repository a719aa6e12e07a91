"""Settings of a program that are not usable are refused when the solver is made, in words."""

from __future__ import annotations

import os
import re
import resource
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepzero_sim as dz
from deepzero_sim.connectors.programs import templates
from deepzero_sim.connectors.programs.namelists import deck

SPEC = {"name": "two fields", "state_shape": [2, 3, 4], "dt": 0.5, "channels": ["u", "v"], "parameters": ["nu", "rate"]}

FINE = {"spec": SPEC, "command": ["true"], "inputs": [{"path": "u.npy"}], "outputs": [{"path": "v.npy"}]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"command": "true"}, "must be a list of a program and its arguments"),
        ({"command": []}, "must be a list"),
        ({"command": ["true", None]}, "words and numbers"),
        ({"command": ["./nowhere"]}, r"there is no program /.*/nowhere: check the path"),
        ({"command": ["surely-no-such-program"]}, "no program 'surely-no-such-program' in PATH"),
        ({"command": ["./text"]}, "chmod"),
        ({"command": ["."]}, "there is no program"),
        ({"command": ["true", "{{ nu }}"]}, "names nu, but there are only params, spec, dt, state, values"),
        ({"command": ["true", "{{ params.mu }}"]}, "has no attribute 'mu'"),
        ({"command": ["true", "{{ values.points }}"], "values": {"point": 3}}, "has no attribute 'points'"),
        ({"command": ["true", "{{ values.points }}"], "spec": {**SPEC, "parameters": []}}, "has no attribute 'points'"),
        ({"values": ["points"]}, "values must be numbers, words, true or false by their names"),
        ({"values": {"points": [3]}}, "values must be numbers, words, true or false"),
        ({"values": {"points": None}}, "values must be numbers, words, true or false"),
        ({"values": {"two words": 3}}, "values must be numbers, words, true or false"),
        ({"values": {"items": 3}}, "values cannot have the name items"),
        ({"command": ["true", "{{ params. }}"]}, "must be a jinja2 template"),
        ({"spec": {"name": "a"}}, "must have name, state_shape and dt"),
        ({"spec": {**SPEC, "no": 1}}, "a spec may have name, state_shape, .*, not 'no'"),
        ({"spec": {"name": "a", "state_shap": [1, 2]}}, r"not 'state_shap' .did you mean 'state_shape'\?."),
        ({"inputs": [{"path": "u", "fromat": "raw"}]}, r"inputs: u: .*, not 'fromat' .did you mean 'format'\?."),
        ({"outputs": [{"path": "v", "format": "raw", "odrer": "F"}]}, r"outputs: v: .*'odrer' .did you mean 'order'\?."),
        ({"spec": {**SPEC, "state_shape": 3}}, "spec cannot be made"),
        ({"spec": 3}, "spec must be"),
        ({"inputs": {"path": "u.npy"}}, "must be a list of files"),
        ({"inputs": [{"path": "/u.npy"}]}, "must be a relative path"),
        ({"inputs": [{"path": "../u.npy"}]}, "must be a relative path"),
        ({"inputs": [{"path": "a/../../u.npy"}]}, "must be a relative path"),
        ({"inputs": [{"path": "."}]}, "must be a relative path"),
        ({"inputs": [{}]}, "must have a path"),
        ({"inputs": [{"path": 3}]}, "must have a path"),
        ({"inputs": [{"path": "a\0b"}]}, "must have a path"),
        ({"inputs": [{"path": "u", "format": "csv"}]}, "format must be one of npy, raw, fortran, text, hdf5, openfoam"),
        ({"inputs": [{"path": "u", "format": "builtins.dict"}]}, "must make a deepzero_sim.connectors.formats.Format"),
        (
            {"inputs": [{"path": "u", "format": "raw", "no": 1}]},
            "inputs: u: a file of the format raw may have path, .* header, not 'no'",
        ),
        ({"inputs": [{"path": "u", "channels": ["w"]}]}, "some of u, v, each once"),
        ({"inputs": [{"path": "u", "channels": "u"}]}, "some of u, v, each once"),
        ({"inputs": [{"path": "u", "channels": ["u", "u"]}]}, "some of u, v, each once"),
        ({"inputs": [{"path": "u", "channels": []}]}, "some of u, v, each once"),
        ({"inputs": [{"path": "u", "of": "time"}]}, "of must be one of state, params, all"),
        ({"inputs": [{"path": "u", "channel_axis": "none"}]}, "is for one channel, not for 2"),
        ({"inputs": [{"path": "u", "channel_axis": "middle"}]}, "must be first, last or none"),
        ({"inputs": [{"path": "u", "format": "text", "channel_axis": "first"}]}, "last in columns"),
        ({"inputs": [{"path": "u", "format": "fortran", "records": 5}]}, "records must divide"),
        ({"inputs": [{"path": "u"}, {"path": "u"}]}, "two files of the working folder have the path 'u'"),
        ({"inputs": [{"path": "u"}, {"path": "u/v"}]}, "cannot be both a file"),
        ({"inputs": [{"path": "stderr.log"}]}, "two files"),
        ({"inputs": ()}, "inputs must name a file that the state is written to, or a template"),
        ({"outputs": []}, "each of the 2 channels once, but hold none"),
        ({"outputs": [{"path": "v", "channels": ["u"]}]}, "once, but hold u:"),
        ({"outputs": [{"path": "v"}, {"path": "w", "channels": ["u"]}]}, "once, but hold u, u, v:"),
        ({"outputs": [{"path": "v", "of": "params"}]}, "must be of the state"),
        ({"outputs": [{"path": "/v"}]}, "must be a relative path"),
        ({"external_input_files": ["nowhere"]}, "there is no file or folder"),
        ({"external_input_files": "text"}, "must be a list of paths"),
        ({"external_input_files": ["text", "other/text"]}, "must have different names"),
        ({"external_input_links": {"../text": "text"}}, "must be a relative path"),
        ({"external_output_files": ["/log"]}, "must be a relative path"),
        ({"templates": ["text"]}, "templates must be"),
        ({"templates": {"deck": "nowhere"}}, "must be a text file"),
        ({"templates": {"deck": "broken.j2"}}, "line 2"),
        ({"templates": {"deck": "unknown.j2"}}, "has no attribute 'mu'"),
        ({"templates": {"deck": "unsafe.j2"}}, "cannot be filled in .SecurityError"),
        ({"namelists": {"deck": "base.nml"}}, "namelists must be a file and values"),
        ({"namelists": {"deck": {"file": "fine.nml", "values": {"a": 3}}}}, "by group and name"),
        ({"namelists": {"deck": {"file": "text"}}}, "must hold namelists"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": float("nan")}, "timeout must be a positive number"),
        ({"timeout": "long"}, "timeout must be a positive number"),
        ({"allowed_return_codes": []}, "must be a list of numbers from 0 to 255"),
        ({"allowed_return_codes": [256]}, "must be a list of numbers from 0 to 255"),
        ({"allowed_return_codes": 0}, "must be a list of numbers from 0 to 255"),
        ({"environment": {"A=": "b"}}, "environment must be"),
        ({"environment": {"A": None}}, "environment must be"),
        ({"environment": ["A"]}, "environment must be"),
        ({"keep": "some"}, "keep must be one of failures, never, always"),
        ({"at_once": 0}, "at_once must be a whole number"),
        ({"at_once": 200}, "some 632 open files, but this process may have 256: take fewer at_once"),
        ({"batched": "no"}, "batched must be true or false"),
        ({"kept_folder": 3}, "kept_folder must be the path of a folder"),
        ({"kept_folder": "a\0b"}, "kept_folder must be the path of a folder"),
        ({"environment": {"A": "b\0"}}, "environment must be"),
        ({"external_input_files": [None]}, "must name files and folders by their paths"),
        ({"external_input_files": {"a": 3}}, "must name files and folders by their paths"),
        ({"external_output_files": "log"}, "must be a list of paths, not 'log'"),
        ({"external_output_files": None}, "must be a list of paths"),
        ({"templates": {"deck": "a\0b"}}, "must be a text file"),
        ({"namelists": {"deck": {"file": "fine.nml", "values": {"a": {"day": date(2020, 1, 1)}}}}}, "a%day must be a number"),
        ({"namelists": {"deck": {"file": "fine.nml", "values": {"a": {1: 2}}}}}, "must have names"),
        ({"outputs": [{"path": "v", "format": "hdf5", "dataset": 3}]}, "dataset must be the path of a dataset"),
        ({"outputs": [{"path": "v", "format": "openfoam", "components": "xy"}]}, "components must be a list of numbers"),
        ({"inputs": [{"path": "v", "format": "openfoam", "base": 3}]}, "base must be the path of a field file"),
        ({"spec": {**SPEC, "parameters": 3}}, "must have a list for parameters, such as .3., not 3"),
        ({"spec": {**SPEC, "parameters": ["nu", "nu"]}}, "parameters must have different names"),
        ({"spec": {**SPEC, "name": 3}}, "name must be text, not int"),
        ({"spec": {**SPEC, "state_shape": [2, 3.0]}}, "state_shape must be"),
        ({"spec": {**SPEC, "deterministic": "no"}}, "deterministic must be true or false"),
        ({"spec": {**SPEC, "max_batch": 1.5}}, "max_batch must be a positive number"),
        ({"stdin": "deck"}, "stdin must be a file that is put into the working folder: u.npy, not 'deck'; name others in"),
        ({"stdin": "u.npx"}, r"not 'u.npx' .did you mean 'u.npy'\?."),
        ({"stdin": "v.npy"}, "stdin must be a file that is put into the working folder"),
        ({"stdin": "../text"}, "stdin must be a relative path"),
        ({"stdin": True}, "stdin must have a path"),
        (
            {"command": ["true", "text"]},
            r"text in command is a file of the current folder, .*external_input_files.*/text; where",
        ),
        ({"command": ["true", "-n", 2, "./other/text"]}, "./other/text in command is a file of the current folder"),
        ({"command": ["true", "--deck=other/text"]}, "other/text in command is a file of the current folder"),
        ({"external_input_files": ["pipe"]}, "pipe must be a plain file or a folder, not a named pipe"),
        ({"external_input_links": {"zero": "/dev/zero"}}, "zero must be a plain file or a folder, not a device"),
        ({"external_input_files": ["ring"]}, "not a link to a folder that it lies in: take it out"),
        ({"external_input_files": ["sparse"]}, "hold 10000000000000 bytes, but .*external_input_links"),
        ({"templates": {"deck": "pipe"}}, "must be a text file .it is no plain file, but a named pipe"),
        ({"templates": {"deck": "/dev/zero"}}, "must be a text file .it is no plain file, but a device"),
        ({"templates": {"deck": "other"}}, "must be a text file .it is no plain file, but a folder"),
        ({"templates": {"deck": "sparse"}}, "must be a text file, but it has more than 10000000 bytes: hand arrays over"),
        ({"namelists": {"deck": {"file": "pipe"}}}, "must be a text file .it is no plain file, but a named pipe"),
        ({"namelists": {"deck": {"file": "/dev/zero"}}}, "must be a text file .it is no plain file, but a device"),
        ({"templates": {"deck": "digits.j2"}}, "digits.j2 cannot be compiled .ValueError: Exceeds the limit"),
        ({"templates": {"deck": "chance.j2"}}, "line 1: No filter named 'random'"),
        ({"command": ["true", "\ud800"]}, "must be a list of words and numbers"),
        ({"inputs": [{"path": "\ud800"}]}, "inputs must have a path"),
        ({"environment": {"A": "\ud800"}}, "environment must be"),
        ({"kept_folder": "\ud800"}, "kept_folder must be the path of a folder"),
        ({"templates": {"deck": "\ud800"}}, "must be a text file"),
    ],
)
def test_settings_that_are_not_usable_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda of: (256, 256))
    (tmp_path / "other").mkdir()
    for name in ("text", "other/text"):
        (tmp_path / name).write_text("text")
    (tmp_path / "fine.nml").write_text("&a\n/\n")
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "up").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(10**13)
    (tmp_path / "digits.j2").write_text(f"{{{{ {'1' * 5000} }}}}\n")
    (tmp_path / "chance.j2").write_text("{{ [1, 2]|random }}\n")
    (tmp_path / "broken.j2").write_text("fine\n{{ params.\n")
    (tmp_path / "unknown.j2").write_text("{{ params.mu }}\n")
    (tmp_path / "unsafe.j2").write_text("{{ params.__class__.__mro__ }}\n")
    dz.ExecutableSolver(**FINE)  # type: ignore[arg-type]
    with pytest.raises(dz.ConfigError, match=words) as refused:
        dz.ExecutableSolver(**{**FINE, **settings})
    assert str(refused.value).endswith(".") and re.match(r"[\w.'{/]", str(refused.value))


def test_arguments_that_are_files_of_the_folder_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the program finds, or writes, or that are named from the root, though they lie in the current folder too."""
    monkeypatch.chdir(tmp_path)
    for name in ("u.npy", "v.npy", "deck", "table", "log", "here"):
        (tmp_path / name).write_text("text")
    words = ["true", "u.npy", "./v.npy", "deck", "case/table", "log", str(tmp_path / "here"), "7"]
    more = {"templates": {"deck": "deck"}, "external_input_files": {"case/table": "table"}, "external_output_files": ["log"]}
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "table").write_text("text")
    dz.ExecutableSolver(**{**FINE, **more, "command": words})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "{{ 1 / 0 }}",
        "{{ '\\ud800' }}",
        "{{ params() }}",
        "{{ '{x}'.format(1) }}",
        "{{ 1e999|int }}",
        "{% include 'a' %}",
        "{{ range('a') }}",
        "{{ [1]|map('x')|list }}",
        "{% for a, b in [1] %}{% endfor %}",
        "{{ state + 1 }}",
        "{{ cycler() }}",
    ],
)
@pytest.mark.parametrize("place", ["template", "argument", "namelist"])
def test_whatever_a_template_raises_is_one_of_our_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deck.j2").write_text(text)
    (tmp_path / "fine.nml").write_text("&a x = 'text' /")
    settings: dict[str, Any] = {
        "template": {"templates": {"deck": "deck.j2"}},
        "argument": {"command": ["true", text + "{{ '' }}"]},
        "namelist": {"namelists": {"deck": {"file": "fine.nml", "values": {"a": {"x": text + "{{ '' }}"}}}}},
    }[place]
    with pytest.raises(dz.ConfigError, match=r"cannot be filled in \(\w+: [^\n]*\): mend it\.$"):
        dz.ExecutableSolver(**{**FINE, **settings}).step(np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2), np.float32))


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (table := tmp_path / "table").write_text("1")
    solver = dz.ExecutableSolver(**{**FINE, "external_input_files": [table]})  # type: ignore[arg-type]
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(dz.ConfigError, match="table is no longer there"):
        solver.step(np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2), np.float32))


def test_what_cannot_be_started_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script := tmp_path / "script").write_text("echo no first line")
    script.chmod(0o755)
    solver = dz.ExecutableSolver(**{**FINE, "command": ["./script"]})  # type: ignore[arg-type]
    with pytest.raises(dz.ConfigError, match=r"cannot be started .Exec format error.: a script needs a first line"):
        solver.step(np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2), np.float32))


@pytest.mark.parametrize(
    ("filled", "words"), [("'x' * 3000000", "hand long ones over in a file"), ("'\\0'", "mend the arguments")]
)
def test_arguments_that_the_system_does_not_take_are_said(filled: str, words: str) -> None:
    solver = dz.ExecutableSolver(**{**FINE, "command": ["true", f"{{{{ {filled} }}}}"]})  # type: ignore[arg-type]
    with pytest.raises(dz.ConfigError, match=words):
        solver.step(np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2), np.float32))


@pytest.mark.parametrize(
    ("module", "settings"), [("jinja2", {"templates": {"a": "a"}}), ("f90nml", {"namelists": {"a": {"file": "a"}}})]
)
def test_packages_of_the_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, settings: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("&a\n/\n")
    for cached in (templates._jinja2, deck._f90nml):
        cached.cache_clear()
    for name in (module, f"{module}.sandbox"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(dz.MissingExtraError, match=rf"package '{module}', .*deepzero-sim\[executable\]"):
        dz.ExecutableSolver(**FINE, **settings)  # type: ignore[arg-type]


def test_a_wrong_grid_or_type_does_not_pass_a_direct_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    solver = dz.ExecutableSolver(**FINE)  # type: ignore[arg-type]
    params = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(dz.InvalidStateError, match=r"given to solver 'two fields' must have shape \(batch, 2, 3, 4\)"):
        solver.step(np.ones((1, 2, 4, 3), dtype=np.float32), params)
    with pytest.raises(dz.InvalidStateError, match="given to solver 'two fields' must be float32, not float64"):
        solver.step(np.ones((1, 2, 3, 4)), params)
    with pytest.raises(dz.InvalidStateError, match=r"needs parameters of shape \(1, 2\) \(nu, rate\), got None"):
        solver.step(np.ones((1, 2, 3, 4), dtype=np.float32))
