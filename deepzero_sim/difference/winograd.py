"""Weights for Winograd's minimal filtering F(4x4, 3x3) and F(2x2, 5x5), with tiles of 6 x 6:

    Y = A^T [(G g G^T) * (B^T d B)] A

(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8 and section 4.3; points 0, 1, -1, 2, -2 and
infinity.) It takes 36 multiplications where 144 or 100 stood. Its rounding, some 1e-5 of the largest result in float32, would
be noise on activations; on differences it is a relative error of theirs. `native.c` does the rest.
"""

from __future__ import annotations

import math

import torch

KERNELS = (3, 5)

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)


def transformed_weight(weight: torch.Tensor) -> torch.Tensor:
    """`G g G^T`: `(O, C, k, k)` to `(36, C, O)`."""
    g = _filter_transform(weight.shape[2]).to(weight.device)
    transformed = torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g)
    return transformed.reshape(36, *weight.shape[1::-1]).to(weight.dtype).contiguous()


def _filter_transform(kernel: int) -> torch.Tensor:
    """`G`, `(6, k)`: the filter as a polynomial at every point, divided by the point's distances from the others."""
    rows = [
        [point**power / math.prod(point - other for other in _POINTS if other != point) for power in range(kernel)]
        for point in _POINTS
    ]
    return torch.tensor([*rows, [0.0] * (kernel - 1) + [1.0]], dtype=torch.float64)
