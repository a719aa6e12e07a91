"""Cost of products by the number of cells: flows on ever larger domains of cells of one size.

A larger domain holds waves of the same lengths, and a step carries a change as far in cells, so that products are as hard to
find as on the flow's own grid; on a finer grid, whose steps are shorter, the identity would do. Each method is measured in a
process of its own, whose largest memory is the method's, within limits of time and memory.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.benchmarks.flows.catalogue import FLOWS, TEST_SEED, TRAIN_SEED, Flow
from deepzero_sim.benchmarks.flows.measurements import WHY, measure_once
from deepzero_sim.benchmarks.flows.methods import collect_warnings, missing, product_of
from deepzero_sim.benchmarks.flows.products import Cases, ExactProducts, compare, prepare, seconds_per_step
from deepzero_sim.cli.settings.bench import FlowMethod, FlowName
from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import Coloured, JacobianField, ReferenceJacobian
from deepzero_sim.coupling.vjp.windows import count_colours
from deepzero_sim.errors import ConfigError, SolverError, WorkerLostError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import outcome, submit
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.training.build import build_vjp

#: Numbers of steps that products go through.
THROUGH = (1, 8)

#: Simulations whose states are prepared with, frames of each, steps from one frame to the next; and unseen simulations.
SIMULATIONS, FRAMES, STEPS, UNSEEN = 4, 12, 5, 3

#: Entry of a measurement that reached a limit, so that it is not begun on more cells.
ENDED = "ended"

#: Seconds of a core and bytes that a measurement may take; and seconds, on a machine with other work.
SECONDS, MEMORY, MOST_SECONDS = 2400, 12 * 2**30, 7200.0


@dataclass(frozen=True)
class Size:
    """Flow on a larger domain.

    Args:
        flow: Name of the flow.
        larger: Ratio of the domain's length to the flow's own.
    """

    flow: FlowName
    larger: int

    @property
    def solver(self) -> Component:
        """Coarse solver, which is its own twin."""
        given = FLOWS[self.flow].coarse
        return Component(given.name, {**given.args, "larger": self.larger})


def measure_sizes(name: FlowName, methods: list[FlowMethod], output: Path) -> None:
    """Measure all methods on all sizes of a flow, but what is kept; after a limit, larger sizes are only counted."""
    for method in methods:
        if missing(method) or _product_of(method, FLOWS[name]) is None:
            continue
        smaller: dict[str, Any] = {}
        for larger in FLOWS[name].larger:
            measure = partial(_only_count if ENDED in smaller else _in_child, Size(name, larger), method)
            title = f"{name}, {larger} times as long: {method}"
            smaller = measure_once(size_path(output, name, larger, method), title, measure)


def size_path(output: Path, flow: str, larger: int, method: str) -> Path:
    """Return the file of what was measured of a method on a size of a flow."""
    return output / "sizes" / flow / f"{larger}-{method}.json"


def _product_of(method: FlowMethod, flow: Flow) -> Component | None:
    """Return a method's product; a coloured one that finds the radius by itself, as it grows with the domain."""
    return Component("deepzero_sim.vjp.Coloured") if method == "Coloured" else product_of(method, flow)


def _in_child(size: Size, method: FlowMethod) -> dict[str, Any]:
    """Measure in a process that does not outlive this one, and add what can be counted without it."""
    counted = _count(size, method)
    with open_executor("process", 1) as executor:
        future = submit(executor, _measure_within_limits, (size, method, SECONDS, MEMORY))
        if not wait([future], MOST_SECONDS).done:
            return {**counted, ENDED: True, WHY: f"it took more than {MOST_SECONDS:.0f} s, and was ended."}
        found = outcome(future)
    if isinstance(found, WorkerLostError):
        why = f"its process died, most likely as it needs more than {MEMORY / 2**30:.3g} GiB of memory."
        return {**counted, ENDED: True, WHY: why}
    if isinstance(found, Exception):
        raise found
    return {**counted, **found}


def _only_count(size: Size, method: FlowMethod) -> dict[str, Any]:
    return {**_count(size, method), ENDED: True, WHY: "it reached a limit on fewer cells, and was only counted here."}


def _count(size: Size, method: FlowMethod) -> dict[str, Any]:
    cells = math.prod(build_solver(size.solver).spec.state_shape[1:])
    return {"counted": count_costs(size, method), "cells": cells}


def count_costs(size: Size, method: FlowMethod) -> dict[str, int]:
    """Count what methods tell of their costs without being run: solver steps to prepare at most, bytes of what they store."""
    spec = build_solver(size.solver).spec
    product = build_vjp(_require_product(method, size.flow))
    if isinstance(product, ReferenceJacobian):
        product.memory = sys.maxsize  # to count what it would refuse
        stored = product.value_count(spec) * np.dtype(spec.dtype).itemsize
        return {"solver_steps_to_prepare": product.steps_to_measure(spec), "bytes": stored, "solver_steps_per_product": 0}
    if isinstance(product, JacobianField):
        return {"solver_steps_to_prepare": product.steps_to_measure(spec), "solver_steps_per_product": 0}
    return {}


def _require_product(method: FlowMethod, flow: FlowName) -> Component:
    product = _product_of(method, FLOWS[flow])
    assert product is not None
    return product


# ---- in the process of a measurement


def _measure_within_limits(task: tuple[Size, FlowMethod, int, int]) -> dict[str, Any]:
    """Measure within seconds of a core and bytes; a method that refuses, or needs more, says why."""
    size, method, seconds, memory = task
    signal.signal(signal.SIGXCPU, _raise_out_of_time)
    for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, seconds)):
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    with collect_warnings(method) as sentences:
        try:
            found = _measure(size, method)
        except (ConfigError, SolverError) as error:
            found = {WHY: str(error)}
        except _OutOfTimeError:
            found = {ENDED: True, WHY: f"it took more than {seconds} s of a core, and was ended."}
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            found = {ENDED: True, WHY: f"it needs more than {memory / 2**30:.3g} GiB of memory."}
        finally:
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    return {**found, "warnings": sentences}


class _OutOfTimeError(BaseException):
    """Raised in a measurement whose time is over, past all handlers of errors."""


def _raise_out_of_time(number: int, frame: object) -> None:
    raise _OutOfTimeError  # again every second: a callback of a collection of garbage swallows what it raises


def _measure(size: Size, method: FlowMethod) -> dict[str, Any]:
    flow, solver = FLOWS[size.flow], build_solver(size.solver)
    states = simulate(solver, flow, SIMULATIONS, FRAMES, TRAIN_SEED)
    unseen = simulate(solver, flow, UNSEEN, 1, TEST_SEED)
    cases = Cases(unseen, None, unseen - np.roll(unseen, 1, 0))
    layer = SolverLayer(solver, build_vjp(_require_product(method, size.flow)))
    per_step = seconds_per_step(layer, cases)
    found: dict[str, Any] = {"memory_before": peak_memory(), "seconds_per_step": per_step, "states": len(unseen)}
    if isinstance(layer.vjp, Coloured):
        return found | _measure_coloured(layer, layer.vjp, states, cases, per_step)
    found |= prepare(layer, states, None)
    found["memory_to_prepare"] = peak_memory()
    return found | compare(layer, ExactProducts(solver, cases, THROUGH)) | {"memory": peak_memory()}


def _measure_coloured(layer: SolverLayer, product: Coloured, states: Array, cases: Cases, per_step: float) -> dict[str, Any]:
    """Measure a coloured product, whose solver steps and memory are counted first: they may be beyond all limits."""
    try:
        found = prepare(layer, states, None)
        radius = int(product.state_dict()["radius"])
        why = ""
    except ConfigError as error:  # it carries information too far
        found, radius, why = {}, max(states.shape[2:]), str(error)
    counted = _count_coloured(layer.solver.spec.state_shape, radius)
    products = 2 * (sum(THROUGH) + 2)  # of both kinds of `w`, and those that are timed
    seconds = products * counted["solver_steps_per_product"] * per_step
    if not why and (seconds > SECONDS / 2 or counted["bytes"] > MEMORY / 2):
        why = (
            f"a product takes {counted['solver_steps_per_product']:,} solver steps and {counted['bytes'] / 2**30:.2g} GiB, and "
            f"all that are compared some {seconds:,.0f} s: they were only counted."
        )
    if why:
        return {**found, "counted": counted, WHY: why}
    measured = compare(layer, ExactProducts(layer.solver, cases, THROUGH))
    memory = peak_memory()
    return {**found, "counted": counted, **measured, "memory_to_prepare": memory, "memory": memory}


def _count_coloured(shape: Sequence[int], radius: int) -> dict[str, int]:
    """Count the solver steps of a product on a box, and the bytes of its directions, which would take too much memory."""
    colours = count_colours(np.ones(shape, bool), radius)
    return {"solver_steps_to_prepare": 0, "solver_steps_per_product": 2 * colours, "bytes": 4 * colours * math.prod(shape)}


def simulate(solver: Solver, flow: Flow, count: int, frames: int, seed: int) -> Array:
    """Simulate states, `(count * frames, C, *N)`, after the flow's warm-up, some steps apart.

    Args:
        solver: Solver of the flow.
        flow: Flow, for its initial states and warm-up.
        count: Number of simulations.
        frames: Frames of each.
        seed: Seed of the initial states.

    Raises:
        SolverError: A simulation blew up.
    """
    state: Array = call_function(flow.initial, solver.spec, np.zeros((count, 0), np.float32), seed)
    found = []
    for step in range(flow.warm_up + STEPS * (frames - 1) + 1):
        state = solver.step(state) if step else state
        if step >= flow.warm_up and (step - flow.warm_up) % STEPS == 0:
            found.append(state)
    states = np.concatenate(found)
    if not np.isfinite(states).all():
        raise SolverError(f"simulations by solver {solver.spec.name!r} on {solver.spec.state_shape} values are not finite.")
    return states


def peak_memory() -> int:
    """Return the bytes of the largest memory that this process has had.

    On Linux, `getrusage` counts from before a process became this program, when it was a copy of its parent; the system's own
    file does not.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
