"""Contract of a vector-Jacobian product: `w -> J^T w`, with `J = dP/ds` the Jacobian of one solver step."""

from __future__ import annotations

import abc
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.common.words import count_of
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


@dataclass(frozen=True, eq=False)
class StepTaken:
    """Steps that the forward pass took, as read-only copies: a product may be a user's own code.

    Args:
        states: Solver states before the step, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        advanced: Solver states after it, `P(states)`, `(B, C, *N)`.
    """

    states: Array
    params: Array | None
    advanced: Array

    def __post_init__(self) -> None:
        for name in ("states", "params", "advanced"):
            array = getattr(self, name)
            object.__setattr__(self, name, None if array is None else read_only_copy(array))

    def at(self, b: int) -> tuple[Array, Array | None, Array]:
        """Pick one of them: the state `(C, *N)`, its parameters `(K,)` or None, and the state after the step."""
        return self.states[b], None if self.params is None else self.params[b], self.advanced[b]


def sentence_on_first_states(name: str, spec: SolverSpec, count: int) -> str:
    """Write the sentence on a product that learnt from the states that it was first asked for, for want of others."""
    return (
        f"{name} of solver {spec.name!r} learnt from the {count_of(count, 'state')} of its first product alone, so that "
        "products at others may be wrong: prepare it with states like those to come, by layer.vjp.prepare(states, params, "
        "layer.probes)."
    )


#: Methods that had other names in the first release.
_RENAMED = {"serve": "bind", "learnt": "state_dict", "relearn": "load_state_dict"}


class VectorJacobianProduct(abc.ABC):
    """Estimator of vector-Jacobian products of a solver's step.

    Padding (`SolverSpec.mask`) has no gradient: products are zero there, whatever is given.
    """

    #: Products with a constant, symmetric Jacobian are their own derivatives, so that autograd can go back through them again.
    self_adjoint: bool = False

    #: Products by differences of steps need a solver that is deterministic; a layer refuses others.
    requires_determinism: ClassVar[bool] = True

    #: What was found when the solver was measured, as text in one line; None where nothing was.
    report: object | None = None

    _solver: Solver | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Accept a subclass that was written for the old names of three methods, with a warning."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED.items():
            if old in cls.__dict__:
                warnings.warn(f"{cls.__name__}.{old} is called {new} now: rename it.", DeprecationWarning, stacklevel=2)
                setattr(cls, new, cls.__dict__[old])

    def bind(self, solver: Solver) -> None:
        """Bind this product to the solver whose steps it differentiates: what it learns of one is wrong for another.

        Raises:
            ConfigError: The product is bound to another solver.
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
            states: Solver states, `(B, C, *N)`.
            params: Scenario parameters, `(B, K)`, or None.

        Returns:
            States one step later, `(B, C, *N)`, with a graph back to `states` and `params`; or None.

        Raises:
            SolverError: The solver failed, or left the finite numbers.
        """
        return None

    @abc.abstractmethod
    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        """Estimate `J(s)^T w` at every state.

        Args:
            taken: Steps of the forward pass, with their states `s`.
            cotangents: Cotangents `w`, `(B, C, *N)`, zero in padding.
            probes: Means of asking the solver for further steps, which it counts.

        Returns:
            Products, `(B, C, *N)`, in the dtype of the cotangents.

        Raises:
            ConfigError: The method does not suit the solver.
            SolverError: The solver failed.
        """

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        """Estimate `J(s) v` at every state, with the Jacobian whose transpose :meth:`product` takes: what chains judge it by.

        Args:
            taken: Steps with their states `s`.
            directions: Directions `v`, `(B, C, *N)`, zero in padding.
            probes: Means of asking the solver for further steps, which it counts.

        Returns:
            Products, `(B, C, *N)`.

        Raises:
            ConfigError: The method has no such products.
            SolverError: The solver failed.
        """
        raise ConfigError(f"{type(self).__name__} has no products J v, only J^T w: judge it by check-gradient.")

    def adopt_defaults(self, file: Path, most_steps: int) -> None:  # noqa: B027 - most need nothing
        """Take from a training what was left open.

        Args:
            file: File to store in what is measured.
            most_steps: Most solver steps to measure.
        """

    def steps_to_measure(self, spec: SolverSpec) -> int:
        """Count the solver steps that :meth:`prepare` takes for a solver, at most; 0 if it measures nothing.

        Raises:
            ConfigError: The method does not suit the solver.
        """
        return 0

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:  # noqa: B027 - most need nothing
        """Learn what is needed once, from states like those to come; otherwise the first product does it with its own.

        Args:
            states: Solver states, `(B, C, *N)`.
            params: Scenario parameters, `(B, K)`, or None.
            probes: Means of asking the solver for steps, which it counts.

        Raises:
            ConfigError: The method does not suit the solver.
            SolverError: The solver failed.
        """

    def state_dict(self) -> dict[str, Array]:
        """Return what was learnt of the solver so far: arrays by name, for a checkpoint."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:  # noqa: B027 - likewise
        """Restore what :meth:`state_dict` gave."""
