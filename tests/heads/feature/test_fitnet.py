"""fitnet: one hint through a learned regressor."""

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.fitnet import FitNet, fitnet_loss
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)


def built(ours: torch.Tensor, theirs: torch.Tensor) -> FitNet:
    head = FitNet(stage=-1)
    head.build(example(ours), example(theirs), CONTEXT)
    return head.double()


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 4, 5, 2), (2, 7, 1, 1)])
def test_fitnet_is_the_mean_squared_difference(shape):
    student, teacher = wave(*shape), wave(*shape, phase=1.0, step=0.7)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert fitnet_loss(student, teacher).item() == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / len(pairs))


def test_the_larger_map_is_average_pooled():
    teacher = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert fitnet_loss(torch.tensor([[[[6.0]]]]), teacher).item() == 4.0


def test_fitnet_has_the_value_of_published_code():
    """HobbitLong/RepDistiller, models/util.py at eedab9d: ConvReg (its bias is taken out again by the batch
    normalisation) in train mode; distiller_zoo/FitNet.py at 1e2f816: HintLoss."""
    student, teacher = wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 10, 4, 4, phase=1.5, step=0.61)
    head = built(student, teacher)
    with torch.no_grad():
        head.regressor[0].weight.copy_(wave(10, 6, 1, 1, step=0.9, scale=0.3))
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).item() == pytest.approx(0.9390682144790489, rel=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs", "regressed"),
    [((8, 8), (4, 4), (4, 4)), ((8, 4), (2, 4), (2, 4)), ((4, 4), (8, 8), (4, 4)), ((14, 14), (8, 8), (7, 7))],
)
def test_the_regressor_strides_towards_the_size_of_the_hint(ours, theirs, regressed):
    student, teacher = wave(2, 3, *ours), wave(2, 5, *theirs)
    head = built(student, teacher)
    assert head.regressor(student).shape == (2, 5, *regressed)
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).isfinite()


def test_a_network_without_that_stage_is_refused_by_name():
    head = FitNet(stage=-2)
    with pytest.raises(ValueError, match="small stage -2 has no map"):
        head.build(example(wave(2, 3, 4, 4), name="small"), example(wave(2, 3, 4, 4), wave(2, 3, 2, 2)), CONTEXT)
