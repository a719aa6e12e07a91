"""Products that a choice is made among, by names and arguments that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from deepzero_sim.common.requirements import LARGEST_COUNT, is_count
from deepzero_sim.coupling.vjp.analytic import Detached, Exact, StraightThrough
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.coupling.vjp.coloured import Coloured
from deepzero_sim.coupling.vjp.field.jacobian_field import JacobianField
from deepzero_sim.coupling.vjp.reference.reference_jacobian import ReferenceJacobian


class Common(NamedTuple):
    """Arguments that all candidates share, as far as they have them.

    Args:
        step_size: Length of a probe, or None.
        seed: Seed of states and directions.
        file: File to store what is measured in, or None.
    """

    step_size: float | None
    seed: int
    file: Path | None


@dataclass(frozen=True)
class Candidate:
    """Product that may be chosen.

    Args:
        name: Name of its class.
        arguments: Arguments besides those of :class:`Common`.
    """

    name: str
    arguments: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({given})" if given else self.name

    @property
    def is_known(self) -> bool:
        """True if :meth:`build` can make it: a checkpoint may hold anything."""
        usable = self.arguments.keys() <= {"block"} and is_count(self.arguments.get("block", 1), most=LARGEST_COUNT)
        return self.name in _BUILDERS and usable

    def build(self, common: Common) -> VectorJacobianProduct:
        """Make the product.

        Raises:
            ConfigError: An argument cannot be used.
        """
        return _BUILDERS[self.name](common, self.arguments)


DETACHED, IDENTITY, EXACT = Candidate("Detached"), Candidate("StraightThrough"), Candidate("Exact")
COLOURED, FIELD = Candidate("Coloured"), Candidate("JacobianField")

#: References of a ReferenceJacobian: they cost little beside the first Jacobian.
REFERENCES = 64

#: Forward differences measure a whole Jacobian as well as central ones, see :class:`Differences`.
_BUILDERS: Mapping[str, Callable[[Common, Mapping[str, Any]], VectorJacobianProduct]] = {
    "Detached": lambda common, arguments: Detached(),
    "StraightThrough": lambda common, arguments: StraightThrough(),
    "Exact": lambda common, arguments: Exact(),
    "Coloured": lambda common, arguments: Coloured(step_size=common.step_size),
    "JacobianField": lambda common, arguments: JacobianField(**common._asdict(), **arguments),
    "ReferenceJacobian": lambda common, arguments: ReferenceJacobian(
        REFERENCES, step_size=common.step_size, file=common.file, scheme="forward", **arguments
    ),
}
