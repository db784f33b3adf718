"""vid: a learned Gaussian over the teacher's map."""

from math import exp, log

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.vid import VID, vid_loss
from support.feature_examples import LESSON, PROGRESS, example, fill, knows, wave

CONTEXT = Context(classes=3, samples=8)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 4, 2, 5)])
def test_vid_is_the_mean_negative_log_likelihood_without_its_constant(shape):
    mean, teacher, raw = wave(*shape), wave(*shape, phase=1.0, step=0.7), wave(shape[1], phase=-1.6, scale=12)
    total = 0.0
    for n, d, h, w in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        variance = log(1 + exp(raw[d])) + 1e-5
        total += 0.5 * ((mean[n, d, h, w] - teacher[n, d, h, w]).item() ** 2 / variance + log(variance))
    assert vid_loss(mean, teacher, raw).item() == pytest.approx(total / mean.numel(), rel=1e-9)


@pytest.mark.parametrize(
    ("raw", "value"), [(torch.full((10,), 5.0), 0.8553624887664437), (wave(10, step=0.9), 0.23096878472603963)]
)
def test_vid_has_the_value_of_published_code(raw, value):
    """HobbitLong/RepDistiller, distiller_zoo/VID.py at 1e2f816, whose log_scale is this raw variance."""
    student, teacher = wave(2, 6, 8, 8, phase=0.5, scale=2), wave(2, 10, 4, 4, phase=1.5, step=0.61)
    head = VID(raw_variance=5.0)
    head.build(example(student), example(teacher), CONTEXT)
    head.double()
    fill(head.means)
    with torch.no_grad():
        head.raw_variances[0].copy_(raw)
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).item() == pytest.approx(value, rel=1e-9)


def test_the_best_variance_is_the_squared_error():
    error = 1.7
    raw = torch.tensor([log(exp(error**2 - 1e-5) - 1)], dtype=torch.float64, requires_grad=True)
    vid_loss(torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), error, dtype=torch.float64), raw).backward()
    assert raw.grad.item() == pytest.approx(0, abs=1e-12)


def test_every_channel_of_the_teacher_has_a_trained_variance_near_five():
    head = VID(raw_variance=5.0)
    head.build(example(wave(2, 3, 8, 8), wave(2, 6, 4, 4)), example(wave(2, 4, 8, 8), wave(2, 9, 4, 4)), CONTEXT)
    assert [tuple(raw.shape) for raw in head.raw_variances] == [(4,), (9,)]
    for raw in head.raw_variances:
        assert raw.requires_grad
        assert torch.nn.functional.softplus(raw).mean().item() == pytest.approx(5, abs=0.01)
