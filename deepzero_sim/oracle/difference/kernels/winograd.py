"""Weights for Winograd's minimal filtering, from tiles of `n x n` pixels to `m x m`, `m = n + 1 - k`, for kernels `k x k`:

    Y = A^T [(G g G^T) * (B^T d B)] A

(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8 and section 4.3.) A tile takes `n^2`
multiplications where `m^2 k^2` stood: with `n = 10`, 100 for 576 of a kernel of 3, and for 900 of a kernel of 5.

A filter, taken as a polynomial, is evaluated at `n - 1` points and at infinity. Points are pairs `p, -p`, of which much is
computed together, then 0. Which ones decides about rounding: these gave the least for random images among multiples of 1/16 or
1/8; in float32 some 1e-6 of the results for 6 points, 2e-5 for 10. On activations that would be noise; on differences it is a
relative error of theirs. `native.c` has the same points, and does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

#: Sizes of kernels that go by this method.
KERNELS = (3, 5)

#: Pairs of points, by `n`.
PAIRS = {6: (0.625, 1.5), 10: (0.375, 0.8125, 1.25, 2.25)}


def best_points(kernel: int, size: Sequence[int]) -> int:
    """The `n` of the fewest multiplications for images of a size, `(H, W)`."""
    return min(PAIRS, key=lambda n: n**2 * math.prod(math.ceil(length / (n + 1 - kernel)) for length in size))


def transformed_weight(weight: torch.Tensor, points: int) -> torch.Tensor:
    """`G g G^T`: `(O, C, k, k)` to `(n^2, C, O)`."""
    g = _filter_transform(weight.shape[2], points).to(weight.device)
    transformed = torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g)
    return transformed.reshape(points**2, *weight.shape[1::-1]).to(weight.dtype).contiguous()


def _filter_transform(kernel: int, points: int) -> torch.Tensor:
    """`G`, `(n, k)`: the filter as a polynomial at every point, divided by the point's distances from the others."""
    finite = [*(sign * p for p in PAIRS[points] for sign in (1, -1)), 0.0]
    rows = [
        [point**power / math.prod(point - other for other in finite if other != point) for power in range(kernel)]
        for point in finite
    ]
    return torch.tensor([*rows, [0.0] * (kernel - 1) + [1.0]], dtype=torch.float64)
