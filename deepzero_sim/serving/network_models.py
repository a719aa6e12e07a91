"""Trained networks as models: the loss of a network's parameters on a batch, and its present parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.module_state import preserve_state, write
from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.types import NamedTensors, to_array
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.serving.model import ServedModel, config_integer


class ServedLoss(ServedModel):
    """The loss of a network as a model: all its trained parameters in one vector in, `(1,)` out.

    Parameters stand in the order of `named_parameters()`, each flat. After every evaluation the network is what it was. The
    config may hold `batch`, the number of the batch (0).

    Args:
        oracle: Oracle of the loss.
        batches: Function from a number to the batch, as the oracle takes it.
    """

    def __init__(self, oracle: Oracle, batches: Callable[[int], Any]) -> None:
        require_type(oracle, Oracle, "expected a dz.LoopOracle or another oracle to serve")
        self.oracle = oracle
        self.batches = batches

    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [_size(self.oracle.model)]

    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [1]

    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        model, batch = self.oracle.model, self.batches(config_integer(config, "batch", 0, 0))
        with preserve_state(model), torch.no_grad(), single_threaded():
            write(model, _unflatten(model, inputs[0]))
            loss = float(self.oracle.differentiable_loss(batch)[0])
        require_finite(loss)
        return [np.array([loss])]


class ServedParameters(ServedModel):
    """A network's trained parameters as a model without inputs: where a search for smaller losses can start.

    Args:
        network: Network with the parameters.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return []

    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [_size(self.network)]

    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        return [np.concatenate([to_array(p).astype(np.float64).reshape(-1) for p in trainable(self.network).values()])]


def _size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in trainable(network).values())


def _unflatten(network: torch.nn.Module, vector: Vector) -> NamedTensors:
    """Split a vector into the network's parameters."""
    parameters = trainable(network)
    parts = torch.split(torch.from_numpy(vector), [parameter.numel() for parameter in parameters.values()])
    return {name: part.view(parameters[name].shape) for name, part in zip(parameters, parts, strict=True)}
