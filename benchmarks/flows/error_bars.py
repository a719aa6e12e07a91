"""Error bars of Jacobian fields against their true errors: is what a field says of itself, without a twin, to be trusted?

Fields are fitted to ever more products. Each tells its cosines from chains of products that begin at random states of its data;
the truth is measured at frames of unseen simulations that are drawn likewise and, as training begins there, at first frames.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

from deepzero_sim.benchmarks.flows.catalogue import Flow
from deepzero_sim.benchmarks.flows.measurements import measure_once
from deepzero_sim.benchmarks.flows.methods import missing, product_of
from deepzero_sim.benchmarks.flows.products import Cases, ExactProducts, first_frames, prepare, random_frames
from deepzero_sim.common.components import Component
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import JacobianField
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.build import build_vjp
from deepzero_sim.training.runs.trained_run import sample_states

#: Numbers of steps that products go through.
THROUGH = (1, 8)

#: Most products that fields are fitted to. The tolerance is beyond reach, so that as many are measured as lower the error.
PROBES, TOLERANCE = (32, 64, 96, 192), 1e-6

#: Unseen states that are drawn, and the seed of the draw.
STATES, SEED = 32, 0

#: Names of the two kinds of states.
DRAWN, FIRST = "drawn", "first"


class Truth:
    """Exact products of a flow at unseen states, computed when they are first needed."""

    def __init__(self, flow: Flow, test: Trajectories) -> None:
        self._flow, self._test = flow, test

    @cached_property
    def exact(self) -> dict[str, ExactProducts]:
        """Exact products at frames that are drawn, and at first ones."""
        cases: dict[str, Cases] = {DRAWN: random_frames(self._test, STATES, SEED), FIRST: first_frames(self._test)}
        return {kind: ExactProducts(build_solver(self._flow.twin), some, THROUGH) for kind, some in cases.items()}


def measure_error_bars(name: str, flow: Flow, output: Path, train: Trajectories, test: Trajectories) -> None:
    """Measure the error bars of a flow's fields and their true errors, but those that are kept."""
    product, truth = product_of("JacobianField", flow), Truth(flow, test)
    if product is None or missing("JacobianField"):
        return
    for probes in PROBES:
        one = Component(
            product.name, {**product.args, "probes": probes, "tolerance": TOLERANCE, "check_every": None, "seed": probes}
        )
        path, title = error_bar_path(output, name, probes), f"{name}: error bar of {probes} products"
        measure_once(path, title, partial(_measure, one, flow, train, truth))


def error_bar_path(output: Path, flow: str, probes: int) -> Path:
    """Return the file of an error bar."""
    return output / "error_bars" / flow / f"{probes}.json"


def _measure(product: Component, flow: Flow, train: Trajectories, truth: Truth) -> dict[str, Any]:
    """Fit a field of its own seed, so that no two have the same chains, and compare what it says with the truth."""
    layer = SolverLayer(build_solver(flow.coarse), build_vjp(product))
    costs = prepare(layer, *sample_states(train))
    assert isinstance(layer.vjp, JacobianField)
    report = layer.vjp.report
    assert report is not None
    return {
        **costs,
        "products": report.probes,
        "rank": report.rank,
        "reason": report.reason.value,
        "predicted": {str(t): float(report.cosines[t - 1]) for t in THROUGH},
        "identity": {str(t): float(report.identity[t - 1]) for t in THROUGH},
        "cosines": {kind: exact.cosines(layer) for kind, exact in truth.exact.items()},
    }
