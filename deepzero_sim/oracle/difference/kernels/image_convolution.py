"""Convolutions of images by the kernels in C."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeGuard

import torch

from deepzero_sim.oracle.difference import buffer_pool
from deepzero_sim.oracle.difference.delta import Delta, Dense, OneChannel
from deepzero_sim.oracle.difference.kernels import native, winograd


class ImageConvolution:
    """A convolution with a square kernel, the same stride in both directions, and a border of zeros that is the same all round.

    Args:
        weight: `(O, C, k, k)`.
        size: of the images, `(H, W)`.
        stride: in both directions.
        border: on all sides.
    """

    def __init__(self, weight: torch.Tensor, size: Sequence[int], stride: int, border: int) -> None:
        self._weight, self._stride, self._border = weight, stride, border
        self.outputs, inputs, kernel, _ = weight.shape
        keeps_size = stride == 1 and kernel == 2 * border + 1
        self._whole = self.outputs % native.CHANNELS == 0
        tiled = self._whole and keeps_size and inputs % native.CHANNELS == 0 and kernel in winograd.KERNELS
        self._points = winograd.best_points(kernel, size) if tiled else 0

    def serves(self, delta: Delta) -> TypeGuard[Dense | OneChannel]:
        """Whether there is a kernel for such differences, `(P, B, C, H, W)`."""
        if not (isinstance(delta, Dense) or (isinstance(delta, OneChannel) and delta.dim == 1)):
            return False
        few = self._stride == 1 and max(delta.values.shape[2], self.outputs) <= native.FEW_CHANNELS
        return (self._whole or few) and native.serves(delta.values, self._weight)

    @functools.cached_property
    def _transformed(self) -> torch.Tensor:
        return winograd.transformed_weight(self._weight, self._points)

    @functools.cached_property
    def _by_place(self) -> torch.Tensor:
        """`(k, k, C, O)`."""
        return self._weight.permute(2, 3, 1, 0).contiguous()

    @functools.cached_property
    def _by_input(self) -> torch.Tensor:
        """`(C, k, k, 1, O)`."""
        return self._weight.permute(1, 2, 3, 0).unsqueeze(3).contiguous()

    @property
    def weight(self) -> native.Weight | None:
        """As the kernels take it that do more than this convolution; None if it has not whole channels."""
        return self._dense if self._whole and self._weight.shape[1] % native.CHANNELS == 0 else None

    @functools.cached_property
    def _dense(self) -> native.Weight:
        return self._laid_out(self._transformed if self._points else self._by_place, self._points)

    def _laid_out(self, values: torch.Tensor, points: int) -> native.Weight:
        return native.Weight(values, points, self._weight.shape[2], self._stride, self._border)

    def through(self, delta: Dense | OneChannel, size: torch.Size) -> torch.Tensor:
        """Differences of the results, `(P, B, O, H', W')`.

        Args:
            delta: of the images.
            size: of the results, `(H', W')`.
        """
        result = buffer_pool.empty(*delta.values.shape[:2], *size, self.outputs)
        if isinstance(delta, Dense):  # all in one call
            self._convolve(delta.values.movedim(2, -1).flatten(0, 1).contiguous(), None, result.flatten(0, 1))
        else:
            for x, channel, answer in zip(_images(delta), delta.channels, result, strict=True):
                self._convolve(x, channel, answer)
        return result.movedim(-1, 2)

    def with_moments(
        self, delta: Dense | OneChannel, size: torch.Size, next_y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Differences as :meth:`through`, and their moments (`native.moments`), `(P, 3, O)`; None for few channels.

        Args:
            delta: of the images.
            size: of the results, `(H', W')`.
            next_y: what a norm behind the convolution gives in the base network, `(M', O)`.
        """
        if not self._whole:
            return None
        result = buffer_pool.empty(*delta.values.shape[:2], *size, self.outputs)
        channels = [None] * delta.count if isinstance(delta, Dense) else delta.channels
        sums = [
            native.convolution(x, self._weight_from(channel), answer, next_y)
            for x, channel, answer in zip(_images(delta), channels, result, strict=True)
        ]
        return result.movedim(-1, 2), torch.stack([x for x in sums if x is not None])

    def _convolve(self, x: torch.Tensor, channel: int | None, result: torch.Tensor) -> None:
        """Write the differences behind images `(N, H, W, C)` of all channels or of a single one."""
        if self._whole:
            native.convolution(x, self._weight_from(channel), result)
        else:
            native.narrow(x, self._by_place if channel is None else self._by_input[channel], self._border, result)

    def _weight_from(self, channel: int | None) -> native.Weight:
        return self._dense if channel is None else self._laid_out(self._by_input[channel], 0)


def _images(delta: Dense | OneChannel) -> torch.Tensor:
    """`(P, B, H, W, C)`."""
    return delta.values.movedim(2, -1).contiguous()
