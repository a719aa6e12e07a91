"""Queries a second of the engine and of the plain loop, averaged over a network's parameters.

The time of a query depends on where its parameter lies. The engine is asked, as for a sparse gradient, for coordinates of all
parameter tensors at once, from each the same share of its coordinates, one at least. The plain loop has nothing to gain from
that: every tensor is timed by itself on some of its coordinates, and the mean is weighted by the number that each has.

Work that is done once a batch (the unperturbed network, in every worker) is shared by all queries of a gradient, tens of
thousands of them. So both sides are timed on a prepared batch, and the engine's preparation is measured apart. Both take turns,
so that noise hits them alike, and the fastest turn of each counts.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from deepzero_sim.benchmarks.dense_convolutions import wait_for
from deepzero_sim.benchmarks.plain_loop import Coordinate, PlainLoop
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.estimators import CGE, GradientEstimate
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable

#: Number of coordinates of the first timing, from which the number of the others is set.
FIRST = 64


class Engine:
    """Engine on one batch, which is prepared once.

    Args:
        oracle: Oracle that answers the queries.
        cge: Estimator that asks them.
        batch: Inputs and targets.
    """

    def __init__(self, oracle: ModelOracle, cge: CGE, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.oracle = oracle
        self.cge = cge
        self.batch = batch
        self._prepared = oracle.prepare(batch)

    def answer(self, coordinates: Sequence[Coordinate]) -> None:
        """Ask for the slopes along some coordinates."""
        self.oracle.ask(self._prepared, self.cge.queries(positions_of(coordinates)))

    def estimate(self, mask: Mask) -> GradientEstimate:
        """Estimate the gradient along the coordinates of a mask, with all that is done once a batch."""
        return self.cge.estimate(self.oracle, self.batch, mask=mask)

    def preparation_seconds(self) -> float:
        """Time the work once a batch, here and in a worker, together with the cheapest query, which takes next to nothing."""
        mask = mask_of(trainable(self.oracle.model), [(list(trainable(self.oracle.model))[-1], 0)])
        return _seconds(functools.partial(self.estimate, mask), self.batch[0].device)


class Seconds(NamedTuple):
    """Seconds of a query: the engine's, and the plain loop's in either memory format."""

    engine: float
    plain: float
    plain_channels_last: float


def positions_of(coordinates: Sequence[Coordinate]) -> NamedTensors:
    """Group the flat positions of coordinates by parameter."""
    positions: dict[str, list[int]] = {}
    for name, index in coordinates:
        positions.setdefault(name, []).append(index)
    return {name: torch.tensor(some) for name, some in positions.items()}


def mask_of(parameters: Mapping[str, torch.Tensor], coordinates: Sequence[Coordinate]) -> NamedTensors:
    """Make a mask of some coordinates."""
    return {name: _active(parameters[name], positions) for name, positions in positions_of(coordinates).items()}


def _active(parameter: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    active = torch.zeros(parameter.numel(), dtype=torch.bool)
    active[positions] = True
    return active.view(parameter.shape)


def sample_evenly(parameters: Mapping[str, torch.Tensor], count: int) -> list[Coordinate]:
    """Draw about `count` coordinates at random: the same share of every tensor's, one at least."""
    share = count / sum(p.numel() for p in parameters.values())
    chosen = {name: torch.randperm(p.numel())[: max(1, round(share * p.numel()))] for name, p in parameters.items()}
    return [(name, i) for name, some in chosen.items() for i in some.tolist()]


def mean_seconds(engine: Engine, plain: Sequence[PlainLoop], seconds: float, repeats: int) -> Seconds:
    """Time a query, averaged over the network's parameters.

    Args:
        engine: Engine to be timed.
        plain: Plain loop, contiguous and channels-last.
        seconds: Seconds that a timing should take.
        repeats: Number of timings of each.
    """
    device, coordinates = engine.batch[0].device, _enough(engine, seconds)
    time_loops = [_loop_timer(loop, engine.batch, seconds) for loop in plain]
    calls = [lambda: _seconds(functools.partial(engine.answer, coordinates), device) / len(coordinates), *time_loops]
    of_engine, *of_loops = (min(turns) for turns in zip(*([call() for call in calls] for _ in range(repeats)), strict=True))
    steps = 2 if engine.cge.scheme == "central" else 1  # queries a coordinate
    return Seconds(of_engine / steps, *(of_loop / steps for of_loop in of_loops))


def _enough(engine: Engine, seconds: float) -> list[Coordinate]:
    """Draw as many coordinates as the engine takes some seconds for, or all of them; the engine is warm afterwards."""
    parameters, device = trainable(engine.oracle.model), engine.batch[0].device
    total, count = sum(p.numel() for p in parameters.values()), FIRST
    while True:
        coordinates = sample_evenly(parameters, min(count, total))
        engine.answer(coordinates)  # warm-up of queries that are asked for the first time
        taken = _seconds(functools.partial(engine.answer, coordinates), device)
        if taken > seconds / 4 or count >= total:
            return sample_evenly(parameters, min(total, math.ceil(len(coordinates) * seconds / taken)))
        count = math.ceil(count * min(8.0, 1.2 * seconds / taken))


def _loop_timer(loop: PlainLoop, batch: tuple[torch.Tensor, torch.Tensor], seconds: float) -> Callable[[], float]:
    """Make a function that measures the mean seconds of a coordinate, in about some seconds."""
    device, prepared, parameters = batch[0].device, loop.prepare(batch), trainable(loop.model)
    counts = {name: parameter.numel() for name, parameter in parameters.items()}
    samples = {name: [(name, i) for i in torch.randperm(count).tolist()] for name, count in counts.items()}
    for name, sample in samples.items():
        loop.slopes(prepared, sample[:1])  # warm-up
        taken = _seconds(functools.partial(loop.slopes, prepared, sample[:1]), device)
        samples[name] = sample[: math.ceil(seconds / len(samples) / taken)]

    def mean() -> float:
        each = {
            name: _seconds(functools.partial(loop.slopes, prepared, sample), device) / len(sample)
            for name, sample in samples.items()
        }
        return sum(counts[name] * taken for name, taken in each.items()) / sum(counts.values())

    return mean


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started
