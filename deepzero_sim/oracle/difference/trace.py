"""A network's forward pass, recorded: its operations in order, what each of them reads, and every value on the way.

The network runs on a batch as it is, and each of torch's functions that it calls is written down. So code may branch on
shapes, loop, and pass tensors about in any form; a module that is more than one function (attention, a recurrent network)
is the one function that torch makes of it. What cannot be written down is refused: to read a value as a number, to write
into what is read again.
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
from deepzero_sim.oracle.difference.float64_shadow import Doubles, put_rounded

#: A value's place in a recording.
Slot = int


class CannotRecordError(Exception):
    """The network does what a recording cannot express."""


@dataclass(frozen=True)
class Read:
    """An argument that is the value in a slot."""

    slot: Slot


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of one of torch's functions.

    Args:
        function: that was called.
        arguments: `(args, kwargs)`, flat, with a :class:`Read` for every value that is known to the recording.
        form: of the arguments.
        outputs: the slots of the results, flat; None for what is no tensor.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    form: pytree.TreeSpec
    outputs: tuple[Slot | None, ...]

    @property
    def reads(self) -> list[Slot]:
        """The slots of its arguments."""
        return [argument.slot for argument in self.arguments if isinstance(argument, Read)]

    def call_arguments(self, value_of: Callable[[Slot], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Its arguments, with what `value_of` gives for those that are read."""
        given = [value_of(x.slot) if isinstance(x, Read) else x for x in self.arguments]
        if self._names is not None:  # the usual case, at a fraction of the time
            count = len(given) - len(self._names)
            return tuple(given[:count]), dict(zip(self._names, given[count:], strict=True))
        args, kwargs = pytree.tree_unflatten(given, self.form)
        return args, kwargs

    @functools.cached_property
    def _names(self) -> tuple[str, ...] | None:
        """Of its keyword arguments; None if any argument is more than a leaf."""
        args, kwargs = pytree.tree_unflatten(list(range(len(self.arguments))), self.form)
        flat = [*args, *kwargs.values()] == list(range(len(self.arguments)))
        return tuple(kwargs) if flat else None


@dataclass(eq=False)
class Recording:
    """A forward pass.

    Args:
        inputs: by the place of each tensor among the network's inputs, flat, its slot.
        parameters: by the identity of each trained parameter that is used, its slot.
        operations: in order.
        values: by slot.
        output: the slot of the result.
    """

    inputs: dict[int, Slot] = field(default_factory=dict)
    parameters: dict[int, Slot] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    output: Slot = -1

    @property
    def size(self) -> int:
        """Bytes of the values, views counted once."""
        storages = {address(x): size_of(x) for x in self.values}
        return sum(storages.values())

    def keep(self, value: torch.Tensor) -> Slot:
        """A new slot."""
        self.values.append(value)
        return len(self.values) - 1

    def behind(self, starts: Sequence[Slot]) -> list[Operation]:
        """The operations that depend on any of `starts` and that the result depends on, in order."""
        reached = set(starts)
        dependent = []
        for operation in self.operations:
            if not reached.isdisjoint(operation.reads):
                reached.update(slot for slot in operation.outputs if slot is not None)
                dependent.append(operation)
        needed = self._needed
        return [operation for operation in dependent if operation in needed]

    @property
    def _needed(self) -> set[Operation]:
        needed, slots = set(), {self.output}
        for operation in reversed(self.operations):
            if not slots.isdisjoint(operation.outputs):
                needed.add(operation)
                slots.update(operation.reads)
        return needed


def record(
    module: Callable[..., Any],
    inputs: Sequence[Any],
    trained: Sequence[torch.Tensor],
    rounded_once: bool = False,
    memory: float = math.inf,
) -> Recording:
    """Run a network on a batch.

    Args:
        module: called as ``module(*inputs)``; returns one tensor.
        inputs: tensors, in any form.
        trained: parameters that queries change.
        rounded_once: compute all values in float64 beside, and keep those, rounded to their own dtype, as far as `memory`
            reaches. Rounding errors that add up from layer to layer put some inputs of ReLUs on the other side of zero,
            which no difference that is carried later makes good.
        memory: bytes that the values may take.

    Raises:
        CannotRecordError: it does what a recording cannot express, or the values take more memory.
        ConfigError: it changes its weights.
    """
    recorder = _Recorder(inputs, trained, memory, Doubles() if rounded_once else None)
    with force_eager(), recorder:
        result = module(*inputs)
    recorder.finish(result)
    return recorder.recording


class _Recorder(TorchFunctionMode):
    """While active, writes down every function of torch that is called."""

    def __init__(self, inputs: Sequence[Any], trained: Sequence[torch.Tensor], memory: float, doubles: Doubles | None) -> None:
        super().__init__()
        self.recording = Recording()
        self._memory = memory
        self._doubles = doubles
        self._storages: set[int] = set()  # addresses of what is kept
        self._size = 0
        self._slots: dict[int, Slot] = {}
        self._trained = {id(parameter) for parameter in trained}
        self._of_trained = {address(parameter) for parameter in trained}
        self._written: dict[
            int, torch.Tensor
        ] = {}  # by address, what is not in a slot; kept alive, so that the address stays its
        for place, value in enumerate(pytree.tree_leaves(list(inputs))):
            if isinstance(value, torch.Tensor):
                self.recording.inputs[place] = self._slots[id(value)] = self._keep(value)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        leaves, form = pytree.tree_flatten((tuple(args), kwargs))
        arguments = tuple(self._read(leaf) for leaf in leaves)
        depends = any(isinstance(argument, Read) for argument in arguments)
        _require_recordable(func, name, args, kwargs, depends)
        target = _written_by(name, args, kwargs)
        if target is not None:
            self._before_writing(target, name, depends)
        if func in _NORMS:
            return self._norm(func, args, kwargs)
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
        """Call a function and write it down; `arguments` are the leaves, with a :class:`Read` for each that is known."""
        slots = [argument.slot if isinstance(argument, Read) else None for argument in arguments]
        exact = None if self._doubles is None else self._doubles.call(func, leaves, form, slots, target)
        args, kwargs = pytree.tree_unflatten(list(leaves), form)
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        pairs = list(zip(exact, outputs, strict=True)) if exact is not None and len(exact) == len(outputs) else []
        views = {address(x) for x in leaves if isinstance(x, torch.Tensor) and x is not target}
        put_rounded([(value, leaf) for value, leaf in pairs if address(leaf) not in views])
        self._write_down(func, arguments, form, result)
        if self._doubles is not None:
            self._doubles.keep({self._slots[id(leaf)]: value for value, leaf in pairs})
        return result

    def _keep(self, value: torch.Tensor) -> Slot:
        """A new slot, if there is memory for it."""
        if address(value) not in self._storages:
            self._storages.add(address(value))
            self._size += size_of(value)
        if self._size > self._memory:
            raise CannotRecordError(
                f"its activations take more than the {self._memory / 2**20:.3g} MiB of the memory setting; take a smaller "
                "batch, or raise memory"
            )
        if (1 + Doubles.RATIO) * self._size > self._memory:
            self._doubles = None
        return self.recording.keep(value)

    def _read(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) in self._slots:
            return Read(self._slots[id(leaf)])
        if address(leaf) in self._written:
            raise CannotRecordError("it reads a buffer that it has written into")
        if id(leaf) in self._trained:
            self.recording.parameters[id(leaf)] = self._slots[id(leaf)] = self._keep(leaf)
            return Read(self._slots[id(leaf)])
        if leaf.numel() and address(leaf) in self._of_trained:
            raise CannotRecordError("it reads a view of a parameter that was made before")
        return leaf

    def _before_writing(self, target: torch.Tensor, name: str, depends: bool) -> None:
        """Keep what is written over: it is still an argument of the operations before."""
        if id(target) not in self._slots:
            if depends:
                raise CannotRecordError(f"{name} writes values that queries change into a tensor that they do not")
            self._written[address(target)] = target
            return
        if id(target) in self._trained or self._slots[id(target)] in self.recording.inputs.values():
            raise CannotRecordError(f"{name} writes into a parameter or an input")
        slot = self._slots[id(target)]
        for other, value in enumerate(self.recording.values):
            if other != slot and address(value) == address(target):
                raise CannotRecordError(f"{name} writes into a tensor that others are views of")
        self.recording.values[slot] = target.clone()

    def _norm(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
        """Without the running statistics where they are only written: a query must not write them."""
        statistics = _NORMS[func]
        names = ("input", "running_mean", "running_var", "weight", "bias", statistics, "momentum", "eps")
        given = {statistics: func is F.instance_norm} | dict(zip(names, args, strict=False)) | kwargs
        if given[statistics]:
            given |= {"running_mean": None, "running_var": None}
        leaves, form = pytree.tree_flatten(((), given))
        result: torch.Tensor = self._run(func, leaves, tuple(map(self._read, leaves)), form)
        return result

    def _write_down(self, func: Callable[..., Any], arguments: tuple[Any, ...], form: pytree.TreeSpec, result: Any) -> None:
        outputs: list[Slot | None] = []
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._slots[id(leaf)] = self._keep(leaf)
                outputs.append(self._slots[id(leaf)])
            else:
                outputs.append(None)
        if any(slot is not None for slot in outputs):
            self.recording.operations.append(Operation(func, arguments, form, tuple(outputs)))

    def finish(self, result: Any) -> None:
        """Hold the recording to what differences can be carried through."""
        if not isinstance(result, torch.Tensor) or id(result) not in self._slots:
            what = "not of the recorded operations" if isinstance(result, torch.Tensor) else f"of type {type(result).__name__}"
            raise CannotRecordError(f"its result is {what}")
        self.recording.output = self._slots[id(result)]
        starts = [*self.recording.inputs.values(), *self.recording.parameters.values()]
        changing = self.recording.behind(starts)
        read = {self.recording.output}.union(*(operation.reads for operation in changing))
        for operation in changing:
            self._require_differences(operation, read)

    def _require_differences(self, operation: Operation, read: set[Slot]) -> None:
        changing = [self.recording.values[slot] for slot in operation.outputs if slot is not None and slot in read]
        reads_numbers = any(self.recording.values[slot].is_floating_point() for slot in operation.reads)
        for value in changing:
            if reads_numbers and not value.is_floating_point():
                name = getattr(operation.function, "__name__", "an operation")
                raise CannotRecordError(f"{name} makes {value.dtype} of values that queries change")


def address(value: torch.Tensor) -> int:
    """Of its memory; that of a sparse tensor, which has none of its own, is nobody else's."""
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else -id(value)


def size_of(value: torch.Tensor) -> int:
    """Bytes of its memory."""
    return value.untyped_storage().nbytes() if value.layout == torch.strided else value.element_size() * value._nnz()


#: Normalisations that write running statistics, and what the argument is called that says so.
_NORMS: dict[Callable[..., Any], str] = {F.batch_norm: "training", F.instance_norm: "use_input_stats"}

#: Functions that read a tensor's values as numbers, and with them decide what Python does.
_AS_NUMBERS = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__complex__",
               "__contains__", "nonzero", "unique", "masked_select", "equal", "allclose", "is_nonzero"}  # fmt: skip


def _require_recordable(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], depends: bool) -> None:
    if func == _SET_DATA:
        raise CannotRecordError("it puts other data into a tensor")
    if name in _AS_NUMBERS and depends:
        raise CannotRecordError(f"it reads values as numbers, by {name}")
    if name in {"embedding", "embedding_bag"} and kwargs.get("max_norm", args[3] if len(args) > 3 else None) is not None:
        raise ConfigError("an embedding with max_norm writes its weights in every pass, which no query may: leave it out.")
    if kwargs.get("out") is not None or (name == "__setitem__" and depends):
        raise CannotRecordError(f"{name} writes into a part of a tensor")


def _written_by(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The tensor that an operation writes into."""
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
    if not (in_place or kwargs.get("inplace")) or not args or not isinstance(args[0], torch.Tensor):
        return None
    return args[0]


#: What it is to torch to put other data into a tensor.
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]

#: Functions that write into their first argument without a name that says so.
_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}
