"""Weights for Winograd's method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepzero_sim.oracle.difference.kernels import image_convolution

CASES = [(kernel, points) for kernel in image_convolution.WINOGRAD_KERNELS for points in image_convolution.WINOGRAD_PAIRS]


def transforms(kernel: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """`A^T`, `(m, n)`, and `B^T`, `(n, n)`: powers of the points, and the polynomials that vanish at all other points."""
    finite = [*(sign * p for p in image_convolution.WINOGRAD_PAIRS[points] for sign in (1, -1)), 0.0]
    a, b = np.zeros((points + 1 - kernel, points)), np.zeros((points, points))
    for i, point in enumerate(finite):
        a[:, i] = [point**power for power in range(len(a))]
        b[i, :-1] = np.poly([other for other in finite if other != point])[::-1]
    a[-1, -1] = 1
    b[-1] = np.poly(finite)[::-1]
    return a, b


@pytest.mark.parametrize(("kernel", "points"), CASES)
def test_they_give_the_convolution(kernel: int, points: int) -> None:
    a, b = transforms(kernel, points)
    g, d = torch.randn(1, 1, kernel, kernel, dtype=torch.float64), np.random.default_rng(0).standard_normal((points, points))
    weight = image_convolution.winograd_weight(g, points).numpy().reshape(points, points)
    expected = torch.nn.functional.conv2d(torch.from_numpy(d)[None, None], g)[0, 0].numpy()
    np.testing.assert_allclose(a @ (weight * (b @ d @ b.T)) @ a.T, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kernel", "size", "best"), [(3, (8, 8), 10), (3, (4, 4), 6), (3, (9, 4), 6), (5, (64, 32), 10), (5, (2, 2), 6)]
)
def test_the_fewest_multiplications_are_best(kernel: int, size: tuple[int, int], best: int) -> None:
    assert image_convolution.best_points(kernel, size) == best
