"""Base of all gradient estimators: the contract, the checks of arguments, and slopes from an oracle's answers."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from rich.filesize import decimal

from deepzero_sim.common.requirements import Words, is_count, is_positive, require, require_one_of, require_that, require_type
from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.queries import Coordinates, Displacements, Perturbation
from deepzero_sim.solver.failure_policy import Incident, add_account_to_error


@dataclass(frozen=True)
class GradientEstimate:
    """Gradient, and what it cost.

    Args:
        grads: Tensor of its shape for each trained parameter; zero where a coordinate was not active. Empty if nothing can be
            said of it, and nothing is to be updated.
        loss: Loss of the unperturbed network on the batch.
        queries: Number of losses that were asked for.
        solver_steps: Number of states advanced by one step to answer them.
        dropped: Number of slopes that are 0 because solver steps of their queries failed.
        incidents: Failures on the way.
    """

    grads: NamedTensors
    loss: float
    queries: int
    solver_steps: int = 0
    dropped: int = 0
    incidents: tuple[Incident, ...] = ()


class Estimator(abc.ABC):
    """Estimator of the gradient of an oracle's loss.

    Attributes:
        gives_steps: True if what it returns is to be subtracted from the parameters as it is (`torch.optim.SGD` with a learning
            rate of 1), False if it is a gradient.
        needs_residuals: True if the loss must have residuals, of which it is the sum of squares.
    """

    gives_steps: ClassVar[bool] = False
    needs_residuals: ClassVar[bool] = False

    @abc.abstractmethod
    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        """Estimate the gradient on one batch, for the active coordinates.

        Args:
            oracle: Oracle whose loss is differentiated.
            batch: Batch that the oracle takes.
            mask: Active coordinates, a bool tensor for each parameter that is active at all; None for all of them.
            seed: Seed of random directions, if any are drawn.

        Raises:
            ConfigError: The mask names unknown parameters, has a wrong shape, or leaves nothing active.
            DivergedError: The loss is not finite.
            SolverError: The solver failed.
        """

    def state_dict(self) -> NamedTensors:
        """Return what it has learnt of the loss, which a checkpoint keeps; nothing by default."""
        return {}

    def load_state_dict(self, state_dict: NamedTensors) -> None:  # noqa: B027 - most learn nothing
        """Restore what :meth:`state_dict` gave.

        Raises:
            ConfigError: It is another estimator's.
        """


def require_scheme(step_size: float, scheme: str) -> None:
    """Refuse a step size or a scheme that no estimator can use."""
    require(is_positive(step_size), "step_size must be a positive number", step_size, "1e-3 suits float32 losses")
    require_one_of(scheme, get_args(Scheme), "scheme")


def require_sketch(sketch: int | None, memory: int) -> None:
    """Refuse a sketch of residuals, or a limit of their memory, that no estimator can use."""
    require(sketch is None or is_count(sketch), "sketch must be a positive whole number of sums, or None", sketch)
    require(is_count(memory), "memory must be a positive whole number of bytes", memory)


def require_memory(needed: int, memory: int, what: str, remedy: str) -> None:
    """Refuse what takes more bytes than it may."""
    require(needed <= memory, f"{what} must fit into memory, {decimal(memory)}", Words(decimal(needed)), remedy)


def require_precision(parameters: Mapping[str, torch.Tensor], step_size: float) -> None:
    """Refuse numbers in which differences keep no digits, and a step size whose square these numbers cannot hold."""
    for name, parameter in parameters.items():
        require_that(
            not torch.is_autocast_enabled(parameter.device.type),
            "autocast rounds the results that differences are taken of: estimate gradients outside of it.",
        )
        remedy = (
            f"keep it as a real parameter of shape {(*parameter.shape, 2)} and use torch.view_as_complex of it in forward, "
            "or take a method that back-propagates, such as SolverLayer or DETACHED"
            if parameter.is_complex()
            else "convert the network, as .float() does"
        )
        precise = parameter.dtype in (torch.float32, torch.float64)
        require(precise, f"parameter {name!r} must be of float32 or float64 to be queried", parameter.dtype, remedy)
        smallest, largest = (limit**0.5 for limit in (torch.finfo(parameter.dtype).tiny, torch.finfo(parameter.dtype).max))
        require(
            smallest <= step_size <= largest,
            f"step_size must be from {smallest:.2g} to {largest:.2g} for parameters of {parameter.dtype}, whose numbers "
            "hold no other's square",
            Words(f"{step_size:.6g}"),
            "1e-3 suits float32 losses",
        )


def parameters_of(oracle: Oracle, mask: Mask | None) -> NamedTensors:
    """Look up the parameters that the network of an oracle trains, by name.

    Raises:
        ConfigError: The network trains nothing, the mask does not fit, or the oracle is none.
    """
    require_type(oracle, Oracle, "an estimator asks a dz.ModelOracle or dz.LoopOracle")
    parameters = trainable(oracle.model)
    require_mask(parameters, mask)
    return parameters


def require_mask(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> None:
    """Refuse a mask that does not fit the parameters it is for, or leaves nothing active."""
    if mask is None:
        return
    remedy = "RandomMask(0.9)(network, step) makes one"
    require_type(mask, Mapping, "a mask must be a bool tensor for each parameter by name", remedy)
    unknown = sorted(set(mask) - set(parameters), key=str)
    if unknown:
        raise ConfigError(f"the mask names {unknown[0]!r}, which the network does not train: it has {', '.join(parameters)}.")
    for name, active in mask.items():
        require_type(active, torch.Tensor, f"the mask of {name!r} must be a bool tensor")
        came = Words(f"{active.layout} on {active.device}")
        dense = active.layout == torch.strided and not active.is_meta
        require(dense, f"the mask of {name!r} must be a dense tensor with values", came)
        shape, came = parameters[name].shape, Words(f"{active.dtype} of shape {tuple(active.shape)}")
        fits = active.dtype == torch.bool and active.shape == shape
        require(fits, f"the mask of {name!r} must be a bool tensor of shape {tuple(shape)}", came)
    require_that(
        any(bool(active.any()) for active in mask.values()), "the mask leaves no coordinate active: lower the sparsity."
    )


def active_coordinates(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> NamedTensors:
    """Find the flat positions of active coordinates, `(n,)`, for each parameter that has any."""
    if mask is None:
        return {name: torch.arange(p.numel()) for name, p in parameters.items()}
    active = {name: mask[name].cpu().reshape(-1).nonzero().view(-1) for name in parameters if name in mask}
    return {name: indices for name, indices in active.items() if len(indices)}


def places_of(active: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the places of active coordinates in the vector of all parameters, `(n,)`."""
    places, first = [], 0
    for name, parameter in parameters.items():
        if name in active:
            places.append(first + active[name])
        first += parameter.numel()
    return torch.cat(places)


def by_parameter(places: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> NamedTensors:
    """Split sorted places in the vector of all parameters into flat positions by parameter."""
    found, first = {}, 0
    for name, parameter in parameters.items():
        within = places[(places >= first) & (places < first + parameter.numel())] - first
        if len(within):
            found[name] = within
        first += parameter.numel()
    return found


def displacements_of(values: torch.Tensor, places: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> Displacements:
    """Put displacements of the coordinates at some places, `(P, n)`, among those of all parameters, which are 0."""
    moves = torch.zeros(len(values), sum(p.numel() for p in parameters.values()), dtype=torch.float64)
    moves[:, places] = values
    return Displacements(moves)


def as_gradient(values: torch.Tensor, active: Mapping[str, torch.Tensor], parameters: NamedTensors) -> NamedTensors:
    """Put values of active coordinates, `(n,)`, in tensors of the parameters' shapes, zero elsewhere."""
    grads = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in parameters.items()}
    parts = torch.split(values, [len(indices) for indices in active.values()])
    for (name, indices), part in zip(active.items(), parts, strict=True):
        grads[name].view(-1)[indices.to(grads[name].device)] = part.to(grads[name])
    return grads


def coordinate_queries(active: Mapping[str, torch.Tensor], step_size: float, scheme: Scheme) -> list[Coordinates]:
    """List the perturbations that an oracle is asked for, at all steps of the scheme along every active coordinate."""
    steps = query_steps(step_size, scheme)
    return [
        Coordinates(name, tuple(indices.repeat_interleave(len(steps)).tolist()), steps * len(indices))
        for name, indices in active.items()
    ]


def require_gradient(loss: torch.Tensor) -> None:
    """Refuse a loss that depends on no parameter, as far as autograd sees."""
    require_that(
        loss.requires_grad, "the loss has no gradient: look for detach(), no_grad() or numpy in the network and the loss."
    )


class Slopes(NamedTuple):
    """Slopes of a loss along directions.

    Args:
        values: Slopes in the order of the directions, `(n,)`; 0 where one was dropped, of a central difference both queries.
        known: Directions whose slope was not dropped, bool `(n,)`.
        estimate: Estimate without a gradient, which the caller makes of the slopes.
    """

    values: torch.Tensor
    known: torch.Tensor
    estimate: GradientEstimate


def prepare(oracle: Oracle, batch: Any, step_size: float) -> Any:
    """Prepare a batch for queries at steps of a size, see :meth:`Oracle.prepare`.

    Raises:
        ConfigError: The network's numbers are too coarse, or the step does not suit them.
        DivergedError: The loss is not finite.
    """
    require_precision(trainable(oracle.model), step_size)
    prepared = oracle.prepare(batch)
    require_finite(prepared.loss)
    return prepared


def ask_slopes(
    oracle: Oracle,
    batch: Any,
    perturbations: Sequence[Perturbation],
    step_size: float,
    scheme: Scheme,
    ledger: Ledger | None = None,
    shape: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Slopes:
    """Ask an oracle for the loss, and for its changes at the steps of the scheme along every direction.

    Args:
        oracle: Oracle that is asked.
        batch: Batch that it takes.
        perturbations: Directions, `n` in all, each at all steps of :func:`query_steps` in turn.
        step_size: Length of a step, `mu`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
        ledger: File that answers are kept in on the way; None for nowhere.
        shape: Function from the losses of all that were answered, `(m,)`, to what is differenced in their place, `(m,)`.

    Raises:
        ConfigError: The network's numbers are too coarse, or the step does not suit them.
        DivergedError: The loss is not finite, here or a step from here.
    """
    prepared = prepare(oracle, batch, step_size)
    with add_account_to_error([prepared.account]):
        answers = oracle.ask(prepared, perturbations, ledger)
    known = measured(answers, scheme)
    changes = answers.changes if shape is None else _shape_losses(answers, shape)
    values = differences(changes, step_size, scheme)
    values[~known] = 0
    if not bool(torch.isfinite(values).all()):
        raise DivergedError(
            f"the loss is finite, but {int((~torch.isfinite(values)).sum())} of {len(values)} slopes over steps of "
            f"{step_size:g} are not: take a smaller step_size, or an earlier checkpoint."
        )
    account = prepared.account + answers.account
    queries = 1 + len(answers.changes)
    estimate = GradientEstimate({}, prepared.loss, queries, account.steps, int((~known).sum()), account.incidents)
    return Slopes(values, known, estimate)


def _shape_losses(answers: Answers, shape: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Shape the losses of the queries that were answered; those of dropped ones are 0."""
    answered, shaped = answers.answered, torch.zeros_like(answers.changes)
    shaped[answered] = shape(answers.losses[answered]).to(shaped)
    return shaped


def differences(changes: torch.Tensor, step_size: float, scheme: Scheme) -> torch.Tensor:
    """Compute slopes along `n` directions, `(n, ...)`.

    Args:
        changes: Changes of the loss or of residuals: `(n, ...)` at `+mu` for the forward scheme; `(2n, ...)`, `+mu` and `-mu`
            in turn, for the central.
        step_size: Length of a step, `mu`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """
    if scheme == "forward":
        return changes / step_size
    plus, minus = changes[::2], changes[1::2]
    return (plus - minus) / (2 * step_size)


def measured(answers: Answers, scheme: Scheme) -> torch.Tensor:
    """Tell which directions have a slope, bool `(n,)`: those of which no query was dropped."""
    return answers.answered.view(-1, len(query_steps(1.0, scheme))).all(dim=1)


def query_steps(step_size: float, scheme: Scheme) -> tuple[float, ...]:
    """List the steps at which each direction is queried: `(mu,)` or `(mu, -mu)`."""
    return (step_size,) if scheme == "forward" else (step_size, -step_size)
