"""How long a finite difference of a solver's step should be, and what is lost on either side of that."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from deepzero_sim.checks.gradient import LayerProducts, Sweep
from deepzero_sim.checks.gradient.sweep import STEP_SIZES, sweep_over
from deepzero_sim.checks.solver.trial import Sample, Trial
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import Detached
from deepzero_sim.coupling.vjp.differences import channel_sizes

#: Directions along which step sizes are tried, at most and at least.
MOST, LEAST = 8, 2

#: Step sizes at which a step's bend is looked at, and by how much it must stand out of the noise to count.
BENDS, ABOVE_NOISE = (1e-1, 10**-1.5, 1e-2), 10.0


@dataclass(frozen=True)
class StepSizes:
    """What central differences of a step say over their step size `mu`.

    Args:
        sweep: slopes of a random projection of the step along random directions; step sizes in units of the state's size.
        sizes: of each channel at the sample state, its root mean square.
        order: of `|P(s + mu v) - 2 P(s) + P(s - mu v)| / |P(s + mu v) - P(s - mu v)|` in `mu`: about 1 if the step is smooth,
            1/2 if it has kinks, less than 0 if it jumps; None if it is linear to rounding.
    """

    sweep: Sweep
    sizes: tuple[float, ...]
    order: float | None

    @property
    def recommended(self) -> float:
        """`mu`, in units of a channel's size."""
        return self.sweep.best

    @property
    def absolute(self) -> tuple[float, ...]:
        """`mu`, in every channel's own unit."""
        return tuple(self.sweep.best * size for size in self.sizes)

    @property
    def smoothness(self) -> str:
        """In words."""
        if self.order is None:
            return "linear, to rounding"
        if self.order > 0.75:
            return "smooth"
        return "not smooth: it has kinks (limiters, absolute values)" if self.order > 0.1 else "not even continuous: it jumps"

    @property
    def words(self) -> str:
        """What was found, for people."""
        sweep, absolute = self.sweep, ", ".join(f"{step:.2g}" for step in self.absolute)
        least, most = sweep.plateau
        bend = "" if self.order is None else f" (it bends by a share of its change that grows as mu^{self.order:.2f})"
        return (
            f"Take mu = {self.recommended:g} of a channel's size, {absolute} in its unit: that is vjp.args.step_size of "
            "SolverLayer (scheme central); without one, mu is chosen by the dtype alone. (ZO-SOL's estimator.args.step_size is "
            "another, of the network's parameters.) Central differences hold still from "
            f"{least:g} to {most:g}; they are known there to {sweep.noise_floor:.0e} of themselves. Longer steps measure "
            f"curvature, shorter ones rounding: the step has noise of {sweep.rounding:.0e} of its size. It is "
            f"{self.smoothness}{bend}."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {"recommended": self.recommended, "absolute": self.absolute, "smoothness": self.smoothness}
        return found | asdict(self)


def measure_step_sizes(trial: Trial, seed: int) -> StepSizes:
    """Sweep the step size at a sample state.

    Args:
        trial: after its survey.
        seed: of directions and the projection.

    Raises:
        NotTestedError: there is no time.
        ConfigError: answers change.
        SolverError: the solver failed.
    """
    trial.require_deterministic()
    of_direction = 2 * (len(STEP_SIZES) + len(BENDS))
    trial.require_time(LEAST * of_direction, 0.6)
    count = min(MOST, trial.affordable(0.6) // of_direction)
    sample = trial.samples[0]
    layer = SolverLayer(trial.shielded, Detached())
    params = None if sample.params is None else torch.from_numpy(sample.params)
    subject = LayerProducts(layer, torch.from_numpy(sample.state), params, seed + 1)
    seeds = torch.randint(2**62, (count,), generator=new_generator(seed)).tolist()
    sweep = sweep_over(subject, seeds, subject.size(0))
    sizes = channel_sizes(sample.state[0])
    directions = subject.directions(seeds).reshape(count, *trial.spec.state_shape) * sizes.reshape(
        -1, *[1] * (sample.state.ndim - 2)
    )
    bends = [_bend(trial, sample, (mu * directions).astype(sample.state.dtype), sweep.rounding) for mu in BENDS]
    return StepSizes(sweep, tuple(map(float, sizes)), _order(bends))


def _bend(trial: Trial, sample: Sample, steps: Array, rounding: float) -> float | None:
    """`|P(s + d) - 2 P(s) + P(s - d)| / |P(s + d) - P(s - d)|` of steps `d`, `(n, C, *N)`; None if it is lost in noise."""
    states = np.concatenate([sample.state + steps, sample.state - steps])
    params = None if sample.params is None else np.repeat(sample.params, len(states), axis=0)
    plus, minus = np.split(trial.step(states, params).astype(np.float64), 2)
    bent, turned = (float(np.linalg.norm(x)) for x in (plus - 2 * sample.answer + minus, plus - minus))
    noise = rounding * float(np.linalg.norm(sample.answer)) * len(steps) ** 0.5
    return bent / turned if turned and bent > ABOVE_NOISE * noise else None


def _order(bends: list[float | None]) -> float | None:
    """The slope of bends in their step sizes, on logarithmic axes."""
    slopes = [
        float(np.log(b / a) / np.log(mu_b / mu_a))
        for (mu_a, a), (mu_b, b) in itertools.pairwise(zip(BENDS, bends, strict=True))
        if a is not None and b is not None
    ]
    return sum(slopes) / len(slopes) if slopes else None
