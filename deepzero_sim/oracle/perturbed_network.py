"""Perturbed copies of a network, by how much its result changes when its parameters do.

Steps in single coordinates and rows are propagated through the recorded network as differences (`difference/`), many queries at
once. Directions of all parameters, displacements, and networks that cannot be recorded, take a whole forward pass a query.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deepzero_sim.common.module_state import copy_tensors, force_eager, preserve_state, write
from deepzero_sim.common.randomness import RandomnessDetector, new_generator
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.oracle.difference.delta import Delta, Dense, OneCoordinate, OneRow
from deepzero_sim.oracle.difference.propagation import Differences
from deepzero_sim.oracle.difference.propagation_state import Meter
from deepzero_sim.oracle.difference.trace import CannotRecordError, Recording, Slot, record
from deepzero_sim.oracle.parameters import perturbed_parameters, row_displacements, trainable
from deepzero_sim.oracle.queries import (
    Coordinates,
    Directions,
    Displacements,
    PartOfOne,
    Perturbation,
    RowDirections,
    parts_of,
)


@dataclass(frozen=True, eq=False)
class UnperturbedPass:
    """Pass of the unperturbed network on a batch.

    Args:
        inputs: Inputs of the network.
        result: Tensor that it returns.
        parameters: Parameters that are trained.
        recording: Recording of the forward pass; None if the network cannot be recorded.
        differences: Propagation of differences through the recording.
    """

    inputs: tuple[Any, ...]
    result: torch.Tensor
    parameters: NamedTensors
    recording: Recording | None = None
    differences: Differences | None = None

    @property
    def size(self) -> int:
        """Number of bytes that are kept."""
        if self.recording is None or self.differences is None:
            return 0
        return self.recording.size + self.differences.size


#: Memory of a query with its temporaries, in units of the differences it keeps.
TEMPORARIES = 4


class Footprint(NamedTuple):
    """Memory and time of one query.

    Args:
        size: Bytes of the differences that are kept at once.
        seconds: Seconds, measured once.
    """

    size: int
    seconds: float


class PerturbedNetwork:
    """A network that answers queries. Whole passes write into its weights, which are restored bit for bit.

    Args:
        network: Network that is trained; None for a function without parameters.
        whole: Module that contains it as its ``prefix``, and whose result is asked for; the network itself if None.
        prefix: Prefix of the network's parameters among those of ``whole``.
        dtype: Type of the differences between operations; that of the values if None.
        rounded_once: True to compute the unperturbed values in float64 and round them once (`float64_shadow.py`).
        memory: Bytes that activations and the differences of one query may take; a network that needs more is not recorded.
        in_loop: True if the network is called repeatedly in a loop, where it must keep nothing from call to call.
    """

    def __init__(
        self,
        network: nn.Module | None,
        whole: nn.Module | None = None,
        prefix: str = "",
        dtype: torch.dtype | None = None,
        rounded_once: bool = False,
        memory: float = math.inf,
        in_loop: bool = False,
    ) -> None:
        self._in_loop = in_loop
        self._network = network
        found = network if whole is None else whole
        assert found is not None
        self._whole = found
        self._prefix = prefix
        self._dtype = dtype
        self._rounded_once = rounded_once
        self._memory = memory
        self._recorded: dict[_Case, bool] = {}
        self._footprints: dict[_Case, dict[str, Footprint]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footprints": {}}

    @property
    def _parameters(self) -> NamedTensors:
        return {} if self._network is None else trainable(self._network)

    @torch.no_grad()
    def unperturbed_pass(self, *inputs: Any) -> UnperturbedPass:
        """Run the unperturbed network on a batch: recorded, or as it is where it was found that it cannot be recorded."""
        case = _case(self._whole, inputs)
        if case not in self._recorded:
            self._recorded[case] = self._can_be_recorded(inputs)
        if self._recorded[case]:
            return self._record_pass(inputs)
        return UnperturbedPass(inputs, self._whole_pass(inputs), self._parameters)

    def _can_be_recorded(self, inputs: tuple[Any, ...]) -> bool:
        """Try to record a network that is met the first time, and warn if it must be queried by whole passes.

        Raises:
            ConfigError: The network can be queried in no way.
        """
        self._require_repeatable(inputs)
        try:
            self._require_agreement(inputs)
            self._require_fits(self._record_pass(inputs))
        except CannotRecordError as error:
            self._warn(str(error))
            return False
        except Exception as error:  # the network itself works, as was seen
            if isinstance(error, DeepZeroError) and error.__cause__ is None:
                raise
            self._warn(f"it cannot be recorded: {error}")
            return False
        return True

    def _whole_pass(self, inputs: Sequence[Any]) -> torch.Tensor:
        with preserve_state(self._whole):
            return self._call(inputs).clone()  # it may be a buffer, which is put back

    def _call(self, inputs: Sequence[Any]) -> torch.Tensor:
        with force_eager():
            result = self._whole(*copy_tensors(inputs))
        if not isinstance(result, torch.Tensor):
            raise ConfigError(f"{self._name} must return a tensor, not {type(result).__name__}.")
        return result

    def _require_repeatable(self, inputs: Sequence[Any]) -> None:
        """Refuse a network whose results could differ more by chance, or by being called before, than by a query.

        Draws are refused even where results are the same: what a layer of zeros hides now, it may not hide an update later.
        """
        with RandomnessDetector() as draws:
            first = self._whole_pass(inputs)
        with preserve_state(self._whole):
            second = self._call(inputs)
            third = self._call(inputs) if self._in_loop else second
        same = all(torch.equal(first.nan_to_num(), other.nan_to_num()) for other in (second, third))
        if draws.found or not same:
            raise ConfigError(
                f"{self._name} draws random numbers or gives other results when it is called again, so that differences of "
                "them say nothing: take out what is random or kept from call to call, or call eval() if that is dropout."
            )

    @property
    def _name(self) -> str:
        return type(self._whole if self._network is None else self._network).__name__

    def _record_pass(self, inputs: tuple[Any, ...]) -> UnperturbedPass:
        parameters = self._parameters
        with preserve_state(self._whole):
            recording = record(self._whole, inputs, list(parameters.values()), self._rounded_once, self._memory)
        return UnperturbedPass(
            inputs, recording.values[recording.output], parameters, recording, Differences(recording, self._dtype)
        )

    def _require_fits(self, unperturbed: UnperturbedPass) -> None:
        """Refuse to record a network that exceeds the memory setting even with one query at a time."""
        largest = max(
            (f.size for f in self.footprint(unperturbed).values()), default=0
        )  # asked first: the pass keeps more then
        needed = unperturbed.size + TEMPORARIES * largest
        if needed > self._memory:
            raise CannotRecordError(
                f"activations and the differences of a single query take {needed / 2**20:.3g} MiB, more than the "
                f"{self._memory / 2**20:.3g} MiB of the memory setting; take a smaller batch, or raise memory"
            )

    def _warn(self, why: str) -> None:
        warnings.warn(
            f"{self._name} is queried by whole forward passes, one at a time, which is slower and leaves few digits at steps "
            f"below 1e-3 in float32: no differences can be carried through it ({why}).",
            stacklevel=4,
        )

    def _require_agreement(self, inputs: Sequence[Any]) -> None:
        """Compare differences with two whole passes: the self-test of the engine, once for every network and shape of batch.

        A recording sees only what passes through torch's dispatcher. A network that reads its weights in another way (numpy,
        a C extension, values cached in Python) would get gradients that are wrong in silence. So all weights and inputs are
        changed at once, and the change of the result must be that of two whole passes. Weights are noise then, since layers
        of zeros, as in untrained correctors, hide all before them; or weights changed a little, where noise gives no numbers.

        Raises:
            CannotRecordError: The two disagree.
        """
        for values, share in ((_noise(self._whole), 1.0), (_nearby(self._whole), 0.01)):
            with preserve_state(self._whole):
                write(self._whole, values)
                ways = self._two_ways(inputs, share)
            if ways is None:
                continue
            found, expected, scale = ways
            rounding = 100 * torch.finfo(found.dtype).eps * scale
            if not _largest(found - expected) <= 1e-3 * _largest(expected) + rounding:
                raise CannotRecordError(
                    "its differences disagree with two whole passes: it uses parameters out of torch's sight"
                )
            return

    def _numbers(self, inputs: Sequence[Any]) -> torch.Tensor | None:
        """Run with the present weights; None if the network fails: not all weights may be noise, such as covariances."""
        try:
            result = self._whole_pass(inputs)
        except Exception:
            return None
        return result if bool(torch.isfinite(result).all()) else None

    def _two_ways(self, inputs: Sequence[Any], share: float) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """Change all parameters and inputs, and compute the change of the result by propagation and by whole passes.

        Returns:
            Both changes and the size of the results; None if the network does not work with these weights.
        """
        if self._numbers(inputs) is None:
            return None
        parameters = self._parameters
        recording = record(self._whole, copy_tensors(inputs), list(parameters.values()), memory=self._memory)
        before = recording.values[recording.output].clone()
        changes = {
            name: OneCoordinate(0, 1, p, (p.numel() // 2,), (share * float(p.abs().max().clamp(min=0.1)),))
            for name, p in parameters.items()
            if p.numel()
        }
        starts: dict[Slot, Delta] = {
            recording.parameters[id(parameters[name])]: change
            for name, change in changes.items()
            if id(parameters[name]) in recording.parameters
        }
        leaves, form = pytree.tree_flatten(tuple(inputs))
        for place, slot in recording.inputs.items():
            if leaves[place].is_floating_point() and leaves[place].numel():
                varied = _vary(leaves[place], share)
                starts[slot] = Dense((varied - leaves[place]).unsqueeze(0))
                leaves[place] = varied
        delta = Differences(recording).propagate(starts)
        found = before.new_zeros(before.shape) if delta is None else delta.dense()[0].to(before)
        write(self._whole, {self._prefix + name: parameters[name] + change.dense()[0] for name, change in changes.items()})
        after = self._numbers(pytree.tree_unflatten(leaves, form))
        return None if after is None else (found, after - before, _largest(before) + _largest(after))

    def footprint(self, unperturbed: UnperturbedPass) -> dict[str, Footprint]:
        """Measure what a query of each parameter takes, once; empty for networks that are not recorded."""
        if unperturbed.differences is None:
            return {}
        case = _case(self._whole, unperturbed.inputs)
        if case not in self._footprints:
            self._footprints[case] = {
                name: self._measure(unperturbed, name) for name, p in self._parameters.items() if p.numel()
            }
        return self._footprints[case]

    def _measure(self, unperturbed: UnperturbedPass, name: str) -> Footprint:
        query = Coordinates(name, (0,), (0.0,))
        self.changes(unperturbed, query)  # warms up caches
        meter = Meter()
        started = time.perf_counter()
        self.changes(unperturbed, query, meter=meter)
        return Footprint(meter.peak, time.perf_counter() - started)

    @torch.no_grad()
    def changes(
        self,
        unperturbed: UnperturbedPass,
        perturbation: Perturbation | None,
        inputs: Sequence[torch.Tensor | None] = (),
        meter: Meter | None = None,
    ) -> torch.Tensor:
        """Compute the changes of the result that queries make.

        Args:
            unperturbed: Pass of the unperturbed network.
            perturbation: Queries, `P` of them; None if they change inputs only.
            inputs: Change of each input, `(P, *shape)`; None where there is none, and nothing for the inputs at the end.
            meter: Meter of the memory that the differences take.

        Returns:
            Changes `(P, *shape)` of a result of shape `shape`.
        """
        if (
            unperturbed.differences is None
            or unperturbed.recording is None
            or isinstance(perturbation, Directions | Displacements)
        ):
            return self._change_by_whole_passes(unperturbed, perturbation, inputs)
        slots = unperturbed.recording.inputs
        starts: dict[Slot, Delta] = {slots[i]: Dense(change) for i, change in enumerate(inputs) if change is not None}
        if perturbation is not None:
            starts |= _parameter_deltas(unperturbed.parameters, unperturbed.recording, perturbation)
        delta = unperturbed.differences.propagate(starts, meter)
        if delta is None:  # nothing that is used changes
            return unperturbed.result.new_zeros(_count(perturbation, inputs), *unperturbed.result.shape)
        return delta.dense()

    def _change_by_whole_passes(
        self, unperturbed: UnperturbedPass, perturbation: Perturbation | None, inputs: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        moved = [x if change is None else x + change for x, change in zip_longest(unperturbed.inputs, inputs)]
        if perturbation is None:
            queries = iter([dict[str, torch.Tensor]()] * _count(None, inputs))
        else:
            queries = perturbed_parameters(unperturbed.parameters, perturbation)
        changes = []
        for query, changed in enumerate(queries):
            given = tuple(x if x is unperturbed.inputs[i] else x[query] for i, x in enumerate(moved))
            named = {self._prefix + name: tensor for name, tensor in changed.items()}
            with preserve_state(self._whole):
                write(self._whole, named)
                changes.append(self._call(given) - unperturbed.result)
        return torch.stack(changes)


def _largest(x: torch.Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _parameter_deltas(parameters: NamedTensors, recording: Recording, perturbation: Perturbation) -> dict[Slot, Delta]:
    first = 0
    starts: dict[Slot, Delta] = {}
    for part in parts_of(perturbation):
        parameter = parameters[part.name]
        if id(parameter) in recording.parameters:
            starts[recording.parameters[id(parameter)]] = _delta_of(part, first, len(perturbation), parameter)
        first += len(part)
    return starts


def _delta_of(part: PartOfOne, first: int, count: int, parameter: torch.Tensor) -> OneCoordinate | OneRow:
    """Return the differences that queries `first` and following of `count` make to a parameter."""
    if isinstance(part, RowDirections):
        return OneRow(first, count, parameter, part.rows, row_displacements(parameter.detach(), part))
    return OneCoordinate(first, count, parameter, part.indices, part.steps)


def _count(perturbation: Perturbation | None, inputs: Sequence[torch.Tensor | None]) -> int:
    return len(next(x for x in inputs if x is not None)) if perturbation is None else len(perturbation)


#: Training mode of each module, and shapes and types of a batch: what decides how a network is recorded.
_Case: TypeAlias = tuple[Any, ...]


def _case(whole: nn.Module, inputs: Sequence[Any]) -> _Case:
    modes = tuple(module.training for module in whole.modules())
    leaves = pytree.tree_leaves(list(inputs))
    return modes, *((x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves)


def _noise(module: nn.Module) -> NamedTensors:
    """Draw other numbers for a module's parameters, of their usual size."""
    generator = new_generator(0)
    return {
        name: torch.randn(p.shape, generator=generator).to(p) / math.sqrt(max(1, math.prod(p.shape[1:])))
        for name, p in module.named_parameters()
        if p.is_floating_point()
    }


def _nearby(module: nn.Module) -> NamedTensors:
    """Scale each of a module's parameters by some percent."""
    generator = new_generator(0)
    return {
        name: p + 0.05 * torch.rand(p.shape, generator=generator).to(p) * p
        for name, p in module.named_parameters()
        if p.is_floating_point()
    }


def _vary(x: torch.Tensor, share: float) -> torch.Tensor:
    """Add some noise to an input."""
    noise = torch.randn(x.shape, generator=new_generator(0)).to(x)
    return x + 0.1 * share * float(x.abs().nan_to_num().max()) * noise
