"""The program answers at once: help and errors in settings import nothing slow, and Ctrl-C always ends in a sentence."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deepzero_sim.cli.main import COMMANDS
from deepzero_sim.cli.start import PROGRAM

#: Packages that take long to import.
HEAVY = {"torch", "scipy", "h5py", "matplotlib", "loky", "sympy"}

#: The program, and at its end the heavy packages that it has imported.
PROBE = f"""
import atexit, json, sys
from deepzero_sim.cli.start import main
atexit.register(lambda: sys.stderr.write("\\n" + json.dumps(sorted({HEAVY!r} & set(sys.modules)))))
sys.exit(main())
"""


def call(*words: str) -> tuple[int, str, str, list[str], float]:
    """Run the program: its status, what it wrote, the heavy packages that it imported, and seconds."""
    began = time.monotonic()
    command = [sys.executable, "-c", PROBE, *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    errors, _, imported = ended.stderr.rpartition("\n")
    return ended.returncode, ended.stdout, errors, json.loads(imported), time.monotonic() - began


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once(command: str) -> None:
    status, out, errors, imported, seconds = call(*command.split(), "--help")
    assert (status, errors, imported) == (0, "", []) and out.startswith("usage: deepzero-sim")
    assert seconds < 10, "a generous bound for a machine under load: benchmarks/start.py measures it"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tarin", "did you mean 'train'"),
        ("bench cg", "did you mean 'bench cge'"),
        ("", "command"),
        ("train --updatess 3", "did you mean 'updates'"),
        ("train --workers.cuont 3", "did you mean 'workers.count'"),
        ("train --config {updatess: 3}", "did you mean 'updates'"),
        ("train --run a --train_data b --solver.name c --updates many", "updates must be a whole number, not many"),
        ("train --config {run: a, train_data: b, solver: c}", "solver must hold keys with values"),
        ("train --run a --train_data b --solver.name c --batch_size 0", "batch_size must be "),
        ("train --run a", "required: train_data"),
        ("check", "name one solver"),
        ("generate --config no_such.yaml", "no_such.yaml"),
        ("evaluate --run a", "required: data"),
        ("compare a --steps 3", "data"),
        ("classify --run a --data b --epochs 0", "epochs"),
        ("bench cge --model resnet20 --batch 1", "batch norm"),
    ],
)
def test_errors_in_settings_answer_at_once(words: str, says: str) -> None:
    first, _, rest = words.partition(" --config ")
    given = [*first.split(), *(["--config", rest] if rest else [])]
    status, out, errors, imported, _ = call(*given)
    assert (status, out, imported) == (2, "", []), errors
    assert says in errors and errors.startswith(f"{PROGRAM}: ") and errors.count("\n") == 1


def test_settings_are_printed_at_once() -> None:
    status, out, _, imported, _ = call("train", "--run", "a", "--train_data", "b", "--print_config")
    assert (status, imported) == (0, []) and yaml.safe_load(out)["run"] == "a"


def test_the_version_is_printed() -> None:
    status, out, errors, imported, _ = call("--version")
    assert (status, errors, imported) == (0, "", []) and out.startswith("deepzero-sim 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_a_function_that_there_is(name: str) -> None:
    command = importlib.import_module(f"deepzero_sim.cli.settings.{COMMANDS[name].module}").COMMANDS[name]
    module, _, function = command.run.partition(".")
    assert callable(getattr(importlib.import_module(f"deepzero_sim.cli.{module}"), function))


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8, 1.2])
def test_ctrl_c_while_python_imports_is_one_sentence(seconds: float, tmp_path: Path) -> None:
    """At whatever moment it comes."""
    begun = "import sys; sys.stdout.write('.'); sys.stdout.flush(); from deepzero_sim.cli.start import main; sys.exit(main())"
    words = ["train", "--run", str(tmp_path / "run"), "--train_data", str(tmp_path / "none.h5"), "--solver.name", "a.B"]
    program = subprocess.Popen([sys.executable, "-c", begun, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.read(1) == "."
    time.sleep(seconds)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 2 and errors.count("\n") == 1 and errors.startswith("deepzero-sim: "), errors
