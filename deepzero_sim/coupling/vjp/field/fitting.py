"""Fit of a Jacobian field to products with known directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid, convolve
from deepzero_sim.coupling.vjp.field.least_squares import KernelEquations, Term, pieces
from deepzero_sim.coupling.vjp.field.local_stencils import LocalStencils
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.operators import FieldOperators
from deepzero_sim.coupling.vjp.field.projection import (
    Sample,
    find_directions,
    gather_neighbours,
    refine_directions,
    sample_places,
)
from deepzero_sim.coupling.vjp.field.state_features import FeatureMap, StateFeatures

#: Features that are evaluated together.
FEATURES = 16


@dataclass(frozen=True, eq=False)
class Products:
    """Products `y = J(s) v` at states, in units of each channel.

    Args:
        states: States `s`, `(P, C, *N)`.
        advanced: States after their step, `(P, C, *N)`.
        params: Scenario parameters, `(P, K)`, or None.
        directions: Directions `v`, `(P, C, *N)`.
        answers: Products `y`, `(P, C, *N)`.
    """

    states: Array
    advanced: Array
    params: Array | None
    directions: Array
    answers: Array

    def first(self, count: int) -> Products:
        """Pick the first of them."""
        return self.part(slice(count))

    def part(self, part: slice) -> Products:
        """Pick some of them."""
        params = None if self.params is None else self.params[part]
        return Products(self.states[part], self.advanced[part], params, self.directions[part], self.answers[part])

    def join(self, others: Products) -> Products:
        """Append other products to these."""
        params = None if self.params is None or others.params is None else np.concatenate([self.params, others.params])
        return Products(
            np.concatenate([self.states, others.states]),
            np.concatenate([self.advanced, others.advanced]),
            params,
            np.concatenate([self.directions, others.directions]),
            np.concatenate([self.answers, others.answers]),
        )

    def coefficients(self, features: FeatureMap) -> Array:
        """Evaluate features at all states, `(P, r, *N)`."""
        parts = pieces(len(self.states), self.states[0].size * max(1, len(features.constants)))
        found = [
            features(self.states[part], self.advanced[part], None if self.params is None else self.params[part])
            for part in parts
        ]
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Field:
    """Jacobian field: features of the state, and the operators that they weigh."""

    features: FeatureMap
    operators: FieldOperators

    def jvp(self, states: Array, advanced: Array, params: Array | None, directions: Array) -> Array:
        """Compute `J(s) v`, `(P, C, *N)`."""
        return self.operators.jvp(self.features(states, advanced, params), directions)

    def of(self, products: Products) -> Array:
        """Compute what the field makes of measured products' states and directions, `(P, C, *N)`."""
        coefficients = products.coefficients(self.features)
        parts = pieces(len(coefficients), products.states[0].size)
        return np.concatenate([self.operators.jvp(coefficients[part], products.directions[part]) for part in parts])

    def vjp(self, states: Array, advanced: Array, params: Array | None, cotangents: Array) -> Array:
        """Compute `J(s)^T w`, `(P, C, *N)`."""
        return self.operators.vjp(self.features(states, advanced, params), cotangents)


class FieldFit:
    """Fits of fields of several ranks to the same products.

    Args:
        grid: Grid of the kernels.
        features: Features of the states.
        products: Products to fit.
        seed: Seed of the points at which features are compared.
        measured: Measured Jacobian that kernels are added to, or None: then they are added to the identity.
    """

    def __init__(
        self,
        grid: KernelGrid,
        features: StateFeatures,
        products: Products,
        seed: int,
        measured: MeasuredBase | None = None,
    ) -> None:
        self._grid, self._features, self.products, self._measured = grid, features, products, measured
        self._known = products.directions if measured is None else measured.jvp(products.directions)
        self._sample = self._sample_features(np.random.default_rng(seed))
        kernels = self._solve_kernels([Term(None, products.directions)], products.answers - self._known, None)
        no_stencils = LocalStencils.none(grid, products.states.shape[1], products.states.dtype)
        self._common = FieldOperators(grid, kernels[0], kernels[1:], None, no_stencils, measured, 1)
        residual = products.answers - self._common.apply_base(products.directions)
        neighbours = gather_neighbours(products.directions, features.grid, self._sample)
        self.directions = find_directions(self._sample, neighbours, self._sample.at(residual))

    def _sample_features(self, generator: np.random.Generator) -> Sample:
        products, count, size = self.products, self._features.count, int(np.prod(self._grid.points))
        places = sample_places(len(products.states), size, generator)
        found = np.empty((len(products.states), places.shape[1], count))
        for first in range(0, count, FEATURES):  # a filter of each takes as much memory as a state
            some = self._features.combine(np.eye(count)[:, first : first + FEATURES])
            for p, row in enumerate(places):
                params = None if products.params is None else products.params[p : p + 1]
                values = some(products.states[p : p + 1], products.advanced[p : p + 1], params)
                found[p, :, first : first + FEATURES] = values.reshape(-1, size)[:, row].T
        return Sample(places, found.reshape(places.size, count))

    def fit(self, rank: int, radius: int) -> Iterator[Field]:
        """Fit a field without `H`, whose exponential is of first order, one with it, then one of second order.

        Args:
            rank: Number of features that vary; 0 leaves `A` out, and there is one field.
            radius: Radius of stencils that differ from point to point; 0 leaves them out.
        """
        features = self._features.combine(self.directions.vectors[:, :rank])
        if not rank and not radius:
            yield Field(features, self._common)
            return
        operators = self._solve(self.products.coefficients(features), self._common, 1, radius)
        if not rank:
            yield Field(features, operators)
            return
        features = self._features.combine(self._refine(operators))
        coefficients = self.products.coefficients(features)
        operators = self._solve(coefficients, operators, 1, radius)
        yield Field(features, operators)
        for order in (1, 2):
            operators = replace(operators, after=self._solve_after(coefficients, operators))
            operators = self._solve(coefficients, operators, order, radius)
            yield Field(features, operators)

    def _solve_after(self, coefficients: Array, operators: FieldOperators) -> Array:
        """Solve for the kernels of `H`, for operators whose exponential is of first order: their transforms, `(C, C, *K)`."""
        products, channels = self.products, self.products.states.shape[1]
        inputs = operators.apply_base(products.directions)
        rates = operators.apply_rates(coefficients, inputs)
        targets = products.answers - inputs - rates
        found: Array = KernelEquations(self._grid, [Term(None, rates)], channels).solve(targets)[0]
        return found + self._grid.identity(channels)

    def _solve(self, coefficients: Array, before: FieldOperators, order: int, radius: int) -> FieldOperators:
        """Solve for all kernels, then for local stencils; a second order of the exponential is that of the operators before.

        What is sought of `B` is its difference from the measured Jacobian, or else from the identity, to which ridges draw it.
        """
        products, terms = self.products, [Term(None, self.products.directions)]
        inputs = before.apply_base(products.directions)
        terms += [Term(np.ascontiguousarray(coefficients[:, r]), inputs) for r in range(coefficients.shape[1])]
        targets = products.answers - (before.second_order(coefficients, inputs) if order > 1 else 0)
        targets_of_kernels = targets - self._known - before.local.jvp(products.directions)
        kernels = self._solve_kernels(terms, targets_of_kernels, before)
        local = LocalStencils.none(self._grid, products.states.shape[1], products.states.dtype)
        if radius:
            uniform = FieldOperators(self._grid, kernels[0], kernels[1:], before.after, local, self._measured, 1)
            explained = uniform.apply_base(products.directions) + uniform.apply_varying(coefficients, inputs)
            local = LocalStencils.fit(self._grid, radius, products.directions, targets - explained)
        return FieldOperators(self._grid, kernels[0], kernels[1:], before.after, local, self._measured, order)

    def _solve_kernels(self, terms: list[Term], targets: Array, before: FieldOperators | None) -> Array:
        """Solve for the kernels in `B` and those of `G`: their transforms, `(1 + r, C, C, *K)`."""
        channels = self.products.states.shape[1]
        identity = self._grid.identity(channels) * (self._measured is None)
        guess = None
        if before is not None and len(before.varying) == len(terms) - 1:
            guess = np.concatenate([(before.base - identity)[None], before.varying])
        after = None if before is None else before.after
        kernels = KernelEquations(self._grid, terms, channels, after).solve(targets, guess)
        kernels[0] += identity
        return kernels

    def _refine(self, operators: FieldOperators) -> Array:
        """Choose the combinations of features anew for the kernels that were found."""
        products, inputs = self.products, operators.apply_base(self.products.directions)
        transform, outputs = self._grid.transform(inputs), []
        for kernels in operators.varying:
            outputs.append(self._sample.at(self._grid.values(convolve(kernels, transform))))
        return refine_directions(self._sample, np.stack(outputs, axis=2), self._sample.at(products.answers - inputs))
