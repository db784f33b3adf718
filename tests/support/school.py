"""Small casts for modes: networks from support/toys.py, a batch of noise, and a step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch, Context, Progress
from kdlab.modes.mode import Cast, Mode
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed
from kdlab.tasks.classification import Classification
from kdlab.training.objective import Counts, Objective, Term
from support.toys import Net

CONTEXT = Context(10, 40, torch.arange(40) % 10)


def batch(samples: int = 6, seed: int = 1, *, first: int = 7, dtype: torch.dtype = torch.float32) -> Batch:
    """Noise, one channel of 8×8, of the samples from `first` on."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(samples)
    input = torch.randn(samples, 1, 8, 8, generator=generator, dtype=dtype)
    return {"input": input, "target": (place * 3 + seed) % 10, "index": place + first, "view": place * 0}


def cast(
    make: Callable[[], nn.Module] = lambda: Net(width=0.5),
    peers: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    context: Context = CONTEXT,
) -> Cast:
    """A student and peers, each with a start of its own."""
    example = batch(2, 0, dtype=dtype)

    def learners(place: int = 0) -> Observed:
        torch.manual_seed(place)
        network = make().to(dtype)
        name = "student" if place == 0 else f"peer{place}"
        return Observed(name, network, find_taps(network, example["input"]))

    return Cast(learners, (), context, example, peers)


def taught(mode: Mode, *terms: Term, task_weight: float = 1.0) -> Objective:
    """The objective of a mode, its heads built."""
    objective = Objective(mode, Classification(10), terms, task_weight, CONTEXT)
    objective.refuse_impossible(mode, views=mode.shows)
    objective.build(mode, batch(2, 0, dtype=next(mode.parameters()).dtype), 0)
    return objective


def step(
    mode: Mode, objective: Objective, given: Batch, progress: Progress, rate: float = 0.1
) -> tuple[Tensor, Tensor]:
    """One step of plain gradient descent; the loss and its terms."""
    rows = float(len(given["index"]))
    loss, terms = objective(mode(given, progress), Counts(rows, rows), progress)
    trained = [parameter for parameter in (*mode.parameters(), *objective.parameters()) if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = None
    loss.backward()
    torch.optim.SGD(trained, rate).step()
    mode.after_step(progress)
    return loss.detach(), terms


class Functional(nn.Module):
    """Two stages, of which only the second ends in a module, so that only its preactivation can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Conv2d(1, 4, 3, 1, 1)
        self.stage2 = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Linear(8, 10)

    def forward(self, input: Tensor) -> Tensor:
        """A batch [B, 1, H, W] to logits [B, 10]."""
        logits: Tensor = self.classifier(self.stage2(self.stage1(input).relu()).mean((2, 3)))
        return logits
