"""What back-propagation asks of a solver: `w -> J^T w`, with `J = dP/ds` the Jacobian of one step."""

from __future__ import annotations

import abc
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver


@dataclass(frozen=True, eq=False)
class StepTaken:
    """Steps that were taken on the way forward.

    Args:
        states: `(B, C, *N)`.
        params: `(B, K)` or None.
        advanced: `P(states)`, `(B, C, *N)`.

    All are read-only copies: a product may be of the user's own.
    """

    states: Array
    params: Array | None
    advanced: Array

    def __post_init__(self) -> None:
        for name in ("states", "params", "advanced"):
            array = getattr(self, name)
            object.__setattr__(self, name, None if array is None else read_only_copy(array))

    def at(self, b: int) -> tuple[Array, Array | None, Array]:
        """One of them: state, parameters and what came of it, `(C, *N)`, `(K,)` or None, and `(C, *N)`."""
        return self.states[b], None if self.params is None else self.params[b], self.advanced[b]


#: Methods that had other names in the first release.
_RENAMED = {"serve": "bind", "learnt": "state_dict", "relearn": "load_state_dict"}


class VectorJacobianProduct(abc.ABC):
    """Estimates vector-Jacobian products of a solver's step.

    Padding (`SolverSpec.mask`) has no gradient: products are zero there, whatever is given.
    """

    _solver: Solver | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take a subclass that was written for the old names of three methods, with a warning."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED.items():
            if old in cls.__dict__:
                warnings.warn(f"{cls.__name__}.{old} is called {new} now: rename it.", DeprecationWarning, stacklevel=2)
                setattr(cls, new, cls.__dict__[old])

    def bind(self, solver: Solver) -> None:
        """Bind this product to a solver: what it learns of one is wrong for another.

        Raises:
            ConfigError: it belongs to another.
        """
        if self._solver is not None and self._solver is not solver:
            raise ConfigError(
                f"this {type(self).__name__} belongs to another solver object already, {self._solver.spec.name!r}, and what it "
                f"learns of that may be wrong for {solver.spec.name!r}: make one of its own for each, or share the solver."
            )
        self._solver = solver

    def differentiable_step(self, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor | None:
        """Advance states by a step that autograd records itself, so that :meth:`product` is not asked.

        Most products have none and return None: the caller advances the states, and asks :meth:`product` on the way back.

        Args:
            solver: Solver that this product is bound to.
            states: Tensor `(B, C, *N)`.
            params: Tensor `(B, K)` or None.

        Returns:
            Tensor `(B, C, *N)` with a graph back to `states` and `params`, or None.

        Raises:
            SolverError: The solver failed, or left the finite numbers.
        """
        return None

    @abc.abstractmethod
    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        """`J(s)^T w` of every state.

        Args:
            taken: the steps, with their states `s`.
            cotangents: `w`, `(B, C, *N)`, zero in padding.
            probes: advances states, if any are asked for.

        Returns:
            `(B, C, *N)`.

        Raises:
            ConfigError: the method does not suit the solver.
            SolverError: the solver failed.
        """

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:  # noqa: B027 - most need nothing
        """Learn what is needed once, from states like those to come; the first product does it with its own otherwise.

        Args:
            states: `(B, C, *N)`.
            params: `(B, K)` or None.
            probes: advances states.

        Raises:
            ConfigError: the method does not suit the solver.
            SolverError: the solver failed.
        """

    def state_dict(self) -> dict[str, Array]:
        """Arrays that a checkpoint must keep, by name: what was learnt of the solver so far."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:  # noqa: B027 - likewise
        """Restore what :meth:`state_dict` gave."""
