"""ema: the student is taught by the moving average of its own weights.

Tarvainen, Valpola. Mean teachers are better role models: Weight-averaged consistency targets improve
semi-supervised deep learning results. NeurIPS 2017, equation 2.

    θ'_k = d_k θ'_{k−1} + (1 − d_k) θ_k after step k,   d_k = min(decay, k / (k + 1))

At first that is the mean of all weights so far, the first ones included, as in the authors' code. Buffers, such
as the statistics of batch normalisation, are the student's, and the average answers in eval mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes._own_copy import OwnCopy
from kdlab.modes.mode import Cast


class EMA(OwnCopy):
    """One student, and its average, which can be kept in its place (`mode.kept=average`).

    Args:
        cast: who is there.
        decay: what the average keeps of itself in a step, at most.
    """

    def __init__(self, cast: Cast, decay: float) -> None:
        super().__init__(cast, "average")
        self._decay = decay
        self._updates = 0

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        taught = self.copied(batch["input"])
        return [Lesson(self.observed[0](batch["input"]), (taught,), batch["target"], batch["index"])]

    def after_step(self, progress: Progress) -> None:
        """The average follows the student."""
        self._updates += 1
        student = self.learners[0]
        follow = get_ema_multi_avg_fn(min(self._decay, self._updates / (self._updates + 1)))  # type: ignore[no-untyped-call]
        follow(list(self.copy.parameters()), list(student.parameters()), None)
        for ours, theirs in zip(self.copy.buffers(), student.buffers(), strict=True):
            ours.copy_(theirs)

    def students(self) -> dict[str, nn.Module]:
        return {**super().students(), "average": self.copy}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return networks["student"]

    def get_extra_state(self) -> dict[str, int]:
        """How many steps the average has followed: a number of the host, for which no step waits."""
        return {"updates": self._updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """As `get_extra_state` gave it."""
        self._updates = state["updates"]
