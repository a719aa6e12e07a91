"""Random numbers: generators with a seed, and a detector of code that draws without being told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepzero_sim.common.requirements import is_count, require


def new_generator(seed: int) -> torch.Generator:
    """Make a generator on the CPU, where a seed gives the same numbers on every machine."""
    require(is_count(seed, least=0) and seed < 2**63, "a seed must be a whole number from 0 to below 2**63", seed)
    return torch.Generator().manual_seed(int(seed))


class RandomnessDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that notices whether this thread has torch draw random numbers, from whichever generator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Skip dynamo: importing it would cost every worker about a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            # operations that can draw, such as attention, have this tag even where an argument tells them not to
            schema = func._schema.arguments
            given = {x.name: x.default_value for x in schema} | dict(zip((x.name for x in schema), args, strict=False)) | kwargs
            self.found |= not any(name in given and not given[name] for name in _SWITCHES)
        return func(*args, **kwargs)


#: Arguments that switch the drawing of an operation on or off.
_SWITCHES = ("dropout", "dropout_p", "p", "train", "training")
