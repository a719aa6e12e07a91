"""Pages of the documentation whose Python stands by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from snippets import run_page
from torch import nn

import deepzero_sim as dz

DOCS = Path(__file__).parents[2] / "docs"


def test_gradients_pass_the_layer_of_the_page(tmp_path: Path) -> None:
    names = run_page(DOCS / "training" / "solver_layer.md", tmp_path)
    assert names["network"].weight.grad.abs().sum() > 0
    assert names["layer"].backward_steps > 0


def test_the_network_of_the_page_is_given_scaled_channels_and_knows_its_boundaries(tmp_path: Path) -> None:
    names = run_page(DOCS / "training" / "networks.md", tmp_path)
    spec, data, frames = names["spec"], names["data"], torch.from_numpy(names["frames"][:, 0])
    params = torch.from_numpy(data.params.astype("float32"))
    assert names["correction"].shape == frames.shape and not names["correction"].any()
    given: list[torch.Tensor] = []
    network = names["channel"](spec, data)
    network.network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    nn.init.normal_(network.network.last.weight)
    correction = network(frames, params)
    (inputs,) = given
    (scale,), (param_scale,) = data.scales()
    assert inputs.shape == (4, 2, 16, 16)
    torch.testing.assert_close(inputs[:, :1], frames / float(scale))
    torch.testing.assert_close(inputs[:, 1:], (params / float(param_scale))[:, :, None, None].expand(-1, -1, 16, 16))
    shifted = {axis: network(frames.roll(3, axis), params) for axis in (-1, -2)}
    torch.testing.assert_close(shifted[-1], correction.roll(3, -1), rtol=1e-4, atol=1e-3)  # periodic
    assert not torch.allclose(shifted[-2], correction.roll(3, -2), rtol=1e-2)  # walls


def test_losses_and_couplings_are_used_as_their_pages_say(tmp_path: Path) -> None:
    names = run_page(DOCS / "training" / "losses.md", tmp_path)
    assert np.isfinite(names["estimate"].loss) and names["estimate"].grads
    names = run_page(DOCS / "training" / "couplings.md", tmp_path)
    assert all(parameter.grad is not None for parameter in names["network"].parameters())
    assert names["rate"].grad.shape == (4, 1) and names["rate"].grad.abs().min() > 0
    network = torch.nn.Conv1d(1, 1, 3, padding=1).double()
    network.forward = lambda states, params: 0.1 * states  # type: ignore[method-assign]
    loop = dz.SolverLoop(names["solver"], network, coupling=names["Half"]())
    states = names["states"]
    inside = names["solver"].step(1.05 * states.numpy(), None, np.full((1, 1, 64), 0.05))
    torch.testing.assert_close(loop.rollout(states, steps=1)[:, 0], torch.from_numpy(inside) + 0.05 * states)


@pytest.mark.slow
def test_a_network_without_a_solver_has_a_sparse_gradient(tmp_path: Path) -> None:
    estimate = run_page(DOCS / "classification" / "networks.md", tmp_path)["estimate"]
    assert np.isfinite(estimate.loss)
    assert estimate.grads
