"""Errors of the engine's gradient and the plain loop's, from the true gradient and from exact arithmetic.

The reference is the plain loop in float64: with central differences at a tiny step for the true gradient, and with the very
differences that are judged (scheme and step size) for exact arithmetic, from which only rounding errors differ. A random sample
of coordinates of every layer is compared, and an error is relative to the largest slope among those.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from deepzero_sim.benchmarks.cge_speed import Engine, mask_of
from deepzero_sim.benchmarks.plain_loop import Coordinate, PlainLoop
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.oracle.parameters import trainable

#: Step in float64, where rounding and curvature together leave about nine digits.
TINY_STEP = 1e-5


def errors(engine: Engine, plain: PlainLoop, count: int) -> dict[str, float]:
    """Compute the largest and the median error of both.

    Args:
        engine: Engine to be judged.
        plain: Plain loop on the same network with the same differences.
        count: Number of coordinates of every layer.
    """
    coordinates = sample(trainable(plain.model), count)
    mask = mask_of(trainable(plain.model), coordinates)
    batch = engine.batch[0].double(), _as_double(engine.batch[1])
    model = copy.deepcopy(plain.model).double()
    true = PlainLoop(model, plain.loss_function, TINY_STEP, "central").estimate(batch, mask)
    exact = PlainLoop(model, plain.loss_function, plain.step_size, plain.scheme).estimate(batch, mask)
    results = {}
    for prefix, grads in (("", engine.estimate(mask).grads), ("plain_", plain.estimate(engine.batch, mask))):
        for kind, reference in (("error", true), ("rounding_error", exact)):
            relative = relative_errors(grads, reference, mask)
            results[f"{prefix}largest_{kind}"] = float(relative.max())
            results[f"{prefix}median_{kind}"] = float(relative.median())
    return results


def _as_double(targets: torch.Tensor) -> torch.Tensor:
    return targets.double() if targets.is_floating_point() else targets


def layer_of(name: str) -> str:
    """Name the layer that a parameter belongs to."""
    return name.rpartition(".")[0]


def sample(parameters: Mapping[str, torch.Tensor], count: int) -> list[Coordinate]:
    """Draw some coordinates of every layer at random, in the order of the parameters."""
    layers: dict[str, list[Coordinate]] = {}
    for name, parameter in parameters.items():
        layers.setdefault(layer_of(name), []).extend((name, index) for index in range(parameter.numel()))
    return [layer[i] for layer in layers.values() for i in torch.randperm(len(layer))[:count].tolist()]


def relative_errors(grads: NamedTensors, reference: NamedTensors, mask: Mask) -> torch.Tensor:
    """Compute `|g - r| / max |r|` of every active coordinate, with the maximum over those of its layer, `(n,)`."""
    layers: dict[str, list[str]] = {}
    for name in mask:
        layers.setdefault(layer_of(name), []).append(name)
    return torch.cat([_relative_errors(grads, reference, mask, names) for names in layers.values()])


def _relative_errors(grads: NamedTensors, reference: NamedTensors, mask: Mask, names: Sequence[str]) -> torch.Tensor:
    slopes, expected = (torch.cat([which[name].cpu()[mask[name]] for name in names]).double() for which in (grads, reference))
    return (slopes - expected).abs() / (expected.abs().max() or 1.0)
