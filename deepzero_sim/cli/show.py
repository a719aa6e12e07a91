"""`deepzero-sim show`: first pictures of data of any known layout, or of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepzero_sim.cli.compare import print_report
from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.reports import animation, learning_curves, recording_figures, recordings, rollouts
from deepzero_sim.cli.reports.figures import Figure, markdown
from deepzero_sim.cli.reports.html import PAGE, write_html
from deepzero_sim.cli.reports.ownership import require_own_folder, write_page
from deepzero_sim.cli.settings.show import ShowSettings
from deepzero_sim.common.documents import markdown_table
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets.opening import open_trajectories, read_source
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.checkpoints import read_settings
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.trained_run import differences_accepted_by, run_settings, trained_loop

#: Steps of a run's rollouts if none are given, at most.
MOST_STEPS = 100


def run(settings: ShowSettings) -> None:
    """Show data or a run: a summary here, and a page with pictures in a folder."""
    _require_useful(settings)
    require_own_folder(settings.folder, rollouts.FILES, "--output")
    if settings.is_run:
        show_run(settings)
    else:
        show_data(settings)


def _require_useful(settings: ShowSettings) -> None:
    """Refuse settings that would have no effect: those of data given with a run, and the other way round."""
    is_run = settings.is_run
    given = ("format", "axes", "channels") if is_run else ("data", "steps")
    (kind, other) = ("a run", "data") if is_run else ("data", "a run")
    useless = [f"--{name}" for name in given if getattr(settings, name) not in (None, [])]
    if useless and settings.path.exists():
        raise ConfigError(f"{' and '.join(useless)} can be given with {other}, but {settings.path} is {kind}: leave it out.")


def show_data(settings: ShowSettings) -> None:
    """Show data: a table of what they hold, then the pictures."""
    source = DataSource(settings.path, format=settings.format, axes=settings.axes, channels=settings.channels)
    recording = read_source(source)
    numbers = recordings.measure(recording)
    facts, channels = recordings.rows(recording), recordings.channel_rows(recording, numbers)
    print_table(facts, words=(0, 1))
    print_table(channels, words=(0, 1))
    sentences = recordings.notes(recording, numbers)
    for sentence in sentences:
        console.print(sentence)
    figures = recording_figures.draw(settings.folder, recording, numbers)
    if settings.animation:
        figures += recording_figures.draw_animation(settings.folder, recording)
    parts = (markdown_table(facts), markdown_table(channels), *(f"- {sentence}" for sentence in sentences))
    _write_page(settings.folder, str(settings.path), parts, figures)


def show_run(settings: ShowSettings) -> None:
    """Show a run: its learning curve, and its rollouts with those of the solver alone."""
    if not settings.is_corrector:
        read_settings(last_stage(settings.path))
        figures = learning_curves.draw_runs(settings.folder, {settings.path.resolve().name: settings.path})
        _write_page(settings.folder, str(settings.path), (), figures or [Figure("", "Nothing was logged yet.")])
        return
    run = last_stage(settings.path)
    made, solver = run_settings(run), trained_loop(run).solver
    data = open_trajectories(settings.data or made.train_data, solver.spec, differences_accepted_by(run))
    steps = settings.steps or min(MOST_STEPS, data.frames.shape[1] - 1)
    comparison = compare({made.method: run}, data, steps)
    more = animation.draw(settings.folder, comparison) if settings.animation else []
    where = "the data it was trained on" if settings.data is None else "other data"
    title = f"{settings.path.resolve().name}: {made.method}, on {where}"
    rollouts.publish(settings.folder, title, comparison, settings_to_dict(settings), more)
    print_report(settings.folder, comparison)
    console.print(f"to open in a browser: {settings.folder / 'report.html'}")


def _write_page(folder: Path, title: str, parts: Sequence[str], figures: Sequence[Figure]) -> None:
    write_page(folder / PAGE, "\n\n".join([f"# {title}", *parts, markdown(figures).rstrip()]))
    html = write_html(folder)
    console.print(f"{sum(bool(one.name) for one in figures)} pictures; to open in a browser: {html}")
