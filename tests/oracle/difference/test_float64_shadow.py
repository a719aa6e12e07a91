"""Values that are computed in float64 too and rounded once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo import ZOO, Residual

from deepzero_sim.oracle.difference.float64_shadow import Float64Shadow
from deepzero_sim.oracle.difference.trace import CannotRecordError, record

#: A float32 is this close to what it was rounded from, relatively.
HALF_A_DIGIT = 2.0**-24


def make_network(name: str) -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    make, shapes = ZOO[name]
    inputs = [torch.randint(0, 3, shape) if "embedding" in name else torch.randn(shape) for shape in shapes]
    return make().float(), inputs


def run_in_float64(model: nn.Module, inputs: list[torch.Tensor]) -> torch.Tensor:
    exact = [x.double() if x.is_floating_point() else x for x in inputs]
    result: torch.Tensor = copy.deepcopy(model).double()(*exact)
    return result


@torch.no_grad()
@pytest.mark.parametrize("name", ZOO)
def test_every_network_is_what_float64_gives_rounded_once(name: str) -> None:
    model, inputs = make_network(name)
    before = [x.clone() for x in (*inputs, *model.parameters())]
    expected = run_in_float64(model, inputs)
    recording = record(model, inputs, list(model.parameters()), rounded_once=True)
    result = recording.values[recording.output]
    assert result.dtype == torch.float32
    assert float(((result - expected).abs() - HALF_A_DIGIT * expected.abs()).max()) < 1e-12
    assert all(torch.equal(x, y) for x, y in zip((*inputs, *model.parameters()), before, strict=True))


@torch.no_grad()
def test_without_them_errors_add_up() -> None:
    """The test above could not fail otherwise."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(20)))
    x = torch.randn(32, 64)
    expected = run_in_float64(model, [x])
    recorded = [record(model, [x], list(model.parameters()), rounded_once=once) for once in (False, True)]
    plain, rounded = (float((r.values[r.output] - expected).abs().max()) for r in recorded)
    assert rounded < plain / 4


@torch.no_grad()
def test_they_are_left_out_where_there_is_no_memory_for_them() -> None:
    model, x = Residual(inplace=True).float(), torch.randn(3, 2, 4, 4)
    size = record(model, [x], list(model.parameters())).size
    expected = model(x)
    recording = record(model, [x], list(model.parameters()), rounded_once=True, memory=1.5 * size)
    torch.testing.assert_close(recording.values[recording.output], expected)
    with pytest.raises(CannotRecordError, match="MiB of the memory setting"):
        record(model, [x], list(model.parameters()), memory=0.5 * size)


@pytest.mark.filterwarnings("ignore")  # that this kind of tensor will go
def test_what_takes_no_float64_is_known() -> None:
    def quantize(x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize()  # of float32 only

    x = torch.randn(3)
    leaves, form = pytree.tree_flatten(((x,), {}))
    assert quantize(x).shape == x.shape
    assert Float64Shadow().call(quantize, leaves, form, [None], None) is None
