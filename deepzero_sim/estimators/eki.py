"""Ensemble Kalman inversion: steps from an ensemble of networks, and the spread that is left of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.requirements import Words, is_count, is_positive, require
from deepzero_sim.common.types import Mask, NamedTensors, is_number
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    active_coordinates,
    as_gradient,
    displacements_of,
    parameters_of,
    places_of,
    prepare,
    require_memory,
    require_sketch,
)
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.parameters import root_mean_square
from deepzero_sim.oracle.queries import Displacements
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.solver.failure_policy import add_account_to_error

#: Most members where nobody says how many.
MOST_MEMBERS = 512

#: Share of the largest precision that is added to all, so that rounding leaves none negative.
ROUNDING = 1e-14

#: Names of the tensors of an ensemble.
STORED = {"coordinates", "scale", "directions", "precision"}


class EKI(Estimator):
    """Steps of ensemble Kalman inversion (Iglesias, Law and Stuart, Inverse Problems 29 (2013) 045001), in a square-root form,
    which draws no noise for the data (Tippett et al., Monthly Weather Review 131 (2003) 1485):

        P_t^{-1} = decay P_{t-1}^{-1} + (1 - decay) P_0^{-1} + k R R^T,   step = -k D^T P_t R y

    `N` members spread along directions `D`, orthonormal, `(r, d)`, with the covariance `D^T P D`. `R`, `(r, m)`, are changes
    of the residuals along each, as least squares find them from the members; `y` are the network's residuals, of whose squares
    the loss is half the sum. No member is asked for derivatives, and `N` does not depend on the number of coordinates. The
    first ensemble has independent coordinates, and directions are random (second-order exact sampling: Pham, Monthly Weather
    Review 129 (2001) 1194).

    **The noise of the references is known** (`noise`): then `k` follows from it and `decay` is 1, so that for a network that is
    linear in its parameters step and spread are those of the posterior, of all batches one after the other, in the span of the
    first ensemble. The spread is the uncertainty.

    **It is not known**, as of a network that never fits: a batch weighs as much as determines a given share of what the
    ensemble spans (`signal`), whatever the units of the loss, and earlier batches count less and less. If members span all
    coordinates, it is then a Gauss-Newton step with a spread. Of fewer directions, those of which data tell least are drawn
    anew before each update (`redraw`), so that they come to be those that residuals depend on most; still, along others few
    members lead astray by chance, the less the smaller `signal` is.

    What it returns is to be subtracted from the parameters as it is, by `torch.optim.SGD` with a learning rate of 1. Members
    whose solver steps fail are left out, and others take their places in the next ensemble; if fewer than two are left, it
    warns, and nothing is updated.

    Args:
        members: Number of members, `N`; None for one more than active coordinates, which span them all, or 512 of many.
        spread: Standard deviation of a coordinate in the first ensemble, in root mean squares of the parameters, or as it is if
            all of them are 0.
        signal: Degrees of freedom that a batch determines by itself, as a share of the ensemble's, between 0 and 1: the mean of
            `k s / (1 + k s)` over the eigenvalues `s` of `P_0 R R^T`. Of no effect if the noise is known.
        decay: Share of what earlier batches determined that is kept, from 0 to 1. Of no effect if the noise is known.
        redraw: Share of the directions that are drawn anew at an update, from 0 to 1. Of no effect if the noise is known.
        noise: Root mean square of the errors of references, in units of the root of the loss; None if it is not known.
        sketch: Number of sums that residuals are added up to, with random signs; None for all residuals.
        memory: Bytes that members and changes of residuals may take.

    Raises:
        ConfigError: An argument cannot be used.
    """

    gives_steps = True
    needs_residuals = True

    def __init__(
        self,
        members: int | None = None,
        spread: float = 0.02,
        signal: float = 0.7,
        decay: float = 0.8,
        redraw: float = 0.2,
        noise: float | None = None,
        *,
        sketch: int | None = None,
        memory: int = 4 * 2**30,
    ) -> None:
        several = members is None or (is_count(members) and members > 1)
        require(several, "members must be a whole number from 2, or None", members, "one member has no spread; 100 are usual")
        require(is_positive(spread), "spread must be a positive number", spread, "0.02 suits most networks")
        require(is_number(signal) and 0 < signal < 1, "signal must be a number between 0 and 1", signal)
        for name, share in {"decay": decay, "redraw": redraw}.items():
            require(is_number(share) and 0 <= share <= 1, f"{name} must be a number from 0 to 1", share)
        require(noise is None or is_positive(noise), "noise must be a positive number, or None", noise)
        require_sketch(sketch, memory)
        self.members = None if members is None else int(members)
        self.spread, self.signal = float(spread), float(signal)
        self.decay, self.redraw = float(decay), float(redraw)
        self.noise = None if noise is None else float(noise)
        self.sketch, self.memory = sketch, int(memory)
        self._ensemble: Ensemble | None = None

    @property
    def ensemble(self) -> Ensemble | None:
        """Ensemble after the latest update; None before the first."""
        return self._ensemble

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        """Compute the step for one batch; see :meth:`Estimator.estimate`.

        Raises:
            ConfigError: The loss has no residuals, or their changes take more than `memory`.
        """
        parameters = parameters_of(oracle, mask)
        active = active_coordinates(parameters, mask)
        prepared = prepare(oracle, batch, self.spread)
        base = oracle.residuals(prepared)
        places = places_of(active, parameters)
        members = min(len(places) + 1, MOST_MEMBERS) if self.members is None else self.members
        self._require_memory(members, len(places), len(base), next(iter(parameters.values())).element_size())
        generator, request = new_generator(seed), ResidualRequest(self.sketch, seed)
        ensemble = self._next_ensemble(parameters, places, min(members - 1, len(places)), generator)
        weights = ensemble.draw(members, generator, relaxed=self.noise is None)
        with add_account_to_error([prepared.account]):
            answers = oracle.ask(prepared, [ensemble.displacements(weights, parameters)], request=request)
        assert answers.residuals is not None
        survivors = answers.answered
        account, failed = prepared.account + answers.account, int((~survivors).sum())
        grads: NamedTensors = {}
        if members - failed < 2:
            warnings.warn(f"{failed} of {members} members of EKI failed: nothing is updated.", stacklevel=2)
        else:
            slopes = _slopes(weights[survivors], answers.residuals[survivors].double().cpu())
            step, self._ensemble = self._update(ensemble, slopes, request.project(base).double().cpu(), len(base))
            grads = as_gradient(-step, active, parameters)
        return GradientEstimate(grads, prepared.loss, 1 + members, account.steps, failed, account.incidents)

    def _next_ensemble(self, parameters: NamedTensors, places: torch.Tensor, size: int, generator: torch.Generator) -> Ensemble:
        """Return the ensemble that is asked about, of so many directions; a first one if other coordinates were active."""
        known = self._ensemble
        if known is None or not torch.equal(known.coordinates, places) or known.size != size:
            scale = self.spread * (root_mean_square(parameters) or 1.0)
            return Ensemble.first(places, scale, size, generator)
        whole = size == len(places)  # of which no other directions can be drawn
        return known if self.noise is not None or whole else known.with_new_directions(self.redraw, generator)

    def _update(self, ensemble: Ensemble, slopes: torch.Tensor, y: torch.Tensor, count: int) -> tuple[torch.Tensor, Ensemble]:
        """Compute the step of the network, `(d,)`, and the ensemble after it.

        Args:
            ensemble: Ensemble that was asked about.
            slopes: Changes of residuals along its directions, `R`, `(r, m)`.
            y: Residuals of the network, `(m,)`.
            count: Number of residuals before they were sketched.
        """
        curvature, prior = slopes @ slopes.T, ensemble.prior
        if not bool(curvature.any()):
            warnings.warn(
                "the members of EKI change no residual: take a larger spread, or look what the loss sees.", stacklevel=3
            )
        if self.noise is None:
            weight, decay = _weight_of(curvature / prior, self.signal), self.decay
        else:
            weight, decay = count / (2 * self.noise**2), 1.0
        precision = decay * ensemble.precision + (1 - decay) * prior * torch.eye(len(curvature), dtype=torch.float64)
        precision = precision + weight * curvature
        rounding = ROUNDING * float(precision.diagonal().max())  # of what data determine most, larger than all of the prior's
        precision = precision + rounding * torch.eye(len(curvature), dtype=torch.float64)
        along = torch.cholesky_solve((slopes @ y)[:, None], torch.linalg.cholesky(precision)).view(-1)
        return -weight * (ensemble.directions.T @ along), replace(ensemble, precision=precision)

    def _require_memory(self, members: int, coordinates: int, residuals: int, itemsize: int) -> None:
        left = ResidualRequest(self.sketch).size(residuals)
        require_memory(
            members * (left * (itemsize + 16) + 3 * 8 * coordinates),
            self.memory,
            f"{members:,} members of {coordinates:,} coordinates, and changes of {left:,} residuals by each,",
            f"take sketch={4 * members}, fewer members, or raise memory",
        )

    def state_dict(self) -> NamedTensors:
        return {} if self._ensemble is None else self._ensemble.tensors()

    def load_state_dict(self, state_dict: NamedTensors) -> None:
        self._ensemble = Ensemble.load(state_dict)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Gaussian spread of networks around one, `D^T P D`.

    Args:
        coordinates: Places of the active coordinates in the vector of all parameters, `(d,)`.
        scale: Standard deviation of a coordinate in the first ensemble.
        directions: Directions `D`, orthonormal, float64 `(r, d)`.
        precision: Inverse of their covariance, `P^{-1}`, float64 `(r, r)`.
    """

    coordinates: torch.Tensor
    scale: float
    directions: torch.Tensor
    precision: torch.Tensor

    @classmethod
    def first(cls, coordinates: torch.Tensor, scale: float, size: int, generator: torch.Generator) -> Ensemble:
        """Draw an ensemble along random directions, whose covariance is `scale^2` times the identity in the mean over draws."""
        nothing = torch.zeros(0, len(coordinates), dtype=torch.float64)
        ensemble = cls(coordinates, scale, nothing, torch.zeros(0, 0, dtype=torch.float64))
        return ensemble._complete(size, generator)

    @property
    def size(self) -> int:
        """Number of directions, `r`."""
        return len(self.directions)

    @property
    def prior(self) -> float:
        """Precision along a direction in the first ensemble of as many directions: few of them stand for all coordinates."""
        return self.size / (self.scale**2 * len(self.coordinates))

    def with_new_directions(self, share: float, generator: torch.Generator) -> Ensemble:
        """Return an ensemble in which the directions of largest spread, of which data tell least, are drawn anew.

        Args:
            share: Share of the directions.
            generator: Generator that they are drawn from.
        """
        values, vectors = torch.linalg.eigh(self.precision)
        first = round(share * self.size)
        kept = replace(self, directions=vectors[:, first:].T @ self.directions, precision=torch.diag(values[first:]))
        return kept._complete(self.size, generator)

    def _complete(self, size: int, generator: torch.Generator) -> Ensemble:
        """Return an ensemble with more directions, random ones orthogonal to those it has, of the prior's spread."""
        fresh = torch.randn(size - self.size, len(self.coordinates), generator=generator, dtype=torch.float64)
        fresh = torch.linalg.qr((fresh - (fresh @ self.directions.T) @ self.directions).T).Q.T
        whole = replace(self, directions=torch.cat([self.directions, fresh]))
        precision = whole.prior * torch.eye(size, dtype=torch.float64)
        precision[: self.size, : self.size] = self.precision
        return replace(whole, precision=precision)

    def draw(self, members: int, generator: torch.Generator, relaxed: bool = False) -> torch.Tensor:
        """Draw members that have its covariance exactly, and a mean of 0: weights of the directions, `(N, r)`.

        Args:
            members: Number of members, more than directions.
            generator: Generator that they are drawn from.
            relaxed: True for the spread of the first ensemble along all directions, where small ones would lose digits.
        """
        drawn = torch.randn(members, self.size, generator=generator, dtype=torch.float64)
        mix: torch.Tensor = (members - 1) ** 0.5 * torch.linalg.qr(drawn - drawn.mean(0)).Q
        root = torch.linalg.cholesky(self.precision)
        spread: torch.Tensor = torch.linalg.solve_triangular(root.T, mix.T, upper=True).T
        return mix / self.prior**0.5 if relaxed else spread

    def displacements(self, weights: torch.Tensor, parameters: NamedTensors) -> Displacements:
        """Return members as displacements of all parameters.

        Args:
            weights: Weights of the directions, `(N, r)`.
            parameters: All parameters.
        """
        return displacements_of(weights @ self.directions, self.coordinates, parameters)

    def tensors(self) -> NamedTensors:
        """Return it as tensors by name."""
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return {
            "coordinates": self.coordinates,
            "scale": scale,
            "directions": self.directions.contiguous(),
            "precision": self.precision,
        }

    @classmethod
    def load(cls, tensors: NamedTensors) -> Ensemble | None:
        """Restore what :meth:`tensors` gave; None of nothing.

        Raises:
            ConfigError: It is something else.
        """
        if not tensors:
            return None
        if set(tensors) != STORED:
            names = ", ".join(sorted(tensors))
            raise ConfigError(f"the state of an EKI must hold coordinates, directions, precision and scale, not {names}.")
        coordinates, directions, precision = (tensors[name] for name in ("coordinates", "directions", "precision"))
        fits = directions.shape == (len(directions), len(coordinates)) and precision.shape == (len(directions),) * 2
        came = Words(f"directions {tuple(directions.shape)} and a precision {tuple(precision.shape)}")
        require(fits, f"the state of an EKI must be of {len(coordinates)} coordinates", came)
        directions, precision, scale = directions.double(), precision.double(), float(tensors["scale"])
        _require_spread(directions, precision, scale)
        return cls(coordinates, scale, directions, precision)


def _require_spread(directions: torch.Tensor, precision: torch.Tensor, scale: float) -> None:
    """Refuse a state that is damaged: directions that are not orthonormal, or a covariance that is none."""
    identity = torch.eye(len(directions), dtype=torch.float64)
    orthonormal = bool(torch.allclose(directions @ directions.T, identity, rtol=0, atol=1e-6))
    positive = bool(torch.isfinite(precision).all()) and not int(torch.linalg.cholesky_ex(precision).info)
    fits = orthonormal and positive and is_positive(scale)
    require(fits, "the state of an EKI must hold orthonormal directions and a covariance", Words("other numbers"), "restore it")


def _slopes(weights: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Find the changes of residuals along directions by least squares, `(r, m)`; 0 along what the members do not span.

    Args:
        weights: Weights of the directions in each member, `(n, r)`.
        changes: Changes of residuals by each member, `(n, m)`.
    """
    if not bool(torch.isfinite(changes).all()):
        raise DivergedError(
            "the loss is finite, but residuals of members are not: take a smaller spread, or an earlier checkpoint."
        )
    slopes: torch.Tensor = torch.linalg.pinv(weights - weights.mean(0), rtol=1e-10) @ (changes - changes.mean(0))
    return slopes


def _weight_of(curvature: torch.Tensor, signal: float) -> float:
    """Find the weight `k` at which the mean of `k s / (1 + k s)` over the eigenvalues of a curvature `(r, r)` is `signal`."""
    values = torch.linalg.eigvalsh(curvature)
    positive = values[values > 1e-14 * values[-1]]
    if not len(positive):  # nothing that members do changes anything
        return 0.0
    wanted = min(signal * len(values), 0.999 * len(positive))
    low, high = -math.log(float(positive.max())) - 60.0, -math.log(float(positive.min())) + 60.0
    for _ in range(100):  # a monotone function, by bisection in the logarithm
        middle = (low + high) / 2
        shares = 1 / (1 + (-middle - positive.log()).exp())
        low, high = (middle, high) if float(shares.sum()) < wanted else (low, middle)
    return math.exp(low)
