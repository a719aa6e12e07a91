"""By how much the queries of a chunk change a value: the forms that such a difference takes.

A chunk asks `P` queries, each of a network that differs from the base network in one coordinate of one parameter. Where
the base network computes a value `v`, query `p` computes `v + delta_p`. The differences are carried instead of the values,
so that they keep their digits however small the step is, in whichever form is smallest:

- :class:`OneCoordinate`: of a parameter, one entry a query;
- :class:`OneChannel`: of an activation, one channel (or feature) a query: all that one weight of a layer changes;
- :class:`Dense`: everything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from deepzero_sim.oracle.difference import buffer_pool


@dataclass(frozen=True, eq=False)
class Dense:
    """Differences everywhere.

    Args:
        values: `(P, *shape)`, for a value of shape `shape`.
    """

    values: torch.Tensor

    @property
    def count(self) -> int:
        """`P`."""
        return len(self.values)

    def dense(self) -> torch.Tensor:
        """`(P, *shape)`."""
        return self.values


@dataclass(frozen=True, eq=False)
class OneChannel:
    """Differences in one channel a query, zero elsewhere.

    Args:
        values: `(P, *shape)`, with length 1 along the channels.
        channels: `P` of them, the channel that each query changes.
        dim: which axis of the value holds the channels.
        shape: of the value.
        channels_last: how the value lies in memory.
    """

    values: torch.Tensor
    channels: tuple[int, ...]
    dim: int
    shape: torch.Size
    channels_last: bool = False

    @property
    def count(self) -> int:
        """`P`."""
        return len(self.values)

    @functools.cached_property
    def index(self) -> torch.Tensor:
        """The channels, `(P,)`."""
        return torch.tensor(self.channels, device=self.values.device)

    @property
    def shared_channel(self) -> int | None:
        """The channel, if all queries change the same one."""
        return self.channels[0] if len(set(self.channels)) == 1 else None

    def dense(self) -> torch.Tensor:
        """`(P, *shape)`."""
        full = zeros(self.count, self.shape, self.values, self.channels_last)
        self.add_to(full)
        return full

    def add_to(self, full: torch.Tensor) -> None:
        """Add the differences to `(P, *shape)` in place."""
        queries = torch.arange(self.count, device=full.device)
        full.movedim(self.dim + 1, 1)[queries, self.index] += self.values.squeeze(self.dim + 1)

    def pick(self, planes: torch.Tensor) -> torch.Tensor:
        """What a value or its like holds in each query's channel: `(P, *shape)`, or `(1, *shape)` if they share it.

        Args:
            planes: the value, with its channels as the first axis: `(C, ...)`.
        """
        channel = self.shared_channel
        picked = planes.index_select(0, self.index) if channel is None else planes.narrow(0, channel, 1)
        return picked.unsqueeze(self.dim + 1)

    def with_values(self, values: torch.Tensor) -> OneChannel:
        """Other differences in the same channels."""
        return OneChannel(values, self.channels, self.dim, self.shape, self.channels_last)


@dataclass(frozen=True, eq=False)
class OneCoordinate:
    """Differences in single coordinates of a parameter.

    Args:
        indices: flat positions, one for each of the queries `start` to `start + len(indices)`.
        steps: signed steps, as many.
        start: the first of them among the chunk's queries; the others leave the parameter as it is.
        count: `P`.
        parameter: whose coordinates.
    """

    indices: tuple[int, ...]
    steps: tuple[float, ...]
    start: int
    count: int
    parameter: torch.Tensor

    @property
    def queries(self) -> slice:
        """The queries that change it."""
        return slice(self.start, self.start + len(self.indices))

    @property
    def complete(self) -> bool:
        """Whether every query changes it."""
        return len(self.indices) == self.count

    @functools.cached_property
    def positions(self) -> list[tuple[int, ...]]:
        """The place of each index along every axis of the parameter."""
        axes = np.unravel_index(np.array(self.indices), self.parameter.shape)  # torch's imports sympy, which takes a second
        return [tuple(place) for place in np.stack(axes, axis=1).tolist()]

    def column(self, like: torch.Tensor) -> torch.Tensor:
        """The steps, `(len(indices), 1, ...)`, to be multiplied with something of the rank of `like`."""
        steps = torch.tensor(self.steps, dtype=torch.float64).to(like)
        return steps.view(-1, *[1] * (like.dim() - 1))

    def dense(self) -> torch.Tensor:
        """`(P, *shape)`, all but empty: for rules that have nothing better."""
        full = torch.zeros(self.count, self.parameter.numel(), dtype=self.parameter.dtype, device=self.parameter.device)
        rows = torch.arange(self.start, self.start + len(self.indices), device=full.device)
        full[rows, torch.tensor(self.indices, device=full.device)] = self.column(full[0]).to(full)
        return full.view(self.count, *self.parameter.shape)


#: By how much the queries of a chunk change a value.
Delta: TypeAlias = Dense | OneChannel | OneCoordinate


@dataclass(frozen=True, eq=False)
class Changed:
    """An argument of an operation that the queries change.

    Args:
        base: its value in the base network.
        delta: by how much.
        memo: what the operation has computed of the base network, once for all chunks.
    """

    base: torch.Tensor
    delta: Delta
    memo: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What the operation needs of the base network, computed once."""
        return once(self.memo, name, compute)

    def planes(self, name: str, value: torch.Tensor, dim: int) -> torch.Tensor:
        """A value of the base network with the channels, its axis `dim`, as the first axis: `(C, ...)`."""
        planes: torch.Tensor = self.once(f"planes of {name}", lambda: value.movedim(dim, 0).contiguous())
        return planes

    def picked(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """What a value of the base network holds in each query's channel; see :meth:`OneChannel.pick`."""
        assert isinstance(self.delta, OneChannel)
        return self.delta.pick(self.planes(name, value, self.delta.dim))

    @property
    def count(self) -> int:
        """`P`."""
        return self.delta.count


def once(memo: dict[str, Any], name: str, compute: Callable[[], Any]) -> Any:
    """What an operation's memo holds, computed the first time."""
    if name not in memo:
        memo[name] = compute()
    return memo[name]


def base_of(argument: Any) -> Any:
    """An argument's value in the base network."""
    return argument.base if isinstance(argument, Changed) else argument


def zeros(count: int, shape: torch.Size, like: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Zeros `(count, *shape)`, laid out in memory as a value of that shape is."""
    if channels_last and len(shape) == 4:
        batch, channels, *size = shape
        return _zeros((count, batch, *size, channels), like).movedim(-1, 2)
    return _zeros((count, *shape), like)


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    if like.dtype == torch.float32 and like.device.type == "cpu":
        return buffer_pool.empty(*shape).zero_()
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def memo_of(*arguments: Any) -> Changed:
    """The first changed argument of an operation, which holds its memo."""
    return next(argument for argument in arguments if isinstance(argument, Changed))


def is_channels_last(value: torch.Tensor) -> bool:
    """Whether a batch of images lies in memory with its channels innermost."""
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
