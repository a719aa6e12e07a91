"""Convolutions of 3 x 3 by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications.

    Y = A^T [(G g G^T) * (B^T d B)] A

(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8 and section 4.3.) Its rounding, some 1e-5
of the largest result in float32, would be noise on activations; on differences it is a relative error of theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.difference import kernels
from deepzero_sim.difference.delta import is_channels_last

_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)

#: Images of more pixels gain nothing: what the transforms move no longer fits the caches.
_MOST_PIXELS = 64
_FEWEST_CHANNELS = 16


def serves(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether this way is the faster one for `(P, B, C, H, W)` and a weight `(O, C, 3, 3)`."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.shape[2:] != (3, 3):
        return False
    height, width = x.shape[3:]
    whole = height % 4 == 0 and width % 4 == 0 and height * width <= _MOST_PIXELS
    return whole and min(weight.shape[:2]) >= _FEWEST_CHANNELS and is_channels_last(x[0]) and kernels.compiles(x[0])


def transformed_weight(weight: torch.Tensor) -> torch.Tensor:
    """`G g G^T`: `(O, C, 3, 3)` to `(36, C, O)`."""
    g = _G.to(weight.device)
    return torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g).reshape(36, *weight.shape[1::-1]).to(weight.dtype)


def convolution(x: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
    """A convolution with a border of zeros, one wide: `(P, B, C, H, W)`, channels innermost, to `(P, B, O, H, W)` likewise.

    Query by query, so that the tiles of one stay in the cache between the three steps.
    """
    images = x.movedim(2, -1)
    queries, count, height, width, channels = images.shape
    outputs = transformed.shape[2]
    tiles = _scratch("tiles", (6, 6, count, height // 4, width // 4, channels))
    products = _scratch("products", (6, 6, count, height // 4, width // 4, outputs))
    result = x.new_empty(queries, count, height, width, outputs)
    for image, answer in zip(images, result, strict=True):
        kernels.call(_input_tiles_into, image, tiles)
        torch.bmm(tiles.view(36, -1, channels), transformed, out=products.view(36, -1, outputs))
        kernels.call(_output_into, products, answer)
    return result.movedim(-1, 2)


_kept = threading.local()


def _scratch(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of this thread that is written over by the next one who asks: the same stays in the cache."""
    kept: dict[tuple[str, tuple[int, ...]], torch.Tensor] = _kept.__dict__.setdefault("tensors", {})
    if (name, shape) not in kept:
        kept[name, shape] = torch.empty(shape)
    return kept[name, shape]


def _input_tiles_into(x: torch.Tensor, tiles: torch.Tensor) -> None:
    tiles.copy_(_input_tiles(x))


def _output_into(products: torch.Tensor, result: torch.Tensor) -> None:
    result.copy_(_output(products))


def _input_tiles(x: torch.Tensor) -> torch.Tensor:
    """`B^T d B` of every tile: `(N, H, W, C)` to `(6, 6, N, H/4, W/4, C)`."""
    height, width = x.shape[1:3]
    rows = F.pad(x, (0, 0, 0, 0, 1, 1))
    t = torch.stack(_input_line([rows[:, i : i + height - 3 : 4] for i in range(6)]))
    columns = F.pad(t, (0, 0, 1, 1))
    return torch.stack(_input_line([columns[:, :, :, i : i + width - 3 : 4] for i in range(6)]), dim=1)


def _input_line(d: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    a, b, c, e = d[4] - 4 * d[2], d[3] - 4 * d[1], d[4] - d[2], 2 * (d[3] - d[1])
    return 4 * d[0] - 5 * d[2] + d[4], a + b, a - b, c + e, c - e, 4 * d[1] - 5 * d[3] + d[5]


def _output(m: torch.Tensor) -> torch.Tensor:
    """`A^T m A` of every tile: `(6, 6, N, H/4, W/4, O)` to `(N, H, W, O)`."""
    columns = torch.stack(_output_line(m.unbind(1)), dim=-2)  # (6, N, H/4, W/4, 4, O)
    return torch.stack(_output_line(columns.unbind(0)), dim=2).flatten(3, 4).flatten(1, 2)


def _output_line(m: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    a, b, p, q = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return m[0] + a + p, b + 2 * q, a + 4 * p, b + 8 * q + m[5]
