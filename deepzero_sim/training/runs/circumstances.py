"""Circumstances of a validation, in sentences: what it measures on, what that costs, and why it may get worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepzero_sim.common.words import count_of
from deepzero_sim.datasets.fitting.one_step_error import OneStepError
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.checkpoints import load_with_identity, read_settings
from deepzero_sim.training.runs.defaults import steps_of_rollout
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.held_back import (
    Division,
    name_simulations,
    numbers_in_record,
    numbers_of,
    outside,
    shared,
)
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import run_settings

#: Simulations below which they are few to learn from.
FEW = 4

#: Factor by which rollouts of a validation are longer than those of training where the difference is likely to matter.
FARTHER = 2

#: Steps of rollouts in training beyond which longer ones are no advice: they cost more than they bring.
LONG = 8

#: Names of networks that see no coordinates.
_WITHOUT_PLACE = ("small", "mercury", "mars_moon")


@dataclass(frozen=True, eq=False)
class Circumstances:
    """Circumstances of the validation of one training.

    Args:
        settings: Settings of the run, those of its validation settled.
        division: Data that are trained on, and those that are held back.
        rollouts: First frames and references of the rollouts that are measured.
        one_step_error: Error of one step of the solver alone; None where it is not known.
    """

    settings: TrainSettings
    division: Division
    rollouts: Trajectories
    one_step_error: OneStepError | None

    @property
    def words(self) -> str:
        """Name of the data that are measured on, in a sentence."""
        if self._is_unseen and self.division.numbers:
            return f"{name_simulations(self._simulations)}, which training did not see,"
        if not self._is_unseen:
            return "the training data"
        return f"{count_of(len(self._simulations), 'simulation')} of validation_data, which training did not see,"

    @property
    def _is_unseen(self) -> bool:
        return bool(self.division.numbers) or self.settings.validation_data is not None

    @property
    def _simulations(self) -> list[int]:
        return list(dict.fromkeys(numbers_of(self.rollouts)))

    @property
    def _length(self) -> int:
        return self.rollouts.frames.shape[1] - 1

    def notes(self, names: Sequence[str]) -> list[str]:
        """Say what is held back, how that lies to the rest, and what measurements cost.

        Args:
            names: Names of the parameters.
        """
        beyond = self._outside(names)
        return [
            *self._note_on_choice(),
            *self._note_on_shared_parameters(),
            *([f"{beyond}: errors there say how far the network carries beyond that."] if beyond else []),
            self._cost_note(),
        ]

    def _note_on_choice(self) -> list[str]:
        numbers = self.division.numbers
        if not numbers:
            return []
        verb = "is" if len(numbers) == 1 else "are"
        return [
            f"{name_simulations(numbers)} of {len(self.division.all_numbers)} (numbered as in the file, from 0) {verb} held "
            "back from training; the network that is best there is used (held_back sets how many, held_back_simulations which)."
        ]

    def _note_on_shared_parameters(self) -> list[str]:
        """Say that errors are of parameters that training sees, where they are."""
        found = shared(self.division.trained, self.rollouts) if self._is_unseen else []
        if not found:
            return []
        verb = "has" if len(found) == 1 else "have"
        return [
            f"{name_simulations(found)} {verb} parameters that are trained on, too: errors there say nothing of values in "
            "between (held_back_simulations or validation_data with parameters that training does not see would)."
        ]

    def _cost_note(self) -> str:
        settings, rollouts = self.settings, len(self.rollouts.frames)
        every = settings.validate_every
        times = 2 if every is None else 1 + -(-settings.updates // every)
        steps = rollouts * self._length * (times + 1)
        return (
            f"{times} measurements of {count_of(rollouts, 'rollout')} of {count_of(self._length, 'step')}, and one of the "
            f"solver alone, take {steps:,} solver steps (validate_steps sets how far)."
        )

    def _outside(self, names: Sequence[str]) -> str:
        return outside(self.division.trained, self.rollouts, names) if self._is_unseen else ""

    def causes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Name what is likely to be behind it if training makes the network worse here, and what helps.

        Args:
            names: Names of the parameters.
        """
        steps, few, found = steps_of_rollout(self.settings), self.division.trained.frames.shape[0], self.one_step_error
        causes = []
        if found is not None and found.is_nearly_nothing:
            causes.append("there is nearly nothing to correct, so take a coarser solver")
        if beyond := self._outside(names):
            causes.append(f"{beyond}, so train on a wider range, or hold others back")
        if self._is_unseen and few < FEW:
            causes.append(f"{count_of(few, 'simulation')} to learn from {'is' if few == 1 else 'are'} few, so make more")
        if self._length >= FARTHER * steps and steps < LONG:
            longer = "train through the loop after it" if self.settings.method == "NON" else "unroll more"
            causes.append(f"training looks {count_of(steps, 'step')} ahead and these rollouts {self._length}, so {longer}")
        return (*causes, *self._cause_in_place())

    def _cause_in_place(self) -> tuple[str, ...]:
        """Name what a convolution cannot see; a network of the user's own may see it."""
        if self.settings.network.name.rpartition(".")[2] not in _WITHOUT_PLACE:
            return ()
        return (
            "an error that depends on the place (a forcing, an obstacle, a velocity field) is not seen by a convolution "
            "without coordinates, so give the network these fields as inputs (docs/training/networks.md)",
        )


def overlap_with_start(settings: TrainSettings, division: Division, content: str) -> str | None:
    """Say which simulations held back were trained on by a run that this one goes on from; None if none was.

    Args:
        settings: Settings of the run.
        division: Data that are trained on, and those that are held back.
        content: Digest of all these data. Runs on other data are not looked into.
    """
    start: Path | None = settings.start
    while start is not None and division.numbers:
        start = last_stage(start)
        if load_with_identity(start)[1].contents.get("train_data") == content:
            theirs = numbers_in_record(read_settings(start), division.all_numbers)
            seen = [number for number in division.numbers if number not in theirs]
            if seen:
                verb = "was" if len(seen) == 1 else "were"
                return (
                    f"{name_simulations(seen)}, held back here, {verb} trained on by {start}, which this run goes on from: "
                    "errors there are too good; hold back the same simulations in both, by held_back_simulations."
                )
        start = run_settings(start).start
    return None
