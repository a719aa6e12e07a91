"""Names of the first release, kept for one more: what was written for them works, and says that it is to be renamed."""

from __future__ import annotations

import numpy as np
import pytest

import deepzero_sim as dz
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import StepTaken, VectorJacobianProduct


def test_a_product_written_for_the_old_names_keeps_what_it_learnt() -> None:
    with pytest.warns(DeprecationWarning, match="rename it") as warned:

        class Mine(VectorJacobianProduct):
            """Learns a number."""

            number = 3.0

            def product(self, taken: StepTaken, cotangents: np.ndarray, probes: SolverProbe) -> np.ndarray:
                return cotangents

            def learnt(self) -> dict[str, np.ndarray]:
                return {"number": np.array(self.number)}

            def relearn(self, learnt: dict[str, np.ndarray]) -> None:
                self.number = float(learnt["number"])

    assert len(warned) == 2
    other = Mine()
    other.load_state_dict({**Mine().state_dict(), "number": np.array(5.0)})
    assert other.state_dict()["number"] == 5.0


def test_the_loss_of_a_rollout_has_its_old_name() -> None:
    with pytest.warns(DeprecationWarning, match="RolloutLoss"):
        assert dz.RolloutError is dz.RolloutLoss  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no_such"):
        _ = dz.no_such  # type: ignore[attr-defined]
