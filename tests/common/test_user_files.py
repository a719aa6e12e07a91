"""Files of the user's import what lies beside them: here, in worker processes, each folder its own, and nothing in silence."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from deepzero_sim.common.components import load
from deepzero_sim.common.user_files import PREFIX, import_file, neighbours
from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.tasks import run_in_order


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Forget the files of a test, so that none of them is found by the next one's name."""
    yield
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    """Write files of Python by their paths without the ending."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


SWE = """
    from gravity import G

    def step(depth):
        return G * depth
"""

SOLVER = """
    from swe import step
    import swe

    def early(depth):
        return step(depth) + swe.step(depth)

    def late(depth):
        from swe import step as again
        import swe, math
        return again(depth) + swe.step(depth)
"""


def shallow_water(folder: Path, gravity: float) -> Path:
    return write(folder, my_solver=SOLVER, swe=SWE, gravity=f"G = {gravity}")


@pytest.mark.parametrize("name", ["early", "late"])
def test_a_file_imports_its_neighbours_here_and_in_worker_processes(
    tmp_path: Path, name: str, executors: dict[str, Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shallow_water(tmp_path, 10.0))
    function: Any = load(f"my_solver.py:{name}")
    monkeypatch.chdir(tmp_path.parent)
    assert function(2.0) == 40
    assert run_in_order(executors["one process"], function, [2.0, 3.0]) == [40, 60]


@pytest.mark.parametrize("name", ["early", "late"])
def test_two_folders_have_each_their_own(tmp_path: Path, name: str, executors: dict[str, Executor]) -> None:
    earth, moon = shallow_water(tmp_path / "earth", 9.8), shallow_water(tmp_path / "moon", 1.6)
    on_earth, on_moon = (load(f"{folder / 'my_solver.py'}:{name}") for folder in (earth, moon))
    for _ in range(2):
        assert (on_earth(1.0), on_moon(1.0)) == (19.6, 3.2)
        assert run_in_order(executors["one process"], on_moon, [1.0]) == [3.2]
        assert run_in_order(executors["one process"], on_earth, [1.0]) == [19.6]


def test_neither_the_path_nor_pythons_own_names_are_changed(tmp_path: Path) -> None:
    before = list(sys.path)
    load(f"{shallow_water(tmp_path, 1.0) / 'my_solver.py'}:early")
    assert sys.path == before and "swe" not in sys.modules and not list(tmp_path.rglob("*.pyc"))


def test_packages_are_neighbours_too(tmp_path: Path, executors: dict[str, Executor]) -> None:
    main = """
        import fluid.water
        import fluid.water as water
        from fluid import VISCOSITY
        from fluid.deep.sea import depth

        def total(x):
            from fluid.deep import sea
            return x * (fluid.water.DENSITY + water.DENSITY + VISCOSITY + depth() + sea.depth())
    """
    files = {
        "main": main,
        "fluid/__init__": "from .water import DENSITY\nVISCOSITY = 1",
        "fluid/water": "from gravity import G\nDENSITY = 10 * G",
        "fluid/deep/__init__": "",
        "fluid/deep/sea": "from ..water import DENSITY\nfrom fluid import VISCOSITY\ndef depth(): return DENSITY + VISCOSITY",
        "gravity": "G = 2",
    }
    write(tmp_path, **files)
    total: Any = load(f"{tmp_path / 'main.py'}:total")
    assert total(1) == 20 + 20 + 1 + 21 + 21
    assert run_in_order(executors["one process"], total, [2]) == [166]
    assert {file.relative_to(tmp_path).as_posix() for file in neighbours(tmp_path / "main.py")} == {
        *("fluid/__init__.py", "fluid/water.py", "fluid/deep/__init__.py", "fluid/deep/sea.py", "gravity.py")
    }


def test_files_that_import_each_other_and_files_that_settings_name_are_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="import second\nCOUNT = []\ndef add():\n    second.add()",
        second="def add():\n    import first\n    first.COUNT.append(1)",
    )
    load(f"{tmp_path / 'first.py'}:add")()
    load(f"{tmp_path / 'second.py'}:add")()
    assert load(f"{tmp_path / 'first.py'}:COUNT") == [1, 1]


def test_a_neighbour_that_python_finds_itself_is_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, uses_it="import shared_by_script\nSETTING = shared_by_script.SETTING", shared_by_script="SETTING = []")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shared_by_script  # type: ignore[import-not-found]  # noqa: PLC0415

    assert load(f"{tmp_path / 'uses_it.py'}:SETTING") is shared_by_script.SETTING
    del sys.modules["shared_by_script"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"main": "import random", "random": ""},
            r"main.py imports 'random', .*/random.py, and also a module of Python itself: ren",
        ),
        (
            {"main": "def f():\n    from h5py import File", "h5py": ""},
            r"'h5py', .*h5py.py, and also a module installed as .*h5py",
        ),
        ({"main": "import swe", "swe": "import yaml", "yaml/__init__": ""}, r"swe.py imports 'yaml', .*yaml/__init__.py, and"),
        ({"main": "import problems", "problems": ""}, r"'problems', .*installed as .*tests/problems.py"),
    ],
)
def test_a_name_that_two_modules_have_is_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    import problems  # noqa: F401, PLC0415

    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=says):
        load(f"{tmp_path / 'main.py'}:Name")


def test_a_neighbour_that_nobody_imports_is_no_matter(tmp_path: Path) -> None:
    write(tmp_path, main="import math\nHALF = math.pi / 2", random="1 / 0", test="")
    assert load(f"{tmp_path / 'main.py'}:HALF") > 1.5
    assert neighbours(tmp_path / "main.py") == []


def test_errors_of_neighbours_are_said_in_the_users_names_and_mended_ones_are_imported_anew(tmp_path: Path) -> None:
    write(tmp_path, main="from swe import step", swe="import gravity", gravity="G = 1")
    with pytest.raises(
        ConfigError, match=r"raised ImportError: cannot import name 'step' from 'swe' \(.*swe.py\); mend the file"
    ):
        load(f"{tmp_path / 'main.py'}:step")
    write(tmp_path, swe="from gravity import G as step")
    assert load(f"{tmp_path / 'main.py'}:step") == 1
    write(tmp_path, other="import absent_neighbour")
    with pytest.raises(ConfigError, match=r"No module named 'absent_neighbour'; absent_neighbour is not installed: .* or mend"):
        load(f"{tmp_path / 'other.py'}:step")
    write(tmp_path, wrong="import half_written", half_written="def f(:")
    with pytest.raises(ConfigError, match=r"importing .*wrong.py raised SyntaxError: .*half_written.py"):
        load(f"{tmp_path / 'wrong.py'}:step")


def test_a_file_of_any_name_is_imported(tmp_path: Path) -> None:
    for name in ("my-solver.py", "my.solver.py", "__init__.py"):
        (tmp_path / name).write_text("import gravity\nG = gravity.G\n")
    write(tmp_path, gravity="G = 3")
    assert {load(f"{tmp_path / name}:G") for name in ("my-solver.py", "my.solver.py", "__init__.py")} == {3}


def test_what_future_statements_say_and_a_files_encoding_hold(tmp_path: Path) -> None:
    lines = (
        "# -*- coding: latin-1 -*-",
        "'words'",
        "from __future__ import annotations",
        "import gravity",
        "def f(x: Nowhere) -> None: ...",
        "NAME = '\u00e4'",
    )
    (tmp_path / "main.py").write_text("\n".join(lines), encoding="latin-1")
    write(tmp_path, gravity="")
    module = import_file(tmp_path / "main.py", "main.py:f")
    assert module.__doc__ == "words" and module.f.__annotations__["x"] == "Nowhere" and module.NAME == "\u00e4"
