"""`deepzero-sim check-gradient`: from settings to a table, a figure and a page, and what it says of unusable settings."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from problems import burgers_oracle
from training_cases import line_data, train_settings, unfinished

from deepzero_sim import check_gradient
from deepzero_sim.cli.check_gradient import CheckSettings, GradientChecks, check_gradients
from deepzero_sim.cli.main import main
from deepzero_sim.cli.reports.figures import pyplot
from deepzero_sim.cli.reports.gradient_check import draw, publish, rows
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.runs.settings import Workers
from deepzero_sim.training.runs.training import train

USER = """
    import dataclasses
    import numpy as np
    from problems import Burgers

    class Global(Burgers):
        def __init__(self):
            super().__init__()
            self.spec = dataclasses.replace(self.spec, stencil=None)

        def step(self, states, params=None):
            advanced = super().step(states, params)
            return advanced - 0.2 * advanced.mean(-1, keepdims=True)

    class Wild(Burgers):
        def __init__(self):
            super().__init__(deterministic=False)

    class Chance(Burgers):
        def step(self, states, params=None):
            return super().step(states, params) * (1 + 1e-6 * np.random.random())

    class NaN(Burgers):
        def step(self, states, params=None):
            return states * np.nan
"""

FORCED = """
    from dataclasses import replace

    import deepzero_sim as dz
    from problems import Burgers


    class Forced(dz.Solver):
        def __init__(self):
            self.within = Burgers()
            self.spec = replace(self.within.spec, inputs=("forcing",))

        def step(self, states, params, inputs):
            return self.within.step(states + 0.1 * inputs, params)
"""

TWIN = Component("problems.DifferentiableBurgers")
CGE = Component("deepzero_sim.CGE", {"step_size": 1e-4})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data, solvers and the settings of a quick check; the current folder."""
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    monkeypatch.chdir(tmp_path)
    line_data(tmp_path / "line.h5")
    (tmp_path / "check.yaml").write_text(yaml.safe_dump(settings_to_dict(settings(tmp_path))))
    return tmp_path


def settings(folder: Path, **changes: Any) -> CheckSettings:
    """Two gradients of Burgers, unrolled three steps, through a network of 82 parameters."""
    small = CheckSettings(
        output=folder / "check",
        train_data=folder / "line.h5",
        solver=Component("problems.Burgers"),
        network=Component("small", {"width": 3, "padding": "circular"}),
        unroll=3,
        batches=2,
        directions=8,
        workers=Workers("serial", 1),
    )
    return replace(small, **changes)


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main(["check-gradient", "--config", "check.yaml", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("twin", [TWIN, None], ids=["with a twin", "without"])
def test_from_settings_to_report(folder: Path, capsys: pytest.CaptureFixture[str], twin: Component | None) -> None:
    pytest.importorskip("matplotlib")
    options = ["--differentiable_solver.name", twin.name] if twin else []
    status, out, err = call(capsys, *options, "--estimator", f'{{"name": "{CGE.name}", "args": {{"step_size": 1e-4}}}}')
    assert (
        (status, err) == (0, "")
        and "checking gradients" in out
        and "cosine" in out
        and "gradient_check.md" in out.replace("\n", "")
    )
    said = json.loads((folder / "check" / "gradient_check.json").read_text())
    names = ["Detached", "StraightThrough", "Coloured", "ReferenceJacobian", "JacobianField", "CGE(step_size=0.0001)"]
    assert list(said["methods"]) == names and not said["left_out"] and said["settings"]["unroll"] == 3
    for name in ("Coloured", "CGE(step_size=0.0001)"):
        assert said["methods"][name]["cosine"] == pytest.approx(1, abs=1e-6)
    assert said["methods"]["Detached"]["norm_ratio"] < said["methods"]["ReferenceJacobian"]["norm_ratio"]
    assert 0.999 < said["methods"]["JacobianField"]["cosine"] < 1
    assert all(method["exact"] is (twin is not None) for method in said["methods"].values())
    # of two gradients, two states each: two steps more than the first; two more queries a parameter; or 2 * 4 probes of each
    # step; once to 24 references, 2 * 16 at the first and 2 * 4 colours at each; once to
    # 5 chains of 8 products and to 32 more, whose fit is good enough, and to 8 that are left out of it
    steps = {name: method["steps_per_gradient"] for name, method in said["methods"].items()}
    assert steps == dict(zip(names, (4, 4, 4 + 4 * 8, 4, 4, 4 + 4 * 2 * 82), strict=True))
    once = [method["steps"]["once"] for method in said["methods"].values()]
    assert once == [0, 0, 0, 26 + 2 * 16 + 24 * 2 * 4, 2 + 2 * 5 * 8 + 2 * 32 + 2 * 8, 0]
    text = (folder / "check" / "gradient_check.md").read_text()
    assert all(f"| {name} |" in text for name in names) and ("standard errors" in text) is (twin is None)
    assert (folder / "check" / "gradient_check.png").read_bytes().startswith(b"\x89PNG") and not unfinished(folder)


def test_what_auto_chose_is_said_below_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    products = '[{"name": "deepzero_sim.vjp.Auto"}, {"name": "deepzero_sim.vjp.StraightThrough"}]'
    status, out, err = call(capsys, "--vjp", products)
    found = json.loads((folder / "check" / "gradient_check.json").read_text())
    words = found["found"].pop("Auto")
    assert (status, err, found["found"]) == (0, "", {})
    assert words.startswith("JacobianField was chosen: cosine 0.99") and "; the identity has 0." in words
    assert f"Auto: {words}." in " ".join(out.split())
    assert f"\nAuto: {words}.\n" in (folder / "check" / "gradient_check.md").read_text()
    assert found["methods"]["Auto"]["cosine"] > found["methods"]["StraightThrough"]["cosine"]


def test_steps_that_tell_what_inputs_do_are_counted_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (folder / "user.py").write_text(textwrap.dedent(FORCED))
    products = '[{"name": "deepzero_sim.vjp.Detached"}, {"name": "deepzero_sim.vjp.Coloured"}]'
    options = ("--solver.name", "user.py:Forced", "--coupling.name", "inside", "--vjp", products, "--data_may_differ", "[name]")
    status, _, err = call(capsys, *options)
    assert (status, err) == (0, "")
    detached = json.loads((folder / "check" / "gradient_check.json").read_text())["methods"]["Detached"]
    assert detached["steps"]["once"] > 100 and detached["steps_per_gradient"] == 2 * 3


def test_the_network_of_a_run_is_checked(folder: Path) -> None:
    train(train_settings(folder / "run", folder / "line.h5", method="NON", updates=2))
    trained, fresh = (
        check_gradients(settings(folder, start=start, vjp=[Component("deepzero_sim.vjp.Detached")]))
        for start in (Path("run"), None)
    )
    assert trained.checks["Detached"].agreements != fresh.checks["Detached"].agreements


def test_the_same_settings_find_the_same(folder: Path) -> None:
    first, second, other = (check_gradients(settings(folder, seed=seed)) for seed in (1, 1, 2))
    assert first == second and first != other


def test_workers_change_nothing(folder: Path) -> None:
    few = {"vjp": [Component("deepzero_sim.vjp.Coloured")], "estimator": CGE}
    assert check_gradients(settings(folder, **few)) == check_gradients(settings(folder, **few, workers=Workers("process", 2)))


def test_what_does_not_suit_a_solver_is_left_out_unless_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    status, out, err = call(capsys, "--solver.name", "user.py:Global")
    assert (status, err) == (0, "") and "left out Coloured: a step of solver 'burgers' carries information over" in out
    said = json.loads((folder / "check" / "gradient_check.json").read_text())
    assert list(said["methods"]) == ["Detached", "StraightThrough", "ReferenceJacobian", "JacobianField"]
    assert list(said["left_out"]) == ["Coloured"]
    assert (
        "Left out: Coloured. a step of solver 'burgers' carries information over"
        in (folder / "check" / "gradient_check.md").read_text()
    )
    with pytest.raises(ConfigError, match=r"carries information over .* too far for Coloured"):
        check_gradients(settings(folder, solver=Component("user.py:Global"), vjp=[Component("deepzero_sim.vjp.Coloured")]))
    named = [Component("deepzero_sim.vjp.Coloured", {"radius": 1})]
    found = check_gradients(settings(folder, solver=Component("user.py:Global"), vjp=named))
    assert 0.9 < (found.checks["Coloured(radius=1)"].cosine or 0) < 1 - 1e-6


def test_a_table_of_what_is_undefined(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    oracle, batch = burgers_oracle()
    found = check_gradient(oracle, batch, directions=8)
    nothing = replace(found, agreements=(replace(found.agreements[0], cosine=None, norm_ratio=None),))
    silent = replace(nothing, sweep=replace(found.sweep, noise_floor=0.0, changes=(0.0,) * 8))
    assert rows({"zero": silent})[1] == ("zero", "-", "-", "-", "6", "0")
    publish(tmp_path, GradientChecks({"zero": silent}, {}), {})
    assert (tmp_path / "gradient_check.png").exists()
    publish(tmp_path / "none", GradientChecks({}, {"all": "why."}), {})
    assert "No method suits the solver." in (tmp_path / "none" / "gradient_check.md").read_text()


def test_the_figure_says_what_it_shows() -> None:
    pytest.importorskip("matplotlib")
    oracle, batch = burgers_oracle()
    plot = pyplot()
    left, right = draw(plot, {"a": (found := check_gradient(oracle, batch, directions=8)), "b": found}).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a", "b"] and left.get_legend() and right.get_legend()
    assert right.get_xscale() == right.get_yscale() == "log" and all(ax.get_xlabel() for ax in (left, right))
    shown = right.get_lines()[0]
    np.testing.assert_allclose(shown.get_xdata(), found.sweep.step_sizes)
    np.testing.assert_allclose(shown.get_ydata(), found.sweep.changes)  # type: ignore[arg-type]
    plot.close("all")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver.name", "user.py:NaN"], "what solver 'burgers' returned must be finite"),
        (["--solver.name", "user.py:Wild"], "solver 'burgers' is not deterministic"),
        (["--solver.name", "user.py:Chance"], "the same is answered to the same, but the oracle gave losses of"),
        (["--solver.args", '{"points": 8}'], r"states of shape \(1, 16\), but solver 'burgers' takes \(1, 8\)"),
        (["--differentiable_solver.name", "problems.Burgers"], "must be a dz.DifferentiableSolver, not Burgers"),
        (
            ["--differentiable_solver", '{"name": "problems.DifferentiableBurgers", "args": {"points": 8}}'],
            r"a twin takes the same states as the solver, .*\(1, 16\), not .*\(1, 8\)",
        ),
        (["--directions", "0"], "directions must be a positive number"),
        (["--directions", "3"], "directions must be a whole number of 8 or more, not 3"),
        (["--batches", "0"], "batches must be a positive number"),
        (["--unroll", "12"], "a rollout of 12 steps needs trajectories of at least 13 frames"),
        (["--unroll", "1"], "unroll must be at least 2: no gradient passes the first step"),
        (["--vjp", str([{"name": "deepzero_sim.vjp.Detached"}] * 2)], "vjp must name each method once"),
        (["--vjp", "[]"], "no gradients are asked for"),
        (["--vjp", '[{"name": "problems.Burgers"}]'], "must make a dz.vjp.VectorJacobianProduct, not Burgers"),
        (["--vjp", '[{"name": "deepzero_sim.vjp.Coloured", "args": {"radius": -1}}]'], "radius must be a whole number"),
        (["--vjp", "[3]"], "vjp"),
        (["--estimator.name", "problems.Burgers"], "must make an Estimator"),
        (["--start", "nowhere"], "expected a trained run in nowhere"),
        (["--train_data", "none.h5"], "expected a file of trajectories at none.h5"),
        (["--seed", "-1"], "seed must be"),
        (["--updates", "3"], "updates"),
    ],
)
def test_settings_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    status, out, err = call(capsys, *options)
    assert status == 2 and "Traceback" not in out + err and not (folder / "check").exists()
    assert err.startswith("deepzero-sim: ") and err.endswith(".\n") and err.count("\n") == 1 and re.search(says, err), err


def test_methods_of_the_same_name_are_told_apart(folder: Path) -> None:
    (folder / "mine.py").write_text("from deepzero_sim.coupling.vjp import Coloured\n")
    both = [Component("mine.py:Coloured"), Component("deepzero_sim.vjp.Coloured")]
    assert list(check_gradients(settings(folder, vjp=both)).checks) == ["mine.py:Coloured {}", "deepzero_sim.vjp.Coloured {}"]


def test_a_product_of_ones_own(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from deepzero_sim.coupling.vjp import Coloured\n\ndef mine(reach):\n    return Coloured(reach)\n"
    )
    found = check_gradients(settings(folder, vjp=[Component("mine.py:mine", {"reach": 1})]))
    assert list(found.checks) == ["mine(reach=1)"] and found.checks["mine(reach=1)"].cosine == pytest.approx(1, abs=1e-6)
