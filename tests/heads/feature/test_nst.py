"""nst: maximum mean discrepancy between channels."""

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.nst import NST, nst_loss
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)


def by_loops(student: torch.Tensor, teacher: torch.Tensor) -> float:
    def mean_kernel(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
        return sum(float((a * b).sum()) ** 2 for a in one for b in other) / (len(one) * len(other))

    total = 0.0
    for n in range(len(student)):
        s = [channel.flatten() / channel.norm() for channel in student[n]]
        t = [channel.flatten() / channel.norm() for channel in teacher[n]]
        total += mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
    return total / len(student)


# More positions than channels, fewer, between the two widths, and as many.
@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 4), (2, 20, 9, 2, 3), (3, 4, 12, 2, 4), (1, 6, 6, 2, 3)])
def test_nst_is_the_squared_discrepancy_of_its_definition(shape):
    samples, ours, theirs, height, width = shape
    student, teacher = wave(samples, ours, height, width), wave(samples, theirs, height, width, phase=1.0, step=0.71)
    assert nst_loss(student, teacher).item() == pytest.approx(by_loops(student, teacher), rel=1e-9)


def test_nst_has_the_values_of_published_code():
    """HobbitLong/RepDistiller, distiller_zoo/NST.py at 1e2f816, on two pairs of stages and on a large map."""
    learner = knows(wave(2, 6, 8, 8, phase=0.5, scale=2), wave(2, 12, 4, 4, phase=2.5, step=0.53))
    teacher = knows(wave(2, 10, 4, 4, phase=1.5, step=0.61), wave(2, 5, 8, 8, phase=0.1, step=0.29))
    head = NST()
    head.build(example(*learner.stages), example(*teacher.stages), CONTEXT)
    value = head(learner, teacher, LESSON, PROGRESS).item()
    assert value == pytest.approx(0.982702418414172 + 1.0808571311257746, rel=1e-9)
    large = nst_loss(wave(2, 6, 8, 8, phase=0.5), wave(2, 10, 8, 8, phase=1.5, step=0.61))
    assert large.item() == pytest.approx(0.9944024909429091, rel=1e-9)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 20, 2, 2)])
def test_order_repetition_and_scale_of_channels_do_not_matter(shape):
    features = wave(*shape)
    same = torch.cat((2 * features.flip(1), features), dim=1)
    assert nst_loss(same, features).item() == pytest.approx(0, abs=1e-12)


def test_one_channel_by_hand():
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert nst_loss(student, teacher).item() == pytest.approx(1 + 1 - 2 * 0.36)


@pytest.mark.parametrize("shape", [(2, 300, 4, 4), (2, 10, 20, 20)])
def test_nothing_larger_than_the_maps_is_kept_for_the_gradient(shape):
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nst_loss(wave(*shape).requires_grad_(), wave(*shape, phase=1.0))
    assert 0 < max(kept) <= wave(*shape).numel()
