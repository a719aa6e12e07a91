"""Jacobian fields as named arrays of real numbers, for checkpoints and files."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.field_report import FieldReport, Reason
from deepzero_sim.coupling.vjp.field.fitting import Field, Products
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid
from deepzero_sim.coupling.vjp.field.local_stencils import LocalStencils
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.operators import FieldOperators
from deepzero_sim.coupling.vjp.field.state_features import FeatureMap, FilterGrid

_REASONS = tuple(Reason)


def field_tensors(field: Field, sizes: Array, report: FieldReport) -> dict[str, Array]:
    """Write a field, the sizes of channels `(C, *1)` that its units are, and its error bar as arrays."""
    features, operators = field.features, field.operators
    measured = operators.measured
    common = {} if measured is None else {f"measured.{name}": array for name, array in measured.jacobian.tensors().items()}
    if measured is not None:
        common |= {"active": measured.active.astype(np.float64), "block": np.array([measured.block], dtype=np.float64)}
    if operators.after is not None:
        common["after"] = _to_real(operators.after)
    return common | {
        "points": np.array(operators.grid.points, dtype=np.float64),
        "periodic": np.array(report.periodic, dtype=np.float64),
        "base": _to_real(operators.base),
        "varying": _to_real(operators.varying),
        "local": operators.local.weights,
        "filters": _to_real(features.filters),
        "slopes": features.slopes,
        "constants": features.constants,
        "sizes": sizes,
        "counts": np.array(
            [report.probes, report.steps, _REASONS.index(report.reason), operators.order, operators.local.radius],
            dtype=np.float64,
        ),
        "cosines": np.array([report.cosines, report.identity]),
        "unseen": np.array(report.unseen),
        "refits": np.array([report.refits, report.refitted_after], dtype=np.float64),
    }


def field_from_tensors(tensors: dict[str, Array]) -> tuple[Field, Array, FieldReport]:
    """Restore what :func:`field_tensors` wrote."""
    points, periodic = [int(size) for size in tensors["points"]], tuple(bool(flag) for flag in tensors["periodic"])
    features = FeatureMap(
        FilterGrid(points, periodic), _to_complex(tensors["filters"]), tensors["slopes"], tensors["constants"]
    )
    grid = KernelGrid(points, periodic)
    probes, steps, reason, order, radius = (int(count) for count in tensors["counts"])
    operators = FieldOperators(
        grid,
        _to_complex(tensors["base"]),
        _to_complex(tensors["varying"]),
        _to_complex(tensors["after"]) if "after" in tensors else None,
        LocalStencils(grid, radius, tensors["local"]),
        _measured(tensors),
        order,
    )
    cosines, identity = (tuple(float(cosine) for cosine in row) for row in tensors["cosines"])
    unseen = tuple(float(error) for error in tensors.get("unseen", ()))
    refits, after = (int(count) for count in tensors.get("refits", (0, 0)))  # there were none in the first versions
    rank = len(features.constants)
    report = FieldReport(probes, steps, rank, periodic, cosines, identity, _REASONS[reason], unseen, refits, after)
    return Field(features, operators), tensors["sizes"], report


def product_tensors(name: str, products: Products) -> dict[str, Array]:
    """Write products as arrays whose names begin with one."""
    return {f"{name}.{part}": array for part, array in vars(products).items() if array is not None}


def products_from_tensors(name: str, tensors: dict[str, Array]) -> Products:
    """Restore what :func:`product_tensors` wrote."""
    states, advanced, directions, answers = (
        tensors[f"{name}.{part}"] for part in ("states", "advanced", "directions", "answers")
    )
    return Products(states, advanced, tensors.get(f"{name}.params"), directions, answers)


def _measured(tensors: dict[str, Array]) -> MeasuredBase | None:
    if "block" not in tensors:
        return None
    parts = {name.removeprefix("measured."): array for name, array in tensors.items() if name.startswith("measured.")}
    return MeasuredBase.load(parts, int(tensors["block"][0]), tensors["active"] > 0, tensors["sizes"])


def _to_real(values: Array) -> Array:
    """View complex values `(...)` as real ones, `(..., 2)`."""
    return np.stack([values.real, values.imag], axis=-1)


def _to_complex(values: Array) -> Array:
    return np.asarray(values[..., 0] + 1j * values[..., 1])
