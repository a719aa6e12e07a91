"""`deepzero-sim evaluate`: a trained corrector, rolled out on unseen data."""

from __future__ import annotations

from deepzero_sim.cli.compare import report
from deepzero_sim.cli.console import progress_bar
from deepzero_sim.cli.settings.evaluate import EvaluateSettings
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.trained_run import run_settings


def run(settings: EvaluateSettings) -> None:
    """Evaluate a trained run, with a report in its folder."""
    trained = last_stage(settings.run)
    method = run_settings(trained).method
    comparison = compare({method: trained}, settings.data, settings.steps, settings.data_may_differ, progress_bar)
    report(settings.run, f"{settings.run.name}: {method}", comparison, settings_to_dict(settings))
