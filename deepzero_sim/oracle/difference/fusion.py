"""Groups of operations that are computed together: batch normalisation, perhaps a sum, a ReLU, and perhaps a convolution or a
mean over pixels.

Why: the differences of a chunk are `P` times as large as the activations and do not fit the cache, while each of these
operations does little arithmetic per number. One by one, every operation would read its argument from memory and write its
result back; a group reads and writes once.

A group begins at a norm and ends at a convolution, and not the other way round, because a norm needs the moments of all its
input before it can begin. From there on, up to the moments of the next norm, everything can be done for a few images at a
time, while they are in the cache. So the convolution of one group also sums up the moments that the next group begins with.

What lies inside a group must not be read by other operations, since it is never stored; only the result of the ReLU may be,
and is stored then. A group whose arguments fit no kernel falls back to its operations, one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, OneChannel, cached, is_channels_last
from deepzero_sim.oracle.difference.kernels import gpu, native
from deepzero_sim.oracle.difference.propagation_state import PropagationState
from deepzero_sim.oracle.difference.rules.layers import image_convolution
from deepzero_sim.oracle.difference.rules.norms import normalise
from deepzero_sim.oracle.difference.trace import Operation, Read, Recording, Slot

_RELU = {F.relu, torch.relu, torch.Tensor.relu, torch.Tensor.relu_, torch.relu_}
_SUM = {torch.add, torch.Tensor.add, torch.Tensor.add_}

_Readers = Mapping[Slot, Sequence[Operation]]


@dataclass(frozen=True, eq=False)
class Activation:
    """Batch normalisation, perhaps a sum, and a ReLU, each read only by the next one.

    Args:
        operations: Norm, perhaps sum, ReLU.
        source: Slot that the norm reads.
        skip: Slot that is added to the norm's result, if any.
    """

    operations: tuple[Operation, ...]
    source: Slot
    skip: Slot | None

    @property
    def result(self) -> Slot:
        """Slot of the ReLU's result."""
        return _result_slot(self.operations[-1])


@dataclass(frozen=True, eq=False)
class FusedGroup:
    """Activation, perhaps followed by a convolution or a mean; or a convolution alone.

    Args:
        activation: First part of the group.
        convolution: Convolution of its result, or the whole group if there is no activation.
        following: Activation whose norm is the only reader of the convolution's result, so that its moments are summed up too.
        mean: Mean over all pixels that is the only reader of the activation's result.
    """

    activation: Activation | None
    convolution: Operation | None = None
    following: Activation | None = None
    mean: Operation | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Operations in order."""
        activation = () if self.activation is None else self.activation.operations
        return (*activation, *(x for x in (self.convolution, self.mean) if x is not None))

    @property
    def remainder(self) -> tuple[Operation | FusedGroup, ...]:
        """Parts of the group after the activation."""
        convolution = () if self.convolution is None else (FusedGroup(None, self.convolution, self.following),)
        return convolution if self.mean is None else (self.mean,)


def group_operations(recording: Recording, operations: Sequence[Operation]) -> list[Operation | FusedGroup]:
    """Replace operations that can be computed together by a group, at the place of its ReLU or of its only operation.

    Args:
        recording: Forward pass of the base network.
        operations: Operations of it, in order.
    """
    readers: dict[Slot, list[Operation]] = {}
    for operation in recording.operations:
        for slot in operation.reads:
            readers.setdefault(slot, []).append(operation)
    activations = [activation for x in operations if (activation := _activation(x, readers, recording.output))]
    by_norm: dict[Operation | None, Activation] = {activation.operations[0]: activation for activation in activations}
    computed = {slot for operation in recording.operations for slot in operation.outputs}
    wanted = set(operations)
    convolutions = [x for x in operations if x.function is F.conv2d]
    following = {x: by_norm.get(_only_reader(x, readers, recording.output)) for x in convolutions}
    groups: dict[Operation, FusedGroup] = {}
    for activation in activations:
        candidates = [x for x in readers.get(activation.result, ()) if x in wanted]
        convolution = next((x for x in candidates if _convolves(x, activation.result, computed)), None)
        mean = _global_mean(_only_reader(activation.operations[-1], readers, recording.output), recording)
        groups[activation.operations[-1]] = FusedGroup(
            activation, convolution, None if convolution is None else following[convolution], mean
        )
    inside = {operation for group in groups.values() for operation in group.operations} - groups.keys()
    groups |= {x: FusedGroup(None, x, activation) for x, activation in following.items() if activation is not None}
    return [groups.get(operation, operation) for operation in operations if operation not in inside]


def _activation(norm: Operation, readers: _Readers, output: Slot) -> Activation | None:
    """Match an activation that begins with an operation; None if it is no norm, or leads to something else."""
    source = norm.call_arguments(Read)[1].get("input") if norm.function is F.batch_norm else None
    if not isinstance(source, Read):
        return None
    operations: tuple[Operation, ...] = (norm,)
    reader, skip = _only_reader(norm, readers, output), None
    if reader is not None and _is_sum(reader):
        operations, skip = (norm, reader), next(slot for slot in reader.reads if slot not in norm.outputs)
        reader = _only_reader(reader, readers, output)
    ends = reader is not None and reader.function in _RELU
    return Activation((*operations, reader), source.slot, skip) if reader is not None and ends else None


def _is_sum(operation: Operation) -> bool:
    """Tell whether an operation adds two different values."""
    return operation.function in _SUM and len(operation.arguments) == 2 and len(set(operation.reads)) == 2


def _convolves(operation: Operation, slot: Slot, computed: Set[Slot | None]) -> bool:
    """Tell whether an operation is a convolution of the value in a slot whose weight is not computed."""
    others = [x for x in operation.reads if x != slot]
    return operation.function is F.conv2d and len(others) == len(operation.reads) - 1 and computed.isdisjoint(others)


def _global_mean(operation: Operation | None, recording: Recording) -> Operation | None:
    """Return an operation if it is a mean over all pixels."""
    pools = operation is not None and operation.function is F.adaptive_avg_pool2d
    if operation is None or not pools or recording.values[_result_slot(operation)].shape[2:] != (1, 1):
        return None
    return operation


def _only_reader(operation: Operation, readers: _Readers, output: Slot) -> Operation | None:
    slot = operation.outputs[0] if len(operation.outputs) == 1 else None
    candidates = readers.get(slot, ()) if slot is not None and slot != output else ()
    return candidates[0] if len(candidates) == 1 else None


def _result_slot(operation: Operation) -> Slot:
    (slot,) = operation.outputs
    assert slot is not None
    return slot


class _ActivationInputs(NamedTuple):
    """Inputs of an activation.

    Attributes:
        d: Difference of the norm's input, `(P, M, C)`.
        skip: Difference that is added, if any.
        base: Norm and ReLU in the base network.
        images: Shape of the result, `(B, C, H, W)`.
    """

    d: torch.Tensor
    skip: native.Skip | None
    base: native.BaseActivation
    images: torch.Size

    @property
    def has_kernel(self) -> bool:
        """True if there is a kernel in C for them."""
        tensors = (self.d, *self.base) if self.skip is None else (self.d, self.skip.values, *self.base)
        return self.base.y.shape[1] % native.CHANNELS == 0 and native.supports(*tensors)


def propagate_group(group: FusedGroup, done: Collection[Slot], state: PropagationState) -> tuple[Operation | FusedGroup, ...]:
    """Compute the differences after a group, as far as its operations can be computed together.

    Args:
        group: Group of operations.
        done: Slots that are not read after it.
        state: State of the propagation, which gets the results.

    Returns:
        Parts of the group that are left to be computed, in order.
    """
    activation, convolution = group.activation, group.convolution
    if activation is None:
        assert convolution is not None
        return () if _convolve(convolution, group.following, state) else group.operations
    inputs = _activation_inputs(activation, state)
    if inputs is None:
        return (*activation.operations, *group.remainder)
    if group.mean is not None and inputs.has_kernel:
        sums, images = _moments(activation, inputs, state), inputs.images[0]
        means = native.norm_relu_mean(inputs.d, sums, inputs.skip, inputs.base, images)
        state.deltas[_result_slot(group.mean)] = Dense(means[..., None, None])
        return ()
    weight = None
    if convolution is not None and inputs.has_kernel:
        weight = _native_weight(convolution, activation.result, Dense(inputs.d), state)
    if weight is not None:
        _compute_layer(group, inputs, weight, done, state)
        return ()
    rows = _activate(activation, inputs, state)
    if rows is None:
        return (*activation.operations, *group.remainder)
    state.deltas[activation.result] = _images(rows, inputs.images)
    return group.remainder


def _activate(activation: Activation, inputs: _ActivationInputs, state: PropagationState) -> torch.Tensor | None:
    """Compute the difference after an activation, `(P, M, C)`; None if its operations must be computed one by one."""
    if inputs.has_kernel:
        result = torch.empty(*inputs.d.shape)
        native.norm_relu(inputs.d, _moments(activation, inputs, state), inputs.skip, inputs.base, result)
        return result
    if gpu.available(inputs.d.device.type):
        return gpu.norm_relu(inputs.d, None if inputs.skip is None else inputs.skip.values, inputs.base)
    return None


def _convolve(convolution: Operation, following: Activation | None, state: PropagationState) -> bool:
    """Compute the difference after a convolution, and its moments for the norm that follows; False if there is no kernel."""
    args, kwargs = state.call_arguments(convolution)
    changed = [x for x in (*args, *kwargs.values()) if isinstance(x, Changed)]
    fast, base = image_convolution(*args, **kwargs), None if following is None else _base_activation(following, state)
    if fast is None or base is None or len(changed) != 1 or not fast.supports(delta := changed[0].delta):
        return False
    slot = _result_slot(convolution)
    result = fast.apply_with_moments(delta, state.recording.values[slot].shape[2:], base.y)
    if result is None:
        return False
    values, state.moments[slot] = result
    _store_owned(slot, Dense(values), state)
    return True


def _compute_layer(
    group: FusedGroup, inputs: _ActivationInputs, weight: native.Weight, done: Collection[Slot], state: PropagationState
) -> None:
    """Compute the differences after an activation and a convolution, and their moments for the norm that follows."""
    activation, convolution, following = group.activation, group.convolution, group.following
    assert activation is not None and convolution is not None
    batch, channels, height, width = inputs.images
    size = state.recording.values[_result_slot(convolution)].shape
    in_place = size == inputs.images and _is_reusable(activation.source, done, state)
    d = inputs.d.view(-1, batch, height, width, channels)
    result = d if in_place else torch.empty(len(d), batch, *size[2:], size[1])
    activated = _activation_buffer(activation, inputs, done, state)
    next_base = None if following is None else _base_activation(following, state)
    sums = _moments(activation, inputs, state)
    next_sums = native.layer(d, sums, inputs.skip, inputs.base, activated, weight, next_base and next_base.y, result)
    if in_place:
        del state.deltas[activation.source]
    if activated is not None:
        _store_owned(activation.result, _images(activated, inputs.images), state)
    _store_owned(_result_slot(convolution), _images(result.flatten(1, 3), size), state)
    if next_sums is not None:
        state.moments[_result_slot(convolution)] = next_sums


def _store_owned(slot: Slot, delta: Dense, state: PropagationState) -> None:
    state.deltas[slot] = delta
    state.owned.add(slot)


def _is_reusable(slot: Slot, done: Collection[Slot], state: PropagationState) -> bool:
    """Tell whether the memory of a slot's differences may be overwritten now."""
    return slot in done and slot in state.owned


def _activation_buffer(
    activation: Activation, inputs: _ActivationInputs, done: Collection[Slot], state: PropagationState
) -> torch.Tensor | None:
    """Return memory for the ReLU's result if others read it: that of `skip`, if it is not needed any more, or new memory."""
    if activation.result in done:
        return None
    skip, addend = activation.skip, inputs.skip
    whole = addend is not None and addend.channels is None
    if addend is None or skip is None or not whole or skip == activation.source or not _is_reusable(skip, done, state):
        return torch.empty(*inputs.d.shape)
    del state.deltas[skip]
    return addend.values


def _moments(activation: Activation, inputs: _ActivationInputs, state: PropagationState) -> torch.Tensor:
    known = state.moments.get(activation.source)
    return native.moments(inputs.d, inputs.base.y) if known is None else known


def _native_weight(convolution: Operation, source: Slot, delta: Dense, state: PropagationState) -> native.Weight | None:
    """Lay out the weight of a convolution of the value in `source`; None if it has no kernel or the queries change it."""
    if any(slot in state.deltas for slot in convolution.reads if slot != source):
        return None
    memo, values = state.memos[convolution], state.recording.values

    def compute() -> native.Weight | None:
        changed = Changed(values[source], delta, memo)
        args, kwargs = convolution.call_arguments(lambda slot: changed if slot == source else values[slot])
        fast = image_convolution(*args, **kwargs)
        weight = None if fast is None else fast.weight
        return weight if weight is not None and native.supports(weight.values) else None

    weight: native.Weight | None = cached(memo, "native weight", compute)
    return weight


def _activation_inputs(activation: Activation, state: PropagationState) -> _ActivationInputs | None:
    """Collect the inputs of an activation; None if it cannot be computed in one pass."""
    delta = state.deltas.get(activation.source)
    base = _base_activation(activation, state) if isinstance(delta, Dense) else None
    if base is None or delta is None:
        return None
    skip = None if activation.skip is None else state.deltas.get(activation.skip)
    images = state.recording.values[activation.result].shape
    return _ActivationInputs(_query_rows(delta.dense()), None if skip is None else _skip(skip), base, images)


def _skip(delta: Delta) -> native.Skip:
    if isinstance(delta, OneChannel) and delta.dim == 1 and native.supports(delta.values):
        return native.Skip(delta.values.flatten(1).contiguous(), torch.tensor(delta.channels, dtype=torch.int32))
    return native.Skip(_query_rows(delta.dense()))


def _base_activation(activation: Activation, state: PropagationState) -> native.BaseActivation | None:
    """Return norm and ReLU in the base network; None if they cannot be computed in one pass, or the queries change the norm."""
    norm, values = activation.operations[0], state.recording.values
    memo = state.memos[norm]
    base: native.BaseActivation | None = cached(memo, "rows", lambda: _compute_base(activation, values, memo))
    return None if any(slot in state.deltas for slot in norm.reads if slot != activation.source) else base


def _compute_base(activation: Activation, values: Sequence[torch.Tensor], memo: dict[str, Any]) -> native.BaseActivation | None:
    norm, *add, relu = activation.operations
    x, before = values[activation.source], values[relu.reads[0]]
    _, arguments = norm.call_arguments(values.__getitem__)
    broadcast = any(values[slot].shape != x.shape for operation in add for slot in operation.reads)
    fixed = not arguments.get("training") and arguments.get("running_mean") is not None
    if broadcast or fixed or not (is_channels_last(x) and is_channels_last(before)):
        return None
    axes, eps = [0, *range(2, x.dim())], arguments.get("eps", 1e-5)
    y, deviation = cached(memo, "normalised", lambda: normalise(x, None, None, axes, eps))  # shared with the norm's own rule
    s, weight = deviation.flatten(), arguments.get("weight")
    scale = torch.ones_like(s) if weight is None else weight.contiguous()
    return native.BaseActivation(_rows(y), s, scale, _rows(before))


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Reshape `(B, C, H, W)` to `(B * H * W, C)`: a view if the channels are innermost."""
    return x.movedim(1, -1).flatten(0, 2).contiguous()


def _query_rows(x: torch.Tensor) -> torch.Tensor:
    """Reshape `(P, B, C, H, W)` to `(P, B * H * W, C)`."""
    return x.movedim(2, -1).flatten(1, 3).contiguous()


def _images(rows: torch.Tensor, shape: torch.Size) -> Dense:
    """Reshape `(P, B * H * W, C)` to `(P, B, C, H, W)`."""
    batch, _, *size = shape
    return Dense(torch.unflatten(rows, 1, (batch, *size)).movedim(-1, 2))
