"""Comparisons made of given states, for tests of figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from deepzero_sim.cli.reports.figures import save
from deepzero_sim.coupling.evaluation import Evaluation
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.comparison import Comparison, Cost, MethodResult


def compare_states(
    spec: SolverSpec, references: torch.Tensor, rollouts: Mapping[str, torch.Tensor], **known: Any
) -> Comparison:
    """Compare rollouts `(S, T, C, *N)` with references."""
    methods = {}
    for place, (name, rollout) in enumerate(rollouts.items()):
        active = torch.from_numpy(spec.active())
        sizes = (rollout - references).abs().double()
        errors = sizes[:, :, active].mean(dim=2)
        errors = torch.where(errors.isfinite(), errors, torch.inf)
        channels = torch.stack([sizes[:, :, c, on].mean(dim=2) for c, on in enumerate(active)], dim=2)
        channels[~errors.isfinite()] = torch.inf
        scales = torch.stack([references[:, :, c, on].double().std() for c, on in enumerate(active)])
        found = Evaluation(errors, rollout, 1, 0.1, channel_errors=channels, scales=scales)
        methods[name] = MethodResult(found, Cost(0 if name == "SRC" else 10 ** (place + 1), 1.0))
    return Comparison(methods, references, spec, **known)


def keep_figures(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> dict[str, Any]:
    """Keep the figures that modules of reports save, by the names of their files, to look into them."""
    kept: dict[str, Any] = {}

    def save_and_keep(plot: Any, path: Path, figure: Any) -> None:
        save(plot, path, figure)
        kept[path.name] = figure

    for module in modules:
        monkeypatch.setattr(module, "save", save_and_keep)
    return kept


def words_of(figure: Any) -> list[str]:
    """All words of a figure: titles, names of axes, legends."""
    found = [figure.get_suptitle()]
    for ax in figure.axes:
        found += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *(text.get_text() for text in ax.texts)]
        found += [tick.get_text() for tick in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [words for words in found if words]
