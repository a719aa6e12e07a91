"""Operations that go together, in one pass over memory: a convolution, batch normalisation, perhaps a sum, and a ReLU.

What lies between them must not be read by others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.difference import kernels, memory, native
from deepzero_sim.difference.carried import Carried
from deepzero_sim.difference.delta import Changed, Delta, Dense, is_channels_last, once
from deepzero_sim.difference.layers import image_convolution
from deepzero_sim.difference.norms import normalised
from deepzero_sim.difference.recording import Operation, Recording, Slot
from deepzero_sim.difference.rules import Ruled

_RELU = {F.relu, torch.relu, torch.Tensor.relu, torch.Tensor.relu_, torch.relu_}
_SUM = {torch.add, torch.Tensor.add, torch.Tensor.add_}

_Readers = Mapping[Slot, Sequence[Operation]]


def grouped(recording: Recording, operations: Sequence[Operation]) -> list[tuple[Operation, ...]]:
    """Operations in order, those that go together in one group at the place of its last one."""
    readers: dict[Slot, list[Operation]] = {}
    for operation in recording.operations:
        for slot in operation.reads:
            readers.setdefault(slot, []).append(operation)
    before = {reader: x for x in operations if x.function is F.conv2d and (reader := _only_reader(x, readers))}
    groups: dict[Operation, tuple[Operation, ...]] = {}
    for norm in operations:
        group = _group(norm, readers)
        if len(group) == 1:
            continue
        group = (before[norm], *group) if norm in before else group
        if recording.output not in [slot for member in group[:-1] for slot in member.outputs]:
            groups[group[-1]] = group
    ends = {member: end for end, group in groups.items() for member in group}
    return [groups.get(operation, (operation,)) for operation in operations if ends.get(operation, operation) is operation]


def _group(norm: Operation, readers: _Readers) -> tuple[Operation, ...]:
    """From a norm to a ReLU; the operation alone if it is none, or something else follows."""
    group = [norm]
    while norm.function is F.batch_norm and len(group) < 3 and (reader := _only_reader(group[-1], readers)):
        group.append(reader)
        if reader.function in _RELU:
            return tuple(group)
        if reader.function not in _SUM or len(reader.arguments) != 2 or len(set(reader.reads)) != 2:
            break
    return (norm,)


def _only_reader(operation: Operation, readers: _Readers) -> Operation | None:
    slot = operation.outputs[0] if len(operation.outputs) == 1 else None
    found = readers.get(slot, ()) if slot is not None else ()
    return found[0] if len(found) == 1 else None


def together(operations: Sequence[Operation], carried: Carried) -> Ruled:
    """The difference behind a group, or :data:`NotImplemented` where its first operation must go alone."""
    convolution = operations[0] if operations[0].function is F.conv2d else None
    norm, *add, relu = operations[1:] if convolution else operations
    if norm.function is not F.batch_norm or not carried.changed(operations[0]):
        return NotImplemented
    source = norm.call_arguments(lambda slot: slot)[1]["input"]
    base = _base(norm, source, add, relu, carried)
    if base is None:
        return NotImplemented
    skips = [carried.deltas[slot] for x in add for slot in x.reads if slot in carried.deltas and slot not in norm.outputs]
    skip = None if not skips else skips[0].dense()
    if convolution is None:
        return _normalised(carried.deltas[source], skip, base)
    args, kwargs = carried.arguments(convolution)
    return _convolved(args, kwargs, carried.recording.values[source], skip, base)


def _base(
    norm: Operation, source: Any, add: Sequence[Operation], relu: Operation, carried: Carried
) -> native.NormalisedBase | None:
    """Norm, of what is in the slot `source`, and ReLU in the base network; None where one pass does not do."""
    values, memo = carried.recording.values, carried.memos[norm]
    if source not in norm.reads:  # a constant
        return None
    x, before = values[source], values[relu.reads[0]]
    spread = any(values[slot].shape != x.shape for operation in add for slot in operation.reads)
    trained = [slot for slot in norm.reads if slot != source]
    if spread or not (is_channels_last(x) and is_channels_last(before)) or not carried.deltas.keys().isdisjoint(trained):
        return None
    _, arguments = norm.call_arguments(values.__getitem__)
    if not arguments.get("training") and arguments.get("running_mean") is not None:
        return None
    found: native.NormalisedBase = once(memo, "in rows", lambda: _in_training(x, before, arguments, memo))
    return found


def _in_training(
    x: torch.Tensor, before: torch.Tensor, arguments: Mapping[str, Any], memo: dict[str, Any]
) -> native.NormalisedBase:
    axes, eps = [0, *range(2, x.dim())], arguments.get("eps", 1e-5)
    y, deviation = once(memo, "normalised", lambda: normalised(x, None, None, axes, eps))  # as the rule of the norm alone
    s, weight = deviation.flatten(), arguments.get("weight")
    scale = torch.ones_like(s) if weight is None else weight.contiguous()
    return native.NormalisedBase(_rows(y), s, scale, _rows(before))


def _normalised(delta: Delta, skip: torch.Tensor | None, base: native.NormalisedBase) -> Ruled:
    if not isinstance(delta, Dense):
        return NotImplemented
    given = delta.values
    d, skips = _rows_of_queries(given), None if skip is None else _rows_of_queries(skip)
    if _has_kernel(given, skip, base):
        result = memory.empty(*d.shape)
        for query, answer in enumerate(result):
            native.normalised_relu(d[query], None if skips is None else skips[query], base, answer)
    elif kernels.available(given.device.type):
        result = kernels.normalised_relu(d, skips, base)
    else:
        return NotImplemented
    return _images(result, given.shape[1], given.shape[3:])


def _convolved(
    args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor, skip: torch.Tensor | None, base: native.NormalisedBase
) -> Ruled:
    """Query by query, so that what the convolution gives is still in the cache."""
    source, *trained = [x for x in (*args, *kwargs.values()) if isinstance(x, Changed)]
    convolution = image_convolution(*args, **kwargs)
    if trained or convolution is None or not convolution.serves(source.delta) or not _has_kernel(out, skip, base):
        return NotImplemented
    skips = None if skip is None else _rows_of_queries(skip)
    between = memory.empty(out.shape[0], *out.shape[2:], out.shape[1])
    result = memory.empty(source.count, *base.y.shape)
    for query, write in enumerate(convolution.queries(source.delta)):
        write(between)
        native.normalised_relu(between.flatten(0, 2), None if skips is None else skips[query], base, result[query])
    return _images(result, out.shape[0], out.shape[2:])


def _has_kernel(given: torch.Tensor, skip: torch.Tensor | None, base: native.NormalisedBase) -> bool:
    tensors = (given, *base) if skip is None else (given, skip, *base)
    return base.y.shape[1] % native.CHANNELS == 0 and native.serves(*tensors)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` to `(B * H * W, C)`: of channels that lie innermost a view."""
    return x.movedim(1, -1).flatten(0, 2).contiguous()


def _rows_of_queries(x: torch.Tensor) -> torch.Tensor:
    """`(P, B, C, H, W)` to `(P, B * H * W, C)`."""
    return x.movedim(2, -1).flatten(1, 3).contiguous()


def _images(rows: torch.Tensor, batch: int, size: torch.Size) -> Dense:
    """`(P, B * H * W, C)` to `(P, B, C, H, W)`."""
    return Dense(torch.unflatten(rows, 1, (batch, *size)).movedim(-1, 2))
