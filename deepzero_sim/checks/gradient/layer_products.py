"""A layer's vector-Jacobian products as the gradient under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.checks.gradient.subject import (
    SampleGradients,
    Subject,
    require_same_answer,
    require_same_step,
    require_twin,
)
from deepzero_sim.checks.gradient.sweep import Vector
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import to_array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.stepping import checked_step, differentiable_step
from deepzero_sim.solver.validation import check_states


class LayerProducts(Subject):
    """Products `J^T w` of a layer at every state of a batch, with one random cotangent `w` each.

    Along `v`, the slope of `w.P(s)` is

        (w.P(s + mu v) - w.P(s - mu v)) / (2 mu)

    which must be `v.(J^T w)`. Directions and cotangents are Gaussian, and zero in padding; `mu` is in units of the state's root
    mean square.

    Args:
        layer: Layer under test.
        states: States, `(B, C, *N)`, in the solver's dtype.
        params: Parameters, `(B, K)` or None.
        seed: Seed of the cotangents.

    Raises:
        SolverError: The states do not fit the solver.
    """

    def __init__(self, layer: SolverLayer, states: Any, params: Any = None, seed: int = 0) -> None:
        self._layer, self._spec = layer, layer.solver.spec
        self._states = torch.as_tensor(states)
        self._params = None if params is None else torch.as_tensor(params)
        check_states(self._spec, to_array(self._states), "the states at which a gradient is checked", "check the data")
        self.samples = len(self._states)
        if not self.samples:
            raise ConfigError("a gradient is checked at one state or more, but none were given: pass states (B, C, *N).")
        self._w = torch.from_numpy(self._draw(self._states.shape, seed))

    def _draw(self, shape: tuple[int, ...], seed: int) -> Any:
        """Draw Gaussian numbers in the solver's dtype, zero in padding."""
        values = torch.randn(shape, generator=new_generator(seed), dtype=torch.float64)
        return (values.numpy() * self._spec.active()).astype(self._spec.dtype)

    def estimate(self) -> SampleGradients:
        before = self._layer.forward_steps, self._layer.backward_steps
        states = self._states.detach().clone().requires_grad_()
        advanced = self._layer(states, self._params)
        (products,) = torch.autograd.grad(advanced, states, self._w.to(advanced))
        steps = self._layer.forward_steps - before[0], self._layer.backward_steps - before[1]
        return SampleGradients(self._flatten(products), *steps)

    def _flatten(self, products: torch.Tensor) -> list[Vector]:
        return list((to_array(products) * self._spec.active()).reshape(self.samples, -1).astype(np.float64))

    def exact_gradients(self, twin: DifferentiableSolver) -> list[Vector]:
        require_twin(twin, self._spec)
        one = None if self._params is None else self._params[:1]
        require_same_step(twin, self._layer.solver, self._states[:1].detach(), one)
        self.steps += 1
        states = self._states.detach().clone().requires_grad_()
        advanced = differentiable_step(twin, states, self._params)
        if not bool(torch.isfinite(advanced).all()):
            raise NonFiniteError(f"what the twin {twin.spec.name!r} returned must be finite, but it holds NaN or infinity.")
        if not advanced.requires_grad:
            raise ConfigError(
                f"the twin {twin.spec.name!r} has no gradient: look for detach(), no_grad() or numpy in differentiable_step."
            )
        (products,) = torch.autograd.grad(advanced, states, self._w.to(advanced), materialize_grads=True, allow_unused=True)
        return self._flatten(products)

    def size(self, sample: int) -> float:
        """Compute `|P(s)|`, the root mean square of `w.P(s)` over all `w`."""
        part = slice(sample, sample + 1)
        params = None if self._params is None else to_array(self._params[part])
        first, second = (checked_step(self._layer.solver, to_array(self._states[part]), params) for _ in range(2))
        self.steps += 2
        apart = np.abs(first - second).max()
        require_same_answer(np.array_equal(first, second), f"solver {self._spec.name!r}", f"states up to {apart:.3g} apart")
        return float(np.linalg.norm(first.astype(np.float64)))

    def unit(self, sample: int) -> float:
        return float(np.sqrt(np.mean(np.square(to_array(self._states[sample]), dtype=np.float64)))) or 1.0

    def smallest_step(self) -> float:
        return 4 * float(np.finfo(self._spec.dtype).eps)  # Differences refuses smaller ones

    def directions(self, seeds: Sequence[int]) -> Vector:
        return np.stack([self._draw(self._spec.state_shape, seed).reshape(-1).astype(np.float64) for seed in seeds])

    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        state = to_array(self._states[sample])
        params = None if self._params is None else to_array(self._params[sample])
        probes = self._layer.probes.with_own_account()  # the steps are the check's, not the layer's
        directions = np.stack([self._draw(self._spec.state_shape, seed) for seed in seeds])
        try:  # central differences have no use for P(s)
            changes = Differences(step_size, "central").jvp(probes, state, params, state, directions)
        finally:
            self.steps += probes.steps
        w = to_array(self._w[sample]).astype(np.float64)
        return np.asarray((changes * w).reshape(len(seeds), -1).sum(1))
