"""CGE through the opaque numpy wake solver gives the gradient that autograd takes through PhiFlow, FO-SOL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import mse, relative_error
from torch import nn

from deepzero_sim.common.types import Array, Mask
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.estimators import CGE, BackPropagation
from deepzero_sim.models import small
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solvers.wake import TRAIN_REYNOLDS, WakeFlow, downsample, initial_state

phi = pytest.importorskip("phi")


def developed(solver: Solver, params: Array, steps: int) -> Array:
    states = initial_state(solver.spec, params)
    for _ in range(steps):
        states = solver.step(states, params)
    return states


def wake_batch(resolution: int, unroll: int) -> tuple[Array, Array, Array]:
    """Developed states of two Reynolds numbers, and what a solver of twice the resolution makes of them."""
    fine, params = WakeFlow(2 * resolution, "float64"), np.array(TRAIN_REYNOLDS)[[1, 4], None]
    trajectory = [developed(fine, params, 60)]
    for _ in range(unroll):
        trajectory.append(fine.step(trajectory[-1], params))
    coarse = [downsample(states, 2) for states in trajectory]
    return coarse[0], params, np.stack(coarse[1:], axis=1)


def small_with_effect(solver: Solver, width: int) -> nn.Module:
    """A corrector whose weights are random everywhere, so that every parameter has a gradient; its effect is small."""
    torch.manual_seed(1)
    corrector = small(solver.spec, width=width)
    for parameter in corrector.parameters():
        nn.init.normal_(parameter, std=0.1)
    corrector.set_scales(torch.tensor([0.5, 0.5]), torch.tensor([1000.0]))
    for parameter in corrector.network[-1].parameters():  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=0.01)
    return corrector.double()


def some_of_each(model: nn.Module, count: int) -> Mask:
    """`count` random coordinates of every parameter."""
    masks = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for mask in masks.values():
        mask.view(-1)[torch.randperm(mask.numel())[:count]] = True
    return masks


def compare(resolution: int, unroll: int, width: int, mask_size: int | None, tolerance: float) -> None:
    from deepzero_sim.solvers.wake_phiflow import PhiFlowWake  # noqa: PLC0415 - only where PhiFlow is installed

    opaque, exact = WakeFlow(resolution, "float64"), PhiFlowWake(resolution, "float64")
    corrector, batch = small_with_effect(opaque, width), wake_batch(resolution, unroll)
    mask = None if mask_size is None else some_of_each(corrector, mask_size)
    expected = BackPropagation().estimate(LoopOracle(SolverLoop(exact, corrector, unroll, "exact"), mse), batch, mask)
    # interpolation and leaky ReLU have kinks: a small step seldom crosses one, and rounding in float64 allows it
    estimate = CGE(1e-7).estimate(LoopOracle(SolverLoop(opaque, corrector, unroll), mse), batch, mask)
    assert estimate.loss == pytest.approx(expected.loss, rel=1e-10)
    assert all(grad.any() for grad in estimate.grads.values())
    assert relative_error(estimate.grads, expected.grads) < tolerance
    detached = BackPropagation().estimate(LoopOracle(SolverLoop(exact, corrector, unroll), mse), batch, mask)
    assert relative_error(detached.grads, expected.grads) > 0.05, "the solver's own gradient should matter"


def test_agrees_with_backpropagation_through_phiflow() -> None:
    compare(resolution=16, unroll=6, width=4, mask_size=15, tolerance=1e-3)


@pytest.mark.slow
def test_agrees_at_full_resolution_on_every_coordinate() -> None:
    compare(resolution=32, unroll=8, width=3, mask_size=None, tolerance=1e-3)
