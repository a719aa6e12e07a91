"""Products through one and more steps against those of the exact twin, and what they cost.

The states are unseen ones: rollouts of the coarse solver from the first frames of the test simulations. Two kinds of `w`: the
difference of two simulations' states, as errors of a rollout are, and white noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import Exact, StepTaken
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.training.build import build_vjp
from deepzero_sim.training.runs.trained_run import sample_states

#: Numbers of steps that products go through.
THROUGH = (1, 8, 32)

#: Repeated calls whose fastest is a time.
REPEATS = 5

#: Products `J_1^T ... J_T^T w` by kind of `w` and number of steps, `(B, n)` each.
_Products: TypeAlias = dict[str, dict[int, torch.Tensor]]


def measure_products(product: Component, solver: Component, train: Trajectories, exact: ExactProducts) -> dict[str, Any]:
    """Measure a method's cosines to the exact products, and its costs.

    Args:
        product: Vector-Jacobian product.
        solver: Coarse solver.
        train: Training data, whose states it is prepared with.
        exact: Products of the twin.

    Returns:
        Cosines of every simulation by kind of `w` and number of steps; solver steps and seconds to prepare; solver steps and
        seconds of a product, and the seconds of the solver's step of as many states; what the method says of its own error.
    """
    layer = SolverLayer(build_solver(solver), build_vjp(product))
    states, params = sample_states(train)
    began = time.perf_counter()
    with single_threaded():
        layer.vjp.prepare(states, params, layer.probes)
    seconds, steps = time.perf_counter() - began, layer.backward_steps
    cosines = exact.compare(layer)
    before = layer.backward_steps
    per_product = _seconds(lambda: exact.one_product(layer))
    asked = layer.backward_steps - before
    return {
        "cosines": cosines,
        "solver_steps_to_prepare": steps,
        "seconds_to_prepare": seconds,
        "solver_steps_per_product": asked / (REPEATS + 1) / len(exact.states),
        "seconds_per_product": per_product,
        "seconds_per_step": _seconds(lambda: layer.solver.step(exact.states, exact.params)),
        "states": len(exact.states),
        "says": "" if (report := getattr(layer.vjp, "report", None)) is None else str(report),
    }


def _seconds(call: Callable[[], object]) -> float:
    """Time a call: the fastest of some, after one that compiles and fills caches."""
    times = []
    with single_threaded():
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return min(times[1:])


class ExactProducts:
    """Exact products of a flow at unseen states.

    Args:
        twin: Differentiable solver.
        test: Unseen simulations.

    Attributes:
        states: First states, `(B, C, *N)`.
        params: Their parameters `(B, K)`, or None.
    """

    def __init__(self, twin: Solver, test: Trajectories) -> None:
        self.states: Array = np.ascontiguousarray(test.frames[:, 0])
        self.params: Array | None = test.params if test.params.shape[1] else None
        self._advanced = twin.step(self.states, self.params)
        active = torch.from_numpy(twin.spec.active())
        start = torch.from_numpy(self.states)
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
        self._w = {"difference": (start - start.roll(1, 0)) * active, "noise": noise * active}
        if self.params is not None:  # simulations of one initial state hardly differ at first
            later = torch.from_numpy(np.ascontiguousarray(test.frames[:, test.frames.shape[1] // 2]))
            self._w["difference"] = (start - later) * active
        self._exact = self._products(SolverLayer(twin, Exact()))

    def compare(self, layer: SolverLayer) -> dict[str, dict[str, list[float | None]]]:
        """Compute a layer's cosines to the exact products, by kind and number of steps; None for what is not finite."""
        products = self._products(layer)
        return {
            kind: {str(t): _cosines(product, self._exact[kind][t]) for t, product in by_steps.items()}
            for kind, by_steps in products.items()
        }

    def one_product(self, layer: SolverLayer) -> None:
        """Ask a layer for the product of one step."""
        taken = StepTaken(self.states, self.params, self._advanced)
        layer.vjp.product(taken, self._w["difference"].numpy(), layer.probes)

    def _products(self, layer: SolverLayer) -> _Products:
        """Roll out once for every number of steps, and go back with each `w`."""
        products: _Products = {kind: {} for kind in self._w}
        params = None if self.params is None else torch.from_numpy(self.params)
        for steps in THROUGH:
            first = torch.from_numpy(self.states.copy()).requires_grad_()
            with single_threaded():
                states = first
                for _ in range(steps):
                    states = layer(states, params)
                for kind, w in self._w.items():
                    (product,) = torch.autograd.grad(states, first, w, retain_graph=True)
                    products[kind][steps] = product.flatten(1)
        return products


def _cosines(product: torch.Tensor, exact: torch.Tensor) -> list[float | None]:
    cosines = torch.nn.functional.cosine_similarity(product.double(), exact.double())
    return [float(cosine) if bool(cosine.isfinite()) else None for cosine in cosines]


def products_path(output: Path, flow: str, method: str) -> Path:
    """Return the file of what was measured of a method's products for a flow."""
    return output / "products" / flow / f"{method}.json"
