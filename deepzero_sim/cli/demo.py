"""`deepzero-sim demo`: a coarse wake solver, corrected through its own loop without its gradients.

Makes the data, trains the small network by every method, evaluates on unseen Reynolds numbers and writes a report.
Each stage has its own folder, so that an interrupted demo goes on where it was.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepzero_sim.cli.compare import report
from deepzero_sim.cli.console import console
from deepzero_sim.cli.generate import make_data
from deepzero_sim.cli.reports.ownership import require_own_folder
from deepzero_sim.cli.reports.rollouts import FILES
from deepzero_sim.cli.settings.demo import DemoSettings
from deepzero_sim.cli.settings.generate import DataFile, GenerateSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.machine import peak_memory_gb
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets.generation.generate import software
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.errors import MissingExtraError
from deepzero_sim.solvers.wake import TEST_REYNOLDS, TRAIN_REYNOLDS
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.console import train_with_bar
from deepzero_sim.training.runs.settings import MethodName, TrainSettings, Workers

#: Steps of the rollouts that are compared.
STEPS = 250

WAKE = Component("deepzero_sim.solvers.WakeFlow", {"resolution": 32})
FINE_WAKE = Component("deepzero_sim.solvers.WakeFlow", {"resolution": 128})
PHIFLOW_WAKE = Component("deepzero_sim.solvers.PhiFlowWake", {"resolution": 32})

#: Estimator of ZO-SOL, whose steps are taken as they are, and the number of them: 95,000 solver steps.
GAUSS_NEWTON, AS_THEY_ARE, STEPS_OF_IT = Component("deepzero_sim.GaussNewton"), Component("torch.optim.SGD", {"lr": 1.0}), 14

#: NON sees no state that its own corrections lead to; without some weight decay its rollouts blow up for some seeds.
DECAYING = Component("torch.optim.AdamW", {"lr": 5e-3, "weight_decay": 0.1})

#: Adam that moves only what was measured; with a dense gradient it is Adam itself.
LAZY = Component("torch.optim.SparseAdam", {"lr": 2e-3, "betas": [0.9, 0.99]})

#: In the order they are trained: NON, from whose network all others start, the free baselines, ours, the upper bound.
METHODS: tuple[MethodName, ...] = ("NON", "DETACHED", "STRAIGHT-THROUGH", "ZO-SOL", "SolverLayer", "FO-SOL")


def data_settings(folder: Path, workers: Workers) -> GenerateSettings:
    """Return settings of the wake experiment's data: six training and five test simulations of 1,500 steps (Um et al. 2020)."""
    simulations = Simulations(
        reference=FINE_WAKE,
        source=WAKE,
        initial="deepzero_sim.solvers.wake.initial_state",
        restrict="deepzero_sim.solvers.wake.restrict",
    )
    train_file = DataFile(folder / "wake_train.h5", [[value] for value in TRAIN_REYNOLDS])
    test_file = DataFile(folder / "wake_test.h5", [[value] for value in TEST_REYNOLDS])
    return GenerateSettings(simulations, [train_file, test_file], workers)


def training_settings(folder: Path, data: Path, method: MethodName, workers: Workers) -> TrainSettings:
    """Return settings of a method's run: NON from scratch, every other from NON's network."""
    common: dict[str, Any] = {
        "run": folder / method,
        "train_data": data,
        "method": method,
        "solver": WAKE,
        "differentiable_solver": PHIFLOW_WAKE,
        "workers": workers,
    }
    if method == "NON":
        return TrainSettings(**common, updates=3000, batch_size=16, optimiser=DECAYING, checkpoint_every=500)
    common["start"] = folder / "NON"
    if method == "ZO-SOL":
        return TrainSettings(**common, updates=STEPS_OF_IT, optimiser=AS_THEY_ARE, estimator=GAUSS_NEWTON)
    return TrainSettings(**common, updates=600, optimiser=LAZY)


def demo(settings: DemoSettings) -> None:
    """Run the demonstration; see the module.

    Raises:
        MissingExtraError: PhiFlow, matplotlib or TensorBoard is not installed; raised before minutes are spent.
    """
    for module, extra in (("phi", "phiflow"), ("matplotlib", "report"), ("tensorboard", "report")):
        if find_spec(module) is None:
            raise MissingExtraError("the demo", module, extra)
    require_own_folder(settings.run, FILES, "--run")
    started = time.perf_counter()
    data = data_settings(settings.run / "data", settings.workers)
    make_data(data)
    train_path, test_path = (file.output for file in data.files)
    runs = [training_settings(settings.run, train_path, method, settings.workers) for method in METHODS]
    for run in runs:
        train_with_bar(run)
    comparison = compare({method: settings.run / method for method in METHODS}, test_path, STEPS)
    facts = {
        "steps": STEPS,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "software": software(),
        "total_seconds": round(time.perf_counter() - started, 1),
        "peak_memory_gb": round(peak_memory_gb(), 2),
        "runs": {run.method: settings_to_dict(run) for run in runs},
    }
    report(settings.run, "A coarse wake solver, corrected without its gradients", comparison, facts)
    console.print(f"{facts['total_seconds']:.0f} s, {facts['peak_memory_gb']} GB")
