"""Random directions: nothing is assumed of a step."""

from __future__ import annotations

import hashlib
from typing import final

import numpy as np

from deepzero_sim.common.types import Array, Scheme, is_integer
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.coupling.vjp.control_variate import ControlVariate
from deepzero_sim.coupling.vjp.differences import channel_sizes
from deepzero_sim.errors import ConfigError


@final
class RandomProbes(ControlVariate):
    """Directions of random signs, in units of each channel's size, with `c = 1 / m`: `E[v v^T] = S^2`, so that the estimate
    is right on average whatever the step (Hutchinson, Commun. Stat. Simul. 19, 1990; control variates: Glasserman, Monte
    Carlo Methods in Financial Engineering, section 4.1).

    The nearer `B` is to `J`, the less is left to chance: of the rest, the error is `((n - 1) / m)^(1/2)` of its size for `n`
    points, and a rollout multiplies it from step to step.

    Args:
        directions: `m`.
        control: `B`; the identity if None.
        step_size: as of :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.
        seed: of the directions, which depend on it and the state only.
    """

    def __init__(
        self,
        directions: int = 16,
        control: VectorJacobianProduct | None = None,
        step_size: float | None = None,
        scheme: Scheme = "central",
        seed: int = 0,
    ) -> None:
        if not is_integer(seed) or seed < 0:
            raise ConfigError(f"seed must be 0 or a positive whole number, not {seed!r}.")
        super().__init__(directions, control, step_size, scheme)
        self._weight = 1 / self.count
        self.seed = int(seed)

    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        digest = hashlib.sha256(state.tobytes()).digest()
        generator = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")])
        signs = generator.choice(np.array([-1, 1], state.dtype), size=(self.count, *state.shape))
        sizes = channel_sizes(state).astype(state.dtype).reshape(-1, *[1] * (state.ndim - 1))
        return np.asarray(signs * sizes * active)
