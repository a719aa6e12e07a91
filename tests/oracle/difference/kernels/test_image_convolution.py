"""The rule of convolutions uses the kernels in C where there are any; either way it gives the convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, OneChannel
from deepzero_sim.oracle.difference.kernels import image_convolution, native
from deepzero_sim.oracle.difference.rules.table import RULES

QUERIES, BATCH = 3, 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Collect the names of the kernels that are called."""
    names: set[str] = set()
    convolution, narrow = native.convolution, native.narrow_convolution

    def note(x: torch.Tensor, weight: native.Weight, *rest: Any) -> None:
        names.add("winograd" if weight.points else "direct")
        convolution(x, weight, *rest)

    def note_narrow(*args: Any) -> None:
        names.add("narrow")
        narrow(*args)

    monkeypatch.setattr(native, "convolution", note)
    monkeypatch.setattr(native, "narrow_convolution", note_narrow)
    return names


def images(*shape: int) -> torch.Tensor:
    """Draw images `(..., C, H, W)` in float32, channels innermost."""
    *batch, channels, height, width = shape
    return torch.randn(*batch, height, width, channels).movedim(-1, -3)


def assert_convolves(
    channels: tuple[int, int], kernel: int, options: dict[str, Any], delta_of: Callable[[torch.Tensor], Delta]
) -> None:
    """Require that the rule gives the convolution of the differences that `delta_of` makes for a batch of images."""
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
    ((3, 8), 3, {"padding": 1}, "direct"),
    ((16, 8), 3, {}, "direct"),
    ((16, 8), 3, {"padding": 1, "stride": 2}, "direct"),
    ((16, 8), 1, {"stride": (2, 2)}, "direct"),
    ((16, 8), 7, {"padding": 3}, "direct"),
    ((16, 8), 4, {"padding": 1}, "direct"),
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
    channels: tuple[int, int], kernel: int, options: dict[str, Any], by: str | None, calls: set[str]
) -> None:
    assert_convolves(channels, kernel, options, lambda base: Dense(images(QUERIES, *base.shape)))
    assert calls == ({by} if by else set())


@pytest.mark.parametrize(("channels", "kernel", "options", "by"), CASES, ids=str)
def test_differences_of_one_channel(
    channels: tuple[int, int], kernel: int, options: dict[str, Any], by: str | None, calls: set[str]
) -> None:
    def one_channel(base: torch.Tensor) -> OneChannel:
        return OneChannel(torch.randn(QUERIES, BATCH, 1, 9, 8), (1, 2, 0), 1, base.shape, channels_last=True)

    assert_convolves(channels, kernel, options, one_channel)
    few = channels[1] <= native.FEW_CHANNELS
    assert calls == ({"narrow" if few else "direct"} if by else set())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_the_plain_way(dtype: torch.dtype, calls: set[str]) -> None:
    d, base, weight = images(2, 2, 16, 8, 8).to(dtype), images(2, 16, 8, 8), torch.randn(16, 16, 3, 3)
    delta = RULES[F.conv2d](F.conv2d(base, weight, padding=1), Changed(base, Dense(d)), weight.to(base), None, 1, 1)
    assert not calls
    assert delta.dense().dtype == dtype


WINOGRAD = [(kernel, points) for kernel in image_convolution.WINOGRAD_KERNELS for points in image_convolution.WINOGRAD_PAIRS]


def transforms(kernel: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Build `A^T`, `(m, n)`, and `B^T`, `(n, n)`: powers of the points, and the polynomials that vanish at all other points."""
    finite = [*(sign * p for p in image_convolution.WINOGRAD_PAIRS[points] for sign in (1, -1)), 0.0]
    a, b = np.zeros((points + 1 - kernel, points)), np.zeros((points, points))
    for i, point in enumerate(finite):
        a[:, i] = [point**power for power in range(len(a))]
        b[i, :-1] = np.poly([other for other in finite if other != point])[::-1]
    a[-1, -1] = 1
    b[-1] = np.poly(finite)[::-1]
    return a, b


@pytest.mark.parametrize(("kernel", "points"), WINOGRAD)
def test_winograd_s_weights_give_the_convolution(kernel: int, points: int) -> None:
    a, b = transforms(kernel, points)
    g, d = torch.randn(1, 1, kernel, kernel, dtype=torch.float64), np.random.default_rng(0).standard_normal((points, points))
    weight = image_convolution.winograd_weight(g, points).numpy().reshape(points, points)
    expected = F.conv2d(torch.from_numpy(d)[None, None], g)[0, 0].numpy()
    np.testing.assert_allclose(a @ (weight * (b @ d @ b.T)) @ a.T, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kernel", "size", "best"), [(3, (8, 8), 10), (3, (4, 4), 6), (3, (9, 4), 6), (5, (64, 32), 10), (5, (2, 2), 6)]
)
def test_the_fewest_multiplications_are_best(kernel: int, size: tuple[int, int], best: int) -> None:
    assert image_convolution.best_points(kernel, size) == best
