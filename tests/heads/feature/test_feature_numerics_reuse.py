"""What reviewkd, mgd, simkd, catkd and srrl have in common: numbers that stay finite, and who learns."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Knowledge
from kdlab.heads.feature.catkd import CATKD, catkd_loss, class_activation_maps
from kdlab.heads.feature.mgd import MGD, mgd_loss
from kdlab.heads.feature.reviewkd import ReviewKD, context_loss
from kdlab.heads.feature.simkd import simkd_loss
from kdlab.heads.feature.srrl import SRRL, srrl_loss
from kdlab.heads.head import Head
from support.feature_examples import LESSON, PROGRESS, wave


def attention(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    weight = wave(5, student.shape[1], step=0.73)
    maps = [class_activation_maps(features, weight, 2) for features in (student, teacher)]
    return catkd_loss(*maps, normalise=normalise)


def regression(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = student.mean((2, 3)), teacher.mean((2, 3))
    weight = wave(5, student.shape[1], step=0.73)
    return srrl_loss(ours, theirs, theirs @ weight.T.to(theirs), weight, None, matching_weight=1, regression_weight=1)


LOSSES = {
    "reviewkd": context_loss,
    "mgd": mgd_loss,
    "simkd": simkd_loss,
    "catkd": partial(attention, normalise=False),
    "catkd normalised": partial(attention, normalise=True),
    "srrl": regression,
}
losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@losses
def test_the_gradient_is_that_of_the_value(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student = wave(2, 3, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(loss, (student, wave(2, 3, 6, 6, step=0.91)))


@losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1000.0, 0.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_value_and_gradient_stay_finite(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, scale: float, batch: int
) -> None:
    student = (scale * wave(batch, 3, 6, 6)).to(dtype).requires_grad_()
    teacher = (-scale * wave(batch, 3, 6, 6, step=0.91)).to(dtype)
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()


def network(kind: str, features: int) -> Example:
    """Maps of 2 or 4 stages, or tokens with a class token in front; channels and sizes differ between kinds."""
    torch.manual_seed(features)
    if kind == "tokens":
        stages = tuple(torch.randn(4, 17, features) for _ in range(3))
        embedding = stages[-1][:, 0]
    else:
        count = int(kind)
        stages = tuple(torch.randn(4, features, 4 * 2**place, 4 * 2**place) for place in reversed(range(count)))
        embedding = stages[-1].mean((2, 3))
    classifier = nn.Linear(features, 5)
    knowledge = Knowledge(
        classifier(embedding).detach(), embedding, stages, (None,) * len(stages), final_map=stages[-1]
    )
    return Example(knowledge, classifier, layers=tuple(f"stage{i}" for i in range(len(stages))), name=kind)


HEADS = {
    "reviewkd": lambda: ReviewKD(width=512),
    "mgd": lambda: MGD(stage=-1, mask="positions", ratio=0.15),
    "catkd": lambda: CATKD(pool=2, normalise=True),
    "srrl": lambda: SRRL(matching_weight=1.0, regression_weight=1.0),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize(
    ("learner", "teacher"), [("3", "3"), ("2", "4"), ("4", "2"), ("1", "3"), ("3", "tokens"), ("tokens", "4")]
)
def test_every_learned_part_and_the_student_learn_and_the_teacher_does_not(
    make: Callable[[], Head], learner: str, teacher: str
) -> None:
    ours, theirs = network(learner, 6), network(teacher, 8)
    head = make()
    head.build(ours, theirs, Context(classes=5, samples=10))
    known = ours.knowledge._map(lambda value: value.clone().requires_grad_())
    loss = head(known, theirs.knowledge, LESSON, PROGRESS)
    assert loss.shape == ()
    loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    read = [known.stage(-1).grad, known.before_pooling().grad]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in read)
    assert theirs.classifier.weight.grad is None
