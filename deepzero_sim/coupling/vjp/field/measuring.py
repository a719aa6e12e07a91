"""Measurement of a Jacobian field: of a first one, and of one in its place where states have drifted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.drift import FACTOR, UNSEEN, Drift, errors_of, factors_of, keep_some
from deepzero_sim.coupling.vjp.field.field_report import direction_error
from deepzero_sim.coupling.vjp.field.fitting import Products
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.probing import Measurement
from deepzero_sim.coupling.vjp.field.rest_of_step import SHARES, RestOfStep, with_rest
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
    """Arguments of a :class:`~deepzero_sim.coupling.vjp.field.jacobian_field.JacobianField` that a measurement needs, and
    whether it is one of changes of the solver's inputs.
    """

    probes: int
    tolerance: float
    block: int | None
    seed: int
    differences: Differences
    of_inputs: bool = False


class Refit(NamedTuple):
    """Arrays of a field that was fitted again, and the errors of the old and of the new one, through the steps of chains."""

    tensors: dict[str, Array]
    was: float
    now: float


def measure_fields(recipe: Recipe, states: Array, params: Array | None, probes: SolverProbe) -> dict[str, Array]:
    """Measure a field at states of the data, `(B, C, *N)`, with parameters `(B, K)` or None, and one of any inputs.

    Returns:
        Arrays of the field, its report, and what a refit needs; those of inputs have names that begin with :data:`INPUTS`.
    """
    tensors = _measure_field(recipe, states, params, probes)
    if not count_inputs(probes.solver):
        return tensors
    of_inputs = _measure_inputs(recipe._replace(of_inputs=True, block=None), states, params, probes, tensors)
    return tensors | {f"{INPUTS}{name}": array for name, array in of_inputs.items()}


def _measure_field(recipe: Recipe, states: Array, params: Array | None, probes: SolverProbe) -> dict[str, Array]:
    """Measure products with changes of the state, and fit a field to them."""
    before = probes.steps
    measurement = Measurement(states, params, probes, recipe.differences, np.random.default_rng(recipe.seed))
    chains, products = measurement.chain(), measurement.products(min(ROUND, recipe.probes))
    periodic, measured = find_periodic_axes(products, recipe.seed), None
    if recipe.block is not None:
        measured = MeasuredBase.measure(states, params, probes, recipe.differences, recipe.block, measurement.sizes)
    search = FieldSearch(measurement, chains, Medium(periodic, measured), recipe.tolerance, recipe.seed)
    begun = search.begin(products)
    field, report = search.run(begun, recipe.probes)
    unseen = errors_of(field, measurement.products(UNSEEN))
    weak = errors_of_weak_channels(field, measurement, probes.own_channels)
    report = replace(report, steps=probes.steps - before, unseen=tuple(unseen), weak=weak)
    return field_tensors(field, measurement.sizes, report) | _for_a_refit(measurement, begun.products)


def _measure_inputs(
    recipe: Recipe, states: Array, params: Array | None, probes: SolverProbe, own: dict[str, Array]
) -> dict[str, Array]:
    """Measure products with changes of a solver's inputs alone, and fit a field to them.

    A change `v` of inputs does `G v` to the state at once, which goes through the rest of the step, and stays what it is, `(0,
    v) -> (G v, v)`: the exponential of a field that is nilpotent, which is of first order. Chains of one product judge it:
    through more, changes of the state go on as the other field says. When in a step inputs act is what explains products best.

    Args:
        own: Arrays of the field of changes of the state.
    """
    before, generator = probes.steps, np.random.default_rng([recipe.seed, len(INPUTS)])
    measurement = Measurement(states, params, probes, recipe.differences, generator, of_inputs=True)
    chains, products = measurement.chain(), measurement.products(min(ROUND, recipe.probes))
    medium = Medium(tuple(bool(flag) for flag in own["periodic"]))
    field_of_states, units, _ = field_from_tensors(own)
    rests = [RestOfStep(field_of_states, measurement.sizes / units, probes.own_channels, share) for share in SHARES]
    searches = [FieldSearch(measurement, chains, medium, recipe.tolerance, recipe.seed, rest) for rest in rests]
    begun = [search.begin(products) for search in searches]
    best = min(range(len(SHARES)), key=lambda number: begun[number].judged.score)
    search = searches[best]
    field, report = search.run(begun[best], recipe.probes)
    unseen = errors_of(search.whole(field), measurement.products(UNSEEN))
    report = replace(report, steps=probes.steps - before, unseen=tuple(unseen), share=SHARES[best])
    return field_tensors(field, measurement.sizes, report) | _for_a_refit(measurement, products)


def _for_a_refit(measurement: Measurement, products: Products) -> dict[str, Array]:
    return {"mean": measurement.mean} | product_tensors("kept", keep_some(products))


def measure_again(
    recipe: Recipe,
    drift: Drift,
    tensors: dict[str, Array],
    most: int,
    probes: SolverProbe,
    rest: RestOfStep | None = None,
) -> Refit | None:
    """Fit a field to at most so many products at the last states, and those that were kept; None if that is not called for.

    A few products at the last states confirm first that the field has drifted, and chains from there judge the two.

    Args:
        recipe: Arguments of the field.
        drift: States that it was last used at.
        tensors: Arrays of the field so far.
        most: Most products to measure.
        probes: Means of asking the solver for steps, which it counts.
        rest: Rest of the step that changes of inputs go through.
    """
    before, generator = probes.steps, np.random.default_rng([recipe.seed, drift.seen, 1])
    field, sizes, report = field_from_tensors(tensors)
    old = with_rest(field, rest)
    measurement = Measurement(*drift.states(), probes, recipe.differences, generator, sizes, recipe.of_inputs)
    unseen = measurement.products(UNSEEN)
    if np.median(factors_of(errors_of(old, unseen), report.unseen, recipe.tolerance / measurement.length)) <= FACTOR:
        return None
    chains, kept = measurement.chain(), products_from_tensors("kept", tensors)
    products = kept.join(measurement.products(min(ROUND, most)))
    medium = Medium(report.periodic, field.operators.measured)
    search = FieldSearch(measurement, chains, medium, recipe.tolerance, recipe.seed, rest)
    new, found = search.run(search.begin(products), most + len(kept.states))
    steps, errors = report.steps + probes.steps - before, errors_of(search.whole(new), unseen)
    found = replace(found, steps=steps, unseen=tuple(errors), refits=report.refits + 1, refitted_after=drift.seen)
    found = replace(found, share=report.share)
    common = {"mean": measurement.mean} | product_tensors("kept", kept)
    was = direction_error(chains.cosines(old)[-1])
    return Refit(field_tensors(new, sizes, found) | common, was, found.error)
