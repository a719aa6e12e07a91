"""What every gradient estimator has in common."""

from __future__ import annotations

import abc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from deepzero_sim.common.requirements import require_one_of
from deepzero_sim.common.types import Mask, NamedTensors, Scheme, is_number
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.oracle.queries import Perturbation, trainable


@dataclass(frozen=True)
class GradientEstimate:
    """A gradient, and what it cost.

    Args:
        grads: for each trained parameter a tensor of its shape; zero where a coordinate was not active.
        loss: of the unperturbed network on the batch.
        queries: losses that were asked for.
        solver_steps: states advanced by one step to answer them.
        dropped: slopes that are 0 because solver steps of their queries failed.
    """

    grads: NamedTensors
    loss: float
    queries: int
    solver_steps: int = 0
    dropped: int = 0


class Estimator(abc.ABC):
    """Estimates the gradient of an oracle's loss."""

    @abc.abstractmethod
    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        """The gradient on one batch, for the active coordinates.

        Args:
            oracle: whose loss.
            batch: what the oracle takes.
            mask: active coordinates, a bool tensor for each parameter that is active at all; None for all of them.
            seed: of random directions, if any are drawn.

        Raises:
            ConfigError: the mask names unknown parameters, has a wrong shape, or leaves nothing active.
            DivergedError: the loss is not finite.
            SolverError: the solver failed.
        """


def check_scheme(step_size: float, scheme: str) -> None:
    """Hold step size and scheme to what the estimators can use.

    Raises:
        ConfigError: in words.
    """
    if not is_number(step_size) or not 0 < step_size <= sys.float_info.max:
        raise ConfigError(f"step_size must be a positive number, not {step_size!r}: 1e-3 suits float32 losses.")
    require_one_of(scheme, get_args(Scheme), "scheme")


def check_precision(parameters: Mapping[str, torch.Tensor], step_size: float) -> None:
    """Hold parameters to numbers in which differences keep digits, and a step size to what these numbers can hold squared.

    Raises:
        ConfigError: half precision or complex parameters, or a step too small or too large for them.
    """
    for name, parameter in parameters.items():
        if torch.is_autocast_enabled(parameter.device.type):
            raise ConfigError("autocast rounds the results that differences are taken of: estimate gradients outside of it.")
        if parameter.dtype not in (torch.float32, torch.float64):
            remedy = (
                f"keep it as a real parameter of shape {(*parameter.shape, 2)} and use torch.view_as_complex of it in forward, "
                "or take a method that back-propagates, such as SolverLayer or DETACHED"
                if parameter.is_complex()
                else "convert the network, as .float() does"
            )
            raise ConfigError(
                f"parameter {name!r} must be of float32 or float64 to be queried, not {parameter.dtype}: {remedy}."
            )
        smallest, largest = (limit**0.5 for limit in (torch.finfo(parameter.dtype).tiny, torch.finfo(parameter.dtype).max))
        if not smallest <= step_size <= largest:
            raise ConfigError(
                f"step_size must be from {smallest:.2g} to {largest:.2g} for parameters of {parameter.dtype}, whose numbers "
                f"hold no other's square, not {step_size:.6g}: 1e-3 suits float32 losses."
            )


def parameters_of(oracle: Oracle, mask: Mask | None) -> NamedTensors:
    """What the network of an oracle trains, by name.

    Raises:
        ConfigError: it trains nothing, the mask does not fit, or it is no oracle.
    """
    if not isinstance(oracle, Oracle):
        raise ConfigError(f"an estimator asks a dz.ModelOracle or dz.LoopOracle, not {type(oracle).__name__}.")
    parameters = trainable(oracle.model)
    check_mask(parameters, mask)
    return parameters


def check_mask(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> None:
    """Hold a mask to the parameters it is for.

    Raises:
        ConfigError: unknown names, a wrong shape or dtype, or nothing active.
    """
    if mask is None:
        return
    if not isinstance(mask, Mapping):
        raise ConfigError(
            f"a mask must be a bool tensor for each parameter by name, not {type(mask).__name__}: "
            "RandomMask(0.9)(network, step) makes one."
        )
    unknown = sorted(set(mask) - set(parameters), key=str)
    if unknown:
        raise ConfigError(f"the mask names {unknown[0]!r}, which the network does not train: it has {', '.join(parameters)}.")
    for name, active in mask.items():
        if not isinstance(active, torch.Tensor):
            raise ConfigError(f"the mask of {name!r} must be a bool tensor, not {type(active).__name__}.")
        if active.layout != torch.strided or active.is_meta:
            raise ConfigError(
                f"the mask of {name!r} must be a dense tensor with values, not {active.layout} on {active.device}."
            )
        if active.dtype != torch.bool or active.shape != parameters[name].shape:
            raise ConfigError(
                f"the mask of {name!r} must be a bool tensor of shape {tuple(parameters[name].shape)}, "
                f"not {active.dtype} of shape {tuple(active.shape)}."
            )
    if not any(bool(active.any()) for active in mask.values()):
        raise ConfigError("the mask leaves no coordinate active: lower the sparsity.")


@dataclass(frozen=True)
class Slopes:
    """Slopes of the loss along the queried directions, and what they cost.

    Args:
        values: `(n,)`, in the order of the directions; 0 where one was dropped.
        loss: `l(theta)`.
        queries: losses that were asked for.
        solver_steps: states advanced by one step to answer them.
        dropped: directions that are left out because solver steps failed; of central differences both go.
    """

    values: torch.Tensor
    loss: float
    queries: int
    solver_steps: int
    dropped: int


def ask_slopes(oracle: Oracle, batch: Any, perturbations: Sequence[Perturbation], step_size: float, scheme: Scheme) -> Slopes:
    """Ask an oracle for the loss, and for its changes at the steps of the scheme along every direction.

    Args:
        oracle: whose loss.
        batch: what it takes.
        perturbations: `n` directions, each at all steps of :func:`signed_steps` in turn.
        step_size: `mu`.
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: the network's numbers are too coarse, or the step does not suit them.
        DivergedError: the loss is not finite, here or a step from here.
    """
    check_precision(trainable(oracle.model), step_size)
    prepared = oracle.prepare(batch)
    require_finite(prepared.loss)
    answers = oracle.ask(prepared, perturbations)
    values = differences(answers.changes, step_size, scheme)
    lost = sorted({place // len(signed_steps(step_size, scheme)) for place in answers.dropped})
    values[lost] = 0
    if not bool(torch.isfinite(values).all()):
        raise DivergedError(
            f"the loss is finite, but {int((~torch.isfinite(values)).sum())} of {len(values)} slopes over steps of "
            f"{step_size:g} are not: take a smaller step_size, or an earlier checkpoint."
        )
    solver_steps = oracle.preparation_steps(batch) + answers.solver_steps
    return Slopes(values, prepared.loss, 1 + len(answers.changes), solver_steps, len(lost))


def differences(changes: torch.Tensor, step_size: float, scheme: Scheme) -> torch.Tensor:
    """Slopes along the queried directions.

    Args:
        changes: of the loss, `(n,)` at `+mu` for the forward scheme; `(2n,)`, `+mu` and `-mu` in turn, for the central one.
        step_size: `mu`.
        scheme: ``"forward"`` or ``"central"``.

    Returns:
        `(n,)`.
    """
    if scheme == "forward":
        return changes / step_size
    plus, minus = changes.view(-1, 2).unbind(1)
    return (plus - minus) / (2 * step_size)


def signed_steps(step_size: float, scheme: Scheme) -> tuple[float, ...]:
    """The steps each direction is queried at: `(mu,)` or `(mu, -mu)`."""
    return (step_size,) if scheme == "forward" else (step_size, -step_size)
