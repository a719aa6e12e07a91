"""Products through one and more steps against those of the exact twin, and what they cost.

The states are those of rollouts of the coarse solver from frames of unseen simulations. Three kinds of `w`: the difference of
two states, as errors of a long rollout are, the coarse solver's own error, which is rougher, and white noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

#: Kinds of `w`, and steps after which the coarse solver's own error is one.
KINDS, ERROR_AFTER = ("difference", "error", "noise"), 8

#: Most repeated calls whose fastest is a time, and seconds after which they are enough.
REPEATS, ENOUGH = 40, 20.0

#: Products `J_1^T ... J_T^T w` by kind of `w` and number of steps, `(B, n)` each.
_Products: TypeAlias = dict[str, dict[int, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Cases:
    """States to compare products at.

    Args:
        states: First states of rollouts, `(B, C, *N)`.
        params: Their scenario parameters, `(B, K)`, or None.
        differences: Differences to other states, `(B, C, *N)`.
        errors: Errors of the coarse solver, `(B, C, *N)`; None where there is no reference.
    """

    states: Array
    params: Array | None
    differences: Array
    errors: Array | None = None


def first_frames(test: Trajectories) -> Cases:
    """Take the first frames of simulations, and their differences to each other."""
    states = np.ascontiguousarray(test.frames[:, 0])
    if not test.params.shape[1]:
        return Cases(states, None, states - np.roll(states, 1, 0))
    later = test.frames[:, test.frames.shape[1] // 2]  # simulations of one initial state hardly differ at first
    return Cases(states, test.params, states - later)


def with_errors(cases: Cases, solver: Solver, test: Trajectories) -> Cases:
    """Add the errors of a coarse solver, some steps after the first frames."""
    states, steps = cases.states, min(ERROR_AFTER, test.frames.shape[1] - 1)
    for _ in range(steps):
        states = solver.step(states, cases.params)
    return replace(cases, errors=states - test.frames[:, steps])


def random_frames(test: Trajectories, count: int, seed: int) -> Cases:
    """Draw frames of simulations, and others that they differ from, as a Jacobian field draws from its data."""
    generator = np.random.default_rng(seed)
    simulations, frames = test.frames.shape[:2]
    chosen = generator.choice(simulations * frames, min(2 * count, simulations * frames), replace=False)
    one, other = (np.unravel_index(part, (simulations, frames)) for part in np.array_split(chosen[: len(chosen) // 2 * 2], 2))
    params = test.params[one[0]] if test.params.shape[1] else None
    return Cases(test.frames[one], params, test.frames[one] - test.frames[other])


def prepare(layer: SolverLayer, states: Array, params: Array | None) -> dict[str, Any]:
    """Prepare a method at states of the data.

    Returns:
        Solver steps, seconds, and seconds of a core, which other work on the machine makes no longer.
    """
    began, began_on_core = time.perf_counter(), time.process_time()
    with single_threaded():
        layer.vjp.prepare(states, params, layer.probes)
    return {
        "solver_steps_to_prepare": layer.backward_steps,
        "seconds_to_prepare": time.perf_counter() - began,
        "core_seconds_to_prepare": time.process_time() - began_on_core,
    }


def measure_products(product: Component, solver: Component, train: Trajectories, exact: ExactProducts) -> dict[str, Any]:
    """Measure a method's cosines to the exact products, and its costs.

    Args:
        product: Vector-Jacobian product.
        solver: Coarse solver.
        train: Training data, whose states it is prepared with.
        exact: Products of the twin.

    Returns:
        What :func:`prepare` and :func:`compare` return.
    """
    layer = SolverLayer(build_solver(solver), build_vjp(product))
    return {**prepare(layer, *sample_states(train)), **compare(layer, exact)}


def compare(layer: SolverLayer, exact: ExactProducts) -> dict[str, Any]:
    """Compare a method that is prepared with the exact products.

    Returns:
        Cosines of every state by kind of `w` and number of steps; solver steps and seconds of a product, and the seconds of the
        solver's step of as many states; what the method says of its own error.
    """
    cosines, cases = exact.cosines(layer), exact.cases
    before = layer.backward_steps
    calls, (per_product, per_step) = _time(lambda: exact.one_product(layer), _step(layer, cases))
    asked = layer.backward_steps - before
    return {
        "cosines": cosines,
        "solver_steps_per_product": asked / calls / len(cases.states),
        "seconds_per_product": per_product,
        "seconds_per_step": per_step,
        "states": len(cases.states),
        "says": "" if (report := getattr(layer.vjp, "report", None)) is None else str(report),
    }


def seconds_per_step(layer: SolverLayer, cases: Cases) -> float:
    """Time the solver's step of all states."""
    return _time(_step(layer, cases))[1][0]


def _step(layer: SolverLayer, cases: Cases) -> Callable[[], object]:
    return lambda: layer.solver.step(cases.states, cases.params)


def _time(*calls: Callable[[], object]) -> tuple[int, list[float]]:
    """Time calls in turns: how often, and the fastest of each, after one that compiles and fills caches."""
    times: list[list[float]] = []
    with single_threaded():
        while len(times) <= REPEATS and (len(times) < 2 or np.sum(times) < ENOUGH):
            times.append([_seconds(call) for call in calls])
    return len(times), [min(some) for some in zip(*times[1:], strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class ExactProducts:
    """Exact products of a flow at unseen states.

    Args:
        twin: Differentiable solver.
        cases: States, and what they are multiplied with besides white noise.
        through: Numbers of steps that products go through.

    Attributes:
        cases: States, as they were given.
    """

    def __init__(self, twin: Solver, cases: Cases, through: Sequence[int] = THROUGH) -> None:
        self.cases = cases
        self._through = through
        self._advanced = twin.step(cases.states, cases.params)
        active = torch.from_numpy(twin.spec.active())
        noise = torch.randn(cases.states.shape, generator=torch.Generator().manual_seed(0))
        self._w = {"difference": torch.from_numpy(cases.differences) * active, "noise": noise * active}
        if cases.errors is not None:
            self._w["error"] = torch.from_numpy(cases.errors) * active
        self._exact = self._products(SolverLayer(twin, Exact()))

    def cosines(self, layer: SolverLayer) -> dict[str, dict[str, list[float | None]]]:
        """Compute a layer's cosines to the exact products, by kind and number of steps; None for what is not finite."""
        products = self._products(layer)
        return {
            kind: {str(t): _cosines(product, self._exact[kind][t]) for t, product in by_steps.items()}
            for kind, by_steps in products.items()
        }

    def one_product(self, layer: SolverLayer) -> None:
        """Ask a layer for the product of one step."""
        taken = StepTaken(self.cases.states, self.cases.params, self._advanced)
        layer.vjp.product(taken, self._w["difference"].numpy(), layer.probes)

    def _products(self, layer: SolverLayer) -> _Products:
        """Roll out once for every number of steps, and go back with each `w`."""
        products: _Products = {kind: {} for kind in self._w}
        params = None if self.cases.params is None else torch.from_numpy(self.cases.params)
        for steps in self._through:
            first = torch.from_numpy(self.cases.states.copy()).requires_grad_()
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
