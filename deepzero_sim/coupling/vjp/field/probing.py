"""Products that a field is fitted to, and chains of products that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.field.fitting import Products
from deepzero_sim.coupling.vjp.field.state_features import FilterGrid, Stencil, count_levels
from deepzero_sim.coupling.vjp.units import root_mean_squares, units_of

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: Chains that a field of states is judged by, products in each, and most cotangents that they are compared along.
CHAINS, LENGTH, COTANGENTS = 5, 8, 32


class Measurement:
    """Measures products of a solver in units of each channel.

    Args:
        states: States like those to come, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        probes: Means of asking the solver for steps, which it counts.
        differences: Finite differences.
        generator: Generator of states and directions.
        sizes: Unit of each channel, `(C, *1)`; by default the states' deviation from their mean, and for inputs what they do.
        of_inputs: True for products with changes of a solver's inputs, False for those of its state.

    Attributes:
        length: Number of products of a chain; one of inputs, whose changes go on as changes of the state.
        sizes: Unit of each channel, `(C, *1)`.
        mean: Mean of the states, `(C, *N)`.
    """

    def __init__(
        self,
        states: Array,
        params: Array | None,
        probes: SolverProbe,
        differences: Differences,
        generator: np.random.Generator,
        sizes: Array | None = None,
        of_inputs: bool = False,
    ) -> None:
        self._states, self._params, self._probes = states, params, probes
        self._differences, self._generator = differences, generator
        self.length = chain_length(of_inputs)
        active = probes.spec.active()
        own, inputs = split_active(active, probes.own_channels)
        self._seen, self._varied = own, inputs if of_inputs else own
        self.mean = states.mean(0, dtype=np.float64).astype(states.dtype)
        self.sizes = channel_deviations(states, active) if sizes is None else sizes
        if of_inputs and sizes is None:
            self.sizes = self.sizes / self._effects_of_inputs(probes.own_channels)

    def _effects_of_inputs(self, own: int) -> Array:
        """Measure how much changes of each input by its unit change the state, `(C, *1)`; 1 of the state's channels.

        In units of its effect, an input changes the state by as much as the state's own channels do.
        """
        channels = np.arange(own, len(self.sizes))
        answers = self.products_of_channels(channels, np.ones(len(self.sizes), self.sizes.dtype)).answers
        effects = np.ones_like(self.sizes)
        found = root_mean_squares(answers)[:, :own].max(1).reshape(-1, *[1] * (self.sizes.ndim - 1))
        effects[own:] = np.where(found > 0, found, 1.0)
        return effects

    def _choose(self, count: int) -> np.ndarray:
        """Choose states, each once as long as there are others."""
        rounds = -(-count // len(self._states))
        return np.concatenate([self._generator.permutation(len(self._states)) for _ in range(rounds)])[:count]

    def products(self, count: int) -> Products:
        """Measure products at states chosen at random, with directions of all kinds, see :func:`draw_directions`."""
        chosen = self._choose(count)
        params = None if self._params is None else self._params[chosen]
        states, mean = self._states[chosen] / self.sizes, self.mean / self.sizes
        directions = draw_directions(self._generator, states, mean, self._varied)
        return measure_products(self._probes, self._differences, self._states[chosen], params, directions, self.sizes)

    def channel_sizes(self) -> Array:
        """Compute the root mean square of each channel in its unit, `(C,)`."""
        return np.asarray(np.sqrt(np.square(root_mean_squares(self._states / self.sizes)).mean(0)))

    def products_of_channels(self, channels: np.ndarray, sizes: Array) -> Products:
        """Measure a product for each of some channels, with noise in it alone, of its size among those of all, `(C,)`."""
        chosen = self._choose(len(channels))
        params = None if self._params is None else self._params[chosen]
        alone = np.zeros_like(self._states[chosen])
        noise = self._noise(alone.shape)
        for direction, values, channel in zip(alone, noise, channels, strict=True):
            direction[channel] = sizes[channel] * values[channel]
        return measure_products(self._probes, self._differences, self._states[chosen], params, alone, self.sizes)

    def chain(self) -> Chains:
        """Measure chains of products along rollouts from random states, first along white noise: the shorter, the more."""
        chosen = self._choose(CHAINS * LENGTH // self.length)
        state, params = self._states[chosen], None if self._params is None else self._params[chosen]
        first = direction = np.asarray(self._noise(state.shape) * self.sizes, state.dtype)
        states, answers = [state], []
        for _ in range(self.length):
            state, direction = self._differences.pairs(self._probes, state, params, direction)
            states.append(state)
            answers.append(direction)
        stacked = (np.stack(states, 1) / self.sizes, params, first / self.sizes, np.stack(answers, 1) / self.sizes)
        return Chains(*stacked, self._cotangents())

    def _noise(self, shape: tuple[int, ...]) -> Array:
        return np.asarray(self._generator.standard_normal(shape).astype(self._states.dtype) * self._varied)

    def _cotangents(self) -> Array:
        """Take deviations of some states from the mean, as errors of a rollout are; noise where there is none."""
        some = self._states[self._choose(min(COTANGENTS, len(self._states)))]
        deviations = (some - self.mean) / self.sizes * self._seen
        noise = self._generator.standard_normal(some.shape).astype(self._states.dtype)
        return np.asarray(np.where(norms(deviations) > 0, deviations, noise * self._seen))


def chain_length(of_inputs: bool) -> int:
    """Return the number of products that a field is judged by: through one step for inputs, through more for states."""
    return 1 if of_inputs else LENGTH


def split_active(active: np.ndarray, own: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a mask of active points, `(C, *N)`, into those of the state's own channels and those of inputs behind them."""
    is_own = (np.arange(len(active)) < own).reshape(-1, *[1] * (active.ndim - 1))
    return active & is_own, active & ~is_own


def draw_directions(generator: np.random.Generator, states: Array, mean: Array, active: np.ndarray, first: int = 0) -> Array:
    """Draw directions at states, `(P, C, *N)`, of kinds that follow each other.

    Half of them are white noise, half smoothed noise; a third of both is largest where the state is farthest from the mean, as
    errors of a rollout are. None depends on the state's sign, which features could be mistaken for.

    Args:
        generator: Generator of the noise.
        states: States in units of each channel, `(P, C, *N)`.
        mean: Mean of the data's states, in the same units, `(C, *N)`.
        active: Mask of the points where a state holds values, bool `(C, *N)`.
        first: Number of the first direction, which says its kind.
    """
    directions = generator.standard_normal(states.shape).astype(states.dtype)
    numbers = first + np.arange(len(states))
    smoothed = numbers % 2 == 1
    directions[smoothed] = smooth(directions[smoothed], numbers[smoothed] // 2)
    distances = np.sqrt(np.square(states - mean).mean(1, keepdims=True))
    modulated = numbers % 3 == 2
    directions[modulated] *= np.where(norms(distances) > 0, distances, 1)[modulated]
    return unit_size(directions * active)


def measure_products(
    probes: SolverProbe, differences: Differences, states: Array, params: Array | None, directions: Array, sizes: Array
) -> Products:
    """Measure the product of each state, `(P, C, *N)`, with a direction in units of each channel."""
    advanced, answers = differences.pairs(probes, states, params, directions * sizes)
    return Products(states / sizes, advanced / sizes, params, directions, answers / sizes)


class ForwardProduct(Protocol):
    """Products `J(s) v`, in units of each channel, with the arguments of :meth:`Field.jvp`."""

    def jvp(self, states: Array, advanced: Array, params: Array | None, directions: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class Chains:
    """Products `J_t ... J_1 v` along rollouts, in units of each channel, which tell how good products with `J^T` are.

    What training needs is `q = J_1^T ... J_t^T w` for cotangents `w` such as errors of a rollout. For a direction `v` of white
    noise, `<q, v> = <w, J_t ... J_1 v>` is a random projection of it, which steps of the solver give for all `w` at once: over
    many `v`, the correlation of two such projections is the cosine of what was projected. That of `J v` itself is another one:
    where a step makes all directions alike it is close to 1, whatever the `q` are.

    Args:
        states: States of each rollout, `(R, T + 1, C, *N)`.
        params: Scenario parameters, `(R, K)`, or None.
        directions: First directions `v`, `(R, C, *N)`.
        answers: Products through 1 to `T` steps, `(R, T, C, *N)`.
        cotangents: Cotangents `w`, `(W, C, *N)`.
    """

    states: Array
    params: Array | None
    directions: Array
    answers: Array
    cotangents: Array

    def tensors(self) -> dict[str, Array]:
        """Return them as arrays by name, for a file."""
        arrays = {"states": self.states, "directions": self.directions, "answers": self.answers, "cotangents": self.cotangents}
        return arrays | ({} if self.params is None else {"params": self.params})

    @classmethod
    def load(cls, tensors: dict[str, Array]) -> Chains:
        """Restore what :meth:`tensors` gave."""
        names = ("directions", "answers", "cotangents")
        return cls(tensors["states"], tensors.get("params"), *(tensors[name] for name in names))

    def first(self, count: int) -> Chains:
        """Pick the first of them."""
        params = None if self.params is None else self.params[:count]
        return Chains(self.states[:count], params, self.directions[:count], self.answers[:count], self.cotangents)

    def cosines(self, field: ForwardProduct) -> Array:
        """Estimate the mean cosine of products with transposed Jacobians to the true ones, through 1 to `T` steps, `(T,)`."""
        return self.compare(field)[0]

    def compare(self, field: ForwardProduct) -> tuple[Array, float]:
        """Compare a field's products with those measured.

        Returns:
            What :meth:`cosines` does, and the mean cosine of the products `J_T ... J_1 v` themselves: few projections scatter,
            so that this one tells better which of two fields that are much alike is the better one.
        """
        found, direction = [], self.directions
        with np.errstate(over="ignore", invalid="ignore"):  # a field that grows without bounds has no cosine
            for t in range(self.answers.shape[1]):
                direction = field.jvp(self.states[:, t], self.states[:, t + 1], self.params, direction)
                found.append(self._correlation(direction, self.answers[:, t]))
            alignment = float(np.nan_to_num(_cosines(direction, self.answers[:, -1])).mean())
        return np.array(found), alignment

    def cosines_of_identity(self) -> Array:
        """Estimate the same of the identity, `(T,)`."""
        return np.array([self._correlation(self.directions, answer) for answer in self.answers.swapaxes(0, 1)])

    def _correlation(self, some: Array, others: Array) -> float:
        """Average, over the cotangents, the correlation of products' projections with those of others, measured ones.

        Both are divided by the size of the other: a chain that grows would hide all others.
        """
        measured = norms(others)
        units = np.where(measured > 0, measured, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            one, other = self._projections(some / units), self._projections(others / units)
            sizes = np.sqrt(np.square(one).sum(0) * np.square(other).sum(0))
            return float(np.nan_to_num((one * other).sum(0) / np.where(sizes > 0, sizes, 1.0)).mean())

    def _projections(self, products: Array) -> Array:
        flat = self.cotangents.reshape(len(self.cotangents), -1)
        return np.asarray((products.reshape(len(products), -1) @ flat.T).astype(np.float64))


def channel_deviations(states: Array, active: np.ndarray) -> Array:
    """Compute the unit of each channel, `(C, *1)`: the root mean square deviation from the mean state, see :func:`units_of`."""
    points = np.maximum(active.reshape(len(active), -1).sum(1), 1)

    def sizes(values: Array) -> Array:
        return np.asarray(np.sqrt(np.square(values).mean(0).reshape(len(active), -1).sum(1) / points))

    units = units_of(sizes(states - states.mean(0, dtype=np.float64)), sizes(states.astype(np.float64)), states.dtype)
    return units.astype(states.dtype).reshape(-1, *[1] * (states.ndim - 2))


def smooth(noise: Array, numbers: np.ndarray) -> Array:
    """Smooth noise, `(P, C, *N)`, once, twice, and so on, over ever more points, as the number of each says."""
    grid = FilterGrid(noise.shape[2:], [True] * (noise.ndim - 2))
    waves, levels = grid.waves(), max(1, count_levels(grid.points))
    smoothed = noise.copy()
    for p, number in enumerate(numbers):
        response = Stencil(0, 1 + int(number) % levels, (0,) * len(grid.points)).response(waves)
        smoothed[p] = grid.values(grid.transform(noise[p]) * response)
    return smoothed


def unit_size(directions: Array) -> Array:
    """Scale directions, `(P, C, *N)`, to a mean square of 1; those of zeros stay."""
    sizes = np.sqrt(np.square(directions).mean(tuple(range(1, directions.ndim)), keepdims=True))
    return np.asarray(directions / np.where(sizes > 0, sizes, 1))


def norms(values: Array) -> Array:
    """Compute the norm of each of some arrays, `(P, ...)` to `(P, 1, ...)`, float64."""
    return np.asarray(np.sqrt(np.square(values, dtype=np.float64).sum(tuple(range(1, values.ndim)), keepdims=True)))


def _cosines(one: Array, other: Array) -> Array:
    products = (one.astype(np.float64) * other).reshape(len(one), -1).sum(1)
    sizes = (norms(one) * norms(other)).reshape(-1)
    return np.asarray(products / np.where(sizes > 0, sizes, 1.0))
