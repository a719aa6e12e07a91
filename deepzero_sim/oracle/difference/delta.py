"""Differences between the queries of a chunk and the base network: the forms in which a value's difference is stored.

A chunk has `P` queries, each a network that differs from the base network in one coordinate or one row of one parameter. Where
the base network computes a value `v`, query `p` computes `v + delta_p`. Differences are propagated in place of values, so
that they keep their digits however small the step is, in the smallest form that holds them:

- :class:`OneCoordinate`: one entry of a parameter per query;
- :class:`OneRow`: the weights of one output of a layer per query;
- :class:`OneChannel`: one channel (or feature) of an activation per query, which is all that one weight of a layer changes;
- :class:`Dense`: everything.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Dense:
    """Differences everywhere.

    Args:
        values: Differences, `(P, *shape)`, of a value of shape `shape`.
    """

    values: torch.Tensor

    @property
    def count(self) -> int:
        """Number `P` of queries."""
        return len(self.values)

    def dense(self) -> torch.Tensor:
        """Return the differences in full, `(P, *shape)`."""
        return self.values


@dataclass(frozen=True, eq=False)
class OneChannel:
    """Differences in one channel per query, zero elsewhere.

    Args:
        values: Differences, `(P, *shape)`, with length 1 along the channels.
        channels: Channel that each query changes.
        dim: Axis of the value that holds the channels.
        shape: Shape of the value.
        channels_last: Memory layout of the value, true if its channels are innermost.
    """

    values: torch.Tensor
    channels: tuple[int, ...]
    dim: int
    shape: torch.Size
    channels_last: bool = False

    @property
    def count(self) -> int:
        """Number `P` of queries."""
        return len(self.values)

    @functools.cached_property
    def index(self) -> torch.Tensor:
        """Channels as a tensor, `(P,)`."""
        return torch.tensor(self.channels, device=self.values.device)

    @property
    def common_channel(self) -> int | None:
        """Channel that all queries change, if it is the same one."""
        return self.channels[0] if len(set(self.channels)) == 1 else None

    def dense(self) -> torch.Tensor:
        """Return the differences in full, `(P, *shape)`."""
        full = zeros(self.count, self.shape, self.values, self.channels_last)
        self.add_to(full)
        return full

    def add_to(self, full: torch.Tensor) -> None:
        """Add the differences to a tensor `(P, *shape)` in place."""
        queries = torch.arange(self.count, device=full.device)
        full.movedim(self.dim + 1, 1)[queries, self.index] += self.values.squeeze(self.dim + 1)

    def pick(self, planes: torch.Tensor) -> torch.Tensor:
        """Select each query's channel of a value: `(P, *shape)`, or `(1, *shape)` if all queries change the same one.

        Args:
            planes: Value with its channels as the first axis, `(C, ...)`.
        """
        channel = self.common_channel
        selection = planes.index_select(0, self.index) if channel is None else planes.narrow(0, channel, 1)
        return selection.unsqueeze(self.dim + 1)

    def with_values(self, values: torch.Tensor) -> OneChannel:
        """Return other differences in the same channels."""
        return OneChannel(values, self.channels, self.dim, self.shape, self.channels_last)


@dataclass(frozen=True, eq=False)
class InParameter(abc.ABC):
    """Differences in a place of a parameter per query.

    Args:
        start: First query of the chunk that changes the parameter; those before, and after :attr:`queries`, leave it as it is.
        count: Number `P` of queries in the chunk.
        parameter: Parameter in the base network.
    """

    start: int
    count: int
    parameter: torch.Tensor

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of queries that change the parameter."""

    @property
    def queries(self) -> slice:
        """Queries that change the parameter."""
        return slice(self.start, self.start + self.size)

    @property
    def complete(self) -> bool:
        """True if every query changes the parameter."""
        return self.size == self.count

    @abc.abstractmethod
    def dense(self) -> torch.Tensor:
        """Return the differences in full, `(P, *shape)`, almost all zeros: for rules that have nothing better."""


@dataclass(frozen=True, eq=False)
class OneCoordinate(InParameter):
    """Differences in single coordinates of a parameter.

    Args:
        indices: Flat positions, one for each of the :attr:`queries`.
        steps: Signed steps, as many.
    """

    indices: tuple[int, ...]
    steps: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def positions(self) -> list[tuple[int, ...]]:
        """Place of each index along every axis of the parameter."""
        axes = np.unravel_index(np.array(self.indices), self.parameter.shape)  # torch's imports sympy, which takes a second
        return [tuple(place) for place in np.stack(axes, axis=1).tolist()]

    def column(self, like: torch.Tensor) -> torch.Tensor:
        """Return the steps as `(len(indices), 1, ...)`, to multiply with a tensor of the rank of `like`."""
        steps = torch.tensor(self.steps, dtype=torch.float64).to(like)
        return steps.view(-1, *[1] * (like.dim() - 1))

    def dense(self) -> torch.Tensor:
        full = torch.zeros(self.count, self.parameter.numel(), dtype=self.parameter.dtype, device=self.parameter.device)
        rows = torch.arange(self.start, self.start + len(self.indices), device=full.device)
        full[rows, torch.tensor(self.indices, device=full.device)] = self.column(full[0]).to(full)
        return full.view(self.count, *self.parameter.shape)


@dataclass(frozen=True, eq=False)
class OneRow(InParameter):
    """Differences in single rows of a parameter, `parameter[row]`.

    Args:
        rows: Positions along the first axis, one for each of the :attr:`queries`.
        values: Differences of these rows, `(len(rows), *parameter.shape[1:])`.
    """

    rows: tuple[int, ...]
    values: torch.Tensor

    @property
    def size(self) -> int:
        return len(self.rows)

    def dense(self) -> torch.Tensor:
        full = self.values.new_zeros(self.count, *self.parameter.shape)
        full[torch.arange(self.start, self.start + len(self.rows)), list(self.rows)] = self.values
        return full


#: Difference of a value, one for each query of a chunk.
Delta: TypeAlias = Dense | OneChannel | OneCoordinate | OneRow


@dataclass(frozen=True, eq=False)
class Changed:
    """Argument of an operation that the queries change.

    Args:
        base: Value in the base network.
        delta: Difference of the value.
        memo: Results of the operation on the base network, shared by all chunks.
    """

    base: torch.Tensor
    delta: Delta
    memo: dict[str, Any] = field(default_factory=dict)

    def cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """Compute what the operation needs of the base network, only once for all chunks."""
        return cached(self.memo, name, compute)

    def planes(self, name: str, value: torch.Tensor, dim: int) -> torch.Tensor:
        """Lay a value of the base network out with the channels, its axis `dim`, as the first axis: `(C, ...)`."""
        planes: torch.Tensor = self.cached(f"planes of {name}", lambda: value.movedim(dim, 0).contiguous())
        return planes

    def pick(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Select each query's channel of a value of the base network; see :meth:`OneChannel.pick`."""
        assert isinstance(self.delta, OneChannel)
        return self.delta.pick(self.planes(name, value, self.delta.dim))

    @property
    def count(self) -> int:
        """Number `P` of queries."""
        return self.delta.count


def cached(memo: dict[str, Any], name: str, compute: Callable[[], Any]) -> Any:
    """Return an entry of an operation's memo, computed the first time."""
    if name not in memo:
        memo[name] = compute()
    return memo[name]


def base_of(argument: Any) -> Any:
    """Return an argument's value in the base network."""
    return argument.base if isinstance(argument, Changed) else argument


def first_changed(*arguments: Any) -> Changed:
    """Find the first argument that the queries change; all of an operation's share its memo."""
    return next(argument for argument in arguments if isinstance(argument, Changed))


def bias_term(delta: OneCoordinate, out: torch.Tensor, dim: int) -> OneChannel:
    """Return the difference that steps in a bias of one number per channel make: their own size, all over the channel.

    Args:
        delta: Steps in the bias.
        out: Result of the layer in the base network.
        dim: Axis of the channels.
    """
    shape = list(out.shape)
    shape[dim] = 1
    ones = torch.ones(shape, dtype=out.dtype, device=out.device).expand(len(delta.indices), *shape)
    return OneChannel(ones * delta.column(ones), delta.indices, dim, out.shape, is_channels_last(out))


def zeros(count: int, shape: torch.Size, like: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Return zeros `(count, *shape)`, laid out in memory as a value of that shape is."""
    if channels_last and len(shape) == 4:
        batch, channels, *size = shape
        return torch.zeros(count, batch, *size, channels, dtype=like.dtype, device=like.device).movedim(-1, 2)
    return torch.zeros(count, *shape, dtype=like.dtype, device=like.device)


def is_channels_last(value: torch.Tensor) -> bool:
    """Tell whether a batch of images lies in memory with its channels innermost."""
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
