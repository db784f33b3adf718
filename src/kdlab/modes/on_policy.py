"""on_policy: the student writes, and the teacher marks what it wrote.

Agarwal et al. On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. ICLR 2024,
algorithm 1.

    u ~ U(0, 1);   u < λ: y ~ p_s(· | x),   otherwise (x, y) of the given text;   L = mean of D(p_t ‖ p_s) over y

x is the beginning of a block, D any response loss. As published the student's samples have no gradient of their own.
Of its own text only what follows the prompt makes rows, without labels, so `loss/task` is 0 in those steps and its
means are over all steps; the given text counts whole, with its labels. Losses on representations read whole texts,
prompts too. The student should know the language first: one that still writes noise learns little from it. So
begin with another mode, `'phases=[{epochs: 2, mode: offline}, {epochs: 1}]'`, or from weights.

With `every`=k a text is kept for the steps of the student's own that follow within k optimizer steps: such a step
learns from what the student of 0 to k - 1 steps ago wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.core.distributed import gathered, own_share
from kdlab.core.knowledge import Batch, Progress
from kdlab.data.counter_rng import CHOOSE, WRITE, uniform
from kdlab.modes._blocks import after, as_batch, length_of, prompts
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Combine, Offline
from kdlab.networks.generation import continued

KEPT = ("text", "log_probability", "index", "view")


class OnPolicy(Offline):
    """One student that learns from its own text, and one or more frozen teachers.

    Args:
        cast: the networks of the run.
        prompt: tokens of a block that the student continues, to the end of the block.
        share: λ, of steps with the student's own text.
        temperature: of the probabilities that it draws from.
        every: optimizer steps for which a text is kept.
        combine, weights: of several teachers, see `Offline`.
    """

    wants_text = True
    text: Tensor
    log_probability: Tensor
    index: Tensor
    view: Tensor

    def __init__(
        self,
        cast: Cast,
        prompt: int,
        share: float,
        temperature: float,
        every: int = 1,
        combine: Combine = "probabilities",
        weights: Sequence[float] | None = None,
    ) -> None:
        self._length = length_of(cast, type(self).__module__.rpartition(".")[2], prompt)
        super().__init__(cast, combine, weights)
        self._prompt, self._share, self._temperature, self._every = prompt, share, temperature, every
        self._seed = int(torch.randint(2**62, ()))
        self._born = 0  # the step of the text that is kept
        for name in KEPT:
            self.register_buffer(name, torch.empty(0))

    @property
    def writers(self) -> list[tuple[nn.Module, float]]:
        """The networks whose mixed probabilities the text is drawn from, with their shares."""
        return [(self.observed[0].network, 1.0)]

    def drawn(self, batch: Batch, progress: Progress) -> Batch:
        """The student's own text in a share of the steps, the same steps on every rank."""
        chance = uniform(self._seed, torch.tensor([0]), torch.tensor([progress.step]), CHOOSE, 1)
        return self.own(self._written(batch, progress.step), batch) if chance < self._share else batch

    def own(self, written: Mapping[str, Tensor], batch: Batch) -> Batch:
        """A batch of the student's own text, in place of the loader's."""
        text = written["text"]
        return as_batch(text, {**batch, **written}, labelled=False, valid=after(self._prompt, text))

    def _written(self, batch: Batch, step: int) -> dict[str, Tensor]:
        if len(self.text) and self._born <= step < self._born + self._every:
            return {name: own_share(getattr(self, name)) for name in KEPT}
        prompt, index, view = prompts(batch, self._prompt), batch["index"], batch["view"]
        draws = uniform(self._seed, index, view, WRITE, self._length - self._prompt)
        text, log_probability = continued(self.writers, prompt, self._length, draws, self._temperature)
        made = {"text": text, "log_probability": log_probability, "index": index, "view": view}
        if self._every > 1:
            self._born = step
            for name, rows in made.items():
                setattr(self, name, gathered(rows))
        return made

    def begin_epoch(self, progress: Progress) -> None:
        """A new phase begins with a text of its own: its steps are counted anew."""
        if progress.step == 0:
            self._born = -self._every

    def get_extra_state(self) -> dict[str, int]:
        """At which step the text that is kept was written."""
        return {"born": self._born}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self._born = state["born"]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # The saved text decides the size, even of none.
        for name in KEPT:
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
