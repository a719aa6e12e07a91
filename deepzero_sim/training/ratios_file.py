"""File of a run's layer ratios, `ratios.json`, to be used again and to be read by people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from deepzero_sim.common.files import digest, require_regular, write_text
from deepzero_sim.common.requirements import is_count, require, require_that, require_type
from deepzero_sim.errors import RunError
from deepzero_sim.estimators.sparsity.base import Densities, active_count, layer_weights
from deepzero_sim.training.preparation import PREPARATION, RATIOS_FOUND, Preparation

RATIOS = "ratios.json"


@dataclass(frozen=True)
class RatiosRecord:
    """Layer ratios of a run.

    Args:
        method: Name of the method that found them.
        sparsity: Share of all scored coordinates that was to be left out.
        densities: Share of each layer that is active, and what it took to find out.
        sizes: Number of coordinates of each of these layers.
        always_active: Number of coordinates outside them: biases and normalisation parameters.
        seconds: Time that it took.
        failures: Number of failed solver steps on the way, by kind and action.
    """

    method: str
    sparsity: float
    densities: Densities
    sizes: dict[str, int]
    always_active: int
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)

    def active(self, name: str) -> int:
        """Count the coordinates of a layer that a mask draws."""
        return active_count(self.densities.by_layer[name], self.sizes[name])


def record_of(model: nn.Module, method: str, sparsity: float, densities: Densities, seconds: float) -> RatiosRecord:
    """Record the ratios that were just found for a network, and refuse those that masks cannot use, as of a user's class."""
    sizes = _sizes(model)
    require_type(densities, Densities, f"layer_ratios {method!r} must find deepzero_sim.Densities")
    shares = densities.by_layer
    fits = shares.keys() == sizes.keys() and all(0 <= share <= 1 for share in shares.values())
    require(fits, f"layer_ratios {method!r} must find a share in [0, 1] for each of {', '.join(sizes)}", shares)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return RatiosRecord(method, sparsity, densities, sizes, trained - sum(sizes.values()), seconds)


def _sizes(model: nn.Module) -> dict[str, int]:
    return {name: weight.numel() for name, weight in layer_weights(model).items()}


def save_ratios(folder: Path, record: RatiosRecord) -> str:
    """Write `ratios.json`, whole or not at all, and return the digest of its text."""
    layers = {
        name: {"parameters": size, "active": record.active(name), "share": record.densities.by_layer[name]}
        for name, size in record.sizes.items()
    }
    content = {
        "method": record.method,
        "sparsity": record.sparsity,
        "layers": layers,
        "always_active": record.always_active,
        "queries": record.densities.queries,
        "solver_steps": record.densities.solver_steps,
        "seconds": record.seconds,
        "failures": record.failures,
    }
    text = json.dumps(content, indent=2) + "\n"
    write_text(folder / RATIOS, text)
    return digest([text])


def load_ratios(folder: Path) -> RatiosRecord | None:
    """Read the `ratios.json` of a run folder; None if there is none.

    Raises:
        RunError: It is damaged, or not as the run wrote it.
    """
    path = folder / RATIOS
    if not path.exists():
        return None
    try:
        require_regular(path)
        text = path.read_text(encoding="utf-8")
        record = _parse(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{path} does not hold the layer ratios of a run ({type(error).__name__}: {error}): restore it, or delete the "
            "folder to start afresh."
        ) from error
    written = Preparation(folder / PREPARATION).content(RATIOS_FOUND)
    require_that(
        written in ("", digest([text])),
        f"{path} was changed, or is another run's: restore it, or delete the folder to start afresh.",
        RunError,
    )
    return record


def require_ratios_of(record: RatiosRecord, model: nn.Module, folder: Path) -> None:
    """Refuse a record of another network than the one it is used for."""
    sizes = _sizes(model)
    require_that(
        record.sizes == sizes,
        f"{folder / RATIOS} holds the layer ratios of another network ({', '.join(record.sizes)}), this one has "
        f"{', '.join(sizes)}: restore it, or delete the folder to start afresh.",
        RunError,
    )


def _parse(content: Mapping[str, Any]) -> RatiosRecord:
    layers = {str(name): _Layer(**layer) for name, layer in content["layers"].items()}
    if not layers:
        raise ValueError("no layers")
    shares = {name: _number(layer.share, "share", most=1) for name, layer in layers.items()}
    return RatiosRecord(
        method=str(content["method"]),
        sparsity=_number(content["sparsity"], "sparsity", most=1),
        densities=Densities(shares, _integer(content["queries"], "queries"), _integer(content["solver_steps"], "solver_steps")),
        sizes={name: _integer(layer.parameters, "parameters", least=1) for name, layer in layers.items()},
        always_active=_integer(content["always_active"], "always_active"),
        seconds=_number(content["seconds"], "seconds"),
        failures={str(kind): _integer(count, "failures") for kind, count in content["failures"].items()},
    )


@dataclass(frozen=True)
class _Layer:
    """Entry of one layer; `active` follows from the others and is there for people."""

    parameters: int
    active: int
    share: float


def _integer(value: Any, key: str, least: int = 0) -> int:
    if not isinstance(value, int) or not is_count(value, least):
        raise ValueError(f"{key} must be a whole number from {least}, not {value!r}")
    return value


def _number(value: Any, key: str, most: float = 1e12) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{key} must be a number from 0 to {most}, not {value!r}")
    return float(value)
