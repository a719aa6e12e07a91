"""`deepzero-sim generate`: trajectories of a reference solver."""

from __future__ import annotations

from deepzero_sim.cli.console import console, pool_bar
from deepzero_sim.cli.settings.generate import GenerateSettings
from deepzero_sim.datasets.generation.generate import generate, require_free
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.training.runs.reference import parts_of_simulations
from deepzero_sim.training.runs.trust import trust_parts


def make_data(settings: GenerateSettings) -> None:
    """Make the files that are not there yet, under one progress bar each."""
    for file in settings.files:
        if not_a_file(file.output) == NOTHING:
            require_free(file.output)  # before anything is computed
    trust_parts(parts_of_simulations(settings.simulations))  # whoever generates data has named the code: it may be timed later
    workers = 1 if settings.workers.backend == "serial" else settings.workers.count
    with open_executor(settings.workers.backend, settings.workers.count) as executor:
        for file in settings.files:
            sentences: list[str] = []
            with pool_bar(f"simulating {file.output.name}", file.simulations, workers) as report:
                made = generate(
                    file.output,
                    settings.simulations,
                    file.params,
                    executor,
                    report,
                    settings.on_failure,
                    starts=file.starts,
                    seed=file.seed,
                    say=sentences.append,
                )
            console.print(f"{file.output} {'made' if made else 'is there already, made by the same settings'}")
            for sentence in sentences:
                console.print(sentence)
