"""Least squares for the kernels of convolutions, by conjugate gradients in Fourier space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid, convolve, correlate

#: Ridge, as a share of an unknown's own part of the normal equations, at offset 0, and the offset where it has doubled.
RIDGE, NEAR = 1e-2, 2.0

#: Most iterations, the share of the right-hand side at which they end, and the least share of the mean of a diagonal.
ITERATIONS, ENOUGH, FLOOR = 60, 3e-3, 1e-3

#: Most values of a piece of work, so that its temporary arrays stay in the cache of a processor.
PIECE = 2**19

#: Most bytes of transforms that are kept from one iteration to the next.
KEPT = 2**27


class Term(NamedTuple):
    """Term `diag(weight_p) K u_p` of a model, with unknown kernels `K`.

    Args:
        weights: Coefficient at each point, `(P, *N)`, or None for 1.
        inputs: Arrays that the kernels are convolved with, `(P, C', *N)`.
    """

    weights: Array | None
    inputs: Array


def pieces(count: int, size: int) -> Iterator[slice]:
    """Divide `count` things of a size into slices of at most :data:`PIECE` values, or of one thing."""
    step = max(1, PIECE // size)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _in_single_precision(terms: Sequence[Term]) -> list[Term]:
    """Convert terms to float32, which is far more exact than what ends the conjugate gradients, and takes half the time.

    Inputs that terms share stay shared: they are transformed once.
    """
    inputs = {id(term.inputs): term.inputs for term in terms}
    single = {key: array.astype(np.float32, copy=False) for key, array in inputs.items()}
    return [
        Term(None if term.weights is None else term.weights.astype(np.float32, copy=False), single[id(term.inputs)])
        for term in terms
    ]


class KernelEquations:
    """Least-squares problem `min_K sum_p |y_p - sum_t H_t diag(w_tp) K_t u_tp|^2 + ridge`.

    Args:
        grid: Grid of the kernels.
        terms: Terms of the model.
        channels: Number of channels of the outputs, `C`.
        after: Transforms of the kernels of `H`, `(C, C, *K)`, for the terms that have weights; None for the identity.
    """

    def __init__(self, grid: KernelGrid, terms: Sequence[Term], channels: int, after: Array | None = None) -> None:
        self._grid, self._terms = grid, _in_single_precision(terms)
        self._after: Array | None = None if after is None else after.astype(np.complex64, copy=False)
        self._count = len(terms[0].inputs)
        self._kept: dict[tuple[int, int, int], Array] = {}
        self._size = grid.size * max(channels, terms[0].inputs.shape[1])
        power = [self._power(term) for term in terms]
        self._diagonal = np.stack(power)[:, None, None]
        growth = 1 + (grid.distance / NEAR) ** 2
        ridge = RIDGE * growth * np.array([one.mean() for one in power]).reshape(-1, *[1] * (2 + growth.ndim))
        self._ridge = ridge.astype(np.float32)

    def _pieces(self) -> Iterator[slice]:
        return pieces(self._count, self._size)

    def _transform(self, inputs: Array, part: slice) -> Array:
        """Transform the inputs of some probes, which iterations ask for again and again: kept while there is room."""
        key = id(inputs), part.start, part.stop
        if key not in self._kept:
            transform = self._grid.transform(inputs[part])
            if sum(one.nbytes for one in self._kept.values()) + transform.nbytes > KEPT:
                return transform
            self._kept[key] = transform
        return self._kept[key]

    def _power(self, term: Term) -> Array:
        """Sum the inputs' spectra, times the mean square of the weight: `(*K)`, a diagonal of the normal equations."""
        total: Array | float = 0.0
        for part in self._pieces():
            total = total + np.square(np.abs(self._transform(term.inputs, part))).mean(1).sum(0)
        square = 1.0 if term.weights is None else float(np.square(term.weights, dtype=np.float64).mean())
        return np.asarray(total * square)

    def predict(self, kernels: Array, part: slice) -> Array:
        """Compute the model's outputs for some probes, `(P, C, *N)`, from the transforms of kernels `(t, C, C', *K)`."""
        plain: Array | float = 0.0
        weighted: Array | float = 0.0
        inputs, transform = None, np.zeros(0, dtype=self._terms[0].inputs.dtype)
        for term, kernel in zip(self._terms, kernels, strict=True):
            if term.inputs is not inputs:
                inputs, transform = term.inputs, self._transform(term.inputs, part)
            values = self._grid.values(convolve(kernel, transform))
            if term.weights is None:
                plain = plain + values
            else:
                weighted = weighted + term.weights[part, None] * values
        if self._after is not None and not isinstance(weighted, float):
            weighted = self._grid.values(convolve(self._after, self._grid.transform(weighted)))
        return np.asarray(plain + weighted)

    def adjoint(self, residual: Array, part: slice) -> Iterator[Array]:
        """Apply the transpose of :meth:`predict`: transforms of the kernels of each term, `(C, C', *K)`."""
        inputs, transform = None, np.zeros(0, dtype=residual.dtype)
        filtered = residual
        if self._after is not None:
            filtered = self._grid.values(correlate(self._after, self._grid.transform(residual)))
        for term in self._terms:
            if term.inputs is not inputs:
                inputs, transform = term.inputs, np.conj(self._transform(term.inputs, part))
            outputs = self._grid.transform(residual if term.weights is None else term.weights[part, None] * filtered)
            yield np.einsum("po...,pc...->oc...", outputs, transform)

    def _accumulate(self, residual: Callable[[slice], Array]) -> Array:
        totals: list[Array] = []
        for part in self._pieces():
            for number, found in enumerate(self.adjoint(residual(part), part)):
                if number == len(totals):
                    totals.append(found)
                else:
                    totals[number] += found
        return np.stack([self._grid.kernels(total) for total in totals])

    def solve(self, targets: Array, guess: Array | None = None) -> Array:
        """Find the kernels for targets `y`, `(P, C, *N)`: their transforms, `(t, C, C', *K)`.

        Conjugate gradients on the normal equations, preconditioned by their diagonal in Fourier space, begin at a guess of the
        transforms, or at zero.
        """
        grid = self._grid
        right = self._accumulate(lambda part: targets[part].astype(np.float32, copy=False))
        floor = FLOOR * self._diagonal.mean(axis=grid.axes, keepdims=True)
        diagonal = np.where(self._diagonal + floor > 0, self._diagonal + floor, 1.0)

        def apply(unknowns: Array) -> Array:
            kernels = unknowns.reshape(right.shape)
            transforms = grid.transform(kernels)
            applied = self._accumulate(lambda part: self.predict(transforms, part))
            applied += self._ridge * kernels
            return applied.reshape(-1)

        def precondition(residual: Array) -> Array:
            return grid.kernels(grid.transform(residual.reshape(right.shape)) / diagonal).reshape(-1)

        size = (right.size, right.size)
        solution, _ = cg(
            LinearOperator(size, apply, dtype=right.dtype),
            right.reshape(-1),
            x0=None if guess is None else grid.kernels(guess).reshape(-1).astype(right.dtype, copy=False),
            rtol=ENOUGH,
            maxiter=ITERATIONS,
            M=LinearOperator(size, precondition, dtype=right.dtype),
        )
        return grid.transform(np.asarray(solution).reshape(right.shape))
