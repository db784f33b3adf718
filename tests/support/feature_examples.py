"""Deterministic maps and examples for the tests of feature heads; no random numbers, so no version of them."""

from math import prod

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Example, Knowledge, Lesson, Progress

LESSON = Lesson(learner=Knowledge(torch.zeros(2, 3)), teachers=(), target=None, index=torch.arange(2))
PROGRESS = Progress()


def wave(*shape: int, step: float = 0.37, phase: float = 0.0, scale: float = 1.0) -> Tensor:
    """scale · sin(step · i + phase) in float64, i counting along the flattened tensor."""
    return (scale * torch.sin(step * torch.arange(prod(shape), dtype=torch.float64) + phase)).reshape(shape)


def fill(module: nn.Module) -> None:
    """The n-th parameter becomes 0.3 · sin(0.9 · i + n)."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(*parameter.shape, step=0.9, phase=number, scale=0.3))


def knows(*maps: Tensor) -> Knowledge:
    """What a network with these maps says; the same before the activation as after, and the last is the final map."""
    return Knowledge(torch.zeros(len(maps[0]), 3), stages=maps, preactivations=maps, final_map=maps[-1])


def example(*maps: Tensor, name: str = "network", **rest: object) -> Example:
    """An example of a network whose stages are called layer1, layer2 and so on."""
    layers = tuple(f"layer{place}" for place in range(1, len(maps) + 1))
    return Example(knows(*maps), layers=layers, name=name, final_layer=layers[-1], **rest)
