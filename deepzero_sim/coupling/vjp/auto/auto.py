"""The product that suits a solver, chosen by measured products and their cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.auto.candidates import Common
from deepzero_sim.coupling.vjp.auto.choice_report import ChoiceReport
from deepzero_sim.coupling.vjp.auto.search import Found, Search, choose_by_spec, most_steps_of_search
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct, sentence_on_first_states
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.jacobian_file import path_or_none
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import require_states

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

logger = logging.getLogger(__name__)

#: Most solver steps of the search where neither the caller nor a training says otherwise.
MOST_STEPS = 10_000

#: Names in a checkpoint: the report, and what the chosen product learnt.
_REPORT, _LEARNT = "choice", "chosen."


@final
class Auto(VectorJacobianProduct):
    """Product that suits the solver, chosen once by what others show: in this order,

    - :class:`Exact` for a :class:`~deepzero_sim.DifferentiableSolver`; :class:`Detached` for a solver that is not
      deterministic. Neither takes solver steps.
    - :class:`StraightThrough` if the identity has a cosine of 0.999 to measured products through eight steps.
    - The first of :class:`JacobianField`, :class:`ReferenceJacobian`, and a field on a Jacobian measured at one state, whose
      cosine is 0.9 or more, and no less than the identity's; the last two with the smallest blocks that `most_steps` allows.
      Below 0.99, the next one is tried too if it takes no more solver steps than the search so far, and the best is taken.
    - The best of these, the identity and :class:`Coloured`, which is tried if none has 0.9, the step is local, and a product
      takes at most 32 solver steps a state.
    - :class:`Detached` if none has 0.5, or the solver fails when it is probed.

    Chains of eight products along rollouts judge all of them; no candidate is fitted to these. A candidate that refuses
    the solver is left out. The choice is part of :meth:`state_dict`.

    Args:
        most_steps: Most solver steps of the search; None for 10,000 or, in a training, half of those that it will take itself.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        seed: Seed of states and directions.
        file: File to store in what is measured, and to find it again. It is only used for a solver that gives the same steps.

    Attributes:
        report: Choice with its reason and the figures of what was tried, :class:`ChoiceReport`, in one line as text; None
            before it is made.

    Raises:
        ConfigError: An argument cannot be used.
    """

    requires_determinism = False

    def __init__(
        self,
        most_steps: int | None = None,
        *,
        step_size: float | None = None,
        seed: int = 0,
        file: Path | str | None = None,
    ) -> None:
        fits = most_steps is None or is_count(most_steps, least=0)
        require(fits, "most_steps must be a whole number of solver steps, 0 or more, or None", most_steps)
        require(is_count(seed, least=0), "seed must be 0 or a positive whole number", seed)
        self.most_steps = most_steps
        self.step_size = Differences(step_size, "central").step_size
        self.seed = int(seed)
        self.file = path_or_none(file)
        self.report: ChoiceReport | None = None
        self._chosen: VectorJacobianProduct | None = None

    @property
    def chosen(self) -> VectorJacobianProduct | None:
        """Product that was chosen; None before that."""
        return self._chosen

    @property
    def _common(self) -> Common:
        return Common(self.step_size, self.seed, self.file)

    def bind(self, solver: Solver) -> None:
        super().bind(solver)
        if self._chosen is not None:
            self._chosen.bind(solver)
        elif found := choose_by_spec(solver, self._common):
            self._take(found)

    def _take(self, found: Found) -> None:
        self.report, self._chosen = found
        self.self_adjoint = found.product.self_adjoint
        if self._solver is not None:
            found.product.bind(self._solver)

    def adopt_defaults(self, file: Path, most_steps: int) -> None:
        self.file = self.file or file
        self.most_steps = most_steps if self.most_steps is None else self.most_steps

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Choose anew, by products at states of the data.

        Raises:
            ConfigError: The step size cannot be used with these states.
            SolverError: The states are none of the solver's.
        """
        require_states(probes.spec, states, params)
        self.bind(probes.solver)
        found = choose_by_spec(probes.solver, self._common)
        if found is None:
            with single_threaded():
                most = MOST_STEPS if self.most_steps is None else self.most_steps
                found = Search(states, params, probes, self._common, most).choose()
        self._take(found)
        logger.info("Auto of solver %r: %s.", probes.spec.name, self.report)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return self._require_chosen(taken, probes).product(taken, cotangents, probes)

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        return self._require_chosen(taken, probes).jvp(taken, directions, probes)

    def _require_chosen(self, taken: StepTaken, probes: SolverProbe) -> VectorJacobianProduct:
        if self._chosen is None:
            self.prepare(taken.states, taken.params, probes)
            if self.report is not None and self.report.steps:
                probes.warn(sentence_on_first_states("Auto", probes.spec, len(taken.states)))
        assert self._chosen is not None
        return self._chosen

    def differentiable_step(self, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor | None:
        return None if self._chosen is None else self._chosen.differentiable_step(solver, states, params)

    def steps_to_measure(self, spec: SolverSpec) -> int:
        most = MOST_STEPS if self.most_steps is None else self.most_steps
        return min(most, most_steps_of_search(spec, self._common, self._solver)) if spec.deterministic else 0

    def state_dict(self) -> dict[str, Array]:
        if self.report is None or self._chosen is None:
            return {}
        learnt = self._chosen.state_dict()
        return {_REPORT: self.report.as_array(), **{f"{_LEARNT}{name}": array for name, array in learnt.items()}}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        stored = StoredArrays.of_state(state_dict, "Auto")
        if not state_dict:
            self.report, self._chosen = None, None
            return
        known = f"a choice of Auto is restored from what its state_dict gave, which has {_REPORT!r}"
        require(_REPORT in state_dict, known, list(state_dict), "load the state of an Auto")
        stored.counts(_REPORT, "bytes", most=255)
        stored.require_no_others(_LEARNT)
        try:
            report = ChoiceReport.from_array(state_dict[_REPORT])
        except ValueError as error:
            stored.refuse(f"hold a choice of a product as {_REPORT!r}", f"what is none ({error})")
        product = report.chosen.build(self._common)
        product.load_state_dict(
            {name.removeprefix(_LEARNT): array for name, array in state_dict.items() if name.startswith(_LEARNT)}
        )
        self._take(Found(report, product))
