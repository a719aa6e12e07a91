"""Ensemble Kalman inversion: steps from an ensemble of networks, and the spread that is left of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
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
    parameters_of,
    places_of,
    require_memory,
)
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.oracle.queries import Displacements
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.solver.failure_policy import add_account_to_error


class EKI(Estimator):
    """Steps of ensemble Kalman inversion (Iglesias, Law and Stuart, Inverse Problems 29 (2013) 045001), in its square-root form
    (Bishop, Etherton and Majumdar, Monthly Weather Review 129 (2001) 420), which draws no noise for the data:

        step = -k A^T (I + S)^{-1} B y,   E <- (I + S)^{-1/2} E,   S = k B B^T

    `E` are the deviations of `N` members from the network, `(N, d)`, and `A` the same over `sqrt(N - 1)`; `B`, `(N, m)`, are
    the changes of the residuals that they make, less their mean, over `sqrt(N - 1)`; `y` are the network's residuals, of whose
    squares the loss is half the sum. For a network that is linear in its parameters, and deviations whose covariance is the
    prior's, step and spread are those of the posterior. The deviations of the first ensemble lie along random orthogonal
    directions (second-order exact sampling: Pham, Monthly Weather Review 129 (2001) 1194).

    **The noise of the references is known** (`noise`): it is that posterior, of all batches one after the other, in the span of
    the first ensemble, and the spread is the uncertainty.

    **It is not known**, as of a network that never fits: a batch weighs as much as determines a given share of what the
    ensemble spans (`signal`), whatever the units of the loss. Before each update the spread is as it was at first again
    (relaxation to the prior's spread: Whitaker and Hamill, Monthly Weather Review 140 (2012) 3078), and the directions of which
    the data told least are drawn anew (`redraw`). So the ensemble comes to span those that residuals depend on most, and no
    step leads along others by chance, which is how few members go wrong among many parameters.

    What it returns is to be subtracted from the parameters as it is, by `torch.optim.SGD` with a learning rate of 1, and with
    :attr:`momentum`, since a batch moves the network a part of the way. Members whose solver steps fail are drawn anew from the
    covariance of the others; if fewer than two are left, it warns, and nothing is updated.

    Args:
        members: Number of members, `N`.
        spread: Standard deviation of a coordinate in the first ensemble, in root mean squares of the parameters, or as it is if
            all of them are 0.
        signal: Degrees of freedom that a batch determines, as a share of the ensemble's: the mean of `k s / (1 + k s)` over the
            eigenvalues `s` of `B B^T`, between 0 and 1. Of no effect if the noise is known.
        redraw: Share of the ensemble's directions that are drawn anew at an update, from 0 to 1. Of no effect if the noise is
            known.
        noise: Root mean square of the errors of references, in units of the root of the loss; None if it is not known.
        sketch: Number of sums that residuals are added up to, with random signs; None for all residuals.
        memory: Bytes that changes of residuals may take.

    Raises:
        ConfigError: An argument cannot be used.
    """

    gives_steps = True

    def __init__(
        self,
        members: int = 100,
        spread: float = 0.02,
        signal: float = 0.3,
        redraw: float = 0.2,
        noise: float | None = None,
        *,
        sketch: int | None = None,
        memory: int = 4 * 2**30,
    ) -> None:
        remedy = "one member has no spread; 100 suit most networks"
        require(is_count(members) and members > 1, "members must be a whole number from 2", members, remedy)
        require(is_positive(spread), "spread must be a positive number", spread, "0.02 suits most networks")
        require(is_number(signal) and 0 < signal < 1, "signal must be a number between 0 and 1", signal)
        require(is_number(redraw) and 0 <= redraw <= 1, "redraw must be a number from 0 to 1", redraw)
        require(noise is None or is_positive(noise), "noise must be a positive number, or None", noise)
        require(sketch is None or is_count(sketch), "sketch must be a positive whole number of sums, or None", sketch)
        require(is_count(memory), "memory must be a positive whole number of bytes", memory)
        self.members, self.spread, self.signal, self.redraw = int(members), float(spread), float(signal), float(redraw)
        self.noise = None if noise is None else float(noise)
        self.sketch, self.memory = sketch, int(memory)
        self._ensemble: Ensemble | None = None

    @property
    def momentum(self) -> float:
        return 0.0 if self.noise is not None else 0.5

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
        prepared = oracle.prepare(batch)
        require_finite(prepared.loss)
        base = oracle.residuals(prepared)
        self._require_memory(len(base), next(iter(parameters.values())).element_size())
        generator, request = new_generator(seed), ResidualRequest(self.sketch, seed)
        ensemble = self._spread_out(parameters, places_of(active, parameters), generator)
        with add_account_to_error([prepared.account]):
            answers = oracle.ask(prepared, [ensemble.displacements(parameters)], request=request)
        assert answers.residuals is not None
        survivors = torch.ones(self.members, dtype=torch.bool)
        survivors[list(answers.dropped)] = False
        account = prepared.account + answers.account
        found = GradientEstimate({}, prepared.loss, 1 + self.members, account.steps, int((~survivors).sum()), account.incidents)
        if int(survivors.sum()) < 2:
            failed = int((~survivors).sum())
            warnings.warn(f"{failed} of {self.members} members of EKI failed: nothing is updated.", stacklevel=2)
            return found
        update = _Update.of(answers.residuals.double().cpu(), request.project(base).double().cpu(), survivors)
        weight = update.weight_of(self.signal) if self.noise is None else len(base) / (2 * self.noise**2)
        step = update.step(ensemble.deviations, weight)
        self._ensemble = ensemble.with_deviations(update.shrink(ensemble.deviations, weight, generator))
        grads = as_gradient(-step, active, parameters)
        return GradientEstimate(grads, found.loss, found.queries, found.solver_steps, found.dropped, found.incidents)

    def _spread_out(self, parameters: NamedTensors, places: torch.Tensor, generator: torch.Generator) -> Ensemble:
        """Return the ensemble that is asked about; a first one if other coordinates were active."""
        known = self._ensemble
        if known is None or not torch.equal(known.coordinates, places) or len(known.deviations) != self.members:
            squares = sum(float(p.detach().double().square().sum()) for p in parameters.values())
            count = sum(p.numel() for p in parameters.values())
            scale = self.spread * ((squares / count) ** 0.5 or 1.0)
            nothing = torch.zeros(0, len(places), dtype=torch.float64)
            return Ensemble.along(nothing, self.members, places, scale, generator)
        if self.noise is not None:
            return known
        return Ensemble.along(known.determined(1 - self.redraw), self.members, places, known.scale, generator)

    def _require_memory(self, residuals: int, itemsize: int) -> None:
        left = ResidualRequest(self.sketch).size(residuals)
        require_memory(
            self.members * left * (itemsize + 16),
            self.memory,
            f"changes of {left:,} residuals by {self.members:,} members",
            f"take sketch={4 * self.members}, fewer members, or raise memory",
        )

    def state_dict(self) -> NamedTensors:
        return {} if self._ensemble is None else self._ensemble.tensors()

    def load_state_dict(self, state_dict: NamedTensors) -> None:
        self._ensemble = Ensemble.load(state_dict)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Ensemble of networks around one.

    Args:
        coordinates: Places of the active coordinates in the vector of all parameters, `(d,)`.
        scale: Standard deviation of a coordinate in the first ensemble.
        deviations: Deviations of the members, float64 `(N, d)`, whose mean is 0.
    """

    coordinates: torch.Tensor
    scale: float
    deviations: torch.Tensor

    @classmethod
    def along(
        cls, known: torch.Tensor, members: int, places: torch.Tensor, scale: float, generator: torch.Generator
    ) -> Ensemble:
        """Return an ensemble with an equal spread along some directions, and along random ones orthogonal to them.

        Args:
            known: Orthonormal directions, `(k, d)`, fewer than members.
            members: Number of members, `N`, which spread along `N - 1` directions, or along all if those are fewer.
            places: Places of the active coordinates, `(d,)`.
            scale: Standard deviation of a coordinate, in the mean over random directions.
            generator: Generator that directions are drawn from, and mixed to members.
        """
        count, dimension = min(members - 1, len(places)), len(places)
        fresh = torch.randn(count - len(known), dimension, generator=generator, dtype=torch.float64)
        fresh = torch.linalg.qr((fresh - (fresh @ known.T) @ known).T).Q.T
        mix = torch.randn(members, count, generator=generator, dtype=torch.float64)
        mix = torch.linalg.qr(mix - mix.mean(0)).Q
        size = scale * max(dimension, members - 1) ** 0.5
        return cls(places, scale, size * mix @ torch.cat([known, fresh]))

    def with_deviations(self, deviations: torch.Tensor) -> Ensemble:
        """Return an ensemble of other deviations, less their mean."""
        return Ensemble(self.coordinates, self.scale, deviations - deviations.mean(0))

    def determined(self, share: float) -> torch.Tensor:
        """Return the directions of least spread, of those with any, orthonormal `(k, d)`: a share of the most there can be."""
        _, spreads, directions = torch.linalg.svd(self.deviations, full_matrices=False)
        spanned = directions[spreads > 1e-9 * spreads[0]]
        wanted = round(share * min(len(self.deviations) - 1, len(self.coordinates)))
        return spanned[max(0, len(spanned) - wanted) :]

    def displacements(self, parameters: NamedTensors) -> Displacements:
        """Return the members as displacements of all parameters."""
        moves = torch.zeros(len(self.deviations), sum(p.numel() for p in parameters.values()), dtype=torch.float64)
        moves[:, self.coordinates] = self.deviations
        return Displacements(moves)

    def tensors(self) -> NamedTensors:
        """Return it as tensors by name."""
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return {"coordinates": self.coordinates, "scale": scale, "deviations": self.deviations}

    @classmethod
    def load(cls, tensors: NamedTensors) -> Ensemble | None:
        """Restore what :meth:`tensors` gave; None of nothing.

        Raises:
            ConfigError: It is something else.
        """
        if not tensors:
            return None
        if set(tensors) != {"coordinates", "scale", "deviations"}:
            names = ", ".join(sorted(tensors))
            raise ConfigError(f"the state of an EKI must hold coordinates, scale and deviations, not {names}.")
        coordinates, deviations = tensors["coordinates"], tensors["deviations"]
        fits = deviations.dim() == 2 and deviations.shape[1] == len(coordinates)
        require(fits, f"deviations of an EKI must be of {len(coordinates)} coordinates", Words(tuple(deviations.shape)))
        return cls(coordinates, float(tensors["scale"]), deviations)


@dataclass(frozen=True, eq=False)
class _Update:
    """Update of an ensemble by the residuals of a batch, in the eigenvectors of `B B^T`.

    Args:
        survivors: Members that were answered, bool `(N,)`, `n` of them.
        values: Eigenvalues, `(n,)`.
        vectors: Eigenvectors as columns, `(n, n)`.
        slopes: `B y`, `(n,)`.
    """

    survivors: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor
    slopes: torch.Tensor

    @classmethod
    def of(cls, changes: torch.Tensor, y: torch.Tensor, survivors: torch.Tensor) -> _Update:
        """Make the update of changes of residuals, `(N, m)`, and of the network's, `(m,)`."""
        some = changes[survivors]
        b = (some - some.mean(0)) / (len(some) - 1) ** 0.5
        if not bool(torch.isfinite(b).all()):
            raise DivergedError(
                "the loss is finite, but residuals of members are not: take a smaller spread, or an earlier checkpoint."
            )
        values, vectors = torch.linalg.eigh(b @ b.T)
        return cls(survivors, values.clamp(min=0), vectors, b @ y)

    def weight_of(self, signal: float) -> float:
        """Find the weight `k` of the data at which the mean of `k s / (1 + k s)` over the `n - 1` directions is `signal`."""
        positive = self.values[self.values > 0]
        wanted = min(signal * (len(self.values) - 1), 0.999 * len(positive))
        if not len(positive):  # members change nothing
            return 0.0
        low, high = -math.log(float(positive.max())) - 60.0, -math.log(float(positive.min())) + 60.0
        for _ in range(100):  # a monotone function, by bisection in the logarithm
            middle = (low + high) / 2
            shares = math.exp(middle) * positive / (1 + math.exp(middle) * positive)
            low, high = (middle, high) if float(shares.sum()) < wanted else (low, middle)
        return math.exp(low)

    def step(self, deviations: torch.Tensor, weight: float) -> torch.Tensor:
        """Compute the step of the network, `(d,)`."""
        a = self._centred(deviations) / (len(self.values) - 1) ** 0.5
        return -(a.T @ (self.vectors @ (self.vectors.T @ self.slopes * (weight / (1 + weight * self.values)))))

    def shrink(self, deviations: torch.Tensor, weight: float, generator: torch.Generator) -> torch.Tensor:
        """Compute the deviations after the update, `(N, d)`; those of failed members have the others' covariance."""
        kept = self.vectors.T @ self._centred(deviations) / (1 + weight * self.values).sqrt()[:, None]
        left = self.vectors @ kept
        found = torch.empty_like(deviations)
        found[self.survivors] = left
        failed = int((~self.survivors).sum())
        mix = torch.randn(failed, len(left), generator=generator, dtype=torch.float64) / (len(left) - 1) ** 0.5
        found[~self.survivors] = mix @ left
        return found

    def _centred(self, deviations: torch.Tensor) -> torch.Tensor:
        some = deviations[self.survivors]
        return some - some.mean(0)
