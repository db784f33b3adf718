"""Deterministic rows, maps and networks for the tests of relation heads; no random numbers, so no version of them."""

from math import prod

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress

PROGRESS = Progress()
CONTEXT = Context(classes=4, samples=12, labels=torch.arange(12) % 4)


def wave(*shape: int, step: float = 0.37, phase: float = 0.0) -> Tensor:
    """sin(step · i + phase) in float64, i counting along the flattened tensor."""
    return torch.sin(torch.arange(prod(shape), dtype=torch.float64) * step + phase).reshape(shape)


def rotation(size: int) -> Tensor:
    """An orthogonal matrix."""
    return torch.linalg.qr(wave(size, size, step=1.7)).Q


def knows(embedding: Tensor, *maps: Tensor) -> Knowledge:
    """What a network with this embedding and these maps says of as many samples."""
    return Knowledge(torch.zeros(len(embedding), 4), embedding, stages=maps, rows=torch.arange(len(embedding)))


def example(embedding: Tensor, *maps: Tensor, name: str = "network") -> Example:
    """An example of a network whose stages are called layer1, layer2 and so on."""
    layers = tuple(f"layer{place}" for place in range(1, len(maps) + 1))
    return Example(knows(embedding, *maps), layers=layers, name=name)


def lesson(learner: Knowledge, index: Tensor | None = None) -> Lesson:
    """A lesson about the first samples of the training set, or those of `index`."""
    index = torch.arange(len(learner.logits)) if index is None else index
    return Lesson(learner, (), index % 4, index)


def as_identity(*layers: nn.Linear) -> None:
    """Linear layers that hand on what they are given."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.eye(*layer.weight.shape))
            layer.bias.zero_()
