"""Convolutions of images by the kernels in C, directly or by Winograd's minimal filtering.

Winograd's method goes from tiles of `n x n` pixels to `m x m`, `m = n + 1 - k`, for kernels `k x k`:

    Y = A^T [(G g G^T) * (B^T d B)] A

(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8 and section 4.3.) A tile takes `n^2`
multiplications instead of `m^2 k^2`: with `n = 10`, 100 instead of 576 for a kernel of 3, and instead of 900 for one of 5.

`G` evaluates a filter, read as a polynomial, at `n - 1` points and at infinity. The points are pairs `p, -p`, which share most
of their arithmetic, then 0. Their choice decides the rounding error: of multiples of 1/16 or 1/8, these gave the least for
random images; in float32 some 1e-6 of the results for 6 points, 2e-5 for 10. On activations that would be noise; on
differences it is a relative error of theirs. The weights are transformed here; `native.c`, with the same points, does the rest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeGuard

import torch

from deepzero_sim.oracle.difference.delta import Delta, Dense, OneChannel
from deepzero_sim.oracle.difference.kernels import native

#: Sizes of kernels for which Winograd's method is used.
WINOGRAD_KERNELS = (3, 5)

#: Pairs of Winograd's points, by `n`.
WINOGRAD_PAIRS = {6: (0.625, 1.5), 10: (0.375, 0.8125, 1.25, 2.25)}


class ImageConvolution:
    """Convolution with a square kernel, the same stride in both directions, and the same border of zeros on all sides.

    Args:
        weight: Weight, `(O, C, k, k)`.
        size: Size of the images, `(H, W)`.
        stride: Stride in both directions.
        border: Width of the border.
    """

    def __init__(self, weight: torch.Tensor, size: Sequence[int], stride: int, border: int) -> None:
        self._weight, self._stride, self._border = weight, stride, border
        self.outputs, inputs, kernel, _ = weight.shape
        keeps_size = stride == 1 and kernel == 2 * border + 1
        self._whole = self.outputs % native.CHANNELS == 0
        tiled = self._whole and keeps_size and inputs % native.CHANNELS == 0 and kernel in WINOGRAD_KERNELS
        self._points = best_points(kernel, size) if tiled else 0

    def supports(self, delta: Delta) -> TypeGuard[Dense | OneChannel]:
        """Tell whether there is a kernel for such differences, `(P, B, C, H, W)`."""
        if not (isinstance(delta, Dense) or (isinstance(delta, OneChannel) and delta.dim == 1)):
            return False
        few = self._stride == 1 and max(delta.values.shape[2], self.outputs) <= native.FEW_CHANNELS
        return (self._whole or few) and native.supports(delta.values, self._weight)

    @functools.cached_property
    def _by_place(self) -> torch.Tensor:
        """Weight by its place in the kernel, `(k, k, C, O)`."""
        return self._weight.permute(2, 3, 1, 0).contiguous()

    @functools.cached_property
    def _by_input(self) -> torch.Tensor:
        """Weight by its input channel, `(C, k, k, 1, O)`."""
        return self._weight.permute(1, 2, 3, 0).unsqueeze(3).contiguous()

    @property
    def weight(self) -> native.Weight | None:
        """Weight for kernels that do more than a convolution; None unless its channels are multiples of `native.CHANNELS`."""
        return self._dense if self._whole and self._weight.shape[1] % native.CHANNELS == 0 else None

    @functools.cached_property
    def _dense(self) -> native.Weight:
        values = winograd_weight(self._weight, self._points) if self._points else self._by_place
        return self._native_weight(values, self._points)

    def _native_weight(self, values: torch.Tensor, points: int) -> native.Weight:
        return native.Weight(values, points, self._weight.shape[2], self._stride, self._border)

    def apply(self, delta: Dense | OneChannel, size: torch.Size) -> torch.Tensor:
        """Convolve differences: `(P, B, O, H', W')`.

        Args:
            delta: Differences of the images.
            size: Size of the results, `(H', W')`.
        """
        result = torch.empty(*delta.values.shape[:2], *size, self.outputs)
        if isinstance(delta, Dense):  # all in one call
            self._convolve(delta.values.movedim(2, -1).flatten(0, 1).contiguous(), None, result.flatten(0, 1))
        else:
            for x, channel, answer in zip(_images(delta), delta.channels, result, strict=True):
                self._convolve(x, channel, answer)
        return result.movedim(-1, 2)

    def apply_with_moments(
        self, delta: Dense | OneChannel, size: torch.Size, next_y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Convolve differences as :meth:`apply` does, and compute their moments (`native.moments`), `(P, 3, O)`.

        Args:
            delta: Differences of the images.
            size: Size of the results, `(H', W')`.
            next_y: Normalised values, in the base network, of the norm after the convolution, `(M', O)`.

        Returns:
            Results and moments; None if there are few output channels.
        """
        if not self._whole:
            return None
        result = torch.empty(*delta.values.shape[:2], *size, self.outputs)
        channels = [None] * delta.count if isinstance(delta, Dense) else delta.channels
        sums = [
            native.convolution(x, self._weight_from(channel), answer, next_y)
            for x, channel, answer in zip(_images(delta), channels, result, strict=True)
        ]
        return result.movedim(-1, 2), torch.stack([x for x in sums if x is not None])

    def _convolve(self, x: torch.Tensor, channel: int | None, result: torch.Tensor) -> None:
        """Write the convolution of images `(N, H, W, C)`, of all channels or of a single one."""
        if self._whole:
            native.convolution(x, self._weight_from(channel), result)
        else:
            native.narrow_convolution(x, self._by_place if channel is None else self._by_input[channel], self._border, result)

    def _weight_from(self, channel: int | None) -> native.Weight:
        return self._dense if channel is None else self._native_weight(self._by_input[channel], 0)


def _images(delta: Dense | OneChannel) -> torch.Tensor:
    """Lay differences out with their channels innermost, `(P, B, H, W, C)`."""
    return delta.values.movedim(2, -1).contiguous()


def best_points(kernel: int, size: Sequence[int]) -> int:
    """Choose the `n` of the fewest multiplications for images of a size, `(H, W)`."""
    return min(WINOGRAD_PAIRS, key=lambda n: n**2 * math.prod(math.ceil(length / (n + 1 - kernel)) for length in size))


def winograd_weight(weight: torch.Tensor, points: int) -> torch.Tensor:
    """Transform a weight, `G g G^T`: `(O, C, k, k)` to `(n^2, C, O)`."""
    g = _filter_transform(weight.shape[2], points).to(weight.device)
    transformed = torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g)
    return transformed.reshape(points**2, *weight.shape[1::-1]).to(weight.dtype).contiguous()


def _filter_transform(kernel: int, points: int) -> torch.Tensor:
    """Build `G`, `(n, k)`: the filter as a polynomial at every point, divided by the point's distances from the others."""
    finite = [*(sign * p for p in WINOGRAD_PAIRS[points] for sign in (1, -1)), 0.0]
    rows = [
        [point**power / math.prod(point - other for other in finite if other != point) for power in range(kernel)]
        for point in finite
    ]
    return torch.tensor([*rows, [0.0] * (kernel - 1) + [1.0]], dtype=torch.float64)
