"""Steps and epochs of a run whose phases may have other numbers of steps in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdlab.training.phases import Phase


@dataclass(frozen=True)
class Timeline:
    """When each phase begins.

    epochs: of each phase. steps: per phase, those of an epoch.
    """

    epochs: tuple[int, ...]
    steps: tuple[int, ...]

    @staticmethod
    def of(phases: Sequence[Phase], steps: int | Sequence[int]) -> Timeline:
        """That of phases; one number of steps stands for all."""
        each = (steps,) * len(phases) if isinstance(steps, int) else tuple(steps)
        return Timeline(tuple(phase.epochs for phase in phases), each)

    def start(self, place: int) -> int:
        """The step at which a phase begins."""
        return sum(epochs * steps for epochs, steps in zip(self.epochs[:place], self.steps, strict=False))

    def place(self, step: int) -> int:
        """The phase that a step belongs to; the last one after the end."""
        last = len(self.epochs) - 1
        return next((place for place in range(last) if step < self.start(place + 1)), last)

    def epoch(self, step: int) -> tuple[int, int]:
        """(the epoch that a step lies in, counted over all phases; the steps done in it)."""
        place = self.place(step)
        epoch, within = divmod(step - self.start(place), self.steps[place])
        return sum(self.epochs[:place]) + epoch, within

    def epochs_at(self, step: int) -> float:
        """Epochs since the start of the run, in fractions."""
        epoch, within = self.epoch(step)
        return epoch + within / self.steps[self.place(step)]
