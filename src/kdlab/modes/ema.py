"""ema: the student is taught by the moving average of its own weights.

Tarvainen, Valpola. Mean teachers are better role models: Weight-averaged consistency targets improve
semi-supervised deep learning results. NeurIPS 2017, equation 2.

    θ'_k = d_k θ'_{k−1} + (1 − d_k) θ_k after step k,   d_k = min(decay, k / (k + 1))

At first this is the mean of all weights so far, including the initial ones. As in the authors' code (CuriousAI/
mean-teacher pytorch/main.py) the average teaches in train mode, on another draw of the augmentation: with its own
dropout and batch statistics. It is evaluated, and kept, in eval mode.

The loss here is KL, one of their two, with weight 1 and no ramp. Their 100 (mean square of probabilities, CIFAR-10)
and 10 (KL, ImageNet), which rise over 5 epochs, go with labels for a quarter and half of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes._own_copy import OwnCopy
from kdlab.modes.mode import Cast


class EMA(OwnCopy):
    """One student, and its average, which can be kept instead (`mode.kept=average`).

    Args:
        cast: the networks of the run.
        decay: the share of the average that a step keeps, at most.
        train_mode: it teaches in train mode; else in eval mode, with the student's own batch statistics.
        view: of `data.views`, its input, `again` for another draw; None: the student's input.
    """

    def __init__(self, cast: Cast, decay: float, train_mode: bool = True, view: str | None = None) -> None:
        super().__init__(cast, "average")
        self._decay, self._train_mode, self._view = decay, train_mode, view
        self.copy.train(train_mode)
        self._updates = 0

    @property
    def shows(self) -> tuple[str, ...]:
        return () if self._view is None else (self._view,)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.copy.train(mode and self._train_mode)
        return self

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        shown = batch if self._view is None else batch["views"][self._view]
        taught = self.copied(shown)
        return [Lesson(self.observed[0](batch), (taught,), batch["target"], batch["index"])]

    def after_step(self, progress: Progress) -> None:
        """The average follows the student."""
        self._updates += 1
        student = self.learners[0]
        follow = get_ema_multi_avg_fn(min(self._decay, self._updates / (self._updates + 1)))  # type: ignore[no-untyped-call]
        follow(list(self.copy.parameters()), list(student.parameters()), None)
        if not self._train_mode:
            for ours, theirs in zip(self.copy.buffers(), student.buffers(), strict=True):
                ours.copy_(theirs)

    def students(self) -> dict[str, nn.Module]:
        return {**super().students(), "average": self.copy}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return networks["student"]

    def get_extra_state(self) -> dict[str, int]:
        """How many steps the average has followed: kept on the host, so that no step waits for it."""
        return {"updates": self._updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self._updates = state["updates"]
