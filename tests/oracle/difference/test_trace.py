"""Recordings: their contents, and the words of their refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim.oracle.difference.delta import Dense, OneCoordinate
from deepzero_sim.oracle.difference.propagation import Differences
from deepzero_sim.oracle.difference.propagation_state import Meter
from deepzero_sim.oracle.difference.trace import CannotRecordError, record


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.side, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.side(x).sum()  # of no consequence
        result: torch.Tensor = self.last(F.relu(self.first(x), inplace=True))
        return result


def test_holds_operations_in_order_and_every_value() -> None:
    model, x = Small(), torch.randn(5, 3)
    with torch.no_grad():
        recording = record(model, [x], list(model.parameters()))
    functions = [operation.function for operation in recording.operations]
    assert functions.index(F.relu) < len(functions) - 1 and functions[-1] is F.linear
    assert torch.equal(recording.values[recording.output], model(x))
    first = recording.values[recording.operations[-2].reads[0]]
    assert torch.equal(first, model.first(x)), "what was written over in place is kept"
    assert set(recording.parameters) == {id(p) for p in model.parameters()}
    assert recording.size >= sum(4 * p.numel() for p in model.parameters()) + 4 * x.numel()


def test_only_what_the_result_depends_on_is_a_dependent_of_a_start() -> None:
    model = Small()
    recording = record(model, [torch.randn(5, 3)], list(model.parameters()))
    slots = {name: recording.parameters[id(p)] for name, p in model.named_parameters()}
    assert [operation.function for operation in recording.dependents([slots["last.weight"]])] == [F.linear]
    assert [operation.function for operation in recording.dependents([slots["first.bias"]])] == [F.linear, F.relu, F.linear]
    assert recording.dependents([slots["side.weight"]]) == []


def test_frozen_parameters_are_constants() -> None:
    model = Small()
    recording = record(model, [torch.randn(5, 3)], [model.last.weight])
    assert list(recording.parameters) == [id(model.last.weight)]


def test_differences_of_nothing_are_nothing_and_memory_is_metered() -> None:
    model, x = Small(), torch.randn(5, 3)
    with torch.no_grad():
        recording = record(model, [x], list(model.parameters()))
        differences = Differences(recording)
        assert differences.propagate({}) is None
        side = OneCoordinate((0,), (0.1,), 0, 1, model.side.weight)
        assert differences.propagate({recording.parameters[id(model.side.weight)]: side}) is None
        meter = Meter()
        moved = torch.randn(7, 5, 3)
        delta = differences.propagate({recording.inputs[0]: Dense(moved)}, meter)
        assert delta is not None
        torch.testing.assert_close(delta.dense(), model(x + moved) - model(x), rtol=1e-4, atol=1e-5)
    assert 7 * 5 * (4 + 4) * 4 <= meter.peak <= 7 * 5 * (3 + 4 + 4 + 2) * 4


#: name: (what a network does, what is said)
REFUSED: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "branch": (lambda x: x if x.sum() > 0 else -x, "reads values as numbers, by __bool__"),
    "item": (lambda x: x * x.sum().item(), "reads values as numbers, by item"),
    "float": (lambda x: x * float(x.sum()), "reads values as numbers, by __float__"),
    "tolist": (lambda x: x * sum(x.flatten().tolist()), "reads values as numbers, by tolist"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy()), "reads values as numbers, by numpy"),
    "nonzero": (lambda x: x[x.nonzero()[:, 0]], "reads values as numbers, by nonzero"),
    "setitem": (lambda x: (1 * x).__setitem__(0, x[1]), "__setitem__ writes into a part of a tensor"),
    "out": (lambda x: torch.mul(x, 2, out=torch.empty(5, 2)), "mul writes into a part of a tensor"),
    "argmax": (lambda x: x * x.argmax(1, keepdim=True), "argmax makes torch.int64 of values that queries change"),
    "mask": (lambda x: x * (x > 0), "gt makes torch.bool of values that queries change"),
    "complex": (lambda x: torch.fft.fft(x).abs(), "fft_fft makes torch.complex64 of values that queries change"),
    "copy": (lambda x: torch.zeros(5, 2).copy_(x), "copy_ writes values that queries change into a tensor that they do not"),
    "view": (lambda x: [y := 1 * x, y[0].mul_(2)][0], "mul_ writes into a tensor that others are views of"),
    "tuple": (lambda x: (x, x), "its result is of type tuple"),
    "constant": (lambda x: torch.zeros(3), "its result is not of the recorded operations"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_words(name: str) -> None:
    function, words = REFUSED[name]
    layer = nn.Linear(3, 2)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return function(layer(x))

    with torch.no_grad(), pytest.raises(CannotRecordError, match=words):
        record(Model(), [torch.randn(5, 3)], list(layer.parameters()))


@pytest.mark.parametrize(
    "write",
    [lambda model, x: model.weight.mul_(2), lambda model, x: x.mul_(2), lambda model, x: F.relu_(x)],
    ids=["weight", "input", "relu"],
)
def test_parameters_and_inputs_are_not_written(write: Callable[..., Any]) -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            write(self, x)
            return super().forward(x)

    model, x = Model(3, 2), torch.randn(5, 3)
    kept = x.clone(), model.weight.detach().clone()
    with torch.no_grad(), pytest.raises(CannotRecordError, match="writes into a parameter or an input"):
        record(model, [x], list(model.parameters()))
    assert torch.equal(x, kept[0]) and torch.equal(model.weight, kept[1])


def test_a_buffer_that_was_written_is_not_read() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return super().forward(x) * self.calls

    model = Counting()
    with torch.no_grad(), pytest.raises(CannotRecordError, match="reads a buffer that it has written into"):
        record(model, [torch.randn(5, 3)], list(model.parameters()))
