"""The active coordinates of a run: ratios found once, kept, used again, counted; whatever interrupts it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import Burgers
from training_cases import PARAMETERS, assert_same_tensors, line_data, tensors, train_settings, without_seconds

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array, Mask
from deepzero_sim.errors import ConfigError, DeepZeroError, RunError
from deepzero_sim.estimators import CGE, RGE, GradientEstimate
from deepzero_sim.estimators.sparsity import Densities, LayerRatios, Uniform, ZOGraSP
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.training.active_set import LAYER_RATIOS, RunRatios, active_set, build_ratios
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.ratios_file import load_ratios
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

#: Of the network that `train_settings` names, the weights and the rest.
SCORED, BIASES = 9 + 27 + 27 + 9, 3 + 3 + 3 + 1
ALL_FRAMES = 3 * 11
ZO_GRASP = Component("zo-grasp", {"num_directions": 5})


class TorchBurgers(DifferentiableSolver):
    """`problems.Burgers` that torch can differentiate."""

    def __init__(self) -> None:
        self.spec = Burgers().spec

    def step(self, states: Array, params: Array | None = None) -> Array:
        return Burgers().step(states, params)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        spacing = 2 * torch.pi / states.shape[-1]
        flux = 0.5 * states.clamp(min=0) ** 2 + 0.5 * torch.roll(states, -1, -1).clamp(max=0) ** 2
        diffusion = torch.roll(states, -1, -1) - 2 * states + torch.roll(states, 1, -1)
        return states + 0.01 * (-(flux - torch.roll(flux, 1, -1)) / spacing + 0.05 * diffusion / spacing**2)


class Halves(LayerRatios):
    """Ratios of a user's own."""

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        shares = Uniform().densities(oracle, batch, sparsity).by_layer
        return Densities(dict.fromkeys(shares, 0.5), queries=3, solver_steps=11)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


@pytest.fixture
def start(tmp_path: Path, data: Path) -> Path:
    """A network whose last layer is not zero any more: at the very start, every score of it is."""
    train(train_settings(tmp_path / "NON", data, method="NON"))
    return tmp_path / "NON"


def sparse_settings(run: Path, data: Path, **changes: Any) -> TrainSettings:
    return train_settings(run, data, **{"sparsity": 0.75, "layer_ratios": ZO_GRASP, **changes})


@pytest.mark.parametrize(
    ("ratios", "queries", "steps"),
    [
        (Component("uniform"), 0, 0),
        (Component("erdos-renyi"), 0, 0),
        (ZO_GRASP, 2 * 6, 2 * 6 * 2 * 2),
        (Component("zo-grasp", {"gradient": "cge"}), 2 * (SCORED + 1), 2 * (SCORED + 1) * 2 * 2),
        (Component("grasp"), 1, 2 * 2),
        (Component("grasp", {"rule": "magnitude"}), 1, 2 * 2),
        (Component("test_active_set.Halves"), 3, 11),
    ],
    ids=str,
)
def test_ratios_are_found_kept_and_counted(
    tmp_path: Path, data: Path, start: Path, ratios: Component, queries: int, steps: int
) -> None:
    solver = Component("test_active_set.TorchBurgers")
    settings = sparse_settings(tmp_path / "run", data, start=start, layer_ratios=ratios, differentiable_solver=solver)
    progress = train(settings)
    record = load_ratios(settings.run)
    assert record is not None and record.method == ratios.name and record.sparsity == 0.75
    assert sum(record.sizes.values()) == SCORED and record.always_active == BIASES and SCORED + BIASES == PARAMETERS
    assert (record.densities.queries, record.densities.solver_steps) == (queries, steps)
    active = sum(map(record.active, record.sizes))
    assert abs(active - (0.5 if ratios.name.endswith("Halves") else 0.25) * SCORED) <= 4
    asked = 4 * (2 * (active + BIASES) + 1)  # updates; central differences, and the loss itself
    assert progress.queries == queries + asked and progress.solver_steps == steps + asked * 2 * 2
    assert progress.seconds > record.seconds > 0
    preparing = 2 + 2 * 2 * 3  # first steps are found in the start, and two compared; whether the loss of a batch repeats
    measured = 3 * 3 * 11  # before the first update, after the last, the solver alone: 11 steps from each simulation
    assert progress.validation_steps == measured
    assert cost(settings.run).solver_steps == cost(start).solver_steps + preparing + progress.solver_steps + measured
    assert json.loads((settings.run / "metrics.jsonl").read_text().split("\n")[0])["queries"] == queries + asked // 4


def test_without_sparsity_nothing_is_asked_and_nothing_is_kept(tmp_path: Path, data: Path) -> None:
    settings = sparse_settings(tmp_path / "run", data, sparsity=0.0)
    progress = train(settings)
    assert progress.queries == 4 * (2 * PARAMETERS + 1) and load_ratios(settings.run) is None


@pytest.mark.parametrize("method", ["NON", "DETACHED"])
def test_methods_that_are_not_queried_have_no_ratios(tmp_path: Path, data: Path, method: str) -> None:
    settings = sparse_settings(tmp_path / "run", data, method=method)
    assert train(settings).queries == 4 and load_ratios(settings.run) is None


def test_uniform_ratios_draw_the_masks_of_a_plain_sparsity(tmp_path: Path, data: Path, asked: list[Mask]) -> None:
    from deepzero_sim.estimators.sparsity import RandomMask  # noqa: PLC0415

    train(sparse_settings(tmp_path / "run", data, layer_ratios=Component("uniform"), seed=3))
    network = asked_network(asked)
    for step, mask in enumerate(asked):
        expected = RandomMask(0.75, seed=3)(network, step)
        assert expected is not None and all(torch.equal(mask[name], expected[name]) for name in mask)


def asked_network(masks: list[Mask]) -> torch.nn.Module:
    """A stand-in with parameters of the same names and shapes."""
    network = torch.nn.Module()
    for name, mask in masks[0].items():
        *path, last = name.split(".")
        owner = network
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, torch.nn.Parameter(torch.zeros(mask.shape)))
    return network


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mask]:
    """The masks that CGE is asked with."""
    masks: list[Mask] = []
    estimate = CGE.estimate

    def spy(self: CGE, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, **ledger: Any) -> GradientEstimate:
        if mask is not None:
            masks.append(mask)
        return estimate(self, oracle, batch, mask, seed, **ledger)

    monkeypatch.setattr(CGE, "estimate", spy)
    return masks


@pytest.mark.parametrize("refresh", [1, 3])
def test_a_mask_serves_as_many_updates_as_asked(tmp_path: Path, data: Path, asked: list[Mask], refresh: int) -> None:
    train(sparse_settings(tmp_path / "run", data, mask_refresh=refresh, updates=7))
    assert len(asked) == 7
    for step in range(1, 7):
        same = all(torch.equal(asked[step][name], asked[step - 1][name]) for name in asked[step])
        assert same == (step % refresh != 0)


# ---- interrupted


class Interruption(BaseException):
    """Ctrl-C, or anything else."""


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int) -> None:
    """End whatever runs when a method is called for the so-manieth time."""
    original, left = getattr(owner, method), [call]

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Interruption
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, counted)


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        pytest.param(RGE, "estimate", 1, id="before any score"),
        pytest.param(RGE, "estimate", 2, id="at theta + mu g"),
        pytest.param(CGE, "estimate", 1, id="before the first update"),
        pytest.param(RunFolder, "append_metrics", 2, id="before the first checkpoint"),
        pytest.param(RunFolder, "save", 1, id="at the first checkpoint"),
        pytest.param(CGE, "estimate", 3, id="right after it"),
        pytest.param(RunFolder, "save", 2, id="at the last"),
    ],
)
def test_interrupted_and_resumed_it_ends_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int
) -> None:
    settings = sparse_settings(tmp_path / "interrupted", data, mask_refresh=3)
    whole = replace(settings, run=tmp_path / "whole")
    undisturbed = train(whole)
    with monkeypatch.context() as patched:
        interrupt(patched, owner, method, call)
        with pytest.raises(Interruption):
            train(settings)
    found = load_ratios(settings.run)
    assert (found is None) == (owner is RGE)
    with monkeypatch.context() as patched:
        if found is not None:
            patched.setattr(ZOGraSP, "densities", None)  # nothing is found twice
        resumed = train(settings)
    assert without_seconds(vars(resumed)) == without_seconds(vars(undisturbed))
    assert_same_tensors(tensors(settings.run), tensors(whole.run))
    ours, theirs = (json.loads((run / "ratios.json").read_text()) for run in (settings.run, whole.run))
    assert without_seconds(ours) == without_seconds(theirs)
    texts = [(run / "metrics.jsonl").read_text().splitlines() for run in (settings.run, whole.run)]
    lines = [without_seconds([json.loads(line) for line in text]) for text in texts]
    assert lines[0] == lines[1] and len(lines[0]) == settings.updates


def test_a_finished_run_is_not_asked_again(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sparse_settings(tmp_path / "run", data)
    first = train(settings)
    monkeypatch.setattr(ZOGraSP, "densities", None)
    assert train(settings) == first


def test_first_order_ratios_resume_without_their_solver(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Component("test_active_set.TorchBurgers")
    settings = sparse_settings(tmp_path / "run", data, layer_ratios=Component("grasp"), differentiable_solver=solver)
    first = train(settings)
    monkeypatch.delattr("test_active_set.TorchBurgers")
    assert train(settings) == first


# ---- refused


def test_a_damaged_record_is_one_sentence(tmp_path: Path, data: Path) -> None:
    settings = sparse_settings(tmp_path / "run", data)
    train(settings)
    (settings.run / "ratios.json").write_text("{")
    with pytest.raises(RunError, match=r"ratios\.json does not hold the layer ratios of a run"):
        train(settings)


def test_a_record_that_is_gone_is_not_made_again(tmp_path: Path, data: Path) -> None:
    settings = sparse_settings(tmp_path / "run", data)
    train(settings)
    (settings.run / "ratios.json").unlink()
    with pytest.raises(RunError, match=r"holds a checkpoint but no ratios\.json"):
        train(settings)


def test_a_record_of_another_network_is_refused(tmp_path: Path) -> None:
    run, network = RunFolder(tmp_path, {}), torch.nn.Linear(4, 2)
    kept = RunRatios(run, "uniform", 0.5)
    found = active_set(kept, lambda: Densities({"weight": 0.5}), network)
    assert found.mask is not None and found.spent.queries == 0 and found.spent.seconds > 0
    with pytest.raises(RunError, match="holds the layer ratios of another network"):
        active_set(kept, lambda: Densities({}), torch.nn.Linear(4, 3))


def test_while_another_process_trains_nothing_is_found(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    with run.in_use(), pytest.raises(RunError, match="another process is training"):
        active_set(RunRatios(run, "uniform", 0.5), lambda: Densities({"weight": 0.5}), torch.nn.Linear(4, 2))
    assert active_set(RunRatios(run, "uniform", 0.0), lambda: Densities({}), torch.nn.Linear(4, 2)) == (None, Progress())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": -0.5}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity must be in \[0, 1\)"),
        ({"mask_refresh": 0}, "mask_refresh must be a positive number"),
        ({"layer_ratios": Component("magnitude")}, "expected an import path"),
        (
            {"layer_ratios": Component("problems.Burgers")},
            "must make a deepzero_sim.LayerRatios, not Burgers",
        ),
        ({"layer_ratios": Component("uniform", {"q": 3})}, "uniform cannot be made with q=3"),
        ({"layer_ratios": Component("zo-grasp", {"num_directions": 0})}, "num_directions must be a positive whole number"),
        ({"layer_ratios": Component("zo-grasp", {"rule": "x"})}, "rule must be one of signed, magnitude"),
        ({"layer_ratios": Component("grasp")}, "layer_ratios grasp needs the exact gradients of a differentiable_solver"),
        (
            {"layer_ratios": Component("grasp"), "differentiable_solver": Component("problems.Burgers")},
            "offers no gradient",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, data: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(sparse_settings(tmp_path / "run", data, **changes))


def test_first_order_ratios_of_other_methods_need_no_solver(tmp_path: Path, data: Path) -> None:
    """One file of settings serves all methods."""
    train(sparse_settings(tmp_path / "run", data, method="NON", layer_ratios=Component("grasp")))
    train(sparse_settings(tmp_path / "dense", data, sparsity=0.0, layer_ratios=Component("grasp")))


def test_ratios_that_cannot_be_found_leave_the_run_to_be_begun_again(tmp_path: Path, data: Path, start: Path) -> None:
    steep = sparse_settings(tmp_path / "run", data, start=start, layer_ratios=Component("zo-grasp", {"step_size": 1e200}))
    with pytest.raises(DeepZeroError):
        train(steep)
    assert not (steep.run / "ratios.json").exists() and not (steep.run / "metrics.jsonl").exists()


def test_every_short_name_is_one() -> None:
    assert all(isinstance(build_ratios(Component(name)), LayerRatios) for name in LAYER_RATIOS)
