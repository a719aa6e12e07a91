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
from deepzero_sim.estimators.sparsity import RandomMask
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.build import build_estimator
from deepzero_sim.training.runs.settings import MethodName, TrainSettings, Workers
from deepzero_sim.training.runs.trained_run import build_corrector

#: Methods that the package trains by a name of their own; all others are products of a `SolverLayer`.
NAMED: dict[FlowMethod, MethodName] = {
    "DETACHED": "DETACHED",
    "STRAIGHT-THROUGH": "STRAIGHT-THROUGH",
    "FO-SOL": "FO-SOL",
}

#: Estimators that ask for losses, each of so many coordinates, directions or members an update: networks have thousands of
#: parameters here, of which a query a coordinate would take hundreds of thousands of solver steps.
QUERIES = 128
BY_QUERIES: dict[FlowMethod, Component] = {
    "CGE": Component("deepzero_sim.CGE", {"step_size": 1e-4, "scheme": "forward"}),
    "CoCD": Component("deepzero_sim.CoCD", {"budget": QUERIES, "step_size": 1e-4, "scheme": "forward"}),
    "RGE-rows": Component(
        "deepzero_sim.RGE", {"step_size": 1e-4, "num_directions": QUERIES, "scheme": "forward", "directions": "rows"}
    ),
    "GaussNewton": Component("deepzero_sim.GaussNewton", {"damping": 1.0}),
    "EKI": Component("deepzero_sim.EKI", {"members": QUERIES, "signal": 0.05, "decay": 0.9}),
}

#: Of these, those that ask for all coordinates that are active, which are drawn anew for each update.
ALL_ACTIVE: tuple[FlowMethod, ...] = ("CGE", "GaussNewton")

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
    if method in BY_QUERIES:
        return None
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
    if method in BY_QUERIES:
        return _by_queries(method, flow, folders, settings)
    run = _run(flow, folders, method, NAMED.get(method, "SolverLayer"), OPTIMISER)
    product = product_of(method, flow, folders.seed)
    own: dict[str, Any] = {"vjp": product} if method not in NAMED and product is not None else {}
    sizes: dict[str, Any] = {"updates": settings.updates, "batch_size": BATCH, "unroll": settings.unroll}
    loss = LOSSES.in_full("loss", Component(settings.loss))
    return replace(run, start=folders.runs / START, scheduler=SCHEDULER, loss=loss, **sizes, **own)


def _by_queries(method: FlowMethod, flow: Flow, folders: Folders, settings: BenchFlowsSettings) -> TrainSettings:
    """Make the run of an estimator, with as many updates as the solver steps suffice for."""
    estimator = BY_QUERIES[method]
    steps = build_estimator(estimator).gives_steps
    run = _run(flow, folders, method, "ZO-SOL", Component("torch.optim.SGD", {"lr": 1.0}) if steps else OPTIMISER)
    network = build_corrector(flow.network, build_solver(flow.coarse).spec, folders.seed)
    weights = sum(p.numel() for p in trainable(network).values() if p.dim() > 1)
    sparsity, queries = (1 - min(1.0, QUERIES / weights), 0) if method in ALL_ACTIVE else (0.0, QUERIES)
    mask = RandomMask(sparsity)(network, 0) if sparsity else None
    if mask is not None:
        queries = sum(int(active.sum()) for active in mask.values())
    each = (max(1, queries) + 1) * BATCH * (settings.unroll - 1)
    sizes: dict[str, Any] = {"updates": max(1, settings.query_steps // each), "batch_size": BATCH, "unroll": settings.unroll}
    loss = LOSSES.in_full("loss", Component(settings.loss))
    return replace(
        run, start=folders.runs / START, scheduler=SCHEDULER, loss=loss, estimator=estimator, sparsity=sparsity, **sizes
    )


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
