"""Random directions that estimators measure slopes along: of all parameters, or of single rows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.oracle.parameters import row_displacements, unit_direction
from deepzero_sim.oracle.queries import Coordinates, Directions, RowDirections

#: Kinds of directions: of all parameters, a whole pass through the network a query; or of rank one in their layer, each in the
#: weights of one output, which cost what a coordinate does.
Kind: TypeAlias = Literal["network", "rows"]


@dataclass(frozen=True)
class RandomDirections:
    """Random unit directions `u_i`, `n` of them, which are isotropic: the mean of `u u^T` is the identity divided by `d`.

    Args:
        parts: Directions, with steps of one.
        dimension: Number of active coordinates, `d`.
    """

    parts: tuple[Directions | RowDirections | Coordinates, ...]
    dimension: int

    def queries(self, steps: Sequence[float]) -> list[Directions | RowDirections | Coordinates]:
        """List the perturbations at all steps along each direction in turn."""
        return [_at_steps(part, tuple(steps)) for part in self.parts]

    def combine(self, weights: torch.Tensor, parameters: NamedTensors) -> NamedTensors:
        """Compute `sum_i weights[i] u_i` in the shapes of the parameters.

        Args:
            weights: Weight of each direction, `(n,)`.
            parameters: Parameters that the directions were drawn for.
        """
        found = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in parameters.items()}
        first = 0
        for part in self.parts:
            some = weights[first : first + len(part)]
            first += len(part)
            if isinstance(part, Directions):
                for seed, weight in zip(part.seeds, some.tolist(), strict=True):
                    for name, u in unit_direction(parameters, seed, part.mask).items():
                        found[name].add_(u, alpha=weight)
                continue
            sums = found[part.name]
            if isinstance(part, Coordinates):
                sums.view(-1).index_add_(0, torch.tensor(part.indices, device=sums.device), some.to(sums))
            else:
                moved = row_displacements(sums, replace(part, steps=tuple(some.tolist())))
                sums.index_add_(0, torch.tensor(part.rows, device=sums.device), moved)
        return found


def draw_directions(
    kind: Kind, count: int, parameters: Mapping[str, torch.Tensor], mask: Mask | None, seed: int
) -> RandomDirections:
    """Draw random directions over the active coordinates.

    Those of rows are dealt out to rows in proportion to their active coordinates, by systematic sampling: a row of `n` of `d`
    gets `count n / d` of them, rounded up or down so that this is the mean. A parameter of one axis has rows of one coordinate.

    Args:
        kind: Kind of directions.
        count: Number of them.
        parameters: Parameters, by name.
        mask: Active coordinates; None for all of them.
        seed: Seed.
    """
    generator = new_generator(seed)
    if kind == "network":
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        active = [p.numel() for p in parameters.values()] if mask is None else [int(part.sum()) for part in mask.values()]
        return RandomDirections((Directions(tuple(seeds), (1.0,) * count, mask),), sum(active))
    rows = dict(_active_in_rows(parameters, mask))
    sizes = torch.cat(list(rows.values()))
    ends, dimension = sizes.cumsum(0), int(sizes.sum())
    at = (torch.arange(count) + torch.rand((), generator=generator, dtype=torch.float64)) * (dimension / count)
    chosen = torch.searchsorted(ends, at, right=True).clamp(max=len(sizes) - 1)
    drawn = torch.randint(2**62, (count,), generator=generator)
    parts, first = [], 0
    for name, counts in rows.items():
        ours = (chosen >= first) & (chosen < first + len(counts))
        if bool(ours.any()):
            places = tuple((chosen[ours] - first).tolist())
            parts.append(_part(name, parameters[name], places, tuple(drawn[ours].tolist()), mask))
        first += len(counts)
    return RandomDirections(tuple(parts), dimension)


def _active_in_rows(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Count the active coordinates of each row, `(rows,)`, of the parameters that have any."""
    for name, parameter in parameters.items():
        if mask is not None and name not in mask:
            continue
        active = torch.ones(parameter.shape, dtype=torch.bool) if mask is None else mask[name].cpu()
        counts = active.reshape(-1, 1) if parameter.dim() < 2 else active.reshape(len(parameter), -1)
        yield name, counts.sum(1)


def _part(
    name: str, parameter: torch.Tensor, places: tuple[int, ...], seeds: tuple[int, ...], mask: Mask | None
) -> RowDirections | Coordinates:
    """Return directions of rows of a parameter, which are coordinates if it has one axis."""
    steps = (1.0,) * len(places)
    if parameter.dim() < 2:
        return Coordinates(name, places, steps)
    return RowDirections(name, places, seeds, steps, None if mask is None else mask[name])


def _at_steps(
    part: Directions | RowDirections | Coordinates, steps: tuple[float, ...]
) -> Directions | RowDirections | Coordinates:
    """Repeat each direction at all steps, one after the other."""

    def each(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value for value in values for _ in steps)

    if isinstance(part, Coordinates):
        return replace(part, indices=each(part.indices), steps=steps * len(part))
    if isinstance(part, RowDirections):
        return replace(part, rows=each(part.rows), seeds=each(part.seeds), steps=steps * len(part))
    return replace(part, seeds=each(part.seeds), steps=steps * len(part))
