"""Operations that go together, in one pass over memory: batch normalisation, perhaps a sum, a ReLU, and perhaps a convolution
or a mean over pixels.

What lies between them must not be read by others; but what the ReLU gives may be, and is kept then. The convolution comes
last, not first: a norm needs the moments of all its input before it can begin, and everything from there up to the moments of
the next norm can be done for a few images at a time, in the cache.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference import buffer_pool
from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, OneChannel, is_channels_last, once
from deepzero_sim.oracle.difference.kernels import convolutions, native
from deepzero_sim.oracle.difference.propagation_state import Carried
from deepzero_sim.oracle.difference.rules.layers import image_convolution
from deepzero_sim.oracle.difference.rules.norms import normalised
from deepzero_sim.oracle.difference.trace import Operation, Read, Recording, Slot

_RELU = {F.relu, torch.relu, torch.Tensor.relu, torch.Tensor.relu_, torch.relu_}
_SUM = {torch.add, torch.Tensor.add, torch.Tensor.add_}

_Readers = Mapping[Slot, Sequence[Operation]]


@dataclass(frozen=True, eq=False)
class Activation:
    """Batch normalisation, perhaps a sum, and a ReLU, each read by the next one only.

    Args:
        operations: norm, perhaps sum, ReLU.
        source: what the norm reads.
        skip: what is added to its result, if anything.
    """

    operations: tuple[Operation, ...]
    source: Slot
    skip: Slot | None

    @property
    def result(self) -> Slot:
        """Behind the ReLU."""
        return _result(self.operations[-1])


@dataclass(frozen=True, eq=False)
class Fused:
    """An activation, perhaps with a convolution or a mean behind it, or a convolution alone.

    Args:
        activation: goes first.
        convolution: of its result, if there is an activation.
        behind: the activation whose norm alone reads what the convolution gives: its moments are taken along.
        mean: over all pixels, which alone reads the activation's result.
    """

    activation: Activation | None
    convolution: Operation | None = None
    behind: Activation | None = None
    mean: Operation | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """In order."""
        activation = () if self.activation is None else self.activation.operations
        return (*activation, *(x for x in (self.convolution, self.mean) if x is not None))

    @property
    def rest(self) -> tuple[Operation | Fused, ...]:
        """What is left of it behind the activation."""
        convolution = () if self.convolution is None else (Fused(None, self.convolution, self.behind),)
        return convolution if self.mean is None else (self.mean,)


def grouped(recording: Recording, operations: Sequence[Operation]) -> list[Operation | Fused]:
    """Operations in order, those that go together in one group at the place of its ReLU, or of its only operation."""
    readers: dict[Slot, list[Operation]] = {}
    for operation in recording.operations:
        for slot in operation.reads:
            readers.setdefault(slot, []).append(operation)
    found = [activation for x in operations if (activation := _activation(x, readers, recording.output))]
    by_norm: dict[Operation | None, Activation] = {activation.operations[0]: activation for activation in found}
    computed = {slot for operation in recording.operations for slot in operation.outputs}
    wanted = set(operations)
    convolutions = [x for x in operations if x.function is F.conv2d]
    behind = {x: by_norm.get(_only_reader(x, readers, recording.output)) for x in convolutions}
    groups: dict[Operation, Fused] = {}
    for activation in found:
        behind_it = [x for x in readers.get(activation.result, ()) if x in wanted]
        convolution = next((x for x in behind_it if _may_go_first(x, activation.result, computed)), None)
        mean = _mean(_only_reader(activation.operations[-1], readers, recording.output), recording)
        groups[activation.operations[-1]] = Fused(
            activation, convolution, None if convolution is None else behind[convolution], mean
        )
    inside = {operation for group in groups.values() for operation in group.operations} - groups.keys()
    groups |= {x: Fused(None, x, activation) for x, activation in behind.items() if activation is not None}
    return [groups.get(operation, operation) for operation in operations if operation not in inside]


def _activation(norm: Operation, readers: _Readers, output: Slot) -> Activation | None:
    """From a norm to a ReLU; None if something else follows."""
    source = norm.call_arguments(Read)[1].get("input") if norm.function is F.batch_norm else None
    if not isinstance(source, Read):
        return None
    reader = _only_reader(norm, readers, output)
    if reader is None or not _is_sum(reader):
        return _ended((norm,), reader, source.slot, None)
    skip = next(slot for slot in reader.reads if slot not in norm.outputs)
    return _ended((norm, reader), _only_reader(reader, readers, output), source.slot, skip)


def _ended(operations: tuple[Operation, ...], last: Operation | None, source: Slot, skip: Slot | None) -> Activation | None:
    """An activation, if its last operation is a ReLU."""
    return Activation((*operations, last), source, skip) if last is not None and last.function in _RELU else None


def _is_sum(operation: Operation) -> bool:
    """Whether it adds two different values."""
    return operation.function in _SUM and len(operation.arguments) == 2 and len(set(operation.reads)) == 2


def _may_go_first(reader: Operation, slot: Slot, computed: Set[Slot | None]) -> bool:
    """Whether it is a convolution of what is in a slot with what is there from the beginning."""
    others = [x for x in reader.reads if x != slot]
    return reader.function is F.conv2d and len(others) == len(reader.reads) - 1 and computed.isdisjoint(others)


def _mean(reader: Operation | None, recording: Recording) -> Operation | None:
    """An operation, if it is the mean over all pixels."""
    pools = reader is not None and reader.function is F.adaptive_avg_pool2d
    return reader if reader is not None and pools and recording.values[_result(reader)].shape[2:] == (1, 1) else None


def _only_reader(operation: Operation, readers: _Readers, output: Slot) -> Operation | None:
    slot = operation.outputs[0] if len(operation.outputs) == 1 else None
    found = readers.get(slot, ()) if slot is not None and slot != output else ()
    return found[0] if len(found) == 1 else None


def _result(operation: Operation) -> Slot:
    (slot,) = operation.outputs
    assert slot is not None
    return slot


class _Given(NamedTuple):
    """What goes into an activation.

    Args:
        d: of the norm, `(P, M, C)`.
        skip: what is added, if anything.
        base: norm and ReLU in the base network.
        images: shape of the value behind, `(B, C, H, W)`.
    """

    d: torch.Tensor
    skip: native.Added | None
    base: native.NormalisedBase
    images: torch.Size

    @property
    def has_kernel(self) -> bool:
        """Whether there is one in C."""
        tensors = (self.d, *self.base) if self.skip is None else (self.d, self.skip.values, *self.base)
        return self.base.y.shape[1] % native.CHANNELS == 0 and native.serves(*tensors)


def through(group: Fused, done: Collection[Slot], carried: Carried) -> tuple[Operation | Fused, ...]:
    """Enter the differences behind a group, as far as its operations go together.

    Args:
        group: in order.
        done: slots that nobody reads after it.
        carried: what is changed so far.

    Returns:
        What is left of it, to be taken in order.
    """
    activation, convolution = group.activation, group.convolution
    if activation is None:
        assert convolution is not None
        return () if _convolved(convolution, group.behind, carried) else group.operations
    given = _given(activation, carried)
    if given is None:
        return (*activation.operations, *group.rest)
    if group.mean is not None and given.has_kernel:
        sums, images = _moments(activation, given, carried), given.images[0]
        means = native.normalised_mean(given.d, sums, given.skip, given.base, images)
        carried.deltas[_result(group.mean)] = Dense(means[..., None, None])
        return ()
    weight = None
    if convolution is not None and given.has_kernel:
        weight = _weight(convolution, activation.result, Dense(given.d), carried)
    if weight is not None:
        _layer(group, given, weight, done, carried)
        return ()
    rows = _activated(activation, given, carried)
    if rows is None:
        return (*activation.operations, *group.rest)
    carried.deltas[activation.result] = _images(rows, given.images)
    return group.rest


def _activated(activation: Activation, given: _Given, carried: Carried) -> torch.Tensor | None:
    """The difference behind an activation, `(P, M, C)`; None where its operations must go one by one."""
    if given.has_kernel:
        result = buffer_pool.empty(*given.d.shape)
        native.normalised_relu(given.d, _moments(activation, given, carried), given.skip, given.base, result)
        return result
    if convolutions.available(given.d.device.type):
        return convolutions.normalised_relu(given.d, None if given.skip is None else given.skip.values, given.base)
    return None


def _convolved(convolution: Operation, behind: Activation | None, carried: Carried) -> bool:
    args, kwargs = carried.arguments(convolution)
    changed = [x for x in (*args, *kwargs.values()) if isinstance(x, Changed)]
    found, base = image_convolution(*args, **kwargs), None if behind is None else _base(behind, carried)
    if found is None or base is None or len(changed) != 1 or not found.serves(delta := changed[0].delta):
        return False
    slot = _result(convolution)
    result = found.with_moments(delta, carried.recording.values[slot].shape[2:], base.y)
    if result is None:
        return False
    values, carried.moments[slot] = result
    _enter(slot, Dense(values), carried)
    return True


def _layer(group: Fused, given: _Given, weight: native.Weight, done: Collection[Slot], carried: Carried) -> None:
    """Activation and convolution together, and the moments of the norm behind them."""
    activation, convolution, behind = group.activation, group.convolution, group.behind
    assert activation is not None and convolution is not None
    batch, channels, height, width = given.images
    size = carried.recording.values[_result(convolution)].shape
    in_place = size == given.images and _may_write(activation.source, done, carried)
    d = given.d.view(-1, batch, height, width, channels)
    result = d if in_place else buffer_pool.empty(len(d), batch, *size[2:], size[1])
    kept = _kept(activation, given, done, carried)
    next_base = None if behind is None else _base(behind, carried)
    sums = _moments(activation, given, carried)
    next_sums = native.layer(d, sums, given.skip, given.base, kept, weight, next_base and next_base.y, result)
    if in_place:
        del carried.deltas[activation.source]
    if kept is not None:
        _enter(activation.result, _images(kept, given.images), carried)
    _enter(_result(convolution), _images(result.flatten(1, 3), size), carried)
    if next_sums is not None:
        carried.moments[_result(convolution)] = next_sums


def _enter(slot: Slot, delta: Dense, carried: Carried) -> None:
    carried.deltas[slot] = delta
    carried.owned.add(slot)


def _may_write(slot: Slot, done: Collection[Slot], carried: Carried) -> bool:
    return slot in done and slot in carried.owned


def _kept(activation: Activation, given: _Given, done: Collection[Slot], carried: Carried) -> torch.Tensor | None:
    """Where to write what the ReLU gives, if others read it: over what is added, if that is done with."""
    if activation.result in done:
        return None
    skip, added = activation.skip, given.skip
    has_all = added is not None and added.channels is None
    if added is None or skip is None or not has_all or skip == activation.source or not _may_write(skip, done, carried):
        return buffer_pool.empty(*given.d.shape)
    del carried.deltas[skip]
    return added.values


def _moments(activation: Activation, given: _Given, carried: Carried) -> torch.Tensor:
    known = carried.moments.get(activation.source)
    return native.moments(given.d, given.base.y) if known is None else known


def _weight(convolution: Operation, source: Slot, delta: Dense, carried: Carried) -> native.Weight | None:
    """Of a convolution of what is in the slot `source`; None if there is no kernel for it or queries change it."""
    if any(slot in carried.deltas for slot in convolution.reads if slot != source):
        return None
    memo, values = carried.memos[convolution], carried.recording.values

    def laid_out() -> native.Weight | None:
        changed = Changed(values[source], delta, memo)
        args, kwargs = convolution.call_arguments(lambda slot: changed if slot == source else values[slot])
        found = image_convolution(*args, **kwargs)
        weight = None if found is None else found.weight
        return weight if weight is not None and native.serves(weight.values) else None

    weight: native.Weight | None = once(memo, "laid out", laid_out)
    return weight


def _given(activation: Activation, carried: Carried) -> _Given | None:
    delta = carried.deltas.get(activation.source)
    base = _base(activation, carried) if isinstance(delta, Dense) else None
    if base is None or delta is None:
        return None
    skip = None if activation.skip is None else carried.deltas.get(activation.skip)
    images = carried.recording.values[activation.result].shape
    return _Given(_rows_of_queries(delta.dense()), None if skip is None else _added(skip), base, images)


def _added(skip: Delta) -> native.Added:
    if isinstance(skip, OneChannel) and skip.dim == 1 and native.serves(skip.values):
        return native.Added(skip.values.flatten(1).contiguous(), torch.tensor(skip.channels, dtype=torch.int32))
    return native.Added(_rows_of_queries(skip.dense()))


def _base(activation: Activation, carried: Carried) -> native.NormalisedBase | None:
    """Norm and ReLU in the base network; None where one pass does not do."""
    norm, values = activation.operations[0], carried.recording.values
    memo = carried.memos[norm]
    found: native.NormalisedBase | None = once(memo, "in rows", lambda: _in_training(activation, values, memo))
    return None if any(slot in carried.deltas for slot in norm.reads if slot != activation.source) else found


def _in_training(activation: Activation, values: Sequence[torch.Tensor], memo: dict[str, Any]) -> native.NormalisedBase | None:
    norm, *add, relu = activation.operations
    x, before = values[activation.source], values[relu.reads[0]]
    _, arguments = norm.call_arguments(values.__getitem__)
    spread = any(values[slot].shape != x.shape for operation in add for slot in operation.reads)
    fixed = not arguments.get("training") and arguments.get("running_mean") is not None
    if spread or fixed or not (is_channels_last(x) and is_channels_last(before)):
        return None
    axes, eps = [0, *range(2, x.dim())], arguments.get("eps", 1e-5)
    y, deviation = once(memo, "normalised", lambda: normalised(x, None, None, axes, eps))  # as the rule of the norm alone
    s, weight = deviation.flatten(), arguments.get("weight")
    scale = torch.ones_like(s) if weight is None else weight.contiguous()
    return native.NormalisedBase(_rows(y), s, scale, _rows(before))


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` to `(B * H * W, C)`: of channels that lie innermost a view."""
    return x.movedim(1, -1).flatten(0, 2).contiguous()


def _rows_of_queries(x: torch.Tensor) -> torch.Tensor:
    """`(P, B, C, H, W)` to `(P, B * H * W, C)`."""
    return x.movedim(2, -1).flatten(1, 3).contiguous()


def _images(rows: torch.Tensor, shape: torch.Size) -> Dense:
    """`(P, B * H * W, C)` to `(P, B, C, H, W)`."""
    batch, _, *size = shape
    return Dense(torch.unflatten(rows, 1, (batch, *size)).movedim(-1, 2))
