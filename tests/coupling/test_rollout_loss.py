"""The loss of a rollout, by hand."""

from __future__ import annotations

import pytest
import torch

from deepzero_sim.coupling.rollout_loss import RolloutLoss


def test_a_mean_square_in_units_of_the_standard_deviation() -> None:
    loss = RolloutLoss(torch.tensor([[1.0], [2.0]]), torch.ones(2, 3))
    rollout = torch.zeros(4, 5, 2, 3)
    references = torch.stack([torch.full((4, 5, 3), 3.0), torch.full((4, 5, 3), 2.0)], dim=2)
    assert float(loss(rollout, references)) == pytest.approx((9 + 1) / 2)
    assert float(loss(references, references)) == 0


def test_padding_does_not_count() -> None:
    active = torch.tensor([[True, True, False], [True, False, False]])
    loss, rollout = RolloutLoss(torch.ones(2, 1), active), torch.zeros(1, 2, 2, 3)
    rollout[:, :, ~active] = 1e6
    rollout[:, :, 0, 0] = 3.0
    assert float(loss(rollout, torch.zeros(1, 2, 2, 3))) == pytest.approx(9 / 3)


def test_its_gradient_is_the_derivative() -> None:
    loss = RolloutLoss(torch.tensor([[2.0]], dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool))
    rollout = torch.randn(2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    references = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    (grad,) = torch.autograd.grad(loss(rollout, references), rollout)
    assert torch.allclose(grad, 2 * (rollout - references) / 4 / rollout.numel())
