"""Gradients past the solver on many flows: products against exact ones, what training gains by them, and what they cost.

Run: deepzero-sim bench flows
Prints tables and writes results.json, report.md and figures, after some hours with the default settings on 2 cores. Data,
measurements, runs and their outcomes have files of their own: an interrupted benchmark resumes, and parts of it that are asked
for one after the other are reported together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from deepzero_sim.benchmarks.flows.catalogue import FLOWS, TEST_SEED, TRAIN_SEED, Flow
from deepzero_sim.benchmarks.flows.error_bars import measure_error_bars
from deepzero_sim.benchmarks.flows.measurements import measure_once
from deepzero_sim.benchmarks.flows.methods import missing, product_of
from deepzero_sim.benchmarks.flows.products import ExactProducts, first_frames, measure_products, products_path, with_errors
from deepzero_sim.benchmarks.flows.report import FILES, publish
from deepzero_sim.benchmarks.flows.sizes import measure_sizes
from deepzero_sim.benchmarks.flows.summaries import read_everything
from deepzero_sim.benchmarks.flows.trainings import Task, train_all
from deepzero_sim.cli.console import console
from deepzero_sim.cli.generate import make_data
from deepzero_sim.cli.reports.ownership import require_own_folder
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowName
from deepzero_sim.cli.settings.generate import GenerateSettings
from deepzero_sim.common.files import write_text
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.runs.settings import Workers

#: Settings that all results of an output folder share.
_SHARED = ("updates", "unroll", "steps")

#: File of an output folder with these settings.
_SETTINGS = "settings.json"


def bench_flows(settings: BenchFlowsSettings) -> Sequence[Sequence[tuple[str, ...]]]:
    """Measure products, train, evaluate and report; see the module. Returns the tables.

    Raises:
        ConfigError: The settings cannot be used, or the output folder holds results of others.
        MissingExtraError: A package that is needed is not installed; raised before hours are spent.
    """
    _require_extras(settings)
    _require_frames(settings)
    _require_same_settings(settings)
    read_everything(settings.output)  # what was changed is said before hours are spent
    skipped = [sentence for method in settings.methods if (sentence := missing(method))]
    for sentence in skipped:
        console.print(sentence)
    for name in settings.flows:
        _bench(name, FLOWS[name], settings)
    return publish(settings, skipped)


def _require_extras(settings: BenchFlowsSettings) -> None:
    needed = {FLOWS[name].needs for name in settings.flows}
    for module, extra in (("matplotlib", "report"), *sorted(needed)):
        if find_spec(module) is None:
            raise MissingExtraError("bench flows", module, extra)


def _require_frames(settings: BenchFlowsSettings) -> None:
    for name in settings.flows:
        most = FLOWS[name].frames - 1
        for key, steps in (("steps", settings.steps), ("unroll", settings.unroll)):
            if steps > most:
                raise ConfigError(f"{key} must be at most {most}, as far as the data of {name} go, not {steps}.")


def _require_same_settings(settings: BenchFlowsSettings) -> None:
    """Refuse a folder whose results are of other settings: they would not compare."""
    path, ours = settings.output / _SETTINGS, {key: getattr(settings, key) for key in _SHARED}
    ours |= {} if settings.loss == "rollout" else {"loss": settings.loss}
    if not path.exists():
        require_own_folder(settings.output, FILES, "--output")
        settings.output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(ours) + "\n")
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        theirs = None
    if theirs != ours:
        raise ConfigError(
            f"{settings.output} holds results with {_in_words(theirs)}, not {_in_words(ours)}: name another output, or give "
            "these settings."
        )


def _in_words(shared: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in shared.items()) if isinstance(shared, dict) else "unknown settings"


def _bench(name: FlowName, flow: Flow, settings: BenchFlowsSettings) -> None:
    """Measure and train on one flow."""
    if set(settings.parts) - {"sizes"}:
        _bench_on_data(name, flow, settings)
    if "sizes" in settings.parts:
        measure_sizes(name, settings.methods, settings.output)


def _bench_on_data(name: FlowName, flow: Flow, settings: BenchFlowsSettings) -> None:
    train_path, test_path = (settings.output / "data" / f"{name}_{part}.h5" for part in ("train", "test"))
    files = [flow.train.file(train_path, TRAIN_SEED), flow.test.file(test_path, TEST_SEED)]
    make_data(GenerateSettings(flow.simulations, files, Workers("serial", 1)))
    solver = build_solver(flow.coarse)
    train, test = (trajectories.load(path, solver.spec) for path in (train_path, test_path))
    if "products" in settings.parts:
        _measure(name, flow, settings, train, test)
    if "error-bars" in settings.parts and "JacobianField" in settings.methods:
        measure_error_bars(name, flow, settings.output, train, test)
    if "trainings" in settings.parts and settings.seeds:
        train_all(Task(name, flow, solver, train_path, test), settings)


def _measure(name: FlowName, flow: Flow, settings: BenchFlowsSettings, train: Trajectories, test: Trajectories) -> None:
    """Measure the products of all methods that have one, but those that are kept."""
    exact: ExactProducts | None = None
    for method in settings.methods:
        path = products_path(settings.output, name, method)
        product = None if missing(method) or path.exists() else product_of(method, flow)
        if product is not None:
            exact = exact or ExactProducts(
                build_solver(flow.twin), with_errors(first_frames(test), build_solver(flow.coarse), test)
            )
            measure_once(path, f"{name}: products of {method}", partial(measure_products, product, flow.coarse, train, exact))
