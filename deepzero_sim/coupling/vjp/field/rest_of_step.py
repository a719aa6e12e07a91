"""Rest of a step that changes of a solver's inputs go through, as changes of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.fitting import Field, Products
from deepzero_sim.coupling.vjp.field.least_squares import pieces

#: Shares of a step that changes of inputs may go through: of those that act all the time, on average, and at its end.
SHARES = (0.5, 0.0)

#: Most iterations of the least squares that carry changes back, and the share of their size to which they are carried.
ITERATIONS, ENOUGH = 30, 1e-5


def mix(changes: Array, products: Array, share: float, own: int) -> Array:
    """Mix changes and their products with the Jacobian of the state, or its transpose, in the state's own channels.

    Args:
        changes: Changes of the state and of inputs, or cotangents of them, `(P, C, *N)`.
        products: Their products, `(P, C, *N)`.
        share: Share of the products.
        own: Number of the state's channels; those of inputs stay as they are.
    """
    mixed = changes.copy()
    mixed[:, :own] += share * (products[:, :own] - changes[:, :own])
    return mixed


@dataclass(frozen=True, eq=False)
class RestOfStep:
    """Rest of a step, `M(s) = (1 - share) I + share J(s)`, by the Jacobian `J` of the state.

    A change of an input that acts throughout a step does `integral exp((1 - t) A) dt g = (I + A / 2 + ...) g`, where `J =
    exp(A)` and `g` is what it does at once: that is `(I + J) g / 2` to the second order. One that acts at the end of a step
    does `g`. For one at its beginning, `J g`, a field of first order with what all changes have in common (`H`) was as good.

    Args:
        field: Field of changes of the state, `J`.
        units: Unit of each channel next to the field's own, `(C, *1)`; 1 for the state's channels.
        own: Number of the state's channels; behind them are inputs.
        share: Share of the step.
    """

    field: Field
    units: Array
    own: int
    share: float

    def jvp(self, states: Array, advanced: Array, params: Array | None, changes: Array) -> Array:
        """Compute `M(s) g`, `(P, C, *N)`; what stands in inputs' channels stays."""
        if not self.share:
            return changes
        product = self.field.jvp(states * self.units, advanced * self.units, params, _without_inputs(changes, self.own))
        return mix(changes, product, self.share, self.own)

    def vjp(self, states: Array, advanced: Array, params: Array | None, cotangents: Array) -> Array:
        """Compute `M(s)^T w`, `(P, C, *N)`."""
        if not self.share:
            return cotangents
        product = self.field.vjp(states * self.units, advanced * self.units, params, _without_inputs(cotangents, self.own))
        return mix(cotangents, product, self.share, self.own)

    def carry_back(self, products: Products) -> Products:
        """Solve `M(s) g = y` for what changes of inputs do at once, by least squares, LSMR (SIAM J. Sci. Comput. 33, 2011).

        Few iterations leave out what the rest of a step has all but removed.
        """
        if not self.share:
            return products
        found = [self._solve(part) for part in _parts(products)]
        return replace(products, answers=np.concatenate(found))

    def _solve(self, products: Products) -> Array:
        at, answers = (products.states, products.advanced, products.params), products.answers
        shape, size = answers[:, : self.own].shape, answers[:, : self.own].size

        def apply(product: Callable[..., Array], vector: Array) -> Array:
            changes = np.zeros_like(answers)
            changes[:, : self.own] = vector.reshape(shape)
            return _alone(product(*at, changes), self.own)

        operator = LinearOperator(
            (size, size), partial(apply, self.jvp), rmatvec=partial(apply, self.vjp), dtype=np.dtype(np.float64)
        )
        solved = lsmr(operator, _alone(answers, self.own), atol=ENOUGH, btol=ENOUGH, maxiter=ITERATIONS)[0]
        return np.concatenate([solved.reshape(shape).astype(answers.dtype), answers[:, self.own :]], axis=1)


@dataclass(frozen=True, eq=False)
class FieldOfInputs:
    """Jacobian of a solver's inputs, `J_u(s) = M(s) G(s)`: what they do at once, and the rest of the step.

    Args:
        field: Field `G` of what inputs do at once, `(0, v) -> (G v, v)`.
        rest: Rest of the step, `M`.
    """

    field: Field
    rest: RestOfStep

    def jvp(self, states: Array, advanced: Array, params: Array | None, directions: Array) -> Array:
        """Compute `J_u(s) v`, `(P, C, *N)`."""
        return self.rest.jvp(states, advanced, params, self.field.jvp(states, advanced, params, directions))

    def of(self, products: Products) -> Array:
        """Compute what the field makes of measured products' states and directions, `(P, C, *N)`."""
        parts = _parts(products)
        return np.concatenate([self.jvp(part.states, part.advanced, part.params, part.directions) for part in parts])


def with_rest(field: Field, rest: RestOfStep | None) -> Field | FieldOfInputs:
    """Return a field together with the rest of the step, if changes go through any."""
    return field if rest is None else FieldOfInputs(field, rest)


def _parts(products: Products) -> Iterator[Products]:
    return (products.part(part) for part in pieces(len(products.states), products.states[0].size))


def _without_inputs(changes: Array, own: int) -> Array:
    return np.concatenate([changes[:, :own], np.zeros_like(changes[:, own:])], axis=1)


def _alone(changes: Array, own: int) -> Array:
    """Return changes of the state as a vector of the type that LSMR computes in."""
    return changes[:, :own].reshape(-1).astype(np.float64)
