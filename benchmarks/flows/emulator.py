"""Products of a network that imitates the solver's step (Frezat et al., arXiv 2310.19385): back-propagation through it.

    P(s) ~ s + a E(s),   a the size of an increment in units of the state's deviation

`E` has the form of a corrector and is trained on pairs `(s, P(s))`: steps from the states of the data, and some from where
these arrive, as a rollout would. Its gradient is used in place of the solver's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models.corrector import Corrector
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.build import warm_up_cosine
from deepzero_sim.training.runs.trained_run import build_corrector


@final
class Emulator(VectorJacobianProduct):
    """Product through a network that was trained to imitate the solver.

    Args:
        network: Name of a corrector, whose form it has.
        args: Arguments of that corrector.
        steps: Steps of the solver from each state that it is prepared with: as many pairs, and solver steps, of each.
        updates: Updates of its training.
        batch_size: Pairs of an update.
        rate: Largest learning rate of Adam, which follows half a cosine.
        seed: Seed of weights and batches.
    """

    def __init__(
        self,
        network: str,
        args: Mapping[str, Any],
        steps: int = 4,
        updates: int = 1000,
        batch_size: int = 16,
        rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        self._component = Component(network, dict(args))
        self._steps, self._updates, self._batch_size, self._rate, self._seed = steps, updates, batch_size, rate, seed
        self._network: nn.Module | None = None
        self._size = 1.0
        self._stored: dict[str, Array] = {}

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        self.bind(probes.solver)
        befores, afters, current = [], [], states
        for _ in range(self._steps):
            after = probes(current, params)
            befores.append(current)
            afters.append(after)
            current = after
        repeated = None if params is None else np.concatenate([params] * self._steps)
        with single_threaded(), torch.enable_grad():
            self._train(probes.spec, np.concatenate(befores), np.concatenate(afters), repeated)

    def _train(self, spec: SolverSpec, before: Array, after: Array, params: Array | None) -> None:
        network = build_corrector(self._component, spec, self._seed)
        rows = np.empty((len(before), 0), dtype=before.dtype) if params is None else params
        data = Trajectories(before[:, None], rows, spec.active())
        if not isinstance(network, Corrector):
            raise ConfigError(f"an emulator needs one of the correctors, not {self._component.name!r}: name another network.")
        network.set_scales(data)
        scale = torch.from_numpy(data.scales()[0]).float().view(-1, *[1] * (before.ndim - 2))
        increments = (torch.from_numpy(after - before) / scale) * network.active
        self._size = float(increments.square().mean().sqrt())
        targets, states = increments / self._size, torch.from_numpy(before)
        scenario = None if params is None else torch.from_numpy(params)
        optimiser = torch.optim.Adam(network.parameters(), lr=self._rate)
        schedule = warm_up_cosine(optimiser, self._updates)
        random = np.random.default_rng(self._seed)
        for _ in range(self._updates):
            batch = torch.from_numpy(random.integers(len(states), size=self._batch_size))
            made = network(states[batch], None if scenario is None else scenario[batch]) / scale
            loss = (made - targets[batch]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        self._network = network

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        network = self._network or self._restore(probes.spec)
        if network is None:
            self.prepare(taken.states, taken.params, probes)
            network = self._network
        assert network is not None
        states = torch.from_numpy(taken.states.copy()).requires_grad_()
        params = None if taken.params is None else torch.from_numpy(taken.params.copy())
        w = torch.from_numpy(cotangents.copy())
        with torch.enable_grad():
            (product,) = torch.autograd.grad(network(states, params), states, w)
        return np.asarray((w + self._size * product).numpy() * probes.spec.active(), dtype=cotangents.dtype)

    def _restore(self, spec: SolverSpec) -> nn.Module | None:
        """Rebuild the network that a checkpoint has; None if there is none."""
        if not self._stored:
            return None
        stored = {name: torch.from_numpy(array) for name, array in self._stored.items()}
        self._size = float(stored.pop("size"))
        network = build_corrector(self._component, spec, self._seed)
        network.load_state_dict(stored)
        self._network, self._stored = network, {}
        return network

    def state_dict(self) -> dict[str, Array]:
        if self._network is None:
            return dict(self._stored)
        weights = {name: tensor.detach().numpy().copy() for name, tensor in self._network.state_dict().items()}
        return {**weights, "size": np.array(self._size)}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self._network, self._stored = None, dict(state_dict)
