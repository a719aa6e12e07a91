"""Main memory for differences, used again and again.

What is freed in large pieces goes back to the operating system, which hands it out again page by page, each of them cleared:
that took a third of the time of a query. So pieces are kept here, and come back when the last tensor that uses them is gone.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch

#: Pieces that a thread keeps and nobody uses, at most: of all layers of a chunk a few live at a time.
_MOST_FREE = 8

#: Bytes from which on a piece is kept; the operating system does well with smaller ones.
_SMALLEST = 2**17


class _Lease:
    """A piece of memory in use. Arrays made from it keep it alive; when it dies, the piece is free again."""

    def __init__(self, piece: np.ndarray[Any, Any], free: list[np.ndarray[Any, Any]], size: int) -> None:
        self._piece, self._free = piece, free
        self.__array_interface__ = piece[:size].__array_interface__

    def __del__(self) -> None:
        self._free.append(self._piece)
        if len(self._free) > _MOST_FREE:
            del self._free[0]


_kept = threading.local()

#: Bytes of a line of the cache: vectors that lie across two of them take twice as long.
_LINE = 64


def empty(*shape: int) -> torch.Tensor:
    """A float32 tensor with arbitrary values, as `torch.empty`."""
    size = math.prod(shape)
    if 4 * size < _SMALLEST:
        return torch.empty(shape)
    free: list[np.ndarray[Any, Any]] = _kept.__dict__.setdefault("free", [])
    fitting = [i for i, piece in enumerate(free) if size <= piece.size <= 2 * size]
    piece = free.pop(min(fitting, key=lambda i: (free[i].size, -i))) if fitting else _new(size)
    return torch.from_numpy(np.asarray(_Lease(piece, free, size))).view(shape)


def _new(size: int) -> np.ndarray[Any, Any]:
    raw = np.empty(size + _LINE // 4, np.float32)
    first = -raw.ctypes.data % _LINE // 4
    return raw[first : first + size]
