"""Imports go one way, and the public names are the ones that are there."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import deepzero_sim as dz

ROOT = Path(__file__).parents[1]

#: From the bottom up: a module may import from layers below its own. Modules that stand together may not import each other,
#: but the files of one folder may.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("types",),
    ("errors",),
    ("documents", "module_state", "randomness", "spelling"),
    ("arguments",),
    (
        "accuracy",
        "checksums",
        "components",
        "difference",
        "files",
        "hdf5_objects",
        "interrupting",
        "plain",
        "schedules",
        "schemes",
        "spec_fields",
        "tables",
    ),
    ("failures", "ledger", "preparation", "ranks", "solver", "trust"),
    ("advancing", "answers", "connectors", "loss", "parallel", "perturbation"),
    ("lost_workers", "surviving"),
    ("probing",),
    ("vjp",),
    ("layer",),
    ("coupling",),
    ("network_with_loss", "queried"),
    ("oracle",),
    ("estimator", "models"),
    ("building", "check", "serving", "sparsity"),
    ("contract", "evaluation", "run_folder"),
    ("checkpoints",),
    ("trainer",),
)

#: What puts the parts together for a user: it may import everything, and nothing below may import it.
APPLICATION = frozenset(
    {
        "__main__",
        "bench",
        "benchmarks",
        "check_report",
        "checking",
        "classification",
        "classification_report",
        "cli",
        "commands",
        "console",
        "contract_report",
        "demo",
        "evaluation_report",
        "experiment",
        "figures",
        "first_steps",
        "masking",
        "parser_words",
        "ratios_report",
        "report",
        "served_run",
        "settings",
        "solver_checking",
    }
)

#: Stand on core and are never imported by it.
EXTENSIONS = frozenset({"datasets", "solvers"})


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


def top(name: str) -> str:
    return name.partition(".")[0]


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if top(name) in names)


def test_every_module_has_its_place() -> None:
    placed = {name for names in LAYERS for name in names} | APPLICATION | EXTENSIONS
    assert {top(name) for name in MODULES} <= placed, "give a new module its place in LAYERS or APPLICATION"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    if top(name) in APPLICATION:
        return
    for imported in imports(name):
        assert top(imported) not in APPLICATION, f"{name} imports {imported}, which stands above all"
        if top(imported) == top(name):
            continue
        if top(name) not in EXTENSIONS:
            assert top(imported) not in EXTENSIONS, f"core module {name} imports {imported}"
            assert layer(imported) < layer(name), f"{name} imports {imported}, which is not below it"


def test_only_the_command_line_imports_benchmarks_and_only_when_asked_to() -> None:
    importing = {name for name in MODULES if any(top(imported) == "benchmarks" for imported in imports(name))}
    assert {top(name) for name in importing} == {"benchmarks", "cli"}
    tree = ast.parse(MODULES["cli"].read_text(encoding="utf-8"))
    assert not any("benchmarks" in ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))


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
    public = {name for name, value in vars(dz).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(dz.__all__) == public
    assert len(dz.__all__) == len(set(dz.__all__))


@pytest.mark.parametrize("name", sorted(name for name, file in MODULES.items() if file.name == "__init__.py"))
def test_folders_only_list_their_public_names(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, kinds) for node in tree.body), "an __init__.py is only the list of the public names"
