"""Optimisers that ask a closure for losses of perturbed parameters, in place of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from deepzero_sim.common.requirements import require_that
from deepzero_sim.estimators import cge, cocd, eki, evolution_strategies, gauss_newton, rge
from deepzero_sim.estimators.base import Estimator, GradientEstimate
from deepzero_sim.oracle.closure import ClosureOracle, Parameters


def fill_gradients(
    parameters: Iterable[nn.Parameter], closure: Callable[[], torch.Tensor], estimator: Estimator, seed: int = 0
) -> GradientEstimate:
    """Estimate the gradient of a closure's loss, and put it into `p.grad`, for any optimiser.

    Args:
        parameters: Parameters that are trained, which the closure reads.
        closure: Function that returns the loss, or residuals `(m,)`, of which the loss is the sum of squares; it need not
            back-propagate.
        estimator: Estimator, such as :class:`deepzero_sim.CGE`.
        seed: Seed of what it draws, another one at every update.

    Raises:
        ConfigError: The closure or the parameters cannot be used.
        DivergedError: The loss is not finite.
    """
    trained = [p for p in parameters if p.requires_grad]
    named = {f"parameter_{number}": p for number, p in enumerate(trained)}
    estimate = estimator.estimate(ClosureOracle(Parameters(named), closure), None, seed=seed)
    for name, p in named.items():
        p.grad = estimate.grads.get(name)  # none if nothing is to be updated
    return estimate


class _ByQueries(torch.optim.SGD):
    """`torch.optim.SGD`, whose gradients an estimator takes from losses that the closure returns.

    Args:
        params: Parameters, or groups of them, as every optimiser takes them.
        lr: Learning rate; the class's own if None.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        **arguments: Arguments of the estimator.

    Attributes:
        kind: Class of the estimator.
        rate: Learning rate where none is given.
    """

    kind: ClassVar[type[Estimator]]
    rate: ClassVar[float] = 1e-2

    def __init__(
        self,
        params: Any,
        lr: float | None = None,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__(params, lr=self.rate if lr is None else lr, momentum=momentum, weight_decay=weight_decay)
        self.estimator = self.kind(**arguments)
        self._updates = 0

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:  # type: ignore[override]
        """Make an update, and return the loss before it.

        Args:
            closure: Function that returns the loss, or residuals `(m,)`, of which the loss is the sum of squares. It is called
                for every query and twice for the parameters as they are, and need not back-propagate.

        Raises:
            ConfigError: The closure cannot be used.
            DivergedError: The loss is not finite.
        """
        require_that(
            callable(closure), f"step of dz.optim.{type(self).__name__} needs a closure: def closure(): return loss(net(x), y)."
        )
        assert closure is not None
        parameters: list[nn.Parameter] = [p for group in self.param_groups for p in group["params"]]
        estimate = fill_gradients(parameters, closure, self.estimator, self._updates)
        super().step()
        self._updates += 1
        loss: torch.Tensor = parameters[0].new_tensor(estimate.loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of SGD, of the estimator, and the number of updates."""
        return {**super().state_dict(), "estimator": self.estimator.state_dict(), "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        known = dict(state_dict)
        missing = {"estimator", "updates"} - set(known)
        require_that(not missing, f"the state of dz.optim.{type(self).__name__} must hold {', '.join(sorted(missing))}.")
        self.estimator.load_state_dict(known.pop("estimator"))
        self._updates = int(known.pop("updates"))
        super().load_state_dict(known)


class CGE(_ByQueries):
    """Gradients by finite differences along every coordinate, see :class:`deepzero_sim.CGE`, whose arguments it takes."""

    kind = cge.CGE


class RGE(_ByQueries):
    """Gradients along random directions, see :class:`deepzero_sim.RGE`, whose arguments it takes."""

    kind = rge.RGE


class CoCD(_ByQueries):
    """Gradients along coordinates in turn, see :class:`deepzero_sim.CoCD`, whose arguments it takes."""

    kind = cocd.CoCD


class EvolutionStrategies(_ByQueries):
    """Ranks along random directions, see :class:`deepzero_sim.EvolutionStrategies`, whose arguments it takes."""

    kind = evolution_strategies.EvolutionStrategies


class EKI(_ByQueries):
    """Ensemble Kalman inversion, see :class:`deepzero_sim.EKI`, whose arguments it takes; for closures of residuals."""

    kind = eki.EKI
    rate = 1.0


class GaussNewton(_ByQueries):
    """Damped Gauss-Newton steps, see :class:`deepzero_sim.GaussNewton`, whose arguments it takes; for closures of residuals."""

    kind = gauss_newton.GaussNewton
    rate = 1.0
