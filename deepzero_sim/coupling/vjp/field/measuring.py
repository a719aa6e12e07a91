"""Measurement of a Jacobian field: of a first one, and of one in its place where states have drifted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.drift import FACTOR, UNSEEN, Drift, errors_of, factors_of, keep_some
from deepzero_sim.coupling.vjp.field.field_report import direction_error
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.probing import Measurement
from deepzero_sim.coupling.vjp.field.saved_field import (
    INPUTS,
    field_from_tensors,
    field_tensors,
    product_tensors,
    products_from_tensors,
)
from deepzero_sim.coupling.vjp.field.search import ROUND, FieldSearch, Medium, find_periodic_axes
from deepzero_sim.coupling.vjp.field.weak_channels import errors_of_weak_channels
from deepzero_sim.solver.stepped_inputs import count_inputs

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


class Recipe(NamedTuple):
    """Arguments of a :class:`~deepzero_sim.coupling.vjp.field.jacobian_field.JacobianField` that its measurement needs."""

    probes: int
    tolerance: float
    block: int | None
    seed: int
    differences: Differences


class Refit(NamedTuple):
    """Arrays of a field that was fitted again, and the errors of the old and of the new one, through the steps of chains."""

    tensors: dict[str, Array]
    was: float
    now: float


def measure_field(recipe: Recipe, states: Array, params: Array | None, probes: SolverProbe) -> dict[str, Array]:
    """Measure products at states of the data, `(B, C, *N)`, with parameters `(B, K)` or None, and fit a field to them.

    Returns:
        Arrays of the field, its report, and what a refit needs.
    """
    before = probes.steps
    measurement = Measurement(states, params, probes, recipe.differences, np.random.default_rng(recipe.seed))
    chains, products = measurement.chain(), measurement.products(min(ROUND, recipe.probes))
    periodic, measured = find_periodic_axes(products, recipe.seed), None
    if recipe.block is not None:
        measured = MeasuredBase.measure(states, params, probes, recipe.differences, recipe.block, measurement.sizes)
    search = FieldSearch(measurement, chains, Medium(periodic, measured), recipe.tolerance, recipe.seed)
    field, report = search.run(products, recipe.probes)
    unseen = errors_of(field, measurement.products(UNSEEN))
    weak = errors_of_weak_channels(field, measurement, probes.own_channels)
    report = replace(report, steps=probes.steps - before, unseen=tuple(unseen), weak=weak)
    common = {"mean": measurement.mean} | product_tensors("kept", keep_some(products))
    inputs = {} if not count_inputs(probes.solver) else _measure_inputs(recipe, states, params, probes, periodic)
    return field_tensors(field, measurement.sizes, report) | common | inputs


def _measure_inputs(
    recipe: Recipe, states: Array, params: Array | None, probes: SolverProbe, periodic: tuple[bool, ...]
) -> dict[str, Array]:
    """Measure products with changes of a solver's inputs alone, and fit a field to them.

    A change `v` of inputs changes the state by `J_u v` and stays what it is, `(0, v) -> (J_u v, v)`: the exponential of a
    field that is nilpotent, which is of first order. Chains of one product judge it: through more, changes of the state go on
    as the other field says.

    Returns:
        Arrays of the field and its report, by names that begin with :data:`INPUTS`.
    """
    before = probes.steps
    generator = np.random.default_rng([recipe.seed, len(INPUTS)])
    measurement = Measurement(states, params, probes, recipe.differences, generator, of_inputs=True)
    chains, products = measurement.chain(1), measurement.products(min(ROUND, recipe.probes))
    search = FieldSearch(measurement, chains, Medium(periodic), recipe.tolerance, recipe.seed)
    field, report = search.run(products, recipe.probes)
    tensors = field_tensors(field, measurement.sizes, replace(report, steps=probes.steps - before))
    return {f"{INPUTS}{name}": array for name, array in tensors.items()}


def measure_again(recipe: Recipe, drift: Drift, tensors: dict[str, Array], most: int, probes: SolverProbe) -> Refit | None:
    """Fit a field to at most so many products at the last states, and those that were kept; None if that is not called for.

    A few products at the last states confirm first that the field has drifted, and chains from there judge the two.

    Args:
        recipe: Arguments of the field.
        drift: States that it was last used at.
        tensors: Arrays of the field so far.
        most: Most products to measure.
        probes: Means of asking the solver for steps, which it counts.
    """
    before, generator = probes.steps, np.random.default_rng([recipe.seed, drift.seen, 1])
    field, sizes, report = field_from_tensors(tensors)
    measurement = Measurement(*drift.states(), probes, recipe.differences, generator, sizes)
    unseen = measurement.products(UNSEEN)
    if np.median(factors_of(errors_of(field, unseen), report.unseen, recipe.tolerance)) <= FACTOR:
        return None
    chains, kept = measurement.chain(), products_from_tensors("kept", tensors)
    products = kept.join(measurement.products(min(ROUND, most)))
    medium = Medium(report.periodic, field.operators.measured)
    new, found = FieldSearch(measurement, chains, medium, recipe.tolerance, recipe.seed).run(products, most + len(kept.states))
    steps, errors = report.steps + probes.steps - before, errors_of(new, unseen)
    found = replace(found, steps=steps, unseen=tuple(errors), refits=report.refits + 1, refitted_after=drift.seen)
    common = {"mean": measurement.mean} | product_tensors("kept", kept)
    was = direction_error(chains.cosines(field)[-1])
    return Refit(field_tensors(new, sizes, found) | common, was, found.error)
