"""What the tests of response heads share: logits that anyone can make again, and a lesson around them."""

from __future__ import annotations

import pytest
import torch

from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress


@pytest.fixture
def sines():
    """(student [N, C], teacher [N, C], label [N]) in float64; the published values were computed on these."""

    def make(rows=8, classes=10, shift=0.0):
        k = torch.arange(rows * classes, dtype=torch.float64).view(rows, classes)
        label = (3 * torch.arange(rows) + 1) % classes
        return 4 * torch.sin(k + shift), 5 * torch.sin(1.7 * k + 1 + shift), label

    return make


@pytest.fixture
def respond():
    """The rows [N] that a head answers to logits of a learner and a teacher."""

    def ask(head, student, teacher, target=None, members=(), progress=None, strong=None):
        learner, other = Knowledge(logits=student), Knowledge(logits=teacher, members=tuple(members))
        views = {} if strong is None else {"strong": lesson_of(Knowledge(strong[0]), Knowledge(strong[1]), target)}
        if not list(head.parameters()):
            head.build(Example(learner), Example(other), Context(student.shape[1], len(student)))
        return head(learner, other, lesson_of(learner, other, target, views), progress or Progress())

    def lesson_of(learner, teacher, target, views=None):
        return Lesson(learner, (teacher,), target, torch.arange(len(learner.logits)), views=views or {})

    return ask
