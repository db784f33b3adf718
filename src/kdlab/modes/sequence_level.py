"""sequence_level: the student learns the text that the teacher wrote.

Kim, Rush. Sequence-Level Knowledge Distillation. EMNLP 2016, equation 7.

    L = −log q(ŷ | x),   ŷ ≈ argmax_y p(y | x)

x is the beginning of a block of the training part, which the teacher continues to the block's end, once, before
training: see `_written.py`. Theirs is a beam search of width 5; here it is greedy, a beam of 1, or sampled. A language
model has no source apart from its text, so the prompts count like what follows them. With a loss, such as `loss=kd`,
the student also listens to the teacher's probabilities for that text: their interpolation of both, with the weights of
the loss. Several teachers write together, by their mean probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdlab.core.knowledge import Batch, Fields, Lesson, Progress
from kdlab.data.counter_rng import WRITE, uniform
from kdlab.modes._blocks import as_batch, length_of, prompts
from kdlab.modes._written import written_once
from kdlab.modes.mode import Cast, Edge
from kdlab.modes.offline import Combine, Offline
from kdlab.networks.generation import continued

TOGETHER = 64
"""Texts that are written at once; the same whatever the batches of the run, whose sums would round otherwise."""


class SequenceLevel(Offline):
    """One student, and one or more frozen teachers, which write its training text.

    Args:
        cast: the networks of the run.
        prompt: tokens of a block that are kept.
        temperature: of what the teachers draw from; None: greedy.
        combine, weights: how response losses read several teachers, see `Offline`.
    """

    wants_text = True
    needs_heads = False

    def __init__(
        self,
        cast: Cast,
        prompt: int,
        temperature: float | None = None,
        combine: Combine = "probabilities",
        weights: Sequence[float] | None = None,
    ) -> None:
        self._length = length_of(cast, "sequence_level", prompt)
        super().__init__(cast, combine, weights)
        self._prompt, self._temperature = prompt, temperature
        self._seed = int(torch.randint(2**62, ()))
        self._compared = False  # whether any loss reads the teachers
        self._text: Tensor | None = None

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        super().listen(asked)
        self._compared = bool(asked)

    def begin(self, training: Callable[[], Iterable[Batch]]) -> None:
        """Reads the teachers' text of the whole training part, written now where it is missing."""
        prompt = torch.cat([prompts(batch, self._prompt) for batch in training()])
        settings = {"length": self._length, "temperature": self._temperature, "together": TOGETHER}
        if self._temperature is not None:
            settings["seed"] = self._seed
        networks = [teacher.network for teacher in self.teachers]
        self._text = written_once(networks, prompt, settings, lambda: self._write(prompt))

    def _write(self, prompt: Tensor) -> Tensor:
        print(f"the teacher writes {len(prompt)} texts of {self._length} tokens, once", flush=True)
        writers = [(teacher.network, 1 / len(self.teachers)) for teacher in self.teachers]
        parts = []
        for first in range(0, len(prompt), TOGETHER):
            some, draws = prompt[first : first + TOGETHER], None
            if self._temperature is not None:
                index = torch.arange(first, first + len(some), device=prompt.device)
                draws = uniform(self._seed, index, torch.zeros_like(index), WRITE, self._length - self._prompt)
            parts.append(continued(writers, some, self._length, draws, self._temperature or 1.0).text.int().cpu())
        return torch.cat(parts)

    def drawn(self, batch: Batch, progress: Progress) -> Batch:
        """The same samples, as the teachers wrote them."""
        assert self._text is not None, "begin comes before the first batch"
        index: Tensor = batch["index"]
        return as_batch(self._text[index.cpu()].long().to(index.device), batch)

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """No teacher runs where no loss compares."""
        if self._compared:
            return super().lessons(batch, progress)
        return [Lesson(self.observed[0](batch), (), batch["target"], batch["index"])]
