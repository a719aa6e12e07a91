"""Gauss-Newton steps from the changes of residuals along coordinates, damped as Levenberg and Marquardt do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deepzero_sim.common.requirements import Words, is_count, is_positive, require
from deepzero_sim.common.types import Mask, NamedTensors, Scheme, is_number
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    active_coordinates,
    as_gradient,
    coordinate_queries,
    differences,
    measured,
    parameters_of,
    places_of,
    prepare,
    query_steps,
    require_memory,
    require_scheme,
    require_sketch,
)
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.solver.failure_policy import add_account_to_error

#: Share of the mean curvature that damps coordinates with less: those that change nothing now are not moved far.
FLOOR = 1e-3


class GaussNewton(Estimator):
    """Damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963) from the queries of CGE, for no solver step more:

        step = -(A + damping diag(A))^{-1} J y,   A_t = (1 - decay) J J^T + decay A_{t-1}

    `y` are the residuals of the loss, of whose squares it is half the sum, and `J` their slopes along the active coordinates,
    `(n, m)`: where CGE keeps the change of one number of every query, this keeps those of all residuals, such as the values of
    a rollout, or the logits of a classifier. `A` is a mean over batches, since one batch tells less than what a network of many
    parameters needs; its weights add up to 1. More coordinates than `block` are solved for in blocks, in the network's order,
    as if they did not depend on each other.

    What it returns is to be subtracted from the parameters as it is: `torch.optim.SGD` with a learning rate of 1.

    Args:
        damping: Share of a coordinate's curvature that is added to it. Less is faster and follows one batch too far.
        decay: Share of the earlier batches' curvature that is kept, from 0 to below 1; none if other coordinates were active.
        step_size: Length of a step in units of the parameters, `mu`.
        scheme: Finite differences, ``"forward"`` or ``"central"``; residuals are nearly linear where their squares are not.
        block: Most coordinates that are solved for together.
        sketch: Number of random sums that residuals are added up to, in place of all; four times the coordinates of a block
            suffice mostly. None for all of them.
        memory: Bytes that the slopes of residuals of a block may take.

    Raises:
        ConfigError: An argument cannot be used.
    """

    gives_steps = True
    needs_residuals = True

    def __init__(
        self,
        damping: float = 0.1,
        decay: float = 0.8,
        step_size: float = 1e-3,
        scheme: Scheme = "forward",
        *,
        block: int = 2048,
        sketch: int | None = None,
        memory: int = 4 * 2**30,
    ) -> None:
        require_scheme(step_size, scheme)
        require(is_positive(damping), "damping must be a positive number", damping, "0.1 suits most networks")
        require(is_number(decay) and 0 <= decay < 1, "decay must be a number from 0 to below 1", decay)
        require(is_count(block), "block must be a positive whole number of coordinates", block)
        require_sketch(sketch, memory)
        self.damping, self.decay, self.step_size = float(damping), float(decay), step_size
        self.scheme: Scheme = scheme
        self.block, self.sketch, self.memory = int(block), sketch, int(memory)
        self._curvature = _Curvature()

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        """Compute the step for one batch; see :meth:`Estimator.estimate`.

        Raises:
            ConfigError: The loss has no residuals, or their slopes take more than `memory`.
        """
        parameters = parameters_of(oracle, mask)
        active = active_coordinates(parameters, mask)
        prepared = prepare(oracle, batch, self.step_size)
        base = oracle.residuals(prepared)
        self._require_memory(active, len(base), next(iter(parameters.values())).element_size())
        kept = self._curvature if self.decay else _Curvature()
        curvature = kept.of(places_of(active, parameters), self.block)
        request, account, count, steps, dropped = ResidualRequest(self.sketch, seed), prepared.account, 1, [], 0
        y = request.project(base)
        for number, block in enumerate(_blocks(active, self.block)):
            with add_account_to_error([account]):
                answers = oracle.ask(prepared, coordinate_queries(block, self.step_size, self.scheme), request=request)
            slopes, known = self._slopes(answers)
            account, count = account + answers.account, count + len(answers.changes)
            dropped += int((~known).sum())
            curvature = curvature.with_batch(number, (slopes @ slopes.T).cpu(), known, self.decay)
            steps.append(_solve(curvature.mean(number), (slopes @ y).cpu(), known, self.damping))
        self._curvature = curvature
        grads = as_gradient(-torch.cat(steps), active, parameters)
        return GradientEstimate(grads, prepared.loss, count, account.steps, dropped, account.incidents)

    def _slopes(self, answers: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the slopes of residuals along coordinates, float64 `(n, m)`, and which are known, bool `(n,)`."""
        assert answers.residuals is not None
        slopes, known = differences(answers.residuals.double(), self.step_size, self.scheme), measured(answers, self.scheme)
        slopes[~known] = 0
        if not bool(torch.isfinite(slopes).all()):
            raise DivergedError(
                f"the loss is finite, but slopes of residuals over steps of {self.step_size:g} are not: take a smaller "
                "step_size, or an earlier checkpoint."
            )
        return slopes, known

    def _require_memory(self, active: Mapping[str, torch.Tensor], residuals: int, itemsize: int) -> None:
        """Refuse slopes that do not fit into the memory that they may take."""
        coordinates = min(self.block, sum(map(len, active.values())))
        left = ResidualRequest(self.sketch).size(residuals)
        require_memory(
            coordinates * left * (itemsize + 8) * len(query_steps(self.step_size, self.scheme)),
            self.memory,
            f"slopes of {left:,} residuals along {coordinates:,} coordinates",
            f"take sketch={4 * coordinates}, a smaller block, a larger sparsity, or raise memory",
        )

    def state_dict(self) -> NamedTensors:
        return self._curvature.tensors()

    def load_state_dict(self, state_dict: NamedTensors) -> None:
        self._curvature = _Curvature.load(state_dict)


def _blocks(active: Mapping[str, torch.Tensor], size: int) -> Iterator[NamedTensors]:
    """Cut active coordinates into blocks of at most `size`, in the network's order."""
    block: NamedTensors = {}
    left = size
    for name, indices in active.items():
        rest = indices
        while len(rest):
            block[name], rest = rest[:left], rest[left:]
            left -= len(block[name])
            if not left:
                yield block
                block, left = {}, size
    if block:
        yield block


@dataclass(frozen=True)
class _Curvature:
    """Mean curvature over batches, by blocks of coordinates.

    Args:
        coordinates: Places of the active coordinates in the vector of all parameters, `(n,)`.
        sums: Weighted sum of each block, float64 `(n, n)`, of batches in which rows and columns are 0 where they are not known.
        weights: Sum of the weights of the batches in which each coordinate of a block is known, float64 `(n,)`.
    """

    coordinates: torch.Tensor | None = None
    sums: tuple[torch.Tensor, ...] = ()
    weights: tuple[torch.Tensor, ...] = ()

    def of(self, coordinates: torch.Tensor, block: int) -> _Curvature:
        """Return the curvature of these coordinates: this one if it is of the same, an empty one if not."""
        sizes = [min(block, len(coordinates) - start) for start in range(0, len(coordinates), block)]
        same = self.coordinates is not None and torch.equal(self.coordinates, coordinates)
        if same and [len(one) for one in self.sums] == sizes:
            return self
        sums = tuple(torch.zeros(n, n, dtype=torch.float64) for n in sizes)
        return _Curvature(coordinates, sums, tuple(torch.zeros(n, dtype=torch.float64) for n in sizes))

    def with_batch(self, number: int, found: torch.Tensor, known: torch.Tensor, decay: float) -> _Curvature:
        """Return the mean with another batch.

        Args:
            number: Number of the block.
            found: Curvature of the batch, `(n, n)`, with rows and columns of 0 where it is not known.
            known: Coordinates that were measured, bool `(n,)`.
            decay: Share of the earlier batches that is kept.
        """
        sums, weights = list(self.sums), list(self.weights)
        sums[number] = decay * sums[number] + (1 - decay) * found
        weights[number] = decay * weights[number] + (1 - decay) * known
        return _Curvature(self.coordinates, tuple(sums), tuple(weights))

    def mean(self, number: int) -> torch.Tensor:
        """Return the mean of a block, `(n, n)`: positive semidefinite, whatever is not known of which batch.

        Each coordinate is scaled by itself, `A_ij / sqrt(w_i w_j)`. Means of each entry over the batches that know it would
        have negative eigenvalues.
        """
        roots = self.weights[number].sqrt()
        roots = torch.where(roots > 0, roots, 1.0)
        return self.sums[number] / (roots[:, None] * roots)

    def tensors(self) -> NamedTensors:
        """Return it as tensors by name."""
        if self.coordinates is None:
            return {}
        sums = {f"curvature.{number}": one for number, one in enumerate(self.sums)}
        return {"coordinates": self.coordinates, "weights": torch.cat(self.weights), **sums}

    @classmethod
    def load(cls, tensors: NamedTensors) -> _Curvature:
        """Restore what :meth:`tensors` gave.

        Raises:
            ConfigError: It is something else.
        """
        if not tensors:
            return cls()
        try:
            coordinates, weights = tensors["coordinates"], tensors["weights"]
            sums = tuple(tensors[f"curvature.{number}"] for number in range(len(tensors) - 2))
        except KeyError as error:
            raise ConfigError(f"the state of a GaussNewton must hold {error}, but it is another estimator's.") from error
        sizes = [tuple(one.shape) for one in sums]
        squares = all(size == (size[0], size[0]) for size in sizes)
        fits = squares and sum(size[0] for size in sizes) == len(coordinates) == len(weights)
        came = Words(f"matrices of {sizes} and {len(weights)} weights")
        require(fits, f"the state of a GaussNewton must be square matrices of {len(coordinates)} coordinates in all", came)
        return cls(coordinates, sums, tuple(torch.split(weights, [size[0] for size in sizes])))


def _solve(curvature: torch.Tensor, slopes: torch.Tensor, known: torch.Tensor, damping: float) -> torch.Tensor:
    """Solve for the damped step, `(n,)`, zero where a slope is not known.

    Args:
        curvature: Curvature `A`, `(n, n)`.
        slopes: Slopes of the loss, `J y`, `(n,)`.
        known: Coordinates that were measured, bool `(n,)`.
        damping: Share of a coordinate's curvature that is added to it.
    """
    step = torch.zeros_like(slopes)
    where = known.nonzero().view(-1)
    some = curvature[where][:, where]
    diagonal = some.diagonal()
    mean = diagonal.mean() if len(where) else torch.zeros(())
    if not float(mean) > 0:  # nothing that is measured changes anything
        return step
    damped = some + torch.diag(damping * (diagonal + FLOOR * mean))
    step[where] = -torch.cholesky_solve(slopes[where, None], torch.linalg.cholesky(damped)).view(-1)
    return step
