"""Recording of a network's forward pass: its operations in order, the arguments of each, and every value.

The network runs on a batch as usual, and each function of torch that it calls is recorded. So code may branch on shapes, loop,
and pass tensors about in any structure; a module that is more than one function (attention, a recurrent network) is the one
function that torch makes of it. What a recording cannot express is refused, such as reading a value as a number, or writing
into what is read again.

Why the recorder is written by hand, in place of torch.fx or what is built on it:

- The rules need the values of the base network at every operation, so that it must run anyway. `torch.fx.symbolic_trace` runs
  it on proxies instead, which have no shapes: it fails on `if x.shape[0] > 2`, on `range(x.shape[0])`, on `*args` of a forward,
  and on `nn.TransformerEncoderLayer`.
- It works at the level at which the rules are written: `F.batch_norm`, `F.cross_entropy`, `F.scaled_dot_product_attention`.
  `symbolic_trace` stops above it, at whole modules of torch; `make_fx` goes below it, to ATen, where cross entropy is two
  operations and attention is another one on every device.
- In-place operations are recorded by what they overwrite: the old value stays the argument of earlier operations, and a write
  to memory that a view, a parameter or an input shares is refused. A graph of torch.fx has the call, but not the aliases.
- Parameters are known by identity, so that a weight with two names is one slot, and a constant is everything else.
- Queries must write nothing. Norms are recorded without the running statistics that they only update; a buffer that is written
  and then read is refused.
- A function that turns values into numbers for Python (`item`, a branch) is refused at its call, in a sentence that names it:
  the user reads it as the reason for slow queries.
- Values are rounded from float64, and memory is limited, while the network runs, operation by operation.
- `make_fx`, `torch.export` and `torch.compile` import dynamo, at about a second for every worker (`tests/test_imports.py`).

Randomness, and code that hides parameters from torch, cannot be seen here: `perturbed_network.py` tests for them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from deepzero_sim.common.module_state import force_eager
from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.difference.float64_shadow import Float64Shadow, write_rounded

#: Number of a value in a recording.
Slot = int


class CannotRecordError(Exception):
    """The network does what a recording cannot express."""


@dataclass(frozen=True)
class Read:
    """Argument that is the value in a slot."""

    slot: Slot


@dataclass(frozen=True, eq=False)
class Operation:
    """Call of one of torch's functions.

    Args:
        function: Function that is called.
        arguments: Leaves of `(args, kwargs)`, with a :class:`Read` for every value that is in the recording.
        form: Structure of the arguments.
        outputs: Slots of the results, flat; None for what is no tensor.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    form: pytree.TreeSpec
    outputs: tuple[Slot | None, ...]

    @property
    def reads(self) -> list[Slot]:
        """Slots of the arguments."""
        return [argument.slot for argument in self.arguments if isinstance(argument, Read)]

    def call_arguments(self, value_of: Callable[[Slot], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return `(args, kwargs)` with `value_of(slot)` in place of every :class:`Read`."""
        leaves = [value_of(x.slot) if isinstance(x, Read) else x for x in self.arguments]
        if self._names is not None:  # the usual case, at a fraction of the time
            count = len(leaves) - len(self._names)
            return tuple(leaves[:count]), dict(zip(self._names, leaves[count:], strict=True))
        args, kwargs = pytree.tree_unflatten(leaves, self.form)
        return args, kwargs

    @functools.cached_property
    def _names(self) -> tuple[str, ...] | None:
        """Names of the keyword arguments; None if any argument is more than a leaf."""
        args, kwargs = pytree.tree_unflatten(list(range(len(self.arguments))), self.form)
        flat = [*args, *kwargs.values()] == list(range(len(self.arguments)))
        return tuple(kwargs) if flat else None


@dataclass(eq=False)
class Recording:
    """Forward pass of a network.

    Args:
        inputs: Slots by the place of each tensor among the leaves of the network's inputs.
        parameters: Slots by the identity of each trained parameter that is used.
        operations: Operations in order.
        values: Values by slot.
        output: Slot of the result.
    """

    inputs: dict[int, Slot] = field(default_factory=dict)
    parameters: dict[int, Slot] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    output: Slot = -1

    @property
    def size(self) -> int:
        """Bytes of the values, views counted once."""
        storages = {storage_address(x): storage_size(x) for x in self.values}
        return sum(storages.values())

    def add(self, value: torch.Tensor) -> Slot:
        """Add a value in a new slot."""
        self.values.append(value)
        return len(self.values) - 1

    def dependents(self, starts: Sequence[Slot]) -> list[Operation]:
        """List the operations that depend on any of `starts` and that the result depends on, in order."""
        reached = set(starts)
        dependent = []
        for operation in self.operations:
            if not reached.isdisjoint(operation.reads):
                reached.update(slot for slot in operation.outputs if slot is not None)
                dependent.append(operation)
        contributors = self._contributors()
        return [operation for operation in dependent if operation in contributors]

    def _contributors(self) -> set[Operation]:
        """Collect the operations that the result depends on."""
        operations, slots = set(), {self.output}
        for operation in reversed(self.operations):
            if not slots.isdisjoint(operation.outputs):
                operations.add(operation)
                slots.update(operation.reads)
        return operations


def record(
    module: Callable[..., Any],
    inputs: Sequence[Any],
    trained: Sequence[torch.Tensor],
    rounded_once: bool = False,
    memory: float = math.inf,
) -> Recording:
    """Run a network on a batch and record it.

    Args:
        module: Network, called as ``module(*inputs)``; returns one tensor.
        inputs: Tensors, in any structure.
        trained: Parameters that queries change.
        rounded_once: Switch that computes all values in float64 too and rounds them to their own dtype, as far as `memory`
            reaches. Rounding errors that add up from layer to layer put some inputs of ReLUs on the other side of zero,
            which no difference that is propagated later makes good.
        memory: Bytes that the values may take.

    Raises:
        CannotRecordError: The network does what a recording cannot express, or its values take more memory.
        ConfigError: The network changes its weights.
    """
    recorder = _Recorder(inputs, trained, memory, Float64Shadow() if rounded_once else None)
    with force_eager(), recorder:
        result = module(*inputs)
    recorder.finish(result)
    return recorder.recording


class _Recorder(TorchFunctionMode):
    """Context in which every function of torch that is called is recorded."""

    def __init__(
        self, inputs: Sequence[Any], trained: Sequence[torch.Tensor], memory: float, shadow: Float64Shadow | None
    ) -> None:
        super().__init__()
        self.recording = Recording()
        self._memory = memory
        self._shadow = shadow
        self._storages: set[int] = set()  # addresses of the memory that values take
        self._size = 0
        self._slots: dict[int, Slot] = {}
        self._trained = {id(parameter) for parameter in trained}
        self._trained_storages = {storage_address(parameter) for parameter in trained}
        # by address, what was written into and has no slot; held, so that no other tensor gets the address
        self._overwritten: dict[int, torch.Tensor] = {}
        for place, value in enumerate(pytree.tree_leaves(list(inputs))):
            if isinstance(value, torch.Tensor):
                self.recording.inputs[place] = self._slots[id(value)] = self._add(value)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        leaves, form = pytree.tree_flatten((tuple(args), kwargs))
        arguments = tuple(self._resolve(leaf) for leaf in leaves)
        depends = any(isinstance(argument, Read) for argument in arguments)
        _require_recordable(func, name, args, kwargs, depends)
        target = _write_target(name, args, kwargs)
        if target is not None:
            self._preserve_target(target, name, depends)
        if func in _NORMS:
            return self._run_norm(func, args, kwargs)
        if not depends:
            return func(*args, **kwargs)
        return self._run(func, leaves, arguments, form, target)

    def _run(
        self,
        func: Callable[..., Any],
        leaves: Sequence[Any],
        arguments: tuple[Any, ...],
        form: pytree.TreeSpec,
        target: torch.Tensor | None = None,
    ) -> Any:
        """Call a function and record it; `arguments` are the leaves, with a :class:`Read` for each that has a slot."""
        slots = [argument.slot if isinstance(argument, Read) else None for argument in arguments]
        exact = None if self._shadow is None else self._shadow.call(func, leaves, form, slots, target)
        args, kwargs = pytree.tree_unflatten(list(leaves), form)
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        pairs = list(zip(exact, outputs, strict=True)) if exact is not None and len(exact) == len(outputs) else []
        views = {storage_address(x) for x in leaves if isinstance(x, torch.Tensor) and x is not target}
        write_rounded([(value, leaf) for value, leaf in pairs if storage_address(leaf) not in views])
        self._append(func, arguments, form, result)
        if self._shadow is not None:
            self._shadow.store({self._slots[id(leaf)]: value for value, leaf in pairs})
        return result

    def _add(self, value: torch.Tensor) -> Slot:
        """Add a value in a new slot, if there is memory for it."""
        if storage_address(value) not in self._storages:
            self._storages.add(storage_address(value))
            self._size += storage_size(value)
        if self._size > self._memory:
            raise CannotRecordError(
                f"its activations take more than the {self._memory / 2**20:.3g} MiB of the memory setting; take a smaller "
                "batch, or raise memory"
            )
        if (1 + Float64Shadow.RATIO) * self._size > self._memory:
            self._shadow = None
        return self.recording.add(value)

    def _resolve(self, leaf: Any) -> Any:
        """Replace a value that the recording has, or gets now, by a :class:`Read`."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) in self._slots:
            return Read(self._slots[id(leaf)])
        if storage_address(leaf) in self._overwritten:
            raise CannotRecordError("it reads a buffer that it has written into")
        if id(leaf) in self._trained:
            self.recording.parameters[id(leaf)] = self._slots[id(leaf)] = self._add(leaf)
            return Read(self._slots[id(leaf)])
        if leaf.numel() and storage_address(leaf) in self._trained_storages:
            raise CannotRecordError("it reads a view of a parameter that was made before")
        return leaf

    def _preserve_target(self, target: torch.Tensor, name: str, depends: bool) -> None:
        """Copy what is about to be overwritten: it is still an argument of the operations before."""
        if id(target) not in self._slots:
            if depends:
                raise CannotRecordError(f"{name} writes values that queries change into a tensor that they do not")
            self._overwritten[storage_address(target)] = target
            return
        if id(target) in self._trained or self._slots[id(target)] in self.recording.inputs.values():
            raise CannotRecordError(f"{name} writes into a parameter or an input")
        slot = self._slots[id(target)]
        for other, value in enumerate(self.recording.values):
            if other != slot and storage_address(value) == storage_address(target):
                raise CannotRecordError(f"{name} writes into a tensor that others are views of")
        self.recording.values[slot] = target.clone()

    def _run_norm(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
        """Call and record a norm, without the running statistics if it only writes them: a query must not write them."""
        statistics = _NORMS[func]
        names = ("input", "running_mean", "running_var", "weight", "bias", statistics, "momentum", "eps")
        named = {statistics: func is F.instance_norm} | dict(zip(names, args, strict=False)) | kwargs
        if named[statistics]:
            named |= {"running_mean": None, "running_var": None}
        leaves, form = pytree.tree_flatten(((), named))
        result: torch.Tensor = self._run(func, leaves, tuple(map(self._resolve, leaves)), form)
        return result

    def _append(self, func: Callable[..., Any], arguments: tuple[Any, ...], form: pytree.TreeSpec, result: Any) -> None:
        """Append an operation, with a new slot for each tensor of its result."""
        outputs: list[Slot | None] = []
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._slots[id(leaf)] = self._add(leaf)
                outputs.append(self._slots[id(leaf)])
            else:
                outputs.append(None)
        if any(slot is not None for slot in outputs):
            self.recording.operations.append(Operation(func, arguments, form, tuple(outputs)))

    def finish(self, result: Any) -> None:
        """Set the result, and refuse a recording through which no differences can be propagated."""
        if not isinstance(result, torch.Tensor) or id(result) not in self._slots:
            what = "not of the recorded operations" if isinstance(result, torch.Tensor) else f"of type {type(result).__name__}"
            raise CannotRecordError(f"its result is {what}")
        self.recording.output = self._slots[id(result)]
        starts = [*self.recording.inputs.values(), *self.recording.parameters.values()]
        changing = self.recording.dependents(starts)
        read = {self.recording.output}.union(*(operation.reads for operation in changing))
        for operation in changing:
            self._require_floating_point(operation, read)

    def _require_floating_point(self, operation: Operation, read: set[Slot]) -> None:
        changing = [self.recording.values[slot] for slot in operation.outputs if slot is not None and slot in read]
        reads_numbers = any(self.recording.values[slot].is_floating_point() for slot in operation.reads)
        for value in changing:
            if reads_numbers and not value.is_floating_point():
                name = getattr(operation.function, "__name__", "an operation")
                raise CannotRecordError(f"{name} makes {value.dtype} of values that queries change")


def storage_address(value: torch.Tensor) -> int:
    """Return the address of a tensor's memory; a sparse tensor, which has no single one, gets a number of its own."""
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else -id(value)


def storage_size(value: torch.Tensor) -> int:
    """Return the bytes of a tensor's memory."""
    return value.untyped_storage().nbytes() if value.layout == torch.strided else value.element_size() * value._nnz()


#: Norms that write running statistics, and the name of the argument that says so.
_NORMS: dict[Callable[..., Any], str] = {F.batch_norm: "training", F.instance_norm: "use_input_stats"}

#: Functions that read a tensor's values as numbers, on which Python may then branch.
_NUMBER_READERS = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__complex__",
                   "__contains__", "nonzero", "unique", "masked_select", "equal", "allclose", "is_nonzero"}  # fmt: skip

#: Function that torch calls where other data are assigned to a tensor.
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]

#: Functions that write into their first argument though their name does not say so.
_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}


def _require_recordable(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], depends: bool) -> None:
    if func == _SET_DATA:
        raise CannotRecordError("it puts other data into a tensor")
    if name in _NUMBER_READERS and depends:
        raise CannotRecordError(f"it reads values as numbers, by {name}")
    if name in {"embedding", "embedding_bag"} and kwargs.get("max_norm", args[3] if len(args) > 3 else None) is not None:
        raise ConfigError("an embedding with max_norm writes its weights in every pass, which no query may: leave it out.")
    if kwargs.get("out") is not None or (name == "__setitem__" and depends):
        raise CannotRecordError(f"{name} writes into a part of a tensor")


def _write_target(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Find the tensor that a function writes into."""
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
    if not (in_place or kwargs.get("inplace")) or not args or not isinstance(args[0], torch.Tensor):
        return None
    return args[0]
