"""ft: factors of the last map, learned in two phases or fixed."""

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.ft import FT, channel_mean, ft_loss
from support.feature_examples import LESSON, PROGRESS, example, fill, knows, wave

CONTEXT = Context(classes=3, samples=8)
STUDENT, TEACHER = wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 10, 4, 4, phase=1.5, step=0.61)


def built(variant: str = "paraphraser", rate: float = 0.5) -> FT:
    head = FT(stage=-1, variant=variant, rate=rate)
    head.build(example(STUDENT), example(TEACHER), CONTEXT)
    return head.double()


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 4, 3, 5), (2, 6, 1, 1)])
def test_ft_is_the_mean_absolute_difference_of_unit_factors(shape):
    student, teacher = wave(*shape), wave(*shape, phase=1.0, step=0.7)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        ours, theirs = s.flatten().tolist(), t.flatten().tolist()
        a, b = sum(x * x for x in ours) ** 0.5, sum(x * x for x in theirs) ** 0.5
        total += sum(abs(x / a - y / b) for x, y in zip(ours, theirs, strict=True))
    assert ft_loss(student, teacher).item() == pytest.approx(total / student.numel(), rel=1e-10)


def test_learned_factors_have_the_value_of_the_authors_code():
    """Jangho-Kim/Factor-Transfer-pytorch at e8d6ac6: Models/FeatureProjection.py, utils.py, train_student.py."""
    head = built()
    fill(head.paraphraser)
    fill(head.translator)
    value = head(knows(STUDENT), knows(TEACHER), LESSON, PROGRESS).item()
    assert value == pytest.approx(0.10035675532709473, rel=1e-9)


def test_the_paraphraser_has_the_value_of_published_code():
    """The authors' Paraphraser in mode 0, with the squared error of the paper, as in HobbitLong/RepDistiller,
    helper/pretrain.py at b2487ab; their own script takes the absolute error."""
    head = built()
    fill(head.paraphraser)
    assert head.prepare(knows(TEACHER)).item() == pytest.approx(0.5463045118930231, rel=1e-9)


def test_the_mean_of_learned_factors_is_that_of_published_code():
    """HobbitLong/RepDistiller, models/util.py:45 at eedab9d: Translator with its use_bn, Paraphraser without;
    distiller_zoo/FT.py:31 at 1e2f816, written out here in float64 for one sample and position at a time."""
    head = built("paraphraser_mean")
    fill(head.paraphraser)
    fill(head.translator)
    with torch.no_grad():
        ours, theirs = head.translator(STUDENT), head.paraphraser.encoder(TEACHER)
    total = 0.0
    for one, other in zip(ours, theirs, strict=True):
        both = []
        for factor in (one, other):
            means = [sum(v * v for v in factor[:, y, x].tolist()) / 5 for y in range(4) for x in range(4)]
            both.append([mean / sum(m * m for m in means) ** 0.5 for mean in means])
        total += sum(abs(a - b) for a, b in zip(*both, strict=True))
    assert head(knows(STUDENT), knows(TEACHER), LESSON, PROGRESS).item() == pytest.approx(total / 32, rel=1e-9)
    assert [type(layer).__name__ for layer in head.translator] == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in head.paraphraser.modules())


@pytest.mark.parametrize(
    ("student", "teacher", "value"),
    [
        (wave(2, 6, 8, 8, phase=0.5, scale=2), TEACHER, 0.023567514654339157),
        (wave(2, 12, 4, 4, phase=2.5, step=0.53), wave(2, 5, 8, 8, phase=0.1, step=0.29), 0.08856741138718457),
    ],
)
def test_the_channel_mean_has_the_value_of_published_code(student, teacher, value):
    """HobbitLong/RepDistiller, distiller_zoo/FT.py at 1e2f816, on the maps themselves."""
    head = FT(stage=-1, variant="channel_mean", rate=0.5)
    head.build(example(student), example(teacher), CONTEXT)
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).item() == pytest.approx(value, rel=1e-9)
    assert not list(head.parameters())


def test_the_channel_mean_by_hand():
    torch.testing.assert_close(channel_mean(torch.tensor([[[[3.0]], [[1.0]]]])), torch.tensor([[[[5.0]]]]))


def test_the_first_phase_fits_the_paraphraser_to_the_teacher_alone():
    head = built()
    fill(head.paraphraser)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02)
    before = head.prepare(knows(TEACHER)).item()
    for _ in range(20):
        optimizer.zero_grad()
        head.prepare(knows(TEACHER)).backward()
        optimizer.step()
    assert head.prepare(knows(TEACHER)).item() < 0.9 * before
    assert all(parameter.grad is None for parameter in head.translator.parameters())


def test_the_second_phase_trains_the_translator_and_leaves_the_paraphraser():
    head = built()
    head(knows(STUDENT), knows(TEACHER), LESSON, PROGRESS).backward()
    assert all(parameter.grad is None for parameter in head.paraphraser.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.translator.parameters())


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 5), (0.75, 8), (0.01, 1)])
def test_rate_is_the_share_of_the_teachers_channels(rate, channels):
    assert built(rate=rate).paraphraser.encoder(TEACHER).shape == (2, channels, 4, 4)


def test_a_variant_without_learned_parts_has_nothing_to_prepare():
    assert built("channel_mean").prepared() == ()
    for variant in ("paraphraser", "paraphraser_mean"):
        head = built(variant)
        assert head.prepared() == (head.paraphraser,)


@pytest.mark.parametrize(("key", "value"), [("variant", "mean"), ("rate", 0.0)])
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(ValueError, match=f"{key}={value}; expected"):
        FT(**{"stage": -1, "variant": "paraphraser", "rate": 0.5, key: value})
