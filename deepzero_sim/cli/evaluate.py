"""`deepzero-sim evaluate`: a trained corrector, rolled out on unseen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.compare import report
from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings, settings_to_dict
from deepzero_sim.datasets.metadata import MetadataKey
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.trained_run import run_settings


@dataclass
class EvaluateSettings(Settings):
    """An evaluation of a trained run on unseen data.

    Args:
        run: Run folder; results.json and report.md go there.
        data: HDF5 trajectories.
        steps: Steps of the rollout; all that the data have if none are given.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    run: Path
    data: Path
    steps: int | None = None
    data_may_differ: list[MetadataKey] = field(default_factory=list)


def _run(settings: EvaluateSettings) -> None:
    method = run_settings(settings.run).method
    comparison = compare({method: settings.run}, settings.data, settings.steps, settings.data_may_differ)
    report(settings.run, f"{settings.run.name}: {method}", comparison, settings_to_dict(settings))


COMMANDS = {"evaluate": Command(EvaluateSettings, _run, runs=lambda settings: [settings.run])}
