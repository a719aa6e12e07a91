"""Queries of an oracle: perturbations of a network's parameters, named by coordinate or seed and step.

A query asks for the network at `theta + step * v`, where `v` is a single coordinate, a random direction of all parameters or
of one row of one; or at any other place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from deepzero_sim.common.types import Mask


@dataclass(frozen=True)
class Coordinates:
    """`P` perturbations of one coordinate each, all in the same parameter: `theta + steps[p] * e_indices[p]`.

    Args:
        name: Name of the parameter, as in `named_parameters()`.
        indices: Flat positions in it, `P` of them.
        steps: Signed steps, `P` of them.
    """

    name: str
    indices: tuple[int, ...]
    steps: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Directions:
    """`P` perturbations along random unit directions: `theta + steps[p] * u(seeds[p])`, `u` zero outside the mask.

    Directions are drawn anew from their seeds wherever they are used, and never sent.
    """

    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    mask: Mask | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class RowDirections:
    """`P` perturbations along random unit directions of one row each, all in the same parameter:

        theta + steps[p] * e_rows[p] (x) v(seeds[p]),   v zero outside the mask

    A row has all weights of one output of a layer, `weight[row]`, so that a direction is of rank one in its layer, and a query
    costs about what a query of a coordinate does. Directions are drawn anew from their seeds wherever they are used.

    Args:
        name: Name of the parameter, as in `named_parameters()`; it has two axes or more.
        rows: Positions along its first axis, `P` of them.
        seeds: Seeds, `P` of them.
        steps: Signed steps, `P` of them.
        mask: Active coordinates of the parameter; None for all of them.
    """

    name: str
    rows: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


#: Perturbations of one parameter.
PartOfOne: TypeAlias = Coordinates | RowDirections


@dataclass(frozen=True)
class CoordinateBatch:
    """Perturbations of one parameter each, in several of them: the queries of all parts, one part after the other."""

    parts: tuple[PartOfOne, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, eq=False)
class Displacements:
    """`P` perturbations of all parameters at once, written out: `theta + moves[p]`.

    Args:
        moves: Displacements `(P, d)`, over the trained parameters in the order of `named_parameters()`, each flattened.
    """

    moves: torch.Tensor

    def __len__(self) -> int:
        return len(self.moves)


Perturbation: TypeAlias = PartOfOne | Directions | CoordinateBatch | Displacements


#: Perturbations that a chunk may hold a piece of.
_Part: TypeAlias = PartOfOne | Directions | Displacements


def name_query(perturbation: Perturbation, place: int) -> str:
    """Name one of the queries for people: `conv.weight[17] + 0.001`."""
    if isinstance(perturbation, CoordinateBatch):
        for part in perturbation.parts:
            if place < len(part):
                return name_query(part, place)
            place -= len(part)
    if isinstance(perturbation, Displacements):
        return f"displacement {place}"
    step = perturbation.steps[place]  # type: ignore[union-attr]
    if isinstance(perturbation, Coordinates):
        what = f"{perturbation.name}[{perturbation.indices[place]}]"
    else:
        what = f"the direction of seed {perturbation.seeds[place]}"  # type: ignore[union-attr]
        if isinstance(perturbation, RowDirections):
            what += f" in {perturbation.name}[{perturbation.rows[place]}]"
    return f"{what} {'-' if step < 0 else '+'} {abs(step):g}"


def split_into_chunks(perturbations: Sequence[Perturbation], size: int) -> list[Perturbation]:
    """Split queries into chunks of at most `size`, in the same order; those of single parameters share chunks."""
    chunks: list[Perturbation] = []
    for piece in perturbations:
        parts = list(piece.parts) if isinstance(piece, CoordinateBatch) else [piece]
        for part in parts:
            _append(chunks, part, size)
    return chunks


def _append(chunks: list[Perturbation], part: _Part, size: int) -> None:
    """Fill the last chunk up with queries of a part if they fit in, and cut the rest into chunks."""
    start = 0
    if isinstance(part, PartOfOne) and chunks and isinstance(chunks[-1], CoordinateBatch):
        known = any(other.name == part.name for other in chunks[-1].parts)  # a parameter has one part in a chunk
        start = 0 if known else min(size - len(chunks[-1]), len(part))
        if start:
            chunks[-1] = CoordinateBatch((*chunks[-1].parts, *parts_of(_cut(part, 0, start))))
    for i in range(start, len(part), size):
        cut = _cut(part, i, i + size)
        chunks.append(CoordinateBatch((cut,)) if isinstance(cut, PartOfOne) else cut)


def _cut(part: _Part, start: int, stop: int) -> _Part:
    """Cut queries `start` to `stop` out of a part."""
    if isinstance(part, Displacements):
        return Displacements(part.moves[start:stop])
    steps = part.steps[start:stop]
    if isinstance(part, Coordinates):
        return replace(part, indices=part.indices[start:stop], steps=steps)
    if isinstance(part, RowDirections):
        return replace(part, rows=part.rows[start:stop], seeds=part.seeds[start:stop], steps=steps)
    return replace(part, seeds=part.seeds[start:stop], steps=steps)


def parts_of(perturbation: Perturbation) -> tuple[PartOfOne, ...]:
    """List perturbations of single parameters, by parameter; those of all parameters at once have none."""
    if isinstance(perturbation, CoordinateBatch):
        return perturbation.parts
    return (perturbation,) if isinstance(perturbation, PartOfOne) else ()
