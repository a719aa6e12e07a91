"""Convolutions of images by the kernels in C."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch

from deepzero_sim.difference import memory, native, winograd
from deepzero_sim.difference.delta import Delta, Dense, OneChannel, OneCoordinate

#: Writes a query's differences behind the convolution, `(B, H', W', O)`.
_Write: TypeAlias = Callable[[torch.Tensor], None]


class ImageConvolution:
    """A convolution with a square kernel, the same stride in both directions, and a border of zeros that is the same all round.

    Args:
        weight: `(O, C, k, k)`, `O` a multiple of :data:`native.CHANNELS`.
        stride: in both directions.
        border: on all sides.
    """

    def __init__(self, weight: torch.Tensor, stride: int, border: int) -> None:
        self._weight, self._stride, self._border = weight, stride, border
        outputs, inputs, kernel, _ = weight.shape
        keeps_size = stride == 1 and kernel == 2 * border + 1
        self._tiled = keeps_size and inputs % native.CHANNELS == 0 and kernel in winograd.KERNELS
        self.outputs = outputs

    def serves(self, delta: Delta) -> bool:
        """Whether there is a kernel for such differences, `(P, B, C, H, W)`."""
        known = isinstance(delta, Dense) or (isinstance(delta, OneChannel) and delta.dim == 1)
        return known and native.serves(delta.values, self._weight)

    @functools.cached_property
    def _transformed(self) -> torch.Tensor:
        return winograd.transformed_weight(self._weight)

    @functools.cached_property
    def _by_place(self) -> torch.Tensor:
        """`(k, k, C, O)`."""
        return self._weight.permute(2, 3, 1, 0).contiguous()

    @functools.cached_property
    def _by_input(self) -> torch.Tensor:
        """`(C, k, k, 1, O)`."""
        return self._weight.permute(1, 2, 3, 0).unsqueeze(3).contiguous()

    def queries(self, delta: Delta) -> Iterator[_Write]:
        """For each query what writes its differences."""
        assert not isinstance(delta, OneCoordinate)
        images = delta.values.movedim(2, -1).contiguous()
        for query, x in enumerate(images):
            if isinstance(delta, OneChannel):
                yield functools.partial(native.summed, x, self._by_input[delta.channels[query]], self._stride, self._border)
            elif self._tiled:
                yield functools.partial(native.winograd, x, self._transformed, self._weight.shape[2])
            else:
                yield functools.partial(native.summed, x, self._by_place, self._stride, self._border)

    def through(self, delta: Delta, size: torch.Size) -> torch.Tensor:
        """Differences of the results, `(P, B, O, H', W')`.

        Args:
            delta: of the images.
            size: of the results, `(H', W')`.
        """
        assert not isinstance(delta, OneCoordinate)
        result = memory.empty(*delta.values.shape[:2], *size, self.outputs)
        for write, answer in zip(self.queries(delta), result, strict=True):
            write(answer)
        return result.movedim(-1, 2)
