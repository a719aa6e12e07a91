"""Parameters of a network, as they are and as queries perturb them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.queries import Directions, Displacements, Perturbation, RowDirections, parts_of


def trainable(model: torch.nn.Module) -> NamedTensors:
    """List the parameters that are trained, by name.

    Raises:
        ConfigError: There are none, or they have no values yet.
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


def root_mean_square(parameters: Mapping[str, torch.Tensor]) -> float:
    """Compute the root mean square of all coordinates of some parameters."""
    squares = sum(float(p.detach().double().square().sum()) for p in parameters.values())
    return float((squares / sum(p.numel() for p in parameters.values())) ** 0.5)


def unit_direction(parameters: Mapping[str, torch.Tensor], seed: int, mask: Mask | None) -> NamedTensors:
    """Draw a Gaussian direction over the active coordinates, of unit norm; a seed gives the same one on every machine."""
    generator = new_generator(seed)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in parameters.items()}
    if mask is not None:
        direction = {name: u * mask[name] for name, u in direction.items() if name in mask}
    norm = torch.sqrt(sum((u.square().sum() for u in direction.values()), start=torch.zeros(())))
    return {name: (u / norm).to(parameters[name]) for name, u in direction.items()}


def row_displacements(parameter: torch.Tensor, directions: RowDirections) -> torch.Tensor:
    """Compute the displacements of rows along their directions, `step * v`, `(P, *parameter.shape[1:])`.

    Args:
        parameter: Parameter whose rows they are.
        directions: Directions, `P` of them; each is Gaussian over the active coordinates of its row, and of unit norm.
    """
    found = []
    for row, seed, step in zip(directions.rows, directions.seeds, directions.steps, strict=True):
        direction = torch.randn(parameter.shape[1:], generator=new_generator(seed), dtype=torch.float64)
        if directions.mask is not None:
            direction *= directions.mask[row].cpu()
        found.append(direction * (step / direction.norm()))
    return torch.stack(found).to(parameter)


def perturbed_parameters(parameters: NamedTensors, perturbation: Perturbation) -> Iterator[NamedTensors]:
    """Yield for each query the parameters that it changes, as perturbed copies."""
    if isinstance(perturbation, Directions):
        for seed, step in zip(perturbation.seeds, perturbation.steps, strict=True):
            direction = unit_direction(parameters, seed, perturbation.mask) if step else {}
            yield {name: parameters[name].detach() + step * u for name, u in direction.items()}
    if isinstance(perturbation, Displacements):
        for move in perturbation.moves:
            parts = torch.split(move, [p.numel() for p in parameters.values()])
            yield {
                name: p.detach() + part.view(p.shape).to(p) for (name, p), part in zip(parameters.items(), parts, strict=True)
            }
    for part in parts_of(perturbation):
        parameter = parameters[part.name].detach()
        if isinstance(part, RowDirections):
            for row, displacement in zip(part.rows, row_displacements(parameter, part), strict=True):
                changed = parameter.clone(memory_format=torch.contiguous_format)
                changed[row] += displacement
                yield {part.name: changed}
            continue
        for index, step in zip(part.indices, part.steps, strict=True):
            changed = parameter.clone(memory_format=torch.contiguous_format)
            changed.view(-1)[index] += step
            yield {part.name: changed}
