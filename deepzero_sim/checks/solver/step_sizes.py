"""Best length of a finite difference of a solver's step, and what is lost on either side of it."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from deepzero_sim.checks.gradient.layer_products import LayerProducts
from deepzero_sim.checks.gradient.sweep import STEP_SIZES, worst_sweep
from deepzero_sim.checks.solver.record import Sample
from deepzero_sim.checks.solver.results import StepSizes
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp.analytic import Detached
from deepzero_sim.coupling.vjp.differences import channel_sizes

#: Most and least directions along which step sizes are tried at each state.
MOST, LEAST = 8, 2

#: Step sizes at which a step's bend is looked at, and the least ratio of a bend to the noise that counts.
BENDS, ABOVE_NOISE = (1e-1, 10**-1.5, 1e-2), 10.0


def measure_step_sizes(trial: Trial, seed: int) -> StepSizes:
    """Sweep the step size, and look at a step's bend, at all sample states or as many as there is time for.

    A step may be linear at one of them alone.

    Args:
        trial: Trial after its survey.
        seed: Seed of directions and projection.

    Raises:
        SkippedError: There is no time.
        SolverError: The solver failed.
    """
    trial.require_deterministic()
    trial.require_time(LEAST * 2 * (len(STEP_SIZES) + len(BENDS)), 0.6, 2 * LEAST)  # two states of every direction are one call
    seeds: list[int] = torch.randint(2**62, (MOST,), generator=new_generator(seed)).tolist()
    swept, along = _share_out(trial, 2 * len(STEP_SIZES), 0.4)
    sweeps = [_subject(trial, sample, seed).sweep(seeds[:along], _size(sample.answer)) for sample in swept]
    sweep = worst_sweep(sweeps)
    bent, along = _share_out(trial, 2 * len(BENDS), 0.3)
    orders = [_order(trial, sample, _subject(trial, sample, seed).directions(seeds[:along]), sweep.rounding) for sample in bent]
    sizes = tuple(map(float, channel_sizes(trial.samples[0].state[0])))
    return StepSizes(sweep, sizes, tuple(orders), len(trial.samples))


def _share_out(trial: Trial, steps_per_direction: int, share: float) -> tuple[list[Sample], int]:
    """Choose sample states, all if half of the share is enough for that, and the number of directions at each."""
    affordable = trial.affordable(share, 2 * LEAST) // steps_per_direction
    samples = trial.samples[: max(1, affordable // (2 * LEAST))]
    return samples, max(LEAST, min(MOST, affordable // len(samples)))


def _subject(trial: Trial, sample: Sample, seed: int) -> LayerProducts:
    params = None if sample.params is None else torch.from_numpy(sample.params)
    return LayerProducts(SolverLayer(trial.shielded, Detached()), torch.from_numpy(sample.state), params, seed + 1)


def _size(answer: Array) -> float:
    return float(np.linalg.norm(answer.astype(np.float64)))


def _order(trial: Trial, sample: Sample, directions: Array, rounding: float) -> float | None:
    """Find the order of a step's bend in its step size at one state, along directions `(n, d)`; None if there is no bend."""
    sizes = channel_sizes(sample.state[0]).reshape(-1, *[1] * (sample.state.ndim - 2))
    scaled = directions.reshape(len(directions), *trial.spec.state_shape) * sizes
    return _slope([_bend(trial, sample, (mu * scaled).astype(sample.state.dtype), rounding) for mu in BENDS])


def _bend(trial: Trial, sample: Sample, steps: Array, rounding: float) -> float | None:
    """Compute `|P(s + d) - 2 P(s) + P(s - d)| / |P(s + d) - P(s - d)|` of steps `d`, `(n, C, *N)`; None if noise hides it."""
    states = np.concatenate([sample.state + steps, sample.state - steps])
    params = None if sample.params is None else np.repeat(sample.params, len(states), axis=0)
    plus, minus = np.split(trial.step(states, params).astype(np.float64), 2)
    second, first = (float(np.linalg.norm(x)) for x in (plus - 2 * sample.answer + minus, plus - minus))
    noise = rounding * float(np.linalg.norm(sample.answer)) * len(steps) ** 0.5
    return second / first if first and second > ABOVE_NOISE * noise else None


def _slope(bends: list[float | None]) -> float | None:
    """Take the slope of bends in their step sizes, on logarithmic axes."""
    slopes = [
        float(np.log(b / a) / np.log(mu_b / mu_a))
        for (mu_a, a), (mu_b, b) in itertools.pairwise(zip(BENDS, bends, strict=True))
        if a is not None and b is not None
    ]
    return sum(slopes) / len(slopes) if slopes else None
