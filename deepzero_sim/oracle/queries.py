"""Perturbations of a network's parameters, name_query by coordinate or seed and step: what an oracle is asked for.

A query asks for the network at `theta + step * v`, where `v` is a single coordinate or a random direction; or, for whoever
has no use for either, at any other place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.errors import ConfigError


@dataclass(frozen=True)
class Coordinates:
    """`P` perturbations of one coordinate each, all in the same parameter: `theta + steps[p] * e_indices[p]`.

    Args:
        name: the parameter, as in `named_parameters()`.
        indices: flat positions in it, `P` of them.
        steps: signed steps, `P` of them.
    """

    name: str
    indices: tuple[int, ...]
    steps: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Directions:
    """`P` perturbations along random unit directions: `theta + steps[p] * u(seeds[p])`, `u` zero outside the mask.

    Directions are drawn anew from their seeds wherever they are used, and never sent about.
    """

    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    mask: Mask | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class CoordinateBatch:
    """Perturbations of one coordinate each, in several parameters: the queries of all parts, one part after the other."""

    parts: tuple[Coordinates, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, eq=False)
class Displacements:
    """`P` perturbations of all parameters at once, written out: `theta + moves[p]`. They are sent about as they are.

    Args:
        moves: `(P, d)`, over the trained parameters in the order of `named_parameters()`, each flattened.
    """

    moves: torch.Tensor

    def __len__(self) -> int:
        return len(self.moves)


Perturbation: TypeAlias = Coordinates | Directions | CoordinateBatch | Displacements


#: What a chunk may hold a piece of.
_Part: TypeAlias = Coordinates | Directions | Displacements


def name_query(perturbation: Perturbation, place: int) -> str:
    """One of the queries, for people: `conv.weight[17] + 0.001`."""
    if isinstance(perturbation, CoordinateBatch):
        for part in perturbation.parts:
            if place < len(part):
                return name_query(part, place)
            place -= len(part)
    if isinstance(perturbation, Displacements):
        return f"displacement {place}"
    step = perturbation.steps[place]  # type: ignore[union-attr]
    what = (
        f"{perturbation.name}[{perturbation.indices[place]}]"
        if isinstance(perturbation, Coordinates)
        else f"the direction of seed {perturbation.seeds[place]}"  # type: ignore[union-attr]
    )
    return f"{what} {'-' if step < 0 else '+'} {abs(step):g}"


def split_into_chunks(perturbations: Sequence[Perturbation], size: int) -> list[Perturbation]:
    """The same queries in the same order, at most `size` at a time; coordinates of different parameters share a chunk."""
    chunks: list[Perturbation] = []
    for piece in perturbations:
        parts = list(piece.parts) if isinstance(piece, CoordinateBatch) else [piece]
        for part in parts:
            _append(chunks, part, size)
    return chunks


def _append(chunks: list[Perturbation], part: _Part, size: int) -> None:
    """Fill the last chunk up, if it takes what the part asks for, and cut the rest."""
    start = 0
    if isinstance(part, Coordinates) and chunks and isinstance(chunks[-1], CoordinateBatch):
        known = any(other.name == part.name for other in chunks[-1].parts)  # a parameter has one part in a chunk
        start = 0 if known else min(size - len(chunks[-1]), len(part))
        if start:
            chunks[-1] = CoordinateBatch((*chunks[-1].parts, *parts_of(_cut(part, 0, start))))
    for i in range(start, len(part), size):
        cut = _cut(part, i, i + size)
        chunks.append(CoordinateBatch((cut,)) if isinstance(cut, Coordinates) else cut)


def _cut(part: _Part, start: int, stop: int) -> _Part:
    """Queries `start` to `stop` of a part."""
    if isinstance(part, Displacements):
        return Displacements(part.moves[start:stop])
    steps = part.steps[start:stop]
    if isinstance(part, Coordinates):
        return replace(part, indices=part.indices[start:stop], steps=steps)
    return replace(part, seeds=part.seeds[start:stop], steps=steps)


def trainable(model: torch.nn.Module) -> NamedTensors:
    """The parameters that are trained, by name.

    Raises:
        ConfigError: there are none, or they have no values yet.
    """
    parameters: NamedTensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter) or parameter.is_meta:
            raise ConfigError(
                f"parameter {name!r} of the network {type(model).__name__} has no values yet: give its layer the sizes, "
                "call the network once, or load weights."
            )
        if any(stride == 0 and size > 1 for stride, size in zip(parameter.stride(), parameter.shape, strict=True)):
            raise ConfigError(
                f"parameter {name!r} of the network {type(model).__name__} has several coordinates in one place of memory, as "
                "expand() makes them: take its clone()."
            )
    if not any(p.numel() for p in parameters.values()):
        raise ConfigError(f"the network {type(model).__name__} has no parameters to train: give it some with requires_grad.")
    return parameters


def unit_direction(parameters: Mapping[str, torch.Tensor], seed: int, mask: Mask | None) -> NamedTensors:
    """A Gaussian direction over the active coordinates, of unit norm; a seed gives the same one on every machine."""
    generator = new_generator(seed)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in parameters.items()}
    if mask is not None:
        direction = {name: u * mask[name] for name, u in direction.items() if name in mask}
    norm = torch.sqrt(sum((u.square().sum() for u in direction.values()), start=torch.zeros(())))
    return {name: (u / norm).to(parameters[name]) for name, u in direction.items()}


def parts_of(perturbation: Perturbation) -> tuple[Coordinates, ...]:
    """Coordinates by parameter; none of directions."""
    if isinstance(perturbation, CoordinateBatch):
        return perturbation.parts
    return (perturbation,) if isinstance(perturbation, Coordinates) else ()
