"""Checksums that files hold of their own content, so that a flipped bit or a part of another file is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch


def digest(words: Sequence[str], arrays: Iterable[np.ndarray[Any, Any] | torch.Tensor] = ()) -> str:
    """Compute the SHA-256 of texts and of arrays with their types and shapes, in the order given."""
    checksum = hashlib.sha256(json.dumps(list(words)).encode())
    for array in arrays:
        checksum.update(f"{array.dtype} {tuple(array.shape)}".encode())
        checksum.update(_bytes(array).data)
    return checksum.hexdigest()


def digest_of_named(words: Sequence[str], arrays: Mapping[str, np.ndarray[Any, Any] | torch.Tensor]) -> str:
    """Compute the SHA-256 of texts and of arrays by name, in whatever order a file lists them."""
    names = sorted(arrays)
    return digest([*words, *names], (arrays[name] for name in names))


def _bytes(array: np.ndarray[Any, Any] | torch.Tensor) -> np.ndarray[Any, Any]:
    if not np.prod(array.shape):
        return np.empty(0, np.uint8)
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
