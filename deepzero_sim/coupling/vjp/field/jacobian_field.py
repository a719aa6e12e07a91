"""Products with a Jacobian that depends on the state, fitted to a few dozen measured products."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from deepzero_sim.common.requirements import LARGEST_COUNT, is_count, is_positive, require, require_that
from deepzero_sim.common.types import Array, read_only_copy, read_only_view
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct, sentence_on_first_states
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.drift import CHECK_EVERY, UNSEEN
from deepzero_sim.coupling.vjp.field.field_in_use import FieldInUse, check_field_in_use
from deepzero_sim.coupling.vjp.field.field_report import FieldReport
from deepzero_sim.coupling.vjp.field.measuring import Recipe, measure_fields
from deepzero_sim.coupling.vjp.field.probing import CHAINS, LENGTH
from deepzero_sim.coupling.vjp.field.rest_of_step import mix
from deepzero_sim.coupling.vjp.field.saved_field import INPUTS
from deepzero_sim.coupling.vjp.field.search import ROUND
from deepzero_sim.coupling.vjp.jacobian_file import JacobianFile, identify, path_or_none
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import count_inputs
from deepzero_sim.solver.validation import require_states

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

logger = logging.getLogger(__name__)

#: Least probes a channel, and values of a state from which on fewer are needed.
LEAST, VALUES = 4, 2**17


@final
class JacobianField(VectorJacobianProduct):
    """Jacobian that depends on the state, learnt from products with random directions at states of the data.

        J(s) = exp(A(s)) B,   A(s) = H sum_r diag(psi_r(s)) G_r

    `psi_r` are a few features of the state and of its increment `P(s) - s` around each point, near and far; `G_r`, `H` and `B`
    are convolutions. That holds what a Jacobian at fixed states cannot: how a flow carries a change, and how a change
    carries the flow. `H` is what the solver does to all changes alike, such as a projection, or the removal of short waves:
    without it, products with rough cotangents, such as a coarse solver's own errors, are far worse. Each measured product gives
    an equation for every point of the grid, so that a few dozen suffice on any grid. All are fitted by least squares; the
    features, by a singular value decomposition and one refinement.

    Chains of products that the fit has not seen tell its error. Products are measured in rounds until that is below
    `tolerance`, or no longer falls. A product of the field takes no solver steps.

    The inputs of a solver have a field of their own, measured by changes of them alone: what they do at once, and the rest of
    the step, see :class:`~deepzero_sim.coupling.vjp.field.rest_of_step.RestOfStep`.

    In use, the field is checked now and then: one product along a random direction, for two solver steps, is compared with
    the solver's. Where half of the last checks are off by twice as much as products that were not fitted at measuring, and by
    more than `tolerance` allows, the field has drifted, and is fitted again, to products at the states it was last used at
    and some of the first. All refits take at most as many solver steps as measuring did.

    Args:
        probes: Most products to measure, of two solver steps each, besides those of the chains. States of more than 2^17 values
            take fewer, down to 32, as each gives so many more equations: half of it for twice as many values.
        tolerance: Error of products through 8 steps, as a share, at which no more are measured.
        block: Points along each axis of the blocks in which the Jacobian at one state is measured, as the common part `B` of a
            medium that is not uniform, see :class:`~deepzero_sim.coupling.vjp.base_jacobian.BaseJacobian`; None for a `B`
            that is fitted.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        check_every: Number of states whose products are asked for from one check to the next; None never checks.
        seed: Seed of states and directions.
        file: File to store the field in, and to find it again. It is only used for a solver that gives the same steps.

    Attributes:
        report: Error bar of the field, :class:`FieldReport`, as of its last fit; None before it is measured.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        probes: int = 96,
        tolerance: float = 0.05,
        block: int | None = None,
        *,
        step_size: float | None = None,
        check_every: int | None = CHECK_EVERY,
        seed: int = 0,
        file: Path | str | None = None,
    ) -> None:
        require(is_count(probes, most=LARGEST_COUNT), "probes must be a positive whole number", probes)
        require(is_positive(tolerance), "tolerance must be a positive share of a product", tolerance)
        fits = block is None or is_count(block, most=LARGEST_COUNT)
        require(fits, "block must be a positive whole number of points, or None", block)
        fits = check_every is None or is_count(check_every, most=LARGEST_COUNT)
        require(fits, "check_every must be a positive whole number of states, or None", check_every)
        require(is_count(seed, least=0), "seed must be 0 or a positive whole number", seed)
        self.probes = probes
        self.tolerance = float(tolerance)
        self.block = block
        self.check_every = check_every
        self.seed = int(seed)
        self.file = path_or_none(file)
        self.report: FieldReport | None = None
        self._differences = Differences(step_size, "central")
        self._stored: dict[str, Array] = {}
        self._own: FieldInUse | None = None
        self._of_inputs: FieldInUse | None = None

    def _most(self, spec: SolverSpec) -> int:
        """Return the most products to measure for a solver."""
        fewer = self.probes * VALUES // math.prod(spec.state_shape)
        return min(self.probes, max(ROUND, fewer))

    def _recipe(self, spec: SolverSpec) -> Recipe:
        return Recipe(self._most(spec), self.tolerance, self.block, self.seed, self._differences)

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Measure products at states of the data, and fit the field to them.

        Raises:
            ConfigError: There are fewer probes than a solver of so many channels needs.
            SolverError: The states are none of the solver's, or the solver failed.
        """
        require_states(probes.spec, states, params)
        self.bind(probes.solver)
        self._require_enough(probes.spec)
        file = JacobianFile(self.file)
        settings = [
            f"field 6 {self._most(probes.spec)} {self.tolerance} {self.block} {self._differences.step_size} {self.seed}"
            f"{' inputs 2' if count_inputs(probes.solver) else ''}"
        ]
        identity = identify(states, params, probes, self._differences)
        with single_threaded():  # many small products of matrices, which several threads slow down
            tensors = file.get(
                settings,
                identity,
                probes,
                lambda: measure_fields(self._recipe(probes.spec), states, params, probes),
                lambda stored: _check(stored, probes.spec),
            )
        file.save()
        self._take(tensors, probes.spec)
        report = self._update_report()
        logger.info("JacobianField of solver %r: %s.", probes.spec.name, report)
        for sentence in report.warnings(probes.spec):
            warnings.warn(sentence, stacklevel=2)

    def _take(self, tensors: dict[str, Array], spec: SolverSpec) -> None:
        """Make the fields of their arrays."""
        recipe = self._recipe(spec)
        inputs = {name.removeprefix(INPUTS): array for name, array in tensors.items() if name.startswith(INPUTS)}
        own = {name: array for name, array in tensors.items() if not name.startswith(INPUTS)}
        self._own = FieldInUse(recipe, own, self.check_every)
        of_inputs = recipe._replace(block=None, of_inputs=True)
        self._of_inputs = FieldInUse(of_inputs, inputs, self.check_every, self._own) if inputs else None

    def _update_report(self) -> FieldReport:
        assert self._own is not None
        of_inputs = None if self._of_inputs is None else self._of_inputs.report
        self.report = replace(self._own.report, of_inputs=of_inputs)
        return self.report

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        field, own = self._begin(taken, probes), probes.own_channels
        field.look_for_drift(taken, probes)
        product = field.scaled.vjp(taken, cotangents)
        if self._of_inputs is not None:
            self._of_inputs.look_for_drift(taken, probes)
            at_once = mix(cotangents, product, self._of_inputs.report.share, own)
            product = np.concatenate([product[:, :own], self._of_inputs.scaled.vjp(taken, at_once)[:, own:]], axis=1)
        self._update_report()
        return product

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        field, own = self._begin(taken, probes).scaled, probes.own_channels
        if self._of_inputs is None:
            return field.jvp(taken, directions)
        alone, inputs = directions.copy(), directions.copy()
        alone[:, own:] = inputs[:, :own] = 0
        at_once = self._of_inputs.scaled.jvp(taken, inputs)
        at_once[:, own:] = 0
        product = mix(at_once, field.jvp(taken, at_once), self._of_inputs.report.share, own) + field.jvp(taken, alone)
        product[:, own:] = directions[:, own:]
        return product

    def _begin(self, taken: StepTaken, probes: SolverProbe) -> FieldInUse:
        """Return the field of the state; measure or restore the fields if there are none yet."""
        if self._own is None:
            if self._stored:
                _check(StoredArrays.of_state(self._stored, "JacobianField"), probes.spec)
                self._take(self._stored, probes.spec)
                self._update_report()
            else:
                self.prepare(taken.states, taken.params, probes)
                probes.warn(sentence_on_first_states("JacobianField", probes.spec, len(taken.states)))
        assert self._own is not None
        return self._own

    def adopt_defaults(self, file: Path, most_steps: int) -> None:
        self.file = self.file or file

    def steps_to_measure(self, spec: SolverSpec) -> int:
        """Count the solver steps to measure a field of a solver, at most.

        Raises:
            ConfigError: There are fewer probes than a solver of so many channels needs.
        """
        self._require_enough(spec)
        products = self._most(spec) + CHAINS * LENGTH + UNSEEN + 1  # the last tells the solver from others
        products += spec.state_shape[0] if spec.state_shape[0] > 1 else 0  # channels that vary little are looked at alone
        inputs = 0 if self._solver is None else count_inputs(self._solver)
        products += inputs + CHAINS * LENGTH + self._most(spec) + UNSEEN if inputs else 0
        base = 0 if self.block is None else 1 + BaseJacobian(spec.active(), self.block).direction_count
        return 2 * products + base

    def _require_enough(self, spec: SolverSpec) -> None:
        channels = spec.state_shape[0]
        least = LEAST * channels
        require_that(
            self._most(spec) >= least,
            f"a JacobianField of a solver with {count_of(channels, 'channel')}, {spec.name!r}, needs {least} probes or more, "
            f"not {self._most(spec)}: raise probes, or take StraightThrough, which needs none.",
        )

    def state_dict(self) -> dict[str, Array]:
        if self._own is None:
            return dict(self._stored)
        of_inputs = {} if self._of_inputs is None else self._of_inputs.state_dict()
        state = self._own.state_dict() | {f"{INPUTS}{name}": array for name, array in of_inputs.items()}
        return {name: read_only_view(array) for name, array in state.items()}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        stored = StoredArrays.of_state(state_dict, "JacobianField")
        if state_dict:
            _check(stored, None if self._solver is None else self._solver.spec)
        stored.require_no_others()
        self._stored = {name: read_only_copy(array) for name, array in state_dict.items()}
        self._own = self._of_inputs = None


def _check(stored: StoredArrays, spec: SolverSpec | None) -> None:
    """Refuse arrays that are not those of a field, and of one of the inputs if there is any, in use or not."""
    check_field_in_use(stored, spec)
    inputs = stored.part(INPUTS, own_sizes=True)
    if "sizes" in inputs:
        check_field_in_use(inputs, spec, of_inputs=True)
