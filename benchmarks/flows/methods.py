"""Methods that are compared: their products for a flow, and the runs that train a corrector with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from deepzero_sim.benchmarks.flows.catalogue import Flow
from deepzero_sim.benchmarks.seed_folders import Folders
from deepzero_sim.cli.console import console
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowMethod
from deepzero_sim.common.components import Component
from deepzero_sim.common.short_names import LOSSES
from deepzero_sim.coupling import vjp
from deepzero_sim.training.runs.settings import MethodName, TrainSettings, Workers

#: Methods that the package trains by a name of their own; all others are products of a `SolverLayer`.
NAMED: dict[FlowMethod, MethodName] = {
    "DETACHED": "DETACHED",
    "STRAIGHT-THROUGH": "STRAIGHT-THROUGH",
    "FO-SOL": "FO-SOL",
}

#: Run that all methods start from.
START = "NON"

#: Single steps see no state that their own corrections lead to; some weight decay keeps rollouts from blowing up.
START_OPTIMISER = Component("torch.optim.AdamW", {"lr": 3e-3, "weight_decay": 0.01})

#: Optimiser of the others, with the rate that suits a network that goes on from another run: at 1e-3 losses leapt to a hundred
#: times that of the start, and on burgers-1d FO-SOL came to 0.0035 after 500 updates, not 0.0027. The rate rises in a short
#: warm-up, and falls along half a cosine.
OPTIMISER = Component("torch.optim.Adam", {"lr": 3e-4})
SCHEDULER = Component("deepzero_sim.training.build.warm_up_cosine", {"steps": "updates"})

#: Updates of the start, and its single steps in a batch.
START_UPDATES, START_BATCH = 1000, 32

#: Updates between checkpoints.
CHECKPOINT_EVERY = 200

#: Rollouts of a gradient.
BATCH = 4


@contextmanager
def collect_warnings(what: str) -> Iterator[list[str]]:
    """Collect what is warned of inside, and print it as lines.

    Args:
        what: Beginning of each line.
    """
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield sentences
        finally:
            sentences += dict.fromkeys(str(one.message) for one in caught)
            for sentence in sentences:
                console.print(f"{what}: {sentence}")


def missing(method: FlowMethod) -> str:
    """Return a sentence on why a method cannot be measured by this version of the package; empty if it can."""
    absent = method == "JacobianField" and not hasattr(vjp, "JacobianField")
    return "JacobianField is not part of this version of the package, and was skipped." if absent else ""


def product_of(method: FlowMethod, flow: Flow, seed: int = 0) -> Component | None:
    """Return the component of a method's vector-Jacobian product; None if it has none, or none that suits the flow.

    Args:
        method: Name of the method.
        flow: Flow whose solver it differentiates.
        seed: Seed of what is drawn.
    """
    if method == "STRAIGHT-THROUGH":
        return Component("deepzero_sim.vjp.StraightThrough")
    if method == "EMULATOR":
        args = {"network": flow.network.name, "args": flow.network.args, "seed": seed}
        return Component("deepzero_sim.benchmarks.flows.emulator.Emulator", args)
    if method == "Coloured":
        return None if flow.radius is None else Component("deepzero_sim.vjp.Coloured", {"radius": flow.radius})
    if method == "ReferenceJacobian":
        return Component("deepzero_sim.vjp.ReferenceJacobian", flow.reference)
    return Component("deepzero_sim.vjp.JacobianField", flow.jacobian_field) if method == "JacobianField" else None


def start_run(flow: Flow, folders: Folders) -> TrainSettings:
    """Make the settings of NON, from whose network all others start."""
    run = _run(flow, folders, START, "NON", START_OPTIMISER)
    return replace(run, updates=START_UPDATES, batch_size=START_BATCH)


def run_of(method: FlowMethod, flow: Flow, folders: Folders, settings: BenchFlowsSettings) -> TrainSettings:
    """Make the settings of a method's run."""
    run = _run(flow, folders, method, NAMED.get(method, "SolverLayer"), OPTIMISER)
    product = product_of(method, flow, folders.seed)
    own: dict[str, Any] = {"vjp": product} if method not in NAMED and product is not None else {}
    sizes: dict[str, Any] = {"updates": settings.updates, "batch_size": BATCH, "unroll": settings.unroll}
    loss = LOSSES.in_full("loss", Component(settings.loss))
    return replace(run, start=folders.runs / START, scheduler=SCHEDULER, loss=loss, **sizes, **own)


def _run(flow: Flow, folders: Folders, name: str, method: MethodName, optimiser: Component) -> TrainSettings:
    return TrainSettings(
        run=folders.runs / name,
        train_data=folders.train_data,
        solver=flow.coarse,
        differentiable_solver=flow.twin,
        method=method,
        network=flow.network,
        optimiser=optimiser,
        workers=Workers("serial", 1),
        seed=folders.seed,
        tensorboard=False,
        checkpoint_every=CHECKPOINT_EVERY,
    )
