"""Optimisers that only see losses, behind one interface: ask for candidates, tell their losses, look up the best estimate.

These are the choices of a user who has a loss and no gradient: CMA-ES, nevergrad, and evolution strategies. Each draws from a
generator of its own, so that the same losses lead it the same way again: an interrupted run replays the losses it has stored.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.cli.settings.bench import WakeMethod
from deepzero_sim.errors import MissingExtraError

#: `(d,)`, `(P, d)` or `(P,)`
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """Search that an optimiser is built for.

    Args:
        start: Start of the search, `(d,)`.
        sigma: Standard deviation of a coordinate of the first candidates.
        population: Number of candidates of a generation, `P`.
        generations: Number of generations.
        seed: Seed of everything that is drawn.
    """

    start: Numbers
    sigma: float
    population: int
    generations: int
    seed: int


class BlackBox(abc.ABC):
    """Optimiser that looks for the minimum of a function, one generation of candidates after the other."""

    @abc.abstractmethod
    def ask(self) -> Numbers:
        """Draw the candidates of the next generation, `(P, d)`."""

    @abc.abstractmethod
    def tell(self, losses: Numbers) -> None:
        """Pass the losses of these candidates, `(P,)`; infinite where there is none."""

    @property
    @abc.abstractmethod
    def best(self) -> Numbers:
        """Estimate of the minimum, `(d,)`. The luckiest candidate so far is something else: losses are noisy."""


@final
class CMAES(BlackBox):
    """Covariance matrix adaptation (Hansen, arXiv 1604.00772) by the package `cma`, with a diagonal matrix: at some hundreds of
    coordinates a full one would take far more generations to learn than there are, and grow with their square.
    """

    def __init__(self, search: Search) -> None:
        try:
            with _quiet():
                import cma  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtraError("CMA-ES", "cma", "bench") from error
        options = {
            "popsize": search.population,
            "CMA_diagonal": True,
            "randn": np.random.RandomState(search.seed).randn,
            "seed": np.nan,  # leave numpy's own generator alone
            "verbose": -9,
        }
        with _quiet():
            self._strategy = cma.CMAEvolutionStrategy(search.start, search.sigma, options)
        self._candidates: list[Numbers] = []

    def ask(self) -> Numbers:
        with _quiet():
            self._candidates = self._strategy.ask()
        return np.array(self._candidates)

    def tell(self, losses: Numbers) -> None:
        with _quiet():
            self._strategy.tell(self._candidates, losses.tolist())

    @property
    def best(self) -> Numbers:
        return np.array(self._strategy.mean)


@final
class Nevergrad(BlackBox):
    """Test-based population size adaptation, which the package `nevergrad` recommends for noisy losses of many parameters,
    neural networks' in particular. Its own first population, four candidates a coordinate, would use the budget up in some
    generations; it starts from ours. (`NGOpt`, which chooses by itself, chooses CMA-ES here, and fails with `cma` 4.5.)
    """

    def __init__(self, search: Search) -> None:
        try:
            with _quiet():
                import nevergrad  # noqa: PLC0415 - optional, and slow to import
        except ImportError as error:
            raise MissingExtraError("Nevergrad", "nevergrad", "bench") from error
        with _quiet():
            space = nevergrad.p.Array(init=search.start).set_mutation(sigma=search.sigma)
            space.random_state = np.random.RandomState(search.seed)
            budget = search.population * search.generations
            adaptive = nevergrad.families.ParametrizedTBPSA(initial_popsize=search.population)
            self._optimiser = adaptive(space, budget=budget, num_workers=search.population)
        self._population = search.population
        self._candidates: list[Any] = []

    def ask(self) -> Numbers:
        with _quiet():
            self._candidates = [self._optimiser.ask() for _ in range(self._population)]
        return np.array([candidate.value for candidate in self._candidates])

    def tell(self, losses: Numbers) -> None:
        with _quiet():
            for candidate, loss in zip(self._candidates, losses.tolist(), strict=True):
                self._optimiser.tell(candidate, loss)

    @property
    def best(self) -> Numbers:
        with _quiet():
            return np.array(self._optimiser.provide_recommendation().value)


@final
class EvolutionStrategies(BlackBox):
    """Evolution strategies (Salimans et al. 2017, arXiv 1703.03864): the gradient of the loss blurred by a Gaussian,

        g = 1/(P sigma) * sum_i r_i eps_i,   candidates theta + sigma eps_i in pairs of opposite eps_i,

    `r_i` the losses' centred ranks, in [-1/2, 1/2]; then a step of Adam against it, whose length is a cosine over the
    generations.
    """

    #: Adam's learning rate and betas. With the gradient methods' rate, 2e-3, so noisy a gradient reached an error of 0.081 on
    #: the wake after 40,000 solver steps, with this one 0.073.
    RATE, BETAS = 5e-4, (0.9, 0.99)

    def __init__(self, search: Search) -> None:
        self._search = search
        self._draws = np.random.default_rng(search.seed)
        self._theta = torch.tensor(search.start, dtype=torch.float64)
        self._adam = torch.optim.Adam([self._theta], lr=self.RATE, betas=self.BETAS)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, T_max=search.generations)
        self._eps: Numbers = np.zeros((0, 0))

    def ask(self) -> Numbers:
        half = self._draws.standard_normal((self._search.population // 2, len(self._theta)))
        self._eps = np.concatenate([half, -half])
        return self.best + self._search.sigma * self._eps

    def tell(self, losses: Numbers) -> None:
        gradient = centre_ranks(losses) @ self._eps / (len(losses) * self._search.sigma)
        self._theta.grad = torch.from_numpy(gradient)
        self._adam.step()
        self._schedule.step()

    @property
    def best(self) -> Numbers:
        return self._theta.numpy().copy()


def centre_ranks(losses: Numbers) -> Numbers:
    """Rank losses by equally spaced numbers from -1/2 to 1/2; equal losses, such as several of infinity, share theirs."""
    below = (losses[:, None] > losses).sum(1) + (losses[:, None] == losses).sum(1) / 2 - 0.5
    return np.asarray(below / max(1, len(losses) - 1) - 0.5)


BLACK_BOXES: dict[WakeMethod, Callable[[Search], BlackBox]] = {
    "CMA-ES": CMAES,
    "Nevergrad": Nevergrad,
    "ES": EvolutionStrategies,
}


def usual_population(dimension: int) -> int:
    """Compute Hansen's number of candidates of a generation, an even number: `4 + 3 ln d`."""
    return 2 * math.ceil((4 + 3 * math.log(dimension)) / 2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence these packages, which warn of much that is meant: infinite losses, many coordinates, each other's versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
