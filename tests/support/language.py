"""Toy language models, and casts in which one student learns from frozen teachers on blocks of text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch, Context
from kdlab.modes.mode import Cast
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.tasks.language_modeling import LanguageModeling

VOCABULARY, LENGTH = 12, 10
TASK = LanguageModeling(VOCABULARY)


class Bigram(nn.Module):
    """The next token from the last; keeps no keys and values."""

    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.drop = nn.Embedding(VOCABULARY, width), nn.Dropout(dropout)
        self.classifier = nn.Linear(width, VOCABULARY)
        nn.init.normal_(self.classifier.weight, std=1.0)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens [B, L] to logits [B, L, V]."""
        logits: Tensor = self.classifier(self.drop(self.words(input_ids)))
        return logits


class Fixed(nn.Module):
    """The same probabilities whatever it reads."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(probabilities).log())

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens [B, L] to logits [B, L, V]."""
        return self.get_buffer("logits").expand(*input_ids.shape, -1)


def blocks(samples: int = 6, seed: int = 0, *, first: int = 0) -> Batch:
    """Random blocks of text, in the places from `first` on."""
    text = torch.randint(0, VOCABULARY, (samples, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    place = torch.arange(samples)
    return {"input": {"input_ids": text[:, :-1]}, "target": text[:, 1:], "index": place + first, "view": place * 0}


def school(student: nn.Module | None = None, *teachers: nn.Module) -> Cast:
    """A student and its teachers, each a Bigram with a start of its own where none is given."""
    torch.manual_seed(1)
    student, example = student or Bigram(), blocks(2)
    torch.manual_seed(2)
    frozen = tuple(
        Teacher(f"teacher{place}", network, find_taps(network, example["input"]), TASK)
        for place, network in enumerate(teachers or (Bigram(16),))
    )
    learner = Observed("student", student, find_taps(student, example["input"]), TASK)
    return Cast(lambda place=0: learner, frozen, Context(VOCABULARY, 40), example)
