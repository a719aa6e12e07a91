"""Queries a second of the engine and of the plain loop, averaged over a network's parameters.

How long a query takes depends on where its parameter lies, so every parameter tensor is timed by itself on a sample of its
coordinates, and the mean is weighted by how many coordinates each has. Tensors too small to keep the engine's workers busy
(batch norm, biases) are timed together and whole, as a gradient asks for them, or some of them if they are many.

What the engine does once a batch (activations of the network as it is, sending them to workers) is part of a call but shared
by all queries of a gradient, tens of thousands of them. So `n` and `2 n` coordinates are timed, and the difference is what
`n` of them take. The plain loop prepares its batch beforehand, outside of what is timed. Calls take turns, so that noise hits
all alike, and the fastest of each counts.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from deepzero_sim.benchmarks.dense_convolutions import wait_for
from deepzero_sim.benchmarks.plain_loop import Coordinate, PlainLoop
from deepzero_sim.estimator import CGE, GradientEstimate
from deepzero_sim.oracle import ModelOracle
from deepzero_sim.perturbation import trainable
from deepzero_sim.types import Mask, NamedTensors

_T = TypeVar("_T")


@dataclass(frozen=True)
class Engine:
    """The engine on one batch.

    Args:
        oracle: answers its queries.
        cge: asks them.
        batch: inputs and targets.
        at_once: coordinates that keep all workers busy, at least.
    """

    oracle: ModelOracle
    cge: CGE
    batch: tuple[torch.Tensor, torch.Tensor]
    at_once: int

    def estimate(self, coordinates: Sequence[Coordinate]) -> GradientEstimate:
        """The gradient along some coordinates."""
        return self.estimate_masked(mask_of(trainable(self.oracle.model), coordinates))

    def estimate_masked(self, mask: Mask) -> GradientEstimate:
        """The gradient along those of a mask."""
        return self.cge.estimate(self.oracle, self.batch, mask=mask)


class Seconds(NamedTuple):
    """What a query takes: the engine's, and the plain loop's in either memory format."""

    engine: float
    plain: float
    plain_channels_last: float


def mask_of(parameters: Mapping[str, torch.Tensor], coordinates: Sequence[Coordinate]) -> NamedTensors:
    """Some coordinates as a mask."""
    indices: dict[str, list[int]] = {}
    for name, index in coordinates:
        indices.setdefault(name, []).append(index)
    return {name: _active(parameters[name], torch.tensor(some)) for name, some in indices.items()}


def _active(parameter: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    active = torch.zeros(parameter.numel(), dtype=torch.bool)
    active[indices] = True
    return active.view(parameter.shape)


@dataclass(frozen=True)
class Group:
    """Coordinates that are timed together.

    Args:
        coordinates: of one parameter tensor, in random order; or of several, one after the other, in random order.
        parameters: of the network, that these stand for.
        split: of several tensors, where the second half of them begins.
    """

    coordinates: list[Coordinate]
    parameters: int
    split: int | None = None


def groups_of(parameters: Mapping[str, torch.Tensor], least: int) -> list[Group]:
    """A group for every tensor of at least `least` coordinates, and one for all smaller tensors."""
    orders = {name: [(name, i) for i in torch.randperm(p.numel()).tolist()] for name, p in parameters.items()}
    large = [Group(order, len(order)) for order in orders.values() if len(order) >= least]
    small = [order for order in orders.values() if len(order) < least]
    return [*large, _together(small, 2 * least)] if small else large


def _together(orders: Sequence[list[Coordinate]], most: int) -> Group:
    """One group of several tensors: a random choice of them, of about `most` coordinates."""
    chosen: list[list[Coordinate]] = []
    for order in _shuffled(orders):
        if len(chosen) < 2 or sum(map(len, chosen)) < most:
            chosen.append(order)
    first, second = ([c for order in half for c in order] for half in (chosen[::2], chosen[1::2]))
    return Group([*first, *second], sum(map(len, orders)), len(first) if second else None)


def _shuffled(things: Sequence[_T]) -> list[_T]:
    return [things[i] for i in torch.randperm(len(things)).tolist()]


def mean_seconds(engine: Engine, plain: Sequence[PlainLoop], seconds: float, repeats: int) -> Seconds:
    """Seconds of a query, averaged over the network's parameters.

    Args:
        engine: to be timed.
        plain: the plain loop, contiguous and channels-last.
        seconds: that a timing should take.
        repeats: timings of each thing.
    """
    prepared = [(loop, loop.prepare(engine.batch)) for loop in plain]
    groups = groups_of(trainable(engine.oracle.model), 4 * engine.at_once)
    total = torch.zeros(3, dtype=torch.float64)
    for group in groups:
        taken = _seconds_of(group, engine, prepared, seconds, repeats)
        total += group.parameters * torch.tensor(taken, dtype=torch.float64)
    return Seconds(*(total / sum(group.parameters for group in groups)).tolist())


def _seconds_of(group: Group, engine: Engine, plain: Sequence[tuple[PlainLoop, Any]], seconds: float, repeats: int) -> Seconds:
    """Seconds of a query of one group."""
    device, few_and_many = engine.batch[0].device, _few_and_many(group, engine, seconds)
    masks = [mask_of(trainable(engine.oracle.model), coordinates) for coordinates in few_and_many]
    order, (first, prepared) = _shuffled(group.coordinates), plain[0]
    first.slopes(prepared, order[:1])  # warm-up
    looped = order[: math.ceil(seconds / _seconds(lambda: first.slopes(prepared, order[:1]), device))]
    calls: list[Callable[[], object]] = [functools.partial(engine.estimate_masked, mask) for mask in masks]
    calls += [functools.partial(loop.slopes, what, looped) for loop, what in plain]
    of_few, of_many, *of_loops = _fastest(calls, repeats, device)
    few, many = map(len, few_and_many)
    # where noise hides the difference, the whole call with what is done once a batch is an upper bound
    of_engine = (of_many - of_few) / (many - few) if of_many > of_few else of_many / many
    steps = 2 if first.scheme == "central" else 1  # queries a coordinate
    return Seconds(of_engine / steps, *(of_loop / len(looped) / steps for of_loop in of_loops))


def _few_and_many(group: Group, engine: Engine, seconds: float) -> tuple[list[Coordinate], list[Coordinate]]:
    """Coordinates of a group, and about twice as many, whose difference in time says what a query takes."""
    if group.split is not None:
        return group.coordinates[: group.split], group.coordinates
    count = _enough(group.coordinates, engine, seconds)
    return group.coordinates[:count], group.coordinates[: 2 * count]


def _enough(group: Sequence[Coordinate], engine: Engine, seconds: float) -> int:
    """How many coordinates of a group the engine takes some seconds for, half of the group at most."""
    device, most = engine.batch[0].device, max(1, len(group) // 2)
    count = min(engine.at_once, most)
    engine.estimate(group[:count])  # warm-up
    once = _seconds(functools.partial(engine.estimate, group[:1]), device)
    while count < most:
        taken = _seconds(functools.partial(engine.estimate, group[:count]), device) - once
        if taken >= seconds:
            break
        growth = min(8.0, 1.2 * seconds / taken) if taken > 0 else 8.0
        count = min(most, engine.at_once * max(math.ceil(count * growth / engine.at_once), count // engine.at_once + 1))
    return count


def _fastest(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """The fewest seconds each call took, in turns."""
    rounds = [[_seconds(call, device) for call in calls] for _ in range(repeats)]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started
