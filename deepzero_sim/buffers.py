"""A network's buffers, such as running statistics, are not ours to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def buffers_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Undo whatever a network does to its buffers inside, in place (running statistics) or by assignment."""
    kept = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, values in kept:
            buffers[name] = buffer
            buffer.copy_(values)  # always: batch norm writes its statistics without raising their version
