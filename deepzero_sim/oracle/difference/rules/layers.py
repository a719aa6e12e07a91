"""Difference rules of layers that are linear in their input: convolutions, transposed convolutions, linear layers.

    f(x + dx; W) - f(x; W) = f(dx; W) without the bias,

and a step `mu` in one coordinate `e_j` of the weight adds one shifted input channel to one output channel:

    f(x; W + mu e_j) - f(x; W) = mu * shift(x[i])   in channel o,

as a change `v` of all weights of an output channel does what a layer of this one channel does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import (
    Changed,
    Delta,
    Dense,
    OneChannel,
    OneCoordinate,
    OneRow,
    base_of,
    bias_term,
    is_channels_last,
    zeros,
)
from deepzero_sim.oracle.difference.kernels.image_convolution import ImageConvolution
from deepzero_sim.oracle.difference.rules.table import RuleResult, rule

#: Place in a weight tensor, one number for each of its axes.
_Place: TypeAlias = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Layer that is linear in its input.

    Args:
        apply: Layer without its bias, `(P, *inputs), weight -> (P, *outputs)`.
        unit_response: Contribution of a weight of one at each of `P` places to its output channel, from `(P, *inputs)` of the
            input channel that it reads: `inputs, places -> (P, *outputs)`, of one channel too.
        row_response: Contribution of the weights `(P, *shape[1:])` of one output channel each, to it: `(P, *inputs)` or
            `(1, *inputs)`, weights `-> (P, *outputs)`, of one channel; None if a row is not an output channel.
        weight: Weight in the base network.
        groups: Number of groups of channels.
        axis: Axis of the channels, in inputs and outputs alike.
        sources: Axis of the weight, 0 or 1, that the input's channels run along; the other one is the output's.
        fast: Other way to apply the weight, for some differences.
    """

    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    unit_response: Callable[[torch.Tensor, Sequence[_Place]], torch.Tensor]
    weight: torch.Tensor
    row_response: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    groups: int = 1
    axis: int = 1
    sources: int = 1
    fast: ImageConvolution | None = None

    def source(self, place: _Place) -> int:
        """Return the input channel that the weight at a place reads."""
        return place[self.sources] + self._group(place) * self.weight.shape[1] * self.sources

    def output(self, place: _Place) -> int:
        """Return the output channel that the weight at a place adds to."""
        return place[1 - self.sources] + self._group(place) * self.weight.shape[1] * (1 - self.sources)

    def _group(self, place: _Place) -> int:
        return place[0] // (self.weight.shape[0] // self.groups)


@rule(F.linear)
def _linear(out: torch.Tensor, input: Any, weight: Any, bias: Any = None) -> RuleResult:  # noqa: A002 - torch's names
    if base_of(weight).dim() != 2 or (bias is not None and base_of(bias).dim() != 1):
        return NotImplemented

    def row_response(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if len(x) == 1:
            return F.linear(x[0], rows.to(x)).movedim(-1, 0).unsqueeze(-1)
        return (x * rows.to(x).view(len(rows), *[1] * (x.dim() - 2), -1)).sum(-1, keepdim=True)

    layer = _Layer(
        apply=F.linear,
        unit_response=lambda x, places: x,
        row_response=row_response,
        weight=base_of(weight),
        axis=out.dim() - 1,
    )
    return _difference(layer, out, input, weight, bias)


@rule(F.conv1d, F.conv2d, F.conv3d)
def _convolution(
    out: torch.Tensor,
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> RuleResult:
    base = base_of(weight)
    dims = base.dim() - 2
    if out.dim() != dims + 2:  # without a batch axis
        return NotImplemented
    stride, dilation = _for_each(stride, dims), _for_each(dilation, dims)
    sides = _sides(padding, base.shape[2:], dilation)
    convolve = _CONVOLUTIONS[dims]

    def apply(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        images = x.flatten(0, 1)
        if is_channels_last(out):  # which torch would lose track of where there is a single channel
            images, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, w))
        result = convolve(images, w, None, stride, padding, dilation, images.shape[1] // w.shape[1])
        result = result.contiguous(memory_format=torch.channels_last) if is_channels_last(out) else result
        return torch.unflatten(result, 0, x.shape[:2])

    def unit_response(x: torch.Tensor, places: Sequence[_Place]) -> torch.Tensor:
        padded = F.pad(x, [side for pair in reversed(sides) for side in pair])
        spans = [n - d * (k - 1) for n, d, k in zip(padded.shape[3:], dilation, base.shape[2:], strict=True)]

        def window(query: torch.Tensor, taps: _Place) -> torch.Tensor:
            along = (slice(d * t, d * t + n, s) for d, t, n, s in zip(dilation, taps, spans, stride, strict=True))
            index: tuple[Any, ...] = (..., *along)
            return query[index]

        return torch.stack([window(query, place[2:]) for query, place in zip(padded, places, strict=True)])

    def row_response(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        queries = x.movedim(0, 1).flatten(1, 2)  # the queries are the groups of one convolution, or share its input
        result = convolve(queries, rows.to(x), None, stride, padding, dilation, queries.shape[1] // rows.shape[1])
        return result.movedim(1, 0).unsqueeze(2)

    fast = image_convolution(input, weight, bias, stride, padding, dilation, groups) if is_channels_last(out) else None
    layer = _Layer(apply=apply, unit_response=unit_response, row_response=row_response, weight=base, groups=groups, fast=fast)
    return _difference(layer, out, input, weight, bias)


def image_convolution(
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> ImageConvolution | None:
    """Return the fast form of a convolution of images whose input changes, if it has one; arguments are those of F.conv2d."""
    base = base_of(weight)
    if not isinstance(input, Changed) or base.dim() != 4 or groups != 1:
        return None
    steps, sides = set(_for_each(stride, 2)), {side for pair in _sides(padding, base.shape[2:], [1, 1]) for side in pair}
    if set(_for_each(dilation, 2)) != {1} or any(len(sizes) > 1 for sizes in (steps, sides, set(base.shape[2:]))):
        return None
    return input.cached("images", lambda: ImageConvolution(base, input.base.shape[2:], *steps, *sides))  # type: ignore[no-any-return]


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def _conv_transpose(
    out: torch.Tensor,
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> RuleResult:
    base = base_of(weight)
    dims = base.dim() - 2
    if out.dim() != dims + 2:
        return NotImplemented
    convolve = _TRANSPOSED[dims]

    def apply(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        images = convolve(x.flatten(0, 1), w, None, stride, padding, output_padding, groups, dilation)
        return torch.unflatten(images, 0, x.shape[:2])

    def unit_response(x: torch.Tensor, places: Sequence[_Place]) -> torch.Tensor:
        taps = torch.zeros(len(places), 1, *base.shape[2:], dtype=x.dtype, device=x.device)
        for tap, place in zip(taps, places, strict=True):
            tap[(0, *place[2:])] = 1
        each = x.squeeze(2).movedim(0, 1)  # the queries are the groups of one convolution
        return convolve(each, taps, None, stride, padding, output_padding, len(places), dilation).movedim(1, 0).unsqueeze(2)

    layer = _Layer(apply=apply, unit_response=unit_response, weight=base, groups=groups, sources=0)
    return _difference(layer, out, input, weight, bias)


@rule(F.embedding)
def _lookup(
    out: torch.Tensor,
    input: torch.Tensor,  # noqa: A002
    weight: Any,
    padding_idx: int | None = None,
    *others: Any,
    **options: Any,
) -> RuleResult:
    """Compute the difference that steps in the table make: each changes one feature, wherever its row is looked up.

    The padding row has no slope, which is torch's convention: it is not trained.
    """
    if not isinstance(weight.delta, OneCoordinate):
        return NotImplemented
    rows, features = zip(*weight.delta.positions, strict=True)
    padding = None if padding_idx is None else padding_idx % len(weight.base)
    matches = torch.stack([(input == row) & (row != padding) for row in rows]).unsqueeze(-1).to(out)
    one = OneChannel(matches * weight.delta.column(matches), features, out.dim() - 1, out.shape)
    if weight.delta.complete:
        return one
    full = zeros(weight.count, out.shape, one.values, channels_last=False)
    full[weight.delta.queries] = one.dense()
    return Dense(full)


_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _for_each(value: Any, dims: int) -> list[int]:
    """Spread a hyperparameter, one number or one per axis, over the spatial axes."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * dims if len(numbers) == 1 else numbers


def _sides(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Count the zeros before and after the values, for each spatial axis."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(side, side) for side in _for_each(0 if padding == "valid" else padding, len(kernel))]


def _difference(layer: _Layer, out: torch.Tensor, x: Any, weight: Any, bias: Any) -> RuleResult:
    """Compute the difference of a layer's outputs from those of its input, and from steps in its weight and bias."""
    steps = _steps(layer, weight, bias)
    if steps is None:
        return NotImplemented
    total = _input_term(layer, out, x.delta) if isinstance(x, Changed) else None
    terms = [(delta, _parameter_term(layer, out, x, parameter, delta)) for parameter, delta in steps]
    if total is None and len(terms) == 1 and terms[0][0].complete:
        return terms[0][1]
    if terms:
        total = zeros(terms[0][0].count, out.shape, out, is_channels_last(out)) if total is None else total
        for delta, term in terms:
            term.add_to(total[delta.queries])
    return None if total is None else Dense(total)


def _steps(layer: _Layer, *parameters: Any) -> list[tuple[Changed, OneCoordinate | OneRow]] | None:
    """List the parameters that change, with their steps; None if one of them changes otherwise, or by rows of inputs."""
    changed = [parameter for parameter in parameters if isinstance(parameter, Changed)]
    by_row = OneRow if layer.row_response is not None else OneCoordinate
    steps = [(parameter, parameter.delta) for parameter in changed if isinstance(parameter.delta, OneCoordinate | by_row)]
    return steps if len(steps) == len(changed) else None


def _input_term(layer: _Layer, out: torch.Tensor, delta: Delta) -> torch.Tensor:
    """Apply the layer's weight to differences of its input: those of one channel cost one channel."""
    if layer.fast is not None and layer.fast.supports(delta):
        return layer.fast.apply(delta, out.shape[2:])
    if not isinstance(delta, OneChannel) or delta.dim != layer.axis or layer.groups != 1:
        full = delta.dense()
        return layer.apply(full, layer.weight.to(full.dtype))
    weight = layer.weight.to(delta.values.dtype)
    runs, start = [], 0
    for channel, run in itertools.groupby(delta.channels):
        stop = start + len(list(run))
        runs.append(layer.apply(delta.values[start:stop], weight.narrow(layer.sources, channel, 1)))
        start = stop
    return torch.cat(runs) if len(runs) > 1 else runs[0]


def _parameter_term(layer: _Layer, out: torch.Tensor, x: Any, parameter: Changed, delta: OneCoordinate | OneRow) -> OneChannel:
    """Compute what a parameter that changes adds to each query's output channel."""
    if isinstance(delta, OneRow):
        return _row_term(layer, out, x, delta)
    if parameter.base.dim() == 1:
        return bias_term(delta, out, layer.axis)
    return _weight_term(layer, out, x, parameter, delta)


def _row_term(layer: _Layer, out: torch.Tensor, x: Any, delta: OneRow) -> OneChannel:
    """Compute what changes of rows of the weight add: what a layer of the row alone makes of the input, changed or not."""
    assert layer.row_response is not None
    values = layer.row_response(_read_by_rows(layer, base_of(x).unsqueeze(0), delta.rows), delta.values)
    if isinstance(x, Changed):
        changes = _read_by_rows(layer, x.delta.dense()[delta.queries], delta.rows)
        values = values + layer.row_response(changes, delta.values)
    return OneChannel(values, delta.rows, layer.axis, out.shape, is_channels_last(out))


def _read_by_rows(layer: _Layer, inputs: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return the channels that rows of the weight read, of inputs `(P, *inputs)` or `(1, *inputs)`: all, or their group's."""
    if layer.groups == 1:
        return inputs
    width, each = layer.weight.shape[1], layer.weight.shape[0] // layer.groups
    inputs = inputs.expand(len(rows), *inputs.shape[1:])
    parts = [x.narrow(layer.axis, row // each * width, width) for x, row in zip(inputs, rows, strict=True)]
    return torch.stack(parts)


def _weight_term(layer: _Layer, out: torch.Tensor, x: Any, weight: Changed, delta: OneCoordinate) -> OneChannel:
    """Compute what steps in the weight add to each query's output channel: its step times the unit response."""
    sources, outputs = (tuple(map(channel, delta.positions)) for channel in (layer.source, layer.output))
    inputs = base_of(x)
    read = weight.planes("inputs", inputs, layer.axis).index_select(0, torch.tensor(sources, device=inputs.device))
    if isinstance(x, Changed):
        changes = x.delta.dense()[delta.queries].movedim(layer.axis + 1, 1)
        read = read + changes[torch.arange(len(sources), device=inputs.device), list(sources)]
    values = layer.unit_response(read.unsqueeze(layer.axis + 1), delta.positions)
    return OneChannel(values * delta.column(values), outputs, layer.axis, out.shape, is_channels_last(out))
