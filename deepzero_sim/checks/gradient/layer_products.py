"""A layer's vector-Jacobian products as the gradient under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.checks.gradient.subject import SampleGradients, Subject, size_of_step, step_of_twin
from deepzero_sim.checks.gradient.sweep import Vector
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import to_array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.probing import split_active
from deepzero_sim.solver.contract import DifferentiableSolver


class LayerProducts(Subject):
    """Products `J^T w` of a layer at every state of a batch, with one random cotangent `w` each, of states or of inputs.

    Along `v`, the slope of `w.P(s)` is

        (w.P(s + mu v) - w.P(s - mu v)) / (2 mu)

    which must be `v.(J^T w)`. Directions and cotangents are Gaussian, and zero in padding; `mu` is in units of the root mean
    square of what is varied. Inputs of a step are channels behind the state's, as the layer's solver has them.

    Args:
        layer: Layer under test.
        states: States, `(B, C, *N)`, in the solver's dtype, with inputs behind their channels.
        params: Parameters, `(B, K)` or None.
        seed: Seed of the cotangents.
        of_inputs: True for the products of the inputs' channels, False for those of the state's own.

    Raises:
        SolverError: The states do not fit the solver.
    """

    def __init__(
        self, layer: SolverLayer, states: torch.Tensor, params: Any = None, seed: int = 0, of_inputs: bool = False
    ) -> None:
        self._layer, self._spec = layer, layer.solver.spec
        self._states = states
        self._params = None if params is None else torch.as_tensor(params)
        self.samples = len(self._states)
        own, behind = split_active(self._spec.active(), layer.probes.own_channels)
        self._of_inputs, self._varied = of_inputs, behind if of_inputs else own
        self._w = torch.from_numpy(self._draw(self._states.shape, seed, own))

    def _draw(self, shape: tuple[int, ...], seed: int, where: NDArray[np.bool_]) -> Any:
        """Draw Gaussian numbers in the solver's dtype, zero elsewhere."""
        values = torch.randn(shape, generator=new_generator(seed), dtype=torch.float64)
        return (values.numpy() * where).astype(self._spec.dtype)

    def estimate(self) -> SampleGradients:
        before = self._layer.forward_steps, self._layer.backward_steps
        states = self._states.detach().clone().requires_grad_()
        advanced = self._layer.step(states, self._params, "on the way forward")[0]
        (products,) = torch.autograd.grad(advanced, states, self._w.to(advanced))
        steps = self._layer.forward_steps - before[0], self._layer.backward_steps - before[1]
        return SampleGradients(self._flatten(products), *steps)

    def _flatten(self, products: torch.Tensor) -> list[Vector]:
        return list((to_array(products) * self._varied).reshape(self.samples, -1).astype(np.float64))

    def exact_gradients(self, twin: DifferentiableSolver) -> list[Vector]:
        states = self._states.detach().clone().requires_grad_()
        advanced = step_of_twin(twin, self._layer.solver, states, self._params)
        self.steps += 1
        (products,) = torch.autograd.grad(advanced, states, self._w.to(advanced), materialize_grads=True, allow_unused=True)
        return self._flatten(products)

    def size(self, sample: int) -> float:
        """Compute `|P(s)|`, the root mean square of `w.P(s)` over all `w`."""
        part = slice(sample, sample + 1)
        self.steps += 2
        return size_of_step(self._layer.solver, self._states[part], None if self._params is None else self._params[part])

    def unit(self, sample: int) -> float:
        state, own = to_array(self._states[sample]), self._layer.probes.own_channels
        values = state[own:] if self._of_inputs else state[:own]
        return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) or 1.0

    def smallest_step(self) -> float:
        return 4 * float(np.finfo(self._spec.dtype).eps)  # Differences refuses smaller ones

    def directions(self, seeds: Sequence[int]) -> Vector:
        return np.stack(
            [self._draw(self._spec.state_shape, seed, self._varied).reshape(-1).astype(np.float64) for seed in seeds]
        )

    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        state = to_array(self._states[sample])
        params = None if self._params is None else to_array(self._params[sample])
        probes = self._layer.probes.with_own_account()  # the steps are the check's, not the layer's
        directions = np.stack([self._draw(self._spec.state_shape, seed, self._varied) for seed in seeds])
        try:  # central differences have no use for P(s)
            changes = Differences(step_size, "central").jvp(probes, state, params, state, directions)
        finally:
            self.steps += probes.steps
        w = to_array(self._w[sample]).astype(np.float64)
        return np.asarray((changes * w).reshape(len(seeds), -1).sum(1))


class ParameterProducts(Subject):
    """Products `(dP/dp)^T w` of a layer at every state of a batch, with one random cotangent `w` each.

    Parameters are in units of their sizes over the batch, root mean squares, as those of one solver may differ by orders.

    Args:
        layer: Layer under test.
        states: States, `(B, C, *N)`, in the solver's dtype, with inputs behind their channels.
        params: Parameters, `(B, K)`.
        seed: Seed of the cotangents.
    """

    def __init__(self, layer: SolverLayer, states: torch.Tensor, params: torch.Tensor, seed: int = 0) -> None:
        self._layer, self._states, self._params = layer, states, params
        self.samples = len(states)
        own, _ = split_active(layer.solver.spec.active(), layer.probes.own_channels)
        draws = torch.randn(states.shape, generator=new_generator(seed), dtype=torch.float64)
        self._w = draws * torch.from_numpy(own)
        sizes = params.detach().double().square().mean(dim=0).sqrt()
        self._sizes = torch.where(sizes > 0, sizes, torch.ones_like(sizes))

    def estimate(self) -> SampleGradients:
        before = self._layer.forward_steps, self._layer.backward_steps
        params = self._params.detach().clone().requires_grad_()
        advanced = self._layer.step(self._states.detach(), params, "on the way forward")[0]
        (products,) = torch.autograd.grad(advanced, params, self._w.to(advanced))
        steps = self._layer.forward_steps - before[0], self._layer.backward_steps - before[1]
        return SampleGradients(self._in_units(products), *steps)

    def exact_gradients(self, twin: DifferentiableSolver) -> list[Vector]:
        params = self._params.detach().clone().requires_grad_()
        advanced = step_of_twin(twin, self._layer.solver, self._states.detach(), params)
        self.steps += 1
        (products,) = torch.autograd.grad(advanced, params, self._w.to(advanced), materialize_grads=True, allow_unused=True)
        return self._in_units(products)

    def _in_units(self, products: torch.Tensor) -> list[Vector]:
        return list((to_array(products) * to_array(self._sizes)).astype(np.float64))

    def size(self, sample: int) -> float:
        part = slice(sample, sample + 1)
        self.steps += 2
        return size_of_step(self._layer.solver, self._states[part], self._params[part])

    def unit(self, sample: int) -> float:
        return 1.0

    def smallest_step(self) -> float:
        return 4 * float(np.finfo(self._layer.solver.spec.dtype).eps)

    def directions(self, seeds: Sequence[int]) -> Vector:
        count = len(self._sizes)
        return np.stack([torch.randn(count, generator=new_generator(seed), dtype=torch.float64).numpy() for seed in seeds])

    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        params = to_array(self._params[sample]).astype(np.float64)
        moves = step_size * self.directions(seeds) * to_array(self._sizes)
        both = np.concatenate([params + moves, params - moves]).astype(to_array(self._params).dtype)
        probes = self._layer.probes.with_own_account()
        try:
            advanced = probes(np.repeat(to_array(self._states[sample])[None], len(both), axis=0), both)
        finally:
            self.steps += probes.steps
        ahead, behind = np.split(advanced.astype(np.float64), 2)
        changes = (ahead - behind) / (2 * step_size)
        return np.asarray((changes * to_array(self._w[sample])).reshape(len(seeds), -1).sum(1))
