"""Names in settings become objects; names that do not are explained."""

from __future__ import annotations

import pickle
import textwrap
from collections import OrderedDict
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deepzero_sim.common.components import Component, build, load
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.execution.tasks import run_in_order
from deepzero_sim.solvers import WakeFlow


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = """
        COUNT = []

        class Thing:
            def __init__(self, *leading, size=1):
                if size < 0:
                    raise ValueError("negative")
                self.leading, self.size = leading, size

        def double(value):
            return 2 * value
    """
    path = Path("things.py")
    path.write_text(textwrap.dedent(text))
    return path


def test_an_import_path(tmp_path: Path) -> None:
    assert load("collections.OrderedDict") is OrderedDict
    solver = build(Component("deepzero_sim.solvers.WakeFlow", {"resolution": 8}))
    assert isinstance(solver, WakeFlow) and solver.grid.resolution == 8


def test_a_name_in_a_file(file: Path) -> None:
    thing = build(Component("things.py:Thing", {"size": 3}), "first")
    assert thing.size == 3 and thing.leading == ("first",)


def test_a_file_is_imported_once_however_it_is_named(file: Path) -> None:
    assert load("things.py:Thing") is load(f"{file.resolve()}:Thing")


def test_threads_wait_for_a_file_that_is_being_imported(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text("import time\ntime.sleep(0.3)\ndef late():\n    pass\n")
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(load, [f"{file}:late"] * 2)
    assert first is second


def test_files_of_one_name_in_two_folders_are_two(file: Path) -> None:
    Path("other").mkdir()
    Path("other/things.py").write_text("class Thing:\n    pass\n")
    assert load("things.py:Thing") is not load("other/things.py:Thing")


def test_what_a_file_defines_can_be_sent_to_workers(file: Path, executors: dict[str, Executor]) -> None:
    double: Any = load("things.py:double")
    assert run_in_order(executors["one process"], double, [1, 2]) == [2, 4]


BAD = {
    "OrderedDict": "expected an import path",
    "things.py:": "expected an import path",
    "": "expected an import path",
    "no_such_module.Thing": "there is no module 'no_such_module'",
    "deepzero_sim.no_such.Thing": "there is no module 'deepzero_sim.no_such'",
    "deepzero_sim.solvers.WakeFlo": r"deepzero_sim.solvers has no 'WakeFlo' .did you mean 'WakeFlow'\?.: check the spelling",
    "..solvers.Wake": "importing '..solvers' raised TypeError",
    "no_such.py:Thing": "there is no file no_such.py",
    "things.py:Other": "things.py has no 'Other'",
    "needs.py:Thing": "importing needs.py raised ModuleNotFoundError: No module named 'no_such_package'",
    "needs.Thing": "'needs.Thing' needs the package 'no_such_package', which is not installed",
    "broken.py:Thing": "importing broken.py raised SyntaxError",
    "raises.py:Thing": "importing raises.py raised ZeroDivisionError",
    "raises.Thing": "importing 'raises' raised ZeroDivisionError",
}


@pytest.mark.parametrize("name", BAD)
def test_names_that_stand_for_nothing(file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("needs.py").write_text("import no_such_package\n")
    Path("broken.py").write_text("class Thing(:\n")
    Path("raises.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=BAD[name].replace("(", r"\(")):
        load(name)


def test_a_file_that_failed_is_imported_anew_when_it_is_mended(file: Path) -> None:
    Path("mended.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError):
        load("mended.py:Thing")
    Path("mended.py").write_text("class Thing:\n    pass  # much longer, so that no cache is taken for it\n")
    assert load("mended.py:Thing").__name__ == "Thing"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"colour": 1}, "things.py:Thing cannot be made with colour=1 .*unexpected keyword"),
        ({"sizes": 1}, r"check its args \(did you mean 'size'\?\)\.$"),
        ({"size": -1}, r"cannot be made with size=-1 \(ValueError: negative\): check its args"),
        ({"size": "a"}, "cannot be made with size='a'"),
    ],
)
def test_arguments_that_do_not_fit(file: Path, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(Component("things.py:Thing", args))


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(ConfigError, match="needs a resolution of at least 8 cells"):
        build(Component("deepzero_sim.solvers.WakeFlow", {"resolution": 4}))


def test_errors_come_back_whole_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(MissingExtraError("the solver", "phi", "phiflow")))  # noqa: S301
    assert str(error) == str(MissingExtraError("the solver", "phi", "phiflow")) and isinstance(error, MissingExtraError)
