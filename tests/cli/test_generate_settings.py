"""Settings of `generate`: the coarse solver is told once, and the reference by what differs from it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepzero_sim.cli.main import main
from deepzero_sim.cli.settings.generate import GenerateSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import read
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import ConfigError

SOLVER = {"name": "line.py:Line", "args": {"spec": {"points": 4, "dt": 0.5}, "words": ["a", "b"], "drag": 1.0}}


def settings(**changes: Any) -> GenerateSettings:
    simulations = {"initial": "line.py:initial", "restrict": "block_mean", "steps": 3, "discard": 0}
    simulations |= changes.pop("simulations", {})
    made: GenerateSettings = read(GenerateSettings, {"simulations": simulations, "files": [{"output": "a.h5"}], **changes})
    return made


def test_a_reference_without_a_name_is_the_source_but_for_its_args() -> None:
    reference = {"args": {"spec": {"points": 16}, "words": ["c"]}}
    expected = Component("line.py:Line", {"spec": {"points": 16, "dt": 0.5}, "words": ["c"], "drag": 1.0})
    for values in (
        {"solver": SOLVER, "simulations": {"reference": reference}},
        {"simulations": {"reference": reference, "source": SOLVER}},
        {"solver": SOLVER, "simulations": {"reference": reference, "source": SOLVER}},
    ):
        made = settings(**values)
        assert made.simulations.reference == expected
        assert made.simulations.source == Component(SOLVER["name"], SOLVER["args"])  # type: ignore[arg-type]
    assert SOLVER["args"]["spec"]["points"] == 4  # type: ignore[index]


def test_a_reference_with_a_name_is_itself() -> None:
    reference = {"name": "line.py:Line", "args": {"spec": {"points": 16, "dt": 0.5}}}
    made = settings(solver=SOLVER, simulations={"reference": reference})
    assert made.simulations.reference == Component(reference["name"], reference["args"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"simulations": {"reference": {"args": {}}}},
            "required: simulations.source, or solver in its place, such as --config",
        ),
        ({"solver": SOLVER}, "required: simulations.reference"),
        ({"solver": SOLVER, "simulations": {"reference": {"agrs": {}}}}, "agrs.*did you mean 'args'"),
        ({"solver": SOLVER, "simulations": {"reference": None}}, "simulations.reference must have a value"),
        ({"solver": SOLVER, "simulations": {"reference": "fine"}}, "simulations.reference must hold keys"),
        ({"solver": "line.py", "simulations": {"reference": {"args": {}}}}, "must hold keys|required"),
        (
            {"solver": SOLVER, "simulations": {"reference": {"args": {}}, "source": {"name": "a.B"}}},
            "another solver than solver",
        ),
        ({"simulations": []}, "simulations must hold keys"),
    ],
)
def test_solvers_that_are_not_told_or_contradict_each_other_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        if changes.get("simulations") == []:
            read(GenerateSettings, {"simulations": [], "files": []})
        settings(**changes)


LINE = """
    import numpy as np
    import deepzero_sim as dz

    class Line(dz.Solver):
        def __init__(self, spec, words=(), drag=0.0):
            self.spec = dz.SolverSpec(name="line", state_shape=(1, spec["points"]), dt=spec["dt"])
            self.drag = drag

        def step(self, states, params=None):
            return np.float32(1 - self.spec.dt * self.drag) * states

    def initial(spec, params, seed):
        return np.full((1, *spec.state_shape), 1 + seed % 7, np.float32)
"""


def test_files_of_solver_and_data_are_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.py").write_text(textwrap.dedent(LINE))
    Path("solver.yaml").write_text(yaml.safe_dump({"solver": SOLVER}))
    simulations = {"reference": {"args": {"spec": {"points": 16}}}, "initial": "line.py:initial", "restrict": "block_mean"}
    data = {"simulations": {**simulations, "steps": 3, "discard": 0}, "files": [{"output": "a.h5", "starts": 3}]}
    Path("data.yaml").write_text(yaml.safe_dump(data))
    words = ("generate", "--config", "data.yaml", "--workers.backend", "serial")
    assert main(list(words)) == 2
    _, err = capsys.readouterr()
    assert "such as --config solver.yaml" in err and err.count("\n") == 1
    assert main([words[0], "--config", "solver.yaml", *words[1:]]) == 0
    made = trajectories.load(Path("a.h5"))
    assert made.frames.shape == (3, 4, 1, 4) and made.frames[0, 3, 0, 0] == made.frames[0, 0, 0, 0] / 8
    assert json.loads(made.attributes["settings"])["simulations"]["reference"]["args"]["spec"] == {"points": 16, "dt": 0.5}
