"""Gradients of inputs and parameters of a step against a twin's, and against slopes where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from forced_solvers import FORCED, ViscousBurgers, case
from parameter_solvers import Transport, simulate

import deepzero_sim as dz
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct


@pytest.mark.parametrize("make", FORCED.values(), ids=FORCED)
@pytest.mark.parametrize("product", [dz.vjp.Coloured, dz.vjp.JacobianField, dz.vjp.Auto])
def test_gradients_of_inputs_are_as_good_as_the_product(make: Any, product: type[VectorJacobianProduct]) -> None:
    solver = make()
    states, params, inputs = (None if given is None else given.numpy() for given in case(solver, 24))
    layer = dz.SolverLayer(solver, product())
    layer.prepare(states, params, inputs)
    few = states[:3], None if params is None else params[:3], inputs[:3]
    found = dz.check_gradient(layer, few, twin=make(), of="inputs")
    assert found.exact and found.cosine >= 0.99 and found.norm_ratio == pytest.approx(1, abs=0.05)
    measured = dz.check_gradient(layer, few, of="inputs", directions=32)
    assert not measured.exact and measured.cosine == pytest.approx(found.cosine, abs=0.02)
    of_states = dz.check_gradient(layer, few, twin=make())
    assert of_states.cosine >= 0.98


@pytest.mark.parametrize("product", ["detached", "straight-through", "exact"])
def test_gradients_of_parameters_are_exact_whatever_the_product(product: Any) -> None:
    solver = Transport()
    params = np.array([[1.3, 0.08], [1.0, 0.05], [0.9, 0.2]])
    states = simulate(solver, params, 3)[:, 2]
    layer = dz.SolverLayer(solver, product)
    found = dz.check_gradient(layer, (states, params), twin=Transport(), of="params")
    assert found.exact and found.cosine_min >= 1 - 1e-8 and found.norm_ratio == pytest.approx(1, abs=1e-6)
    measured = dz.check_gradient(layer, (torch.from_numpy(states), torch.from_numpy(params)), of="params")
    assert measured.cosine >= 1 - 1e-6 and measured.norm_ratio == pytest.approx(1, abs=1e-4)
    assert measured.steps.backward == (0 if product == "exact" else 3 * 4)


def test_no_gradient_is_told_as_none() -> None:
    solver = ViscousBurgers()
    found = dz.check_gradient(dz.SolverLayer(solver, "detached"), case(solver, 2), twin=solver, of="inputs")
    assert found.cosine is None and found.norm_ratio == 0


def test_what_has_no_such_gradient_is_refused() -> None:
    states = np.zeros((2, 1, 16))
    layer = dz.SolverLayer(Transport(), "detached")
    with pytest.raises(dz.ConfigError, match="solver 'transport' reads no inputs, so that there is no gradient of them"):
        dz.check_gradient(layer, (states, np.ones((2, 2))), of="inputs")
    with pytest.raises(dz.ConfigError, match="a gradient of params needs some"):
        dz.check_gradient(layer, states, of="params")
    with pytest.raises(dz.ConfigError, match="of must be one of states, inputs, params, not 'weights'"):
        dz.check_gradient(layer, states, of="weights")  # type: ignore[arg-type]
    oracle = dz.LoopOracle(dz.SolverLoop(Transport(), torch.nn.Linear(1, 1)), lambda a, b: (a - b).mean())
    with pytest.raises(dz.ConfigError, match="the gradient of an oracle is that of its network"):
        dz.check_gradient(oracle, states, of="params")
