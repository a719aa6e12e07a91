"""Perturbations: what queries are called, and how they are bundled."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.queries import (
    CoordinateBatch,
    Coordinates,
    Directions,
    Displacements,
    parts_of,
    split_into_chunks,
)

#: The network as it is, as a perturbation of one query.
AS_IT_IS = Directions(seeds=(0,), steps=(0.0,))


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=4), size=st.integers(1, 25))
def test_coordinates_of_several_parameters_fill_chunks_in_order(counts: list[int], size: int) -> None:
    asked = [Coordinates(f"p{k}", tuple(range(n)), tuple(float(i) for i in range(n))) for k, n in enumerate(counts)]
    chunks = split_into_chunks(asked, size)
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 1 <= len(chunks[-1]) <= size
    found = [(part.name, i, s) for c in chunks for part in c.parts for i, s in zip(part.indices, part.steps, strict=True)]
    assert found == [(part.name, i, s) for part in asked for i, s in zip(part.indices, part.steps, strict=True)]


@given(count=st.integers(1, 20), size=st.integers(1, 25))
def test_directions_are_cut_in_order_and_kept_apart(count: int, size: int) -> None:
    numbers, mask = tuple(range(count)), {"a": torch.ones(1, dtype=torch.bool)}
    steps = tuple(float(i) for i in numbers)
    first, *parts, last = split_into_chunks([Coordinates("a", (0,), (1.0,)), Directions(numbers, steps, mask), AS_IT_IS], size)
    assert isinstance(first, CoordinateBatch)
    assert last == AS_IT_IS
    assert len(parts) == math.ceil(count / size)
    assert sum((part.steps for part in parts), ()) == steps
    assert all(part.mask is mask and len(part) <= size for part in parts)


def test_displacements_are_cut_in_order_and_kept_apart() -> None:
    moves = torch.arange(15.0).view(5, 3)
    first, *parts, last = split_into_chunks([Coordinates("a", (0,), (1.0,)), Displacements(moves), AS_IT_IS], 2)
    assert isinstance(first, CoordinateBatch) and last == AS_IT_IS
    assert [len(part) for part in parts] == [2, 2, 1] and parts_of(parts[0]) == ()
    assert torch.equal(torch.cat([part.moves for part in parts]), moves)


def test_parts_of_coordinates_and_of_directions() -> None:
    part = Coordinates("a", (0,), (1.0,))
    assert parts_of(part) == parts_of(CoordinateBatch((part,))) == (part,)
    assert parts_of(AS_IT_IS) == ()


def test_trainable_names_what_is_trained() -> None:
    model = nn.Linear(2, 1)
    assert list(trainable(model)) == ["weight", "bias"]
    model.bias.requires_grad_(False)
    assert list(trainable(model)) == ["weight"]
    with pytest.raises(ConfigError, match="the network Tanh has no parameters to train"):
        trainable(nn.Tanh())
