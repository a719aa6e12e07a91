"""Search for the product that suits a solver: each candidate is judged by the same chains of measured products."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.auto.candidates import COLOURED, DETACHED, EXACT, FIELD, IDENTITY, Candidate, Common
from deepzero_sim.coupling.vjp.auto.choice_report import ChoiceReport, Trial
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.coloured import Coloured
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.probing import CHAINS, COTANGENTS, LENGTH, Chains, Measurement
from deepzero_sim.coupling.vjp.jacobian_file import JacobianFile, identify
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.errors import ConfigError, SolverError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.failure_policy import account_of
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import count_inputs

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: Cosines through all steps of the chains: from which on the identity does, nothing better is sought, nothing better is sought
#: that costs more than the search so far, and a gradient is followed rather than none.
SAME, FINE, GOOD, LEAST = 0.999, 0.99, 0.9, 0.5

#: Solver steps of the chains, and of the product that tells the solver from others.
CHAIN_STEPS = 2 * CHAINS * LENGTH + 2

#: Most solver steps of a product at one state, for one that takes some, and chains that such a product is judged by.
MOST_A_STATE, FEW = 32, 2

#: Products that measure a Jacobian at one state in blocks, in the order of the time that they take.
BLOCKWISE = ("ReferenceJacobian", "JacobianField")

#: Most values of a Jacobian measured at one state: every product reads them all.
MOST_VALUES = 2**26


class _Judged(NamedTuple):
    """Product whose cosine is known."""

    cosine: float
    candidate: Candidate
    product: VectorJacobianProduct


class Found(NamedTuple):
    """Product that was chosen, ready for use, and the report of the choice."""

    report: ChoiceReport
    product: VectorJacobianProduct


def choose_by_spec(solver: Solver, common: Common) -> Found | None:
    """Choose where no probes are needed: for a solver that has its own gradient, or none that probes could tell.

    Returns:
        The choice; None if probes must tell.
    """
    if isinstance(solver, DifferentiableSolver):
        return Found(ChoiceReport(EXACT, "the solver is a DifferentiableSolver"), EXACT.build(common))
    if not solver.spec.deterministic:
        reason = "the solver is not deterministic, so that differences of its steps say nothing"
        return Found(ChoiceReport(DETACHED, reason), DETACHED.build(common))
    return None


def most_steps_of_search(spec: SolverSpec, common: Common, solver: Solver | None) -> int:
    """Count the solver steps that a search takes, at most, where their number is not limited."""
    steps = _steps_of_chains(solver) + FEW * LENGTH * MOST_A_STATE
    for candidate in (FIELD, *(Candidate(name, {"block": 1}) for name in BLOCKWISE), COLOURED):
        try:
            steps += _build(candidate, common, solver).steps_to_measure(spec)
        except ConfigError:  # it is left out
            continue
    return steps


def _build(candidate: Candidate, common: Common, solver: Solver | None) -> VectorJacobianProduct:
    product = candidate.build(common)
    if solver is not None:
        product.bind(solver)
    return product


def _steps_of_chains(solver: Solver | None) -> int:
    """Count the solver steps of the chains that judge, of changes of inputs too, if the solver reads any."""
    inputs = 0 if solver is None else count_inputs(solver)
    return CHAIN_STEPS + (2 * (inputs + CHAINS * LENGTH) if inputs else 0)


class Search:
    """Search for the product of a deterministic solver, at states like those to come.

    Args:
        states: Solver states, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        probes: Means of asking the solver for steps, which it counts.
        common: Arguments that all candidates share.
        most_steps: Most solver steps of the search.
    """

    def __init__(self, states: Array, params: Array | None, probes: SolverProbe, common: Common, most_steps: int) -> None:
        self._states, self._params, self._probes = states, params, probes
        self._common, self._most_steps = common, most_steps
        self._before = probes.steps
        self._trials: list[Trial] = []
        self._judged: list[_Judged] = []
        self._said: dict[str, list[warnings.WarningMessage]] = {}

    def choose(self) -> Found:
        """Try candidates in the order of their cost, until one is good.

        Raises:
            ConfigError: The step size cannot be used with these states.
        """
        steps = _steps_of_chains(self._probes.solver)
        if self._left < steps:
            return self._settle(IDENTITY, f"to tell which suits takes {steps}, more than {self._limit}")
        try:
            self._measure_chains()
        except SolverError as error:
            self._probes.count(account_of(error))
            return self._settle(DETACHED, f"probes of the solver failed ({_without_stop(error)})")
        identity = self._judge(IDENTITY, IDENTITY.build(self._common))
        if count_inputs(self._probes.solver):
            self._trials.clear()  # it has no answer to a change of inputs: its 0 is no measurement
        if identity < SAME:
            self._try_all(max(GOOD, identity))
        best = self._best
        if best.cosine < LEAST:
            return self._settle(DETACHED, f"no product has a cosine of {LEAST} through {LENGTH} steps")
        report = self._report(best.candidate, f"cosine {best.cosine:.4f} through {LENGTH} steps")
        said = [str(warning.message) for warning in self._said.get(str(best.candidate), [])]
        if best.cosine < GOOD and not said:
            said = [f"the best product found for solver {self._probes.spec.name!r} is poor: {report}."]
        for sentence in said:
            self._probes.warn(sentence)
        return Found(report, best.product)

    def _try_all(self, good: float) -> None:
        """Try candidates until one is fine, or is good and the next one costs more than all so far."""
        best = -1.0
        for candidate in self._candidates():
            if best >= FINE or (best >= good and not self._costs_at_most(candidate, self._taken)):
                return
            cosine = self._try(candidate)
            best = best if self._said.get(str(candidate)) else max(best, cosine)
        if best < good:
            self._try_coloured()

    @property
    def _taken(self) -> int:
        """Number of solver steps that the search has taken."""
        return self._probes.steps - self._before

    @property
    def _left(self) -> int:
        """Number of solver steps that may still be taken."""
        return self._most_steps - self._taken

    @property
    def _limit(self) -> str:
        return f"the {max(0, self._left):,} solver steps that are left of most_steps"

    @property
    def _best(self) -> _Judged:
        """Product of the largest cosine, among good ones that have no warning if there are any; the cheapest of several."""

        def rank(judged: _Judged) -> tuple[bool, float]:
            return judged.cosine >= GOOD and not self._said.get(str(judged.candidate)), judged.cosine

        return max(self._judged, key=rank)

    def _settle(self, candidate: Candidate, reason: str) -> Found:
        """Choose what takes no measurement, for want of a better product; warn where it is no gradient at all."""
        report = self._report(candidate, reason)
        to_inputs = " to its inputs" if count_inputs(self._probes.solver) else ""
        if candidate == DETACHED or to_inputs:
            advice = " A network that acts before the solver, or inside it, then learns nothing: name a vjp, such as Coloured"
            advice = f"{advice}, or raise most_steps of Auto." if to_inputs else ""
            self._probes.warn(f"no gradient passes solver {self._probes.spec.name!r}{to_inputs}: {report}.{advice}")
        return Found(report, candidate.build(self._common))

    def _report(self, candidate: Candidate, reason: str) -> ChoiceReport:
        return ChoiceReport(candidate, reason, self._taken, tuple(self._trials))

    def _measure_chains(self) -> None:
        """Measure chains of products, or find them in the file."""
        states, params, probes, common = self._states, self._params, self._probes, self._common
        differences = Differences(common.step_size, "central")
        # not the numbers that a field draws, which its own chains and products are made of
        measurement = Measurement(states, params, probes, differences, np.random.default_rng([common.seed, 1]))
        file, settings = JacobianFile(common.file), [f"chains 2 {common.step_size} {common.seed}"]
        identity = identify(states, params, probes, differences)
        chains = file.get(settings, identity, probes, lambda: measurement.chain().tensors(), self._check_chains)
        self._chains = [(Chains.load(chains), measurement.sizes)]
        if count_inputs(probes.solver):  # what they do to a state in one step
            generator = np.random.default_rng([common.seed, 2])
            measurement = Measurement(states, params, probes, differences, generator, of_inputs=True)
            self._chains.append((measurement.chain(), measurement.sizes))
        file.save()

    def _check_chains(self, stored: StoredArrays) -> None:
        """Refuse arrays that are not what :meth:`Chains.tensors` gives."""
        shape = self._probes.spec.state_shape
        stored.numbers("states", CHAINS, LENGTH + 1, *shape)
        stored.numbers("directions", CHAINS, *shape)
        stored.numbers("answers", CHAINS, LENGTH, *shape)
        stored.numbers("cotangents", min(COTANGENTS, len(self._states)), *shape)
        if self._params is not None:
            stored.numbers("params", CHAINS, self._params.shape[1])

    def _judge(self, candidate: Candidate, product: VectorJacobianProduct, chains: int | None = None) -> float:
        """Compute the cosine of a product through all steps of some chains, or all, the smallest of several, and note it."""
        found = [
            (measured if chains is None else measured.first(chains)).cosines(_ProductInUnits(product, sizes, self._probes))[-1]
            for measured, sizes in self._chains
        ]
        cosine = min(float(np.nan_to_num(one, nan=-1.0)) for one in found)
        warned = " ".join(_without_stop(said.message) for said in self._said.get(str(candidate), []))
        self._trials.append(Trial(str(candidate), cosine, warned=warned if cosine >= GOOD else ""))
        self._judged.append(_Judged(cosine, candidate, product))
        return cosine

    def _candidates(self) -> Iterator[Candidate]:
        """List products that take solver steps once, in the order of their cost; blocks are as small as steps allow."""
        yield FIELD
        for name in BLOCKWISE:
            block = self._smallest_block(name)
            if block is not None:
                yield Candidate(name, {"block": block})

    def _smallest_block(self, name: str) -> int | None:
        active = self._probes.spec.active()
        for block in range(1, max(active.shape[1:]) + 1):
            base = BaseJacobian(active, block)
            if base.near_direction_count > self._left:
                break  # larger blocks have larger windows
            if base.value_count <= MOST_VALUES and self._costs_at_most(Candidate(name, {"block": block}), self._left):
                return block
        why = f"no size of blocks fits into memory and {self._limit}"
        self._trials.append(Trial(f"{name} in blocks", None, why))
        return None

    def _costs_at_most(self, candidate: Candidate, steps: int) -> bool:
        """Tell whether a candidate can be used and takes no more solver steps than so many."""
        try:
            return _build(candidate, self._common, self._probes.solver).steps_to_measure(self._probes.spec) <= steps
        except ConfigError:
            return False

    def _try(self, candidate: Candidate) -> float:
        """Prepare a candidate and judge it; one that cannot be used has a cosine of -1."""
        with self._leave_out_unsuitable(candidate):
            return self._judge(candidate, self._prepare(candidate))
        return -1.0

    def _try_coloured(self) -> None:
        """Try the product that takes solver steps at every state, where no other is good and the step is local."""
        if self._best.cosine >= GOOD:
            return
        spec = self._probes.spec
        with self._leave_out_unsuitable(COLOURED):
            product = self._prepare(COLOURED)
            assert isinstance(product, Coloured)
            radius = product.known_radius(spec)
            assert radius is not None
            steps = product.steps_per_product(spec, radius)
            require_that(steps <= MOST_A_STATE, f"a product takes {steps:,} solver steps a state, more than {MOST_A_STATE}")
            self._require_left(FEW * LENGTH * steps)
            self._judge(COLOURED, product, chains=FEW)

    @contextmanager
    def _leave_out_unsuitable(self, candidate: Candidate) -> Iterator[None]:
        try:
            yield
        except (ConfigError, SolverError) as error:
            if isinstance(error, SolverError):
                self._probes.count(account_of(error))
            self._trials.append(Trial(str(candidate), None, _without_stop(error)))

    def _prepare(self, candidate: Candidate) -> VectorJacobianProduct:
        """Build a product and let it measure; its warnings wait until it is chosen."""
        product = _build(candidate, self._common, self._probes.solver)
        self._require_left(product.steps_to_measure(self._probes.spec))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            product.prepare(self._states, self._params, self._probes)
        self._said[str(candidate)] = said
        return product

    def _require_left(self, steps: int) -> None:
        require_that(steps <= self._left, f"it takes {steps:,}, more than {self._limit}")


def _without_stop(error: Exception | str) -> str:
    """Return the sentence of an error, or of a warning, as part of another."""
    return str(error).rstrip(".")


class _ProductInUnits:
    """Product as chains ask it: in units of each channel, of sizes `(C, *1)`, and zero in padding, as a layer takes it."""

    def __init__(self, product: VectorJacobianProduct, sizes: Array, probes: SolverProbe) -> None:
        self._product, self._sizes, self._probes = product, sizes, probes

    def jvp(self, states: Array, advanced: Array, params: Array | None, directions: Array) -> Array:
        sizes = self._sizes
        taken = StepTaken(states * sizes, params, advanced * sizes)
        return np.asarray(self._product.jvp(taken, directions * sizes, self._probes) / sizes * self._probes.spec.active())
