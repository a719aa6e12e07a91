"""Queries a second of the engine and of the plain loop, averaged over a network's parameters.

How long a query takes depends on where its parameter lies, so every parameter tensor is timed by itself on a sample of its
coordinates, and the mean is weighted by how many coordinates each has. Tensors too small to keep the engine's workers busy
(batch norm, biases) are timed together and whole, as a gradient asks for them, or some of them if they are many.

What is done once a batch (the network as it is, in every worker) is shared by all queries of a gradient, tens of thousands
of them. So both sides are timed on a batch that is prepared, and what the engine takes to prepare it is measured apart.
Calls take turns, so that noise hits all alike, and the fastest of each counts.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from deepzero_sim.benchmarks.dense_convolutions import wait_for
from deepzero_sim.benchmarks.plain_loop import Coordinate, PlainLoop
from deepzero_sim.estimator import CGE, GradientEstimate
from deepzero_sim.oracle import ModelOracle
from deepzero_sim.perturbation import trainable
from deepzero_sim.types import Mask, NamedTensors

_T = TypeVar("_T")


class Engine:
    """The engine on one batch, which is prepared once.

    Args:
        oracle: answers its queries.
        cge: asks them.
        batch: inputs and targets.
        at_once: coordinates that keep all workers busy, at least.
    """

    def __init__(self, oracle: ModelOracle, cge: CGE, batch: tuple[torch.Tensor, torch.Tensor], at_once: int) -> None:
        self.oracle = oracle
        self.cge = cge
        self.batch = batch
        self.at_once = at_once
        self._prepared = oracle.prepare(batch)

    def answer(self, coordinates: Sequence[Coordinate]) -> None:
        """Ask for the slopes along some coordinates."""
        self.oracle.ask(self._prepared, self.cge.queries(positions_of(coordinates)))

    def estimate(self, mask: Mask) -> GradientEstimate:
        """The gradient along the coordinates of a mask, with all that is done once a batch."""
        return self.cge.estimate(self.oracle, self.batch, mask=mask)

    def preparation_seconds(self) -> float:
        """What is done once a batch, here and in a worker, and the cheapest query, which is next to nothing."""
        mask = mask_of(trainable(self.oracle.model), [(list(trainable(self.oracle.model))[-1], 0)])
        return _seconds(functools.partial(self.estimate, mask), self.batch[0].device)


class Seconds(NamedTuple):
    """What a query takes: the engine's, and the plain loop's in either memory format."""

    engine: float
    plain: float
    plain_channels_last: float


def positions_of(coordinates: Sequence[Coordinate]) -> NamedTensors:
    """By parameter, the flat positions of some coordinates."""
    positions: dict[str, list[int]] = {}
    for name, index in coordinates:
        positions.setdefault(name, []).append(index)
    return {name: torch.tensor(some) for name, some in positions.items()}


def mask_of(parameters: Mapping[str, torch.Tensor], coordinates: Sequence[Coordinate]) -> NamedTensors:
    """Some coordinates as a mask."""
    return {name: _active(parameters[name], positions) for name, positions in positions_of(coordinates).items()}


def _active(parameter: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    active = torch.zeros(parameter.numel(), dtype=torch.bool)
    active[positions] = True
    return active.view(parameter.shape)


class Group(NamedTuple):
    """Coordinates that are timed together.

    Args:
        coordinates: of one parameter tensor, in random order; or of several, one after the other.
        parameters: of the network, that these stand for.
        whole: whether they are asked for all at once, or as few as take long enough.
    """

    coordinates: list[Coordinate]
    parameters: int
    whole: bool


def groups_of(parameters: Mapping[str, torch.Tensor], least: int) -> list[Group]:
    """A group for every tensor of at least `least` coordinates, and one for all smaller tensors."""
    orders = {name: [(name, i) for i in torch.randperm(p.numel()).tolist()] for name, p in parameters.items()}
    large = [Group(order, len(order), False) for order in orders.values() if len(order) >= least]
    small = [order for order in orders.values() if len(order) < least]
    return [*large, _together(small, 2 * least)] if small else large


def _together(orders: Sequence[list[Coordinate]], most: int) -> Group:
    """One group of several tensors: a random choice of them, of about `most` coordinates."""
    chosen: list[Coordinate] = []
    for order in _shuffled(orders):
        if len(chosen) < most:
            chosen += order
    return Group(chosen, sum(map(len, orders)), True)


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
    device, (first, prepared) = engine.batch[0].device, plain[0]
    asked = _enough(group, engine, seconds)
    order = _shuffled(group.coordinates)
    first.slopes(prepared, order[:1])  # warm-up
    looped = order[: math.ceil(seconds / _seconds(lambda: first.slopes(prepared, order[:1]), device))]
    calls: list[Callable[[], object]] = [functools.partial(engine.answer, asked)]
    calls += [functools.partial(loop.slopes, what, looped) for loop, what in plain]
    of_engine, *of_loops = _fastest(calls, repeats, device)
    steps = 2 if first.scheme == "central" else 1  # queries a coordinate
    return Seconds(of_engine / len(asked) / steps, *(of_loop / len(looped) / steps for of_loop in of_loops))


def _enough(group: Group, engine: Engine, seconds: float) -> list[Coordinate]:
    """As many coordinates of a group as the engine takes some seconds for, or all of them."""
    device, coordinates = engine.batch[0].device, group.coordinates
    most = len(coordinates)
    count = most if group.whole else min(engine.at_once, most)
    engine.answer(coordinates[:count])  # warm-up
    while count < most:
        taken = _seconds(functools.partial(engine.answer, coordinates[:count]), device)
        if taken >= seconds:
            break
        growth = min(8.0, 1.2 * seconds / taken)
        count = min(most, engine.at_once * max(math.ceil(count * growth / engine.at_once), count // engine.at_once + 1))
    return coordinates[:count]


def _fastest(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """The fewest seconds each call took, in turns."""
    rounds = [[_seconds(call, device) for call in calls] for _ in range(repeats)]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started
