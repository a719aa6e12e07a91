"""Differences propagated through whole networks: the gradient is autograd's."""

from __future__ import annotations

import copy
import ctypes
import resource
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import assert_untouched, autograd, mse, relative_error, snapshot
from torch import nn
from zoo import ACTIVATIONS, ZOO

from deepzero_sim.common.types import Scheme
from deepzero_sim.estimators import CGE
from deepzero_sim.oracle.difference.propagation import Differences
from deepzero_sim.oracle.difference.trace import Recording
from deepzero_sim.oracle.model import ModelOracle

#: For each scheme a step, and how far from autograd it may be: its bias is of order `mu` or `mu^2`.
SCHEMES: dict[Scheme, tuple[float, float]] = {"forward": (1e-6, 1e-4), "central": (1e-4, 1e-6)}
BOTH = pytest.mark.parametrize("scheme", SCHEMES)


def problem(model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> tuple[ModelOracle, tuple[Any, ...]]:
    inputs = tuple(3 * torch.randn(shape, dtype=torch.float64) for shape in shapes)
    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        inputs = tuple(torch.randint(0, 3, shape) for shape in shapes)
    with torch.no_grad():
        targets = torch.randn_like(copy.deepcopy(model)(*inputs))
    return ModelOracle(model, mse), (inputs, targets)


def agree(oracle: ModelOracle, batch: Any, scheme: Scheme) -> None:
    """Require that CGE agrees with autograd and leaves the network as it was."""
    step, tolerance = SCHEMES[scheme]
    before = snapshot(oracle.model)
    expected = autograd(oracle, batch)
    assert relative_error(CGE(step, scheme).estimate(oracle, batch).grads, expected) < tolerance
    assert_untouched(oracle.model, before)


@BOTH
@pytest.mark.parametrize("name", ZOO)
def test_agrees_with_autograd(name: str, scheme: Scheme) -> None:
    make, shapes = ZOO[name]
    agree(*problem(make().double(), shapes), scheme)


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_every_activation_agrees_with_autograd(activation: nn.Module, scheme: Scheme) -> None:
    width = 2 if isinstance(activation, nn.GLU) else 4
    model = nn.Sequential(nn.Conv1d(2, 3, 2), copy.deepcopy(activation), nn.Linear(width, 2))
    agree(*problem(model.double(), ((3, 2, 5),)), scheme)


@pytest.mark.parametrize("name", ZOO)
def test_float32_keeps_its_digits(name: str) -> None:
    """With a step at which losses in float32 would differ by little more than rounding."""
    make, shapes = ZOO[name]
    oracle, (inputs, targets) = problem(make().double(), shapes)
    expected = autograd(oracle, (inputs, targets))
    oracle.model.float()
    single = tuple(x.float() if x.is_floating_point() else x for x in inputs), targets.float()
    estimate = CGE(1e-5).estimate(oracle, single)
    assert all(grad.dtype == torch.float32 for grad in estimate.grads.values())
    assert relative_error(estimate.grads, expected) < 2e-3


class Outputs(nn.Module):
    """Network that returns several tensors, in a dictionary and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"mean": self.a(x), "more": (torch.tanh(self.b(x)), x)}


@BOTH
def test_several_outputs_and_targets(scheme: Scheme) -> None:
    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        return mse(outputs["mean"], targets[0]) + F.l1_loss(outputs["more"][0], targets[1]) * outputs["more"][1].mean()

    batch = torch.randn(5, 3).double(), (torch.randn(5, 2).double(), torch.randn(5, 4).double())
    agree(ModelOracle(Outputs().double(), loss), batch, scheme)


LOSSES: dict[str, Any] = {
    "mse": mse,
    "mse_loss": F.mse_loss,
    "summed": lambda z, t: F.mse_loss(z, t, reduction="sum"),
    "by sample": lambda z, t: F.mse_loss(z, t, reduction="none").sum(1).square().mean(),
    "broadcast": lambda z, t: F.mse_loss(z, t[:1].expand_as(z)),
    "l1": F.l1_loss,
    "smooth": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "probabilities": lambda z, t: F.cross_entropy(z, t.softmax(1)),
    "smoothed probabilities": lambda z, t: F.cross_entropy(z, t.softmax(1), label_smoothing=0.1),
    "binary": lambda z, t: F.binary_cross_entropy_with_logits(z, t.sigmoid()),
    "binary of probabilities": lambda z, t: F.binary_cross_entropy(z.sigmoid(), t.sigmoid()),
    "divergence": lambda z, t: F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean"),
    "target of the outputs": lambda z, t: F.mse_loss(z, z.square()),
    "kept axes": lambda z, t: (z - t).square().mean(dim=(0, 1), keepdim=True),
    "root": lambda z, t: (z - t).norm() / t.norm(),
}

#: Of class indices.
CLASSIFYING: dict[str, Any] = {
    "indices": F.cross_entropy,
    "smoothed": lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
    "summed entropy": lambda z, t: F.cross_entropy(z, t, reduction="sum"),
    "each entropy": lambda z, t: F.cross_entropy(z, t, reduction="none").square().sum(),
    "weighted": lambda z, t: F.cross_entropy(z, t, weight=torch.tensor([1.0, 2.0, 0.5]).double()),
    "ignoring": lambda z, t: F.cross_entropy(z, t, ignore_index=0),
    "ignoring some": lambda z, t: F.cross_entropy(z, torch.where(t > 0, t, -100)),
    "images": lambda z, t: F.cross_entropy(z.unflatten(0, (2, 3)).movedim(-1, 1), t.view(2, 3)),
    "module": nn.CrossEntropyLoss(label_smoothing=0.2),
    "nll": lambda z, t: F.nll_loss(F.log_softmax(z, 1), t),
    "gathered": lambda z, t: -z.softmax(1).gather(1, t[:, None]).mean(),
    "indexed": lambda z, t: -z.log_softmax(1)[torch.arange(len(t)), t].mean(),
    "margin": F.multi_margin_loss,
}


@BOTH
@pytest.mark.parametrize("name", [*LOSSES, *CLASSIFYING])
def test_every_loss_agrees_with_autograd(name: str, scheme: Scheme) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    targets = torch.randint(0, 3, (6,)) if name in CLASSIFYING else torch.randn(6, 3).double()
    agree(ModelOracle(model, (LOSSES | CLASSIFYING)[name]), (torch.randn(6, 4).double(), targets), scheme)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="malloc is not glibc's")
def test_memory_that_is_freed_is_not_cleared_again_by_the_operating_system() -> None:
    Differences(Recording())

    def pages_of_a_round() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2**22 - 2**10) for _ in range(8)]  # just below 16 MiB each
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(pages_of_a_round() for _ in range(4)) < 8 * 2**24 / resource.getpagesize() / 10
