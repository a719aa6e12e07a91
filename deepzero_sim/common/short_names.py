"""Short names that settings may use for components, in place of import paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deepzero_sim.common.components import HANDED, Component
from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ShortNames:
    """A rule for components that may be named by a short name, which is exchanged for an import path.

    Args:
        paths: Import paths by short name.
    """

    paths: Mapping[str, str]

    def __call__(self, key: str, component: Component) -> None:
        """Refuse a short name that is none of these."""
        self.in_full(key, component)

    def in_full(self, key: str, component: Component) -> Component:
        """Return the component by its import path, with which runs are recorded.

        Raises:
            ConfigError: Nothing has its short name.
        """
        name = component.name
        if "." in name or ":" in name or name.startswith(HANDED):
            return component
        if name not in self.paths:
            raise ConfigError(
                f"{key} must name one of {', '.join(self.paths)}, an import path (package.module.Name) or file.py:Name, not "
                f"{name!r}{did_you_mean(name, self.paths)}."
            )
        return replace(component, name=self.paths[name])


#: Short names of vector-Jacobian products.
PRODUCTS = ShortNames(
    {
        name: f"deepzero_sim.vjp.{name}"
        for name in (
            "Auto",
            "Coloured",
            "CoordinateProbes",
            "Detached",
            "Exact",
            "JacobianField",
            "RandomProbes",
            "ReferenceJacobian",
            "StraightThrough",
        )
    }
)

_ESTIMATORS = ("CGE", "RGE", "CoCD", "GaussNewton", "EKI", "EvolutionStrategies", "BackPropagation")

#: Short names of estimators.
ESTIMATORS = ShortNames({name: f"deepzero_sim.{name}" for name in _ESTIMATORS})

#: Short names of couplings.
COUPLINGS = ShortNames(
    {
        "after": "deepzero_sim.couplings.After",
        "before": "deepzero_sim.couplings.Before",
        "inside": "deepzero_sim.couplings.Inside",
    }
)

#: Short names of losses.
LOSSES = ShortNames(
    {
        "rollout": "deepzero_sim.losses.Rollout",
        "terminal": "deepzero_sim.losses.Terminal",
        "every": "deepzero_sim.losses.Every",
        "observed": "deepzero_sim.losses.Observed",
        "spectrum": "deepzero_sim.losses.Spectrum",
        "time_mean": "deepzero_sim.losses.TimeMean",
        "quantity": "deepzero_sim.losses.Quantity",
        "sum": "deepzero_sim.losses.Sum",
    }
)
