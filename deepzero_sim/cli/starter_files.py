"""Settings files that a newcomer begins with, commented by what the settings' own docstrings say."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepzero_sim.cli.commented_yaml import Block, Commented, write_commented
from deepzero_sim.cli.settings.check_solver import CheckSolverSettings
from deepzero_sim.cli.settings.generate import DataFile, GenerateSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import descriptions
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.settings import TrainSettings, Workers

#: Simulations for training, at least, and initial states of each scenario of the test.
SIMULATIONS, TEST_STARTS = 12, 2

#: Steps of a simulation.
STEPS = 50


@dataclass(frozen=True)
class Start:
    """Knowledge of a solver and its data.

    Args:
        folder: Folder of the files.
        solver: Solver, as settings name it.
        spec: Spec of the solver.
        reference_args: Arguments in which the solver whose states are taken for true, on a finer grid, differs from the solver;
            None if there is none.
        params: Scenario parameters, one row a simulation.
        source: Data that are there; None if they are to be generated.
        initial: Name of the function of initial states; None to have one written.
        takes_seed: True if the function of initial states makes another one for every seed.
        restrict: Name of the restriction of the reference's states; None if there is no reference.
        periodic: True if the domain is periodic.
        in_processes: True if worker processes speed up the solver; a program runs in processes anyway.
        comments: Comments on the solver's arguments.
        offers: Arguments that the solver may be given, too, with values that change nothing.
        spec_offers: Entries of its spec, likewise.
    """

    folder: Path
    solver: Component
    spec: SolverSpec
    reference_args: Mapping[str, Any] | None = None
    params: Sequence[Sequence[float]] = ()
    source: DataSource | None = None
    initial: str | None = None
    takes_seed: bool = True
    restrict: str | None = None
    periodic: bool = False
    in_processes: bool = True
    comments: Mapping[str, str] = field(default_factory=dict)
    offers: Mapping[str, Any] = field(default_factory=dict)
    spec_offers: Mapping[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Name a file of the folder as settings name it, from the current folder."""
        return str(self.folder / name)

    def command(self, command: str, *files: str) -> str:
        """Write a command that takes settings files of the folder."""
        words = [word for name in files for word in ("--config", self.path(name))]
        return shlex.join(["deepzero-sim", command, *words])

    @property
    def functions(self) -> str:
        """Python file of the functions that are written."""
        return self.path("states.py")


def starter_files(start: Start) -> dict[str, str]:
    """Write the files that there are to be; returns their content by name."""
    files = {"solver.yaml": solver_file(start), "check.yaml": check_file(start), "train.yaml": train_file(start)}
    if start.reference_args is not None:
        files["data.yaml"] = data_file(start)
        if start.initial is None:
            files["states.py"] = FUNCTIONS
    return files


def solver_file(start: Start) -> str:
    """Write the file that names the solver."""
    block = {"solver": Commented(_component(start), descriptions(TrainSettings)["solver"])}
    return write_commented(block, ["The solver, for all commands: each takes this file and one of its own."])


def check_file(start: Start) -> str:
    """Write the file of `deepzero-sim check`."""
    known = descriptions(CheckSolverSettings)
    block = {"seconds": Commented(60, known["seconds"])}
    if start.source is not None:
        block["data"] = _source(start)
    if start.reference_args is not None:
        block["initial"] = Commented(_initial(start), known["initial"])
    if start.params:
        block["params"] = Commented([list(row) for row in start.params[:3]], known["params"])
    heading = [
        "A check that the solver keeps its contract, and of what a gradient through it costs:",
        start.command("check", "solver.yaml", "check.yaml"),
    ]
    return write_commented(block, heading)


def train_file(start: Start) -> str:
    """Write the file of `deepzero-sim train`: a network trained step by step, then through the solver."""
    known = descriptions(TrainSettings)
    padding = "circular" if start.periodic else "zeros"
    walls = " Grids of nodes end at walls: replicate suits those." if _ends_at_walls(start) else ""
    block: dict[str, Commented] = {
        "run": Commented(start.path("runs/first"), known["run"]),
        "train_data": _source(start),
        "network": Commented(
            {"name": "small", "args": {"width": 16, "padding": padding}},
            f"{known['network']} The padding is zeros, circular (a periodic domain) or replicate, or a list with one of "
            f"these for each axis; all args are on the page docs/reference/components.md.{walls}",
        ),
        "stages": Commented(
            [
                {"method": "NON", "updates": 2000, "batch_size": 16},
                {"method": "suitable", "updates": 100, "batch_size": 4, "unroll": 4},
            ],
            f"{known['stages']} Here: first without the solver in the loop, which is cheap; then through it, by the method "
            "that suits it. Other methods are on the page docs/training/methods.md.",
        ),
        "workers": Commented(_workers(start), f"{descriptions(Workers)['backend']} A program runs in processes of its own."),
        "seed": Commented(0, known["seed"]),
    }
    heading = [
        "Training. Results are in the run folder, and the same command goes on with a run that was interrupted:",
        start.command("train", "solver.yaml", "train.yaml"),
    ]
    return write_commented(block, heading)


def data_file(start: Start) -> str:
    """Write the file of `deepzero-sim generate`."""
    assert start.reference_args is not None and start.restrict is not None
    known = descriptions(Simulations)
    simulations: Block = {
        "reference": Commented(
            {"args": dict(start.reference_args)},
            f"{known['reference']} Its states are taken for true. It is the solver of solver.yaml, but for these args (and "
            "the spacing, if its spec has some); with a name it is another one, and args are all that it takes.",
        ),
        "initial": Commented(_initial(start), known["initial"]),
        "restrict": Commented(start.restrict, known["restrict"]),
        "steps": Commented(STEPS, known["steps"]),
        "discard": Commented(0, known["discard"]),
        "batch_size": Commented(1, known["batch_size"], is_offer=True),
    }
    keys = descriptions(DataFile)
    about = " ".join(f"{key}: {keys[key]}" for key in ("params", "starts", "seed"))
    block = {
        "simulations": Commented(simulations, descriptions(GenerateSettings)["simulations"]),
        "files": Commented(_files(start), f"Files to write, with what is simulated. {about}"),
        "workers": Commented(_workers(start), descriptions(GenerateSettings)["workers"]),
    }
    heading = [
        "Data for training and test, made by the reference solver:",
        start.command("generate", "solver.yaml", "data.yaml"),
    ]
    return write_commented(block, heading)


def _component(start: Start) -> Block:
    """Write out the name and arguments of the solver, each with its comment if there are comments."""
    args = {
        key: Commented(_spec(start) if start.comments and key == "spec" else value, start.comments.get(key, ""))
        for key, value in start.solver.args.items()
    }
    more = {key: Commented(value, start.comments[key], is_offer=True) for key, value in start.offers.items() if key not in args}
    return {"name": Commented(start.solver.name), **({"args": Commented({**args, **more})} if args else {})}


def _spec(start: Start) -> Block:
    known, given = descriptions(SolverSpec), start.solver.args["spec"]
    more = {key: Commented(value, known[key], is_offer=True) for key, value in start.spec_offers.items() if key not in given}
    return {**{key: Commented(value, known[key]) for key, value in given.items()}, **more}


def _ends_at_walls(start: Start) -> bool:
    """Tell grids between nodes, of which the coarse one has points of the fine one: their ends are points of the boundary."""
    return start.restrict == "injection" and not start.periodic


def _initial(start: Start) -> str:
    return start.initial or f"{start.functions}:initial"


def _workers(start: Start) -> dict[str, Any]:
    return {"backend": "process", "count": 2} if start.in_processes else {"backend": "serial", "count": 1}


def _source(start: Start) -> Commented:
    known = descriptions(TrainSettings)["train_data"]
    if start.source is None:
        made = "" if start.reference_args is not None else " There is none so far: see docs/training/data.md."
        return Commented(start.path("data/train.h5"), f"{known}{made}")
    keys = descriptions(DataSource)
    default = DataSource(start.source.path)
    given = {key: getattr(start.source, key) for key in keys}
    block = {
        key: Commented(str(value) if key == "path" else value, keys[key])
        for key, value in given.items()
        if key == "path" or value != getattr(default, key)
    }
    return Commented(block, known)


def _files(start: Start) -> list[dict[str, Any]]:
    """List a file for training and one for the test, of other parameters and other initial states."""
    train: dict[str, Any] = {"output": start.path("data/train.h5")}
    test: dict[str, Any] = {"output": start.path("data/test.h5")}
    if start.params:
        rows = [list(row) for row in start.params]
        train["params"], test["params"] = rows[:-1] or rows, rows[-1:]
    if start.takes_seed:
        scenarios = len(train.get("params", ())) or 1
        train["starts"], test["starts"] = max(1, math.ceil(SIMULATIONS / scenarios)), TEST_STARTS
        train["seed"], test["seed"] = 0, 1
    return [train, test]


#: States that a newcomer replaces.
FUNCTIONS = '''"""Initial states of simulations."""

import numpy as np


def initial(spec, params, seed=0):
    """Make the state that a simulation starts from: (1, C, *N).

    Random smooth waves around 0, for a start: write here what your simulations begin with.

    Args:
        spec: Description of the reference solver: spec.state_shape is (C, *N); spec.coordinates(channel, axis) are positions.
        params: Scenario parameters, (1, K).
        seed: Another one for every simulation.
    """
    random = np.random.default_rng(seed)
    channels, *points = spec.state_shape
    grid = np.meshgrid(*((np.arange(count) + 0.5) / count for count in points), indexing="ij")
    state = np.zeros((1, channels, *points))
    for channel in range(channels):
        for number in (1, 2, 3):
            waves = random.integers(-number, number + 1, len(points))
            waves[random.integers(len(points))] = number  # along one axis at least: none is constant
            phases = sum(wave * axis for wave, axis in zip(waves, grid))
            state[0, channel] += random.random() / number * np.sin(2 * np.pi * (phases + random.random()))
    return state.astype(spec.dtype)
'''
