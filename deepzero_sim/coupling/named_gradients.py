"""Gradients past a solver by name: of those that need no arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from deepzero_sim.coupling.vjp.analytic import Detached, Exact, StraightThrough
from deepzero_sim.coupling.vjp.auto.auto import Auto
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.errors import ConfigError

#: Gradients past the solver that have a name: none, as if its Jacobian were the identity, exact, or the one that suits.
SolverGradient: TypeAlias = Literal["detached", "straight-through", "exact", "auto"]

_BY_NAME: Mapping[str, type[VectorJacobianProduct]] = {
    "detached": Detached,
    "straight-through": StraightThrough,
    "exact": Exact,
    "auto": Auto,
}


def as_product(given: SolverGradient | VectorJacobianProduct, argument: str) -> VectorJacobianProduct:
    """Return a vector-Jacobian product as it is, or make the one that a name stands for.

    Args:
        given: Product or name.
        argument: Name of the argument that it was given as, for messages.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(given, VectorJacobianProduct):
        return given
    if isinstance(given, str) and given in _BY_NAME:
        return _BY_NAME[given]()
    if isinstance(given, type) and issubclass(given, VectorJacobianProduct):
        raise ConfigError(f"{argument} must be a vector-Jacobian product, not its class: call it, {given.__name__}(...).")
    names = ", ".join(get_args(SolverGradient))
    raise ConfigError(f"{argument} must be one of {names}, or a vector-Jacobian product of dz.vjp, not {given!r}.")
