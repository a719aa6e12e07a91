"""Random numbers: drawn from seeds, and never behind our back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from deepzero_sim.errors import ConfigError
from deepzero_sim.types import is_whole


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU: a seed gives the same numbers on every machine.

    Raises:
        ConfigError: the seed is no whole number from 0 to below 2**63.
    """
    if not is_whole(seed) or not 0 <= seed < 2**63:
        raise ConfigError(f"a seed must be a whole number from 0 to below 2**63, not {seed!r}.")
    return torch.Generator().manual_seed(int(seed))


def shared_state() -> tuple[Any, ...]:
    """The state of the generators that all code shares, those of torch, numpy and Python: it changes when any of them draws."""
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    tensors = [x.numpy().tobytes() for x in (torch.get_rng_state(), *on_gpus)]
    of_numpy = pytree.tree_leaves(np.random.get_state(legacy=False))
    return (*tensors, *(x.tobytes() if isinstance(x, np.ndarray) else x for x in of_numpy), random.getstate())
