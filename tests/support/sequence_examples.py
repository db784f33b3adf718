"""What networks on sequences know, made of waves: no random numbers; and padding that must not count."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.knowledge import Attention, Context, Example, Knowledge, Lesson, Progress
from kdlab.heads.head import Head
from kdlab.networks.observer import Observer
from kdlab.networks.taps import find_taps
from support.feature_examples import wave
from support.transformer_networks import language_network, padded

VALID = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])
"""Three samples of four, two and one tokens."""


def blocks(count: int, width: int, phase: float = 0.0) -> tuple[Tensor, ...]:
    """What the first of `count` blocks reads and what each returns, [3, 4, width]."""
    return tuple(wave(3, 4, width, step=0.7 + 0.1 * place, phase=phase + place) for place in range(count + 1))


def attention(heads: int, width: int, phase: float = 0.0, mask: Tensor | None = VALID[:, None, None]) -> Attention:
    """One attention [3, heads, 4, width]."""
    three = (wave(3, heads, 4, width, step=0.5 + 0.2 * place, phase=phase + place, scale=2.0) for place in range(3))
    return Attention(*three, width**-0.5, mask)


def knows(
    depth: int = 2, width: int = 6, heads: int = 2, phase: float = 0.0, valid: Tensor | None = VALID
) -> Knowledge:
    """The knowledge of a network of so many blocks, width and attention heads."""
    mask = None if valid is None else valid[:, None, None]
    attentions = tuple(attention(heads, width // heads, phase + place, mask) for place in range(depth))
    logits = wave(3, 5, phase=phase).float()
    return Knowledge(
        logits, rows=torch.arange(3), valid=valid, blocks=blocks(depth, width, phase), attention=attentions
    )


def built(head: Head, learner: Knowledge, teacher: Knowledge) -> Head:
    """The head for two networks, in float64."""
    torch.manual_seed(0)
    head.build(Example(learner, name="student"), Example(teacher, name="teacher"), Context(classes=5, samples=3))
    return head.double()


def value(head: Head, learner: Knowledge, teacher: Knowledge) -> Tensor:
    """What a head says of them."""
    return head(learner, teacher, Lesson(learner, (teacher,), None, torch.arange(3)), Progress())


class Pooled:
    """Reads one row for each sample: whatever comes out, at the first position."""

    def read(self, output: object, batch: object) -> tuple[Tensor, Tensor]:
        logits = output.logits if output.logits.ndim == 2 else output.logits[:, 0]
        return logits, torch.arange(len(logits))

    def laid_out(self, values: Tensor, batch: object) -> Tensor:
        return values if values.ndim == 2 else values[:, 0]


def loss_of(head: Head, input: dict[str, Tensor] | None = None, families: tuple[str, str] = ("bert", "bert")) -> Tensor:
    """The loss between two networks, the teacher's wider, over one input; by default one with padding."""
    wide = {"bert": {"hidden_size": 24}, "gpt2": {"n_embd": 24}, "llama": {"hidden_size": 24, "head_dim": 6}}
    networks = (
        language_network(families[0]).double(), language_network(families[1], seed=1, **wide[families[1]]).double()
    )  # fmt: skip
    fields = head.needs()
    learner, teacher = (
        Observer(network, find_taps(network, padded()), asked, Pooled())
        for network, asked in zip(networks, (fields.learner, fields.teacher), strict=True)
    )
    torch.manual_seed(3)
    with learner, teacher:
        small = {"input": padded()}
        head.build(learner.example(small), teacher.example(small), Context(classes=2, samples=2))
        head.double()
        batch = {"input": padded() if input is None else input}
        ours, theirs = learner(batch), teacher(batch).detach()
        return head(ours, theirs, Lesson(ours, (theirs,), None, torch.arange(2)), Progress())
