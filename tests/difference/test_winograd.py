"""Winograd's convolution is the convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st

from deepzero_sim.difference import kernels, winograd
from deepzero_sim.difference.delta import Changed, Dense
from deepzero_sim.difference.rules import RULES


def images(queries: int, batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """`(P, B, C, H, W)` in float32, channels innermost."""
    return torch.randn(queries, batch, height, width, channels).movedim(-1, 2)


@settings(max_examples=30)
@given(
    count=st.integers(1, 3),
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**16),
)
def test_the_transforms_are_a_convolution(count: int, tiles: tuple[int, int], channels: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    height, width, (inputs, outputs) = 4 * tiles[0], 4 * tiles[1], channels
    x = torch.randn(count, inputs, height, width, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, 3, 3, dtype=torch.float64)
    d = winograd._input_tiles(x.permute(0, 2, 3, 1))
    assert d.shape == (6, 6, count, *tiles, inputs)
    products = torch.bmm(d.reshape(36, -1, inputs), winograd.transformed_weight(weight))
    found = winograd._output(products.view(6, 6, count, *tiles, outputs)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """The functions as plain torch, whatever their size; what was called."""
    called: list[Callable[..., Any]] = []

    def call(function: Callable[..., Any], *args: Any) -> Any:
        called.append(function)
        return function(*args)

    monkeypatch.setattr(kernels, "SMALLEST", 1)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "call", call)
    return called


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (8, 8)])
def test_the_rule_of_convolutions_takes_it_where_it_serves(size: tuple[int, int], uncompiled: list[Any]) -> None:
    d, weight = images(3, 2, 16, *size), torch.randn(17, 16, 3, 3)
    base = images(1, 2, 16, *size)[0]
    out = F.conv2d(base, weight, padding=1)
    delta = RULES[F.conv2d](out, Changed(base, Dense(d)), weight, torch.randn(17), 1, 1)
    assert uncompiled
    expected = F.conv2d(d.flatten(0, 1).double(), weight.double(), padding=1).unflatten(0, (3, 2))
    error = (delta.dense().double() - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-5


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((16, 6, 8), 3, {"padding": 1}),
        ((16, 8, 8), 3, {"padding": 0}),
        ((16, 8, 8), 3, {"padding": 1, "stride": 2}),
        ((16, 8, 8), 3, {"padding": 2, "dilation": 2}),
        ((32, 8, 8), 3, {"padding": 1, "groups": 2}),
        ((8, 8, 8), 3, {"padding": 1}),
        ((16, 8, 8), 1, {"padding": 0}),
        ((16, 8, 8), 5, {"padding": 2}),
        ((16, 16, 16), 3, {"padding": 1}),
    ],
)
def test_other_convolutions_go_the_plain_way(
    shape: tuple[int, int, int], kernel: int, options: dict[str, int], uncompiled: list[Any]
) -> None:
    channels, *size = shape
    d, base = images(2, 2, channels, *size), images(1, 2, channels, *size)[0]
    weight = torch.randn(16, channels // options.get("groups", 1), kernel, kernel)
    delta = RULES[F.conv2d](F.conv2d(base, weight, **options), Changed(base, Dense(d)), weight, **options)
    assert not uncompiled
    torch.testing.assert_close(
        delta.dense(), F.conv2d(d.flatten(0, 1), weight, **options).unflatten(0, (2, 2)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_the_plain_way(dtype: torch.dtype, uncompiled: list[Any]) -> None:
    d, base, weight = images(2, 2, 16, 8, 8).to(dtype), images(1, 2, 16, 8, 8)[0], torch.randn(16, 16, 3, 3)
    delta = RULES[F.conv2d](F.conv2d(base, weight, padding=1), Changed(base, Dense(d)), weight.to(base), None, 1, 1)
    assert not uncompiled and delta.dense().dtype == dtype


@pytest.mark.slow
def test_compiled_it_is_the_convolution() -> None:
    """Compiling takes some 20 s."""
    if not kernels.available("cpu"):
        pytest.skip("torch finds no C++ compiler")
    d, base, weight = images(2, 128, 16, 8, 8), images(1, 128, 16, 8, 8)[0], torch.randn(16, 16, 3, 3)
    assert winograd.serves(d, weight)
    delta = RULES[F.conv2d](F.conv2d(base, weight, padding=1), Changed(base, Dense(d)), weight, None, 1, 1).dense()
    expected = F.conv2d(d.flatten(0, 1), weight, padding=1).unflatten(0, (2, 128))
    assert float((delta - expected).abs().max() / expected.abs().max()) < 1e-4
