"""The loss of a user's own closure as an oracle, as `torch.optim.LBFGS` takes one."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.parameters import perturbed_parameters, trainable
from deepzero_sim.oracle.queries import Perturbation
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.solver.failure_policy import Account


class ClosureResult(NamedTuple):
    """Result of a closure for the unperturbed parameters.

    Args:
        loss: Loss.
        residuals: Residuals of which the loss is the sum of squares, float64 `(m,)`; None if the closure returned a loss.
        token: Name of the parameters' state.
        account: Cost in solver steps: none that are known.
    """

    loss: float
    residuals: torch.Tensor | None
    token: str
    account: Account = Account()


class Parameters(nn.Module):
    """Parameters that belong to modules of a user's own, by name.

    Args:
        named: Parameters.
    """

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in named.items():
            self.register_parameter(name, parameter)


class ClosureOracle(Oracle):
    """The loss that a closure returns: a scalar, or residuals, of which it is the sum of squares.

    Queries write perturbed values into the parameters, call the closure, and put the values back, bit for bit, one query after
    the other. Batches are not used: the closure has its own.

    Args:
        parameters: Parameters that are trained, which the closure reads.
        closure: Function without arguments; it need not back-propagate.
    """

    def __init__(self, parameters: Parameters, closure: Callable[[], Any]) -> None:
        super().__init__(parameters, lambda outputs, targets: outputs)
        self._closure = closure

    def prepare(self, batch: Any = None) -> ClosureResult:
        """Call the closure for the parameters as they are, twice, to see that it gives the same for the same.

        Raises:
            ConfigError: It returns something else than a loss or residuals, or other numbers when it is called again.
        """
        with torch.no_grad():
            first, second = self._call(), self._call()
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise ConfigError(
                "the closure returns other numbers when it is called again, so that differences of them say nothing: take out "
                "what is random or kept from call to call, or call eval() if that is dropout."
            )
        residuals = first.double() if first.dim() else None
        return ClosureResult(_loss_of(first), residuals, uuid.uuid4().hex)

    def _call(self) -> torch.Tensor:
        found = self._closure()
        if not isinstance(found, torch.Tensor) or not found.is_floating_point() or found.dim() > 1 or not found.numel():
            came = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ConfigError(
                "the closure must return a loss, a tensor of one floating-point number, or residuals of shape (m,), of which "
                f"the loss is the sum of squares, not {came}."
            )
        return found.detach().clone()

    def preparation_steps(self, batch: Any) -> int:
        return 0

    def residuals(self, prepared: ClosureResult) -> torch.Tensor:
        if prepared.residuals is None:
            raise ConfigError(
                "this method needs the residuals of the loss, but the closure returns the loss alone: return them as a tensor "
                "(m,), whose sum of squares is the loss."
            )
        return math.sqrt(2) * prepared.residuals

    def evaluate(
        self,
        prepared: ClosureResult,
        perturbation: Perturbation,
        only: Collection[int] | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        parameters = trainable(self.model)
        found = [self._perturbed(parameters, changed) for changed in perturbed_parameters(parameters, perturbation)]
        changes = torch.tensor([_loss_of(one) - prepared.loss for one in found], dtype=torch.float64)
        moved = None
        if request is not None:
            base = self.residuals(prepared)
            moved = request.project(torch.stack([math.sqrt(2) * one.double() - base for one in found]))
        return Answers(changes, prepared.loss, 0, residuals=moved)

    def _perturbed(self, parameters: Mapping[str, torch.Tensor], changed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Call the closure for other values of some parameters."""
        before = {name: parameters[name].detach().clone() for name in changed}
        try:
            for name, values in changed.items():
                parameters[name].data.copy_(values)
            return self._call()
        finally:
            for name, values in before.items():
                parameters[name].data.copy_(values)

    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, Account]:
        found = self._closure()
        return found.square().sum() if found.dim() else found, Account()


def _loss_of(found: torch.Tensor) -> float:
    """Return the loss of what a closure returned."""
    return float(found.double().square().sum()) if found.dim() else float(found.double())
