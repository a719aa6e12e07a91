"""Imports go one way, and the public names are the ones that are there."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import deepzero_sim as dz

ROOT = Path(__file__).parents[1]

#: The rooms of the package, from the ground up: a module may import from its own room and from lower floors. Rooms of one
#: floor may not import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("common",),
    ("execution",),
    ("solver",),
    ("connectors", "models", "datasets", "solvers"),
    ("coupling",),
    ("oracle",),
    ("estimators",),
    ("training", "checks", "serving"),
    ("cli",),
    ("benchmarks",),
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, `deepzero_sim` left out."""
    found = {}
    apart = {ROOT / name: (name,) for name in ("benchmarks", "datasets", "solvers")}  # installed inside the package
    for folder, prefix in {ROOT / "deepzero_sim": (), **apart}.items():
        for file in folder.rglob("*.py"):
            found[".".join((*prefix, *file.relative_to(folder).with_suffix("").parts))] = file
    return {name.removesuffix(".__init__"): file for name, file in found.items() if name != "__init__"}


MODULES = modules()


def imports(name: str) -> set[str]:
    """Which of our modules a module imports, anywhere in its file."""
    tree, found = ast.parse(MODULES[name].read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = {dotted.removeprefix("deepzero_sim.") for dotted in found if dotted.startswith("deepzero_sim.")}
    return {longest(dotted) for dotted in ours} - {name}


def longest(dotted: str) -> str:
    """The module that a dotted name lies in."""
    while dotted not in MODULES:
        head, separator, _ = dotted.rpartition(".")
        assert separator, f"no module holds {dotted!r}: import from where a name is defined"
        dotted = head
    return dotted


def room(name: str) -> str:
    return name.partition(".")[0]


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_module_is_in_a_room() -> None:
    rooms = {name for names in FLOORS for name in names}
    assert {room(name) for name in MODULES} == rooms, "give a new folder its floor, and take out what is gone"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    for imported in imports(name):
        if room(imported) == room(name) or (room(name), room(imported)) == ("cli", "benchmarks"):
            continue
        assert floor(imported) < floor(name), f"{name} imports {imported}, which is not below it"


def test_the_root_has_at_most_fifteen_entries() -> None:
    """So that a newcomer can read them all."""
    entries = {file.name for file in (ROOT / "deepzero_sim").iterdir()} - {"__pycache__"}
    assert len(entries) <= 15, sorted(entries)


def test_every_package_is_installed() -> None:
    """An editable install finds folders that a wheel would omit."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {f"deepzero_sim.{name}" for name, file in MODULES.items() if file.name == "__init__.py"}
    assert set(listed) == {"deepzero_sim"} | found


def test_the_products_are_importable_by_their_public_path() -> None:
    """Settings files name them so."""
    assert importlib.import_module("deepzero_sim.vjp") is dz.vjp


def test_only_their_command_imports_benchmarks() -> None:
    """They import commands themselves; the settings of none of them import what they run."""
    importing = {name for name in MODULES if any(room(imported) == "benchmarks" for imported in imports(name))}
    assert {name for name in importing if room(name) != "benchmarks"} == {"cli.bench"}


#: A worker that answers, and whether torch's compiler was imported for it, or what it is made of.
ANSWERING = """
import sys
import torch
from problems import Burgers, conv_corrector, initial_states, mse
import deepzero_sim as dz

oracle = dz.LoopOracle(dz.SolverLoop(Burgers(), conv_corrector(), 2), mse)
truth = initial_states(2)[:, None].repeat(2, axis=1)
assert dz.CGE(1e-3).estimate(oracle, (initial_states(2), None, truth)).grads
print(*sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""


def test_queries_are_answered_without_torch_s_compiler() -> None:
    """Which takes a second to import, in every worker."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-c", ANSWERING]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "\n"), ended.stderr or ended.stdout


def test_there_are_no_import_cycles() -> None:
    order = list(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())  # raises CycleError
    assert set(order) == set(MODULES)


def test_all_is_the_namespace() -> None:
    """What type checkers read, what is found when it is asked for, and what is promised."""
    assert len(dz.__all__) == len(set(dz.__all__))
    assert {name for name in dz.__all__ if not hasattr(dz, name)} == set()
    assert set(dz.__all__) == set(vars(dz)["_find"].names)
    tree = ast.parse((ROOT / "deepzero_sim" / "__init__.py").read_text(encoding="utf-8"))
    for_type_checkers = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name)
        for node in for_type_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is None
    }
    assert imported == {(module, name) for name, module in vars(dz)["_find"].names.items()}


#: The package, and what it takes to find its version and names of folders.
LIGHT = """
import sys
import deepzero_sim as dz
assert dz.__version__ and "CGE" in dir(dz) and not hasattr(dz, "no_such_name")
assert not {"torch", "numpy"} & set(sys.modules)
from deepzero_sim.vjp import Coloured
import deepzero_sim.coupling.vjp
assert deepzero_sim.coupling.vjp is dz.vjp and deepzero_sim.vjp is dz.vjp
assert dz.vjp.__spec__.name == dz.vjp.__name__ == "deepzero_sim.coupling.vjp"
assert dz.solvers.WakeFlow and dz.models.small and dz.datasets.load
"""


def test_the_package_is_imported_without_torch() -> None:
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(name for name, file in MODULES.items() if file.name == "__init__.py"))
def test_folders_only_list_their_public_names(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    later = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    nodes = [*tree.body, *(inner for node in later for inner in (*node.body, *node.orelse))]
    only_names = all(isinstance(node, kinds) or node in later for node in nodes)
    assert only_names, "an __init__.py is only the list of the public names"
