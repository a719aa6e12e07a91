"""Speed and accuracy of a coordinate-wise gradient: the engine against the plain loop and the limit of this machine.

Run: deepzero-sim bench cge --model resnet20 --batch 64
Prints one JSON object, after some five minutes with the default settings on 2 cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from deepzero_sim.benchmarks.cge_error import errors
from deepzero_sim.benchmarks.cge_speed import Engine, mean_seconds
from deepzero_sim.benchmarks.dense_convolutions import best_rate, layers_of, mean_flops_behind
from deepzero_sim.benchmarks.networks import Task, make_task
from deepzero_sim.benchmarks.plain_loop import PlainLoop
from deepzero_sim.cli.settings.bench import BenchSettings
from deepzero_sim.common.machine import core_count, peak_memory_gb
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import CGE
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.training.runs.settings import Workers


def bench_cge(settings: BenchSettings) -> dict[str, Any]:
    """Measure the engine and the plain loop; see the module. Times are those of this machine, as busy as it is.

    Fields that their names do not explain:

    - `queries_per_second`: averaged over the network's parameters, see `cge_speed`; `plain_...` is the plain loop's, with
      torch's threads on all cores, `plain_channels_last_...` in that memory format. `ratio` is engine to plain loop,
      `ratio_to_faster_plain` to the better of the two.
    - `preparation_seconds`: time of the engine's work once a batch, which `queries_per_second` leaves out.
    - `load_average_before`: number of processes that kept the machine busy before; if it is not near 0, measure again.
    - `..._error`: error of the slopes, relative to the layer's largest, see `cge_error`: `largest_error` from the true
      gradient, `largest_rounding_error` from the same differences in exact arithmetic.
    - `dense_gflops`: rate of the fastest of the network's convolutions in float32, on all cores.
    - `limit_queries_per_second`: rate of an engine that spends time on dense convolutions only, at `dense_gflops`, see
      `dense_convolutions`; `share_of_limit` is the engine's part of it.

    Raises:
        ConfigError: The device is not there, or the engine cannot use the settings.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU that torch can use, and there is none here: take --device cpu.")
    started, load = time.perf_counter(), load_average()
    wanted = settings.workers or default_workers(settings.device)
    task = _on(settings.device, make_task(settings.model, settings.batch, settings.seed))
    with _all_cores(), _full_precision(), open_executor(wanted.backend, wanted.count) as executor:
        # the serial executor has one worker, and ranks are as many as there are
        workers = replace(wanted, count=getattr(executor, "_max_workers", 1))
        threads, measurements = torch.get_num_threads(), _measure(settings, task, executor)
    results = {
        **{name: getattr(settings, name) for name in ("model", "batch", "device", "precision", "scheme", "step_size")},
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "threads": threads,
        "workers": asdict(workers),
        "load_average_before": load,
        **measurements,
        **_peak_memory(settings.device),
        "seconds": time.perf_counter() - started,
    }
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in results.items()}


def default_workers(device: str) -> Workers:
    """Choose a process on every core; for a GPU, this process alone, which is fastest."""
    return Workers("serial", 1) if device == "cuda" else Workers("process", core_count())


def load_average() -> float | None:
    """Load average of the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _peak_memory(device: str) -> dict[str, float]:
    """Peak memory of this process and its largest worker together, and of the GPU if one is used."""
    memory = {"peak_memory_mb": 1e3 * peak_memory_gb()}
    return {**memory, "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6} if device == "cuda" else memory


def _on(device: str, task: Task) -> Task:
    return Task(task.model.to(device), task.loss, (task.batch[0].to(device), task.batch[1].to(device)))


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use threads on all cores inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(core_count())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute float32 as float32 inside: by default, convolutions on a GPU round their inputs to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _measure(settings: BenchSettings, task: Task, executor: Executor) -> dict[str, Any]:
    """Measure speed, errors and the limit. The machine's rate is taken before and after, and the better one counts."""
    oracle = ModelOracle(
        task.model, task.loss, executor, queries_per_chunk=settings.queries_per_chunk, precision=settings.precision
    )
    cge = CGE(settings.step_size, settings.scheme)
    engine = Engine(oracle, cge, task.batch)
    plain = [PlainLoop(task.model, task.loss, settings.step_size, settings.scheme, last) for last in (False, True)]
    layers = layers_of(task.model, task.batch[0])
    rate = best_rate(layers, settings.batch, settings.device, settings.seconds / 10)
    seconds = mean_seconds(engine, plain, settings.seconds, settings.repeats)
    preparation = engine.preparation_seconds()
    rate = max(rate, best_rate(layers, settings.batch, settings.device, settings.seconds / 10))
    limit = rate / mean_flops_behind(layers)
    return {
        "queries_per_second": 1 / seconds.engine,
        "plain_queries_per_second": 1 / seconds.plain,
        "plain_channels_last_queries_per_second": 1 / seconds.plain_channels_last,
        "ratio": seconds.plain / seconds.engine,
        "ratio_to_faster_plain": min(seconds.plain, seconds.plain_channels_last) / seconds.engine,
        "preparation_seconds": preparation,
        **errors(engine, plain[0], settings.error_coordinates),
        "dense_gflops": rate / 1e9,
        "limit_queries_per_second": limit,
        "share_of_limit": 1 / seconds.engine / limit,
    }
