"""Best length of a finite difference of a solver's step, and what is lost on either side of it."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from deepzero_sim.checks.gradient.layer_products import LayerProducts
from deepzero_sim.checks.gradient.sweep import STEP_SIZES
from deepzero_sim.checks.solver.record import Sample
from deepzero_sim.checks.solver.results import StepSizes
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp.analytic import Detached
from deepzero_sim.coupling.vjp.differences import channel_sizes

#: Most and least directions along which step sizes are tried.
MOST, LEAST = 8, 2

#: Step sizes at which a step's bend is looked at, and the least ratio of a bend to the noise that counts.
BENDS, ABOVE_NOISE = (1e-1, 10**-1.5, 1e-2), 10.0


def measure_step_sizes(trial: Trial, seed: int) -> StepSizes:
    """Sweep the step size at a sample state.

    Args:
        trial: Trial after its survey.
        seed: Seed of directions and projection.

    Raises:
        SkippedError: There is no time.
        ConfigError: Answers change.
        SolverError: The solver failed.
    """
    trial.require_deterministic()
    steps_per_direction = 2 * (len(STEP_SIZES) + len(BENDS))
    trial.require_time(LEAST * steps_per_direction, 0.6, 2 * LEAST)  # two states of every direction are one call
    count = min(MOST, trial.affordable(0.6, 2 * LEAST) // steps_per_direction)
    sample = trial.samples[0]
    layer = SolverLayer(trial.shielded, Detached())
    params = None if sample.params is None else torch.from_numpy(sample.params)
    subject = LayerProducts(layer, torch.from_numpy(sample.state), params, seed + 1)
    seeds = torch.randint(2**62, (count,), generator=new_generator(seed)).tolist()
    sweep = subject.sweep(seeds, subject.size(0))
    sizes = channel_sizes(sample.state[0])
    directions = subject.directions(seeds).reshape(count, *trial.spec.state_shape) * sizes.reshape(
        -1, *[1] * (sample.state.ndim - 2)
    )
    bends = [_bend(trial, sample, (mu * directions).astype(sample.state.dtype), sweep.rounding) for mu in BENDS]
    return StepSizes(sweep, tuple(map(float, sizes)), _order(bends))


def _bend(trial: Trial, sample: Sample, steps: Array, rounding: float) -> float | None:
    """Compute `|P(s + d) - 2 P(s) + P(s - d)| / |P(s + d) - P(s - d)|` of steps `d`, `(n, C, *N)`; None if noise hides it."""
    states = np.concatenate([sample.state + steps, sample.state - steps])
    params = None if sample.params is None else np.repeat(sample.params, len(states), axis=0)
    plus, minus = np.split(trial.step(states, params).astype(np.float64), 2)
    second, first = (float(np.linalg.norm(x)) for x in (plus - 2 * sample.answer + minus, plus - minus))
    noise = rounding * float(np.linalg.norm(sample.answer)) * len(steps) ** 0.5
    return second / first if first and second > ABOVE_NOISE * noise else None


def _order(bends: list[float | None]) -> float | None:
    """Take the slope of bends in their step sizes, on logarithmic axes."""
    slopes = [
        float(np.log(b / a) / np.log(mu_b / mu_a))
        for (mu_a, a), (mu_b, b) in itertools.pairwise(zip(BENDS, bends, strict=True))
        if a is not None and b is not None
    ]
    return sum(slopes) / len(slopes) if slopes else None
