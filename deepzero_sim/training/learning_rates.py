"""Learning rates over a training, where torch has no name for them."""

from __future__ import annotations

from functools import partial
from math import cos, pi

import torch

from deepzero_sim.common.requirements import Words, require


def warm_up_cosine(optimiser: torch.optim.Optimizer, steps: int, warm_up: float = 0.06) -> torch.optim.lr_scheduler.LambdaLR:
    """Schedule a rate from 0 up in a line, then down to 0 along half a cosine: at step `t` of `T`, with `w` of them to warm up,
    the optimiser's rate times

        (t + 1) / w                              for t < w
        (1 + cos(pi (t - w) / (T - w))) / 2      from there on

    Args:
        optimiser: Optimiser whose learning rate is scheduled.
        steps: Number of training steps, `T`.
        warm_up: Share of them to warm up, `w / T`.

    Raises:
        ConfigError: The warm-up is not a share of the steps.
    """
    require(0 <= warm_up < 1, "warm_up must be a share of the steps, from 0 to below 1", Words(warm_up))
    return torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_factor, steps, round(warm_up * steps)))


def _factor(steps: int, warm_up: int, step: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + cos(pi * (step - warm_up) / max(1, steps - warm_up))) / 2
