"""Methods whose corrected steps are one computation: the same layers of the same sizes, whatever their weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch

from deepzero_sim.coupling.loop import SolverLoop

#: Attributes that every module has, which say nothing of what it computes.
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))


def alike(loops: Mapping[str, SolverLoop]) -> list[list[str]]:
    """Group the methods whose correctors compute the same, and leave out those that are alone.

    Args:
        loops: Loops by method, all of one solver.
    """
    groups: dict[Hashable, list[str]] = {}
    for name, loop in loops.items():
        groups.setdefault(_computation(loop.corrector), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _computation(corrector: torch.nn.Module) -> Hashable:
    """Return the layers of a network, with their settings and the sizes of what they hold."""
    layers = [(name, type(layer), _settings(layer)) for name, layer in corrector.named_modules()]
    held = [*corrector.named_parameters(), *corrector.named_buffers()]
    return tuple(layers), tuple((name, tuple(one.shape), one.dtype, one.device) for name, one in held)


def _settings(layer: torch.nn.Module) -> Hashable:
    own = {name: value for name, value in vars(layer).items() if name not in _OF_EVERY_MODULE}
    return layer.training, tuple((name, _known_by(value)) for name, value in sorted(own.items()))


def _known_by(value: Any) -> Hashable:
    """Return what tells a setting from others: its value if it is simple, or the object itself."""
    if isinstance(value, list | tuple):
        return tuple(_known_by(one) for one in value)
    return (type(value), value) if value is None or isinstance(value, bool | int | float | str) else id(value)
