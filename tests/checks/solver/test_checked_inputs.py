"""What a check says of the fields that a step reads besides its state."""

from __future__ import annotations

import numpy as np
import pytest
from forced_solvers import ViscousBurgers

import deepzero_sim as dz
from deepzero_sim.checks.solver.results import Verdict
from deepzero_sim.common.types import Array


def line(check: dz.SolverCheck, name: str) -> Verdict:
    (found,) = (verdict for verdict in check.verdicts if verdict.line == name)
    return found


def solver_of(inputs: tuple[str, ...], bounded: bool = False) -> dz.Solver:
    fields = [{"name": name, "scale": 0.1, **({"most": 0.0} if bounded else {})} for name in ("read", "ignored")]
    spec = dz.SolverSpec(
        name="decay",
        state_shape=(1, 8),
        dt=0.1,
        dtype="float64",
        stencil=0,
        inputs=tuple(one for one in fields if one["name"] in inputs),  # type: ignore[misc]
    )

    def step(states: Array, params: Array | None, given: Array) -> Array:
        if bounded and given.max() > 0:
            raise ValueError("above its bound")
        return np.asarray(states * (0.9 + 0.1 * given[:, :1]))

    return dz.as_solver(step, spec)


@pytest.mark.parametrize("bounded", [False, True])
def test_a_field_that_a_step_reads_is_named(bounded: bool) -> None:
    check = dz.check_solver(solver_of(("read",), bounded), seconds=5)
    assert line(check, "inputs").outcome == "pass" and line(check, "inputs").words == "a step reads read."


def test_a_field_that_nothing_depends_on_is_told() -> None:
    check = dz.check_solver(solver_of(("read", "ignored")), seconds=5)
    assert line(check, "inputs").outcome == "fail"
    assert "the answer does not depend on ignored, changed by its scale" in line(check, "inputs").words


def test_all_else_is_checked_with_fields_at_rest_and_a_solver_without_any_has_no_such_line() -> None:
    twin = ViscousBurgers(16)
    solver = dz.as_solver(lambda s, p, u: np.asarray(twin.advance(s, p, u)), twin.spec)
    check = dz.check_solver(solver, params=np.ones((4, 1)), seconds=10)
    assert check.holds and not [verdict for verdict in check.verdicts if verdict.outcome == "fail"]
    assert "a step reads viscosity" in line(check, "inputs").words
    plain = dz.SolverSpec(name="plain", state_shape=(1, 8), dt=0.1, stencil=0)
    check = dz.check_solver(dz.as_solver(lambda states: np.float32(0.9) * states, plain), seconds=5)
    assert "inputs" not in [verdict.line for verdict in check.verdicts]
