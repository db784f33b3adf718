"""minillm: reverse KL on the student's own text, by its policy gradient with less variance.

Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024, equations 2 to 8.

    y_t ~ p̃ = α p + (1 − α) q,   w_t = q(y_t) / p̃(y_t),   r_t = log p(y_t) / q(y_t)
    single step: Σ_t w_t ∇ KL(q ‖ p) at step t
    later steps: −Σ_t w_t R_{t+1} ∇ log q(y_t),   R_{t+1} the mean of r over the steps after t

p is the teacher, q the student, each probability given the text before; p̃, w and R have no gradient. The first is
`loss=reverse_kl`, its rows weighted by w; the second is the cross-entropy of the tokens that were drawn, weighted by
w R: `loss/task` holds it in the steps with the student's own text. In the other steps it is their language modelling
loss of given text. Without `normalise` R is the sum. Both parts have the weight that the loss gives them, 1 and 1.

Left out: several updates of one text with clipped ratios (their PPO epochs), and the clipping and scaling of rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Lesson, Progress, raised
from kdlab.core.soft_targets import soft_targets
from kdlab.modes.mode import Cast
from kdlab.modes.on_policy import OnPolicy


class MiniLLM(OnPolicy):
    """One student, and one frozen teacher, which write together.

    Args:
        cast: the networks of the run.
        prompt, share, temperature, every: see `OnPolicy`.
        teacher_share: α.
        normalise: rewards to come are averaged, not summed, so that short futures count like long ones.
    """

    def __init__(
        self,
        cast: Cast,
        prompt: int,
        share: float,
        temperature: float,
        teacher_share: float,
        every: int = 1,
        *,
        normalise: bool = True,
    ) -> None:
        super().__init__(cast, prompt, share, temperature, every)
        if len(cast.teachers) > 1:
            raise UsageError(f"mode=minillm has one teacher, not {len(cast.teachers)}; type mode=on_policy")
        self._teacher_share, self._normalise = teacher_share, normalise

    @property
    def writers(self) -> list[tuple[nn.Module, float]]:
        alone, share = super().writers, self._teacher_share
        return [(alone[0][0], 1 - share), (self.teachers[0].network, share)] if share else alone

    def own(self, written: Mapping[str, Tensor], batch: Batch) -> Batch:
        """Its tokens are targets, which the lesson weights by the rewards to come."""
        made = super().own(written, batch)
        return {**made, "target": written["text"][:, 1:], "log_probability": written["log_probability"]}

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        (lesson,) = super().lessons(batch, progress)
        if "log_probability" not in batch:
            return [lesson]
        drawn, token = batch["log_probability"], batch["target"][:, None]  # rows are samples · steps
        with torch.no_grad():
            ours = raised(lesson.learner.logits).log_softmax(1).gather(1, token).view_as(drawn)
            theirs = soft_targets(lesson.teachers[0]).gather(1, token).view_as(drawn)
            importance = (ours - drawn).exp()
            rewards = to_come(theirs - ours, normalise=self._normalise)
        return [replace(lesson, weight=importance.view(1, -1), task=(importance * rewards).flatten())]


def to_come(rewards: Tensor, *, normalise: bool) -> Tensor:
    """Of each step the mean, or sum, of the rewards [B, T] of the steps after it; 0 for the last. [B, T]."""
    total = rewards.flip(1).cumsum(1).flip(1) - rewards
    after = torch.arange(rewards.shape[1] - 1, -1, -1, device=rewards.device)
    return total / after.clamp(min=1) if normalise else total
