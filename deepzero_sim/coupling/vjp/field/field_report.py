"""Error bar of a Jacobian field."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from deepzero_sim.solver.spec import SolverSpec

#: Products to take where a field is poor, in words.
FALLBACK = (
    "Coloured if a step carries information over few points, ReferenceJacobian if its Jacobian changes little, or "
    "StraightThrough"
)


#: Cosine through the chains' steps from which on a field is worth its name.
POOR = 0.9

#: Share of its size below which the deviation of a channel is little, and share by which what changes of it alone do may be off
#: before that is told.
LITTLE, OFF = 0.1, 0.5


class Reason(enum.Enum):
    """Reason why no more products were measured."""

    TOLERANCE = "the error is below the tolerance"
    NO_GAIN = "more products did not lower the error"
    NO_USE = "it is no better than the identity, so no more were measured"
    ALL_USED = "all probes were used"


@dataclass(frozen=True)
class FieldReport:
    """Error bar of a Jacobian field, from chains of products that it was not fitted to.

    Args:
        probes: Number of products that it was fitted to.
        steps: Solver steps of all products.
        rank: Number of features that its coefficients depend on.
        periodic: Flag of each axis, True if the field takes its ends to meet.
        cosines: Estimate of the mean cosine of its products through 1, 2, ... steps to the true ones, see :class:`Chains`.
        identity: The same of the identity.
        reason: Reason why no more was measured.
        unseen: Error of one product of each kind of direction, as a share, that it was not fitted to either.
        weak: Number of each channel that varies little next to its size, and the share by which products with changes of it
            alone are off.
        refits: Number of times that it was fitted again, to states that it was used at.
        refitted_after: Number of states that it was used at before the last of these.
        share: Share of a step that changes of inputs go through as changes of the state, of a field of inputs; see
            :class:`~deepzero_sim.coupling.vjp.field.rest_of_step.RestOfStep`.
        of_inputs: Error bar of the field of the solver's inputs, through one step; None if it reads none.
    """

    probes: int
    steps: int
    rank: int
    periodic: tuple[bool, ...]
    cosines: tuple[float, ...]
    identity: tuple[float, ...]
    reason: Reason
    unseen: tuple[float, ...] = ()
    weak: tuple[tuple[int, float], ...] = ()
    refits: int = 0
    refitted_after: int = 0
    share: float = 0.0
    of_inputs: FieldReport | None = None

    @property
    def error(self) -> float:
        """Share by which products through the most steps are off in direction, `(1 - cos^2)^(1/2)`."""
        return direction_error(self.cosines[-1])

    @property
    def is_poor(self) -> bool:
        """True if the field is no better than the identity, or not worth its name."""
        return self.cosines[-1] < max(self.identity[-1], POOR)

    def warnings(self, spec: SolverSpec) -> list[str]:
        """Write a sentence on each reason not to use the field for a solver."""
        sentences = [
            f"JacobianField of solver {spec.name!r} does not know what changes of {spec.channel_names[channel]!r} alone do, "
            f"which varies by less than {LITTLE:.0%} of its size in the states given: they are off by {error:.0%}. Gradients "
            "with respect to it are wrong: give states in which it varies, or take Coloured or ReferenceJacobian."
            for channel, error in self.weak
            if error > OFF
        ]
        if self.of_inputs is not None and self.of_inputs.cosines[-1] < POOR:
            sentences.append(
                f"JacobianField knows little of what the inputs of solver {spec.name!r} do: cosine "
                f"{self.of_inputs.cosines[-1]:.4f} through 1 step. Gradients with respect to them are wrong: take Coloured, or "
                "give inputs that vary more."
            )
        if self.is_poor:
            sentences.append(
                f"JacobianField found no Jacobian of solver {spec.name!r} that depends on the state as it expects: {self}. "
                f"Take {FALLBACK}."
            )
        return sentences

    @property
    def _words_on_inputs(self) -> str:
        found = self.of_inputs
        if found is None:
            return ""
        return f"; inputs: cosine {found.cosines[-1]:.4f}, from {found.probes} products and {found.steps} solver steps"

    def __str__(self) -> str:
        refitted = f"; refitted {_times(self.refits)}, last after {self.refitted_after:,} products" if self.refits else ""
        more = f" and {self.cosines[-1]:.4f} through {len(self.cosines)}" if len(self.cosines) > 1 else ""
        return (
            f"cosine {self.cosines[0]:.4f} through 1 step{more} "
            f"({self.identity[-1]:.4f} with the identity), from {self.probes} products and {self.steps} solver steps; "
            f"{self.reason.value}{refitted}{self._words_on_inputs}"
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def direction_error(cosine: float) -> float:
    """Compute the share by which a product is off in direction, `(1 - cos^2)^(1/2)`; 1 where it points away."""
    return float(np.sqrt(max(0.0, 1 - max(0.0, float(cosine)) ** 2)))
