"""Random numbers: drawn from seeds, and never behind our back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepzero_sim.common.types import is_integer
from deepzero_sim.errors import ConfigError


def new_generator(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU: a seed gives the same numbers on every machine.

    Raises:
        ConfigError: the seed is no whole number from 0 to below 2**63.
    """
    if not is_integer(seed) or not 0 <= seed < 2**63:
        raise ConfigError(f"a seed must be a whole number from 0 to below 2**63, not {seed!r}.")
    return torch.Generator().manual_seed(int(seed))


class RandomnessDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notices whether this thread has torch draw random numbers, from whichever generator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not for its sake is torch's compiler imported, which would take every worker a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            # operations that can draw, such as attention, are the same where they are told not to
            schema = func._schema.arguments
            given = {x.name: x.default_value for x in schema} | dict(zip((x.name for x in schema), args, strict=False)) | kwargs
            self.found |= not any(name in given and not given[name] for name in _WHETHER)
        return func(*args, **kwargs)


#: Arguments that say whether an operation draws.
_WHETHER = ("dropout", "dropout_p", "p", "train", "training")
