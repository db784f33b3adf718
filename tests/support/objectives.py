"""Objectives of toy networks: a student, its teachers, a batch of noise."""

import torch

from kdlab.core.knowledge import Context
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Offline
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.tasks.classification import Classification
from kdlab.training.objective import Objective
from support.toys import Net

CONTEXT = Context(10, 40, torch.arange(40) % 10)


def batch(samples: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    place = torch.arange(samples)
    return {"input": torch.randn(samples, 1, 8, 8, generator=generator), "target": place % 10, "index": place + 7,
            "view": place * 0}  # fmt: skip


def put_together(terms, teachers=1, *, task=None, task_weight=1.0, mode=Offline, dtype=torch.float32):
    torch.manual_seed(0)
    input = batch()["input"].to(dtype)
    student = Net(width=0.5).to(dtype)
    frozen = []
    for place in range(teachers):
        network = Net().to(dtype).eval()
        frozen.append(Teacher(f"teacher{place}", network, find_taps(network, input)))
    cast = Cast(lambda place=0: Observed("student", student, find_taps(student, input)), tuple(frozen), CONTEXT,
                batch())  # fmt: skip
    made = mode(cast)
    objective = Objective(made, task or Classification(10), terms, task_weight, CONTEXT)
    objective.build(made, {**batch(), "input": input}, 0)
    return made, objective
