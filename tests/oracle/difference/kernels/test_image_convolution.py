"""The rule of convolutions takes the kernels in C where there are some, and either way gives the convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, OneChannel
from deepzero_sim.oracle.difference.kernels import native
from deepzero_sim.oracle.difference.rules.table import RULES

QUERIES, BATCH = 3, 2


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kernels that were called."""
    names: set[str] = set()
    convolution, narrow = native.convolution, native.narrow_convolution

    def noting(x: torch.Tensor, weight: native.Weight, *rest: Any) -> None:
        names.add("winograd" if weight.points else "summed")
        convolution(x, weight, *rest)

    def noting_narrow(*args: Any) -> None:
        names.add("narrow")
        narrow(*args)

    monkeypatch.setattr(native, "convolution", noting)
    monkeypatch.setattr(native, "narrow_convolution", noting_narrow)
    return names


def images(*shape: int) -> torch.Tensor:
    """`(..., C, H, W)` in float32, channels innermost."""
    *batch, channels, height, width = shape
    return torch.randn(*batch, height, width, channels).movedim(-1, -3)


def assert_convolved(
    channels: tuple[int, int], kernel: int, options: dict[str, Any], delta_of: Callable[[torch.Tensor], Delta]
) -> None:
    """The rule gives the convolution of the differences `delta_of` makes for a batch of images."""
    inputs, outputs = channels
    base, weight = images(BATCH, inputs, 9, 8), torch.randn(outputs, inputs // options.get("groups", 1), kernel, kernel)
    delta = delta_of(base)
    out = F.conv2d(base, weight, **options).contiguous(memory_format=torch.channels_last)
    found: Delta = RULES[F.conv2d](out, Changed(base, delta), weight, torch.randn(len(weight)), **options)
    full = delta.dense()
    expected = F.conv2d(full.flatten(0, 1).double(), weight.double(), **options)
    assert found.dense().shape == (QUERIES, *out.shape)
    assert float((found.dense().flatten(0, 1) - expected).abs().max() / expected.abs().max()) < 1e-4


#: (channels in and out, kernel, options of the convolution, the kernel in C)
CASES: list[tuple[tuple[int, int], int, dict[str, Any], str | None]] = [
    ((16, 8), 3, {"padding": 1}, "winograd"),
    ((8, 24), 3, {"padding": "same"}, "winograd"),
    ((16, 16), 5, {"padding": 2}, "winograd"),
    ((3, 8), 3, {"padding": 1}, "summed"),
    ((16, 8), 3, {}, "summed"),
    ((16, 8), 3, {"padding": 1, "stride": 2}, "summed"),
    ((16, 8), 1, {"stride": (2, 2)}, "summed"),
    ((16, 8), 7, {"padding": 3}, "summed"),
    ((16, 8), 4, {"padding": 1}, "summed"),
    ((4, 3), 3, {"padding": 1}, "narrow"),
    ((3, 4), 5, {"padding": 1}, "narrow"),
    ((4, 2), 3, {"padding": 1, "stride": 2}, None),
    ((16, 10), 3, {"padding": 1}, None),
    ((16, 8), 3, {"padding": (1, 0)}, None),
    ((16, 8), 3, {"padding": 1, "stride": (1, 2)}, None),
    ((16, 8), 3, {"padding": 2, "dilation": 2}, None),
    ((16, 8), 3, {"padding": 1, "groups": 2}, None),
]


@pytest.mark.parametrize(("channels", "kernel", "options", "by"), CASES, ids=str)
def test_dense_differences(
    channels: tuple[int, int], kernel: int, options: dict[str, Any], by: str | None, called: set[str]
) -> None:
    assert_convolved(channels, kernel, options, lambda base: Dense(images(QUERIES, *base.shape)))
    assert called == ({by} if by else set())


@pytest.mark.parametrize(("channels", "kernel", "options", "by"), CASES, ids=str)
def test_differences_of_one_channel(
    channels: tuple[int, int], kernel: int, options: dict[str, Any], by: str | None, called: set[str]
) -> None:
    def one_channel(base: torch.Tensor) -> OneChannel:
        return OneChannel(torch.randn(QUERIES, BATCH, 1, 9, 8), (1, 2, 0), 1, base.shape, channels_last=True)

    assert_convolved(channels, kernel, options, one_channel)
    few = channels[1] <= native.FEW_CHANNELS
    assert called == ({"narrow" if few else "summed"} if by else set())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_the_plain_way(dtype: torch.dtype, called: set[str]) -> None:
    d, base, weight = images(2, 2, 16, 8, 8).to(dtype), images(2, 16, 8, 8), torch.randn(16, 16, 3, 3)
    delta = RULES[F.conv2d](F.conv2d(base, weight, padding=1), Changed(base, Dense(d)), weight.to(base), None, 1, 1)
    assert not called
    assert delta.dense().dtype == dtype
