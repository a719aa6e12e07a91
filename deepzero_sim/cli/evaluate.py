"""`deepzero-sim evaluate`: a trained corrector, rolled out on unseen data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepzero_sim.cli.compare import report
from deepzero_sim.cli.console import console, progress_bar
from deepzero_sim.cli.reports import rollouts
from deepzero_sim.cli.reports.ownership import require_own_files, require_own_folder
from deepzero_sim.cli.settings.evaluate import EvaluateSettings
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.origin import whole
from deepzero_sim.training.runs.trained_run import run_settings


def run(settings: EvaluateSettings) -> None:
    """Evaluate a trained run, with a report in its folder, or in another."""
    require_own = require_own_files if settings.folder.resolve() == settings.run.resolve() else require_own_folder
    require_own(settings.folder, rollouts.FILES, "--output")
    trained = last_stage(settings.run)
    method = run_settings(trained).method
    comparison = compare({method: trained}, settings.data, settings.steps, settings.data_may_differ, progress_bar)
    listed = settings_to_dict(settings)
    listed["data"] = whole(listed["data"], None)
    replaced = _report_on_others(settings.folder / rollouts.RESULTS, listed)
    report(settings.folder, f"{settings.run.resolve().name}: {method}", comparison, listed)
    if replaced:
        console.print(
            f"This report takes the place of the last one in {settings.folder}, on {replaced}: --output FOLDER keeps both."
        )


def _report_on_others(results: Path, settings: Mapping[str, Any]) -> str:
    """Name the data of the report in a folder if they are others, or were rolled out another way; empty if they are the same.

    Args:
        results: File of its results.
        settings: Settings of the evaluation that takes its place.
    """
    try:
        before = json.loads(results.read_text(encoding="utf-8"))["settings"]
        data, steps = before["data"], before["steps"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # there is none, or none of an evaluation
        return ""
    if (data, steps) == (settings["data"], settings["steps"]):
        return ""
    return f"{data if isinstance(data, str) else json.dumps(data)}{'' if steps is None else f', {steps} steps'}"
