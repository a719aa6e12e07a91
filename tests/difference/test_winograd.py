"""Weights for Winograd's method."""

from __future__ import annotations

import torch

from deepzero_sim.difference import winograd

#: Of F(4x4, 3x3), as printed by Lavin & Gray, CVPR 2016, section 4.3.
G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


def test_the_transform_is_the_published_one() -> None:
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    g = torch.tensor(G, dtype=torch.float64)
    expected = torch.einsum("ia,ocab,jb->ijco", g, weight, g).reshape(36, 2, 3)
    torch.testing.assert_close(winograd.transformed_weight(weight), expected, rtol=1e-12, atol=1e-12)
