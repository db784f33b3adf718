from dataclasses import replace
from math import prod

import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example
from kdlab.heads.feature.catkd import CATKD, catkd_loss, class_activation_maps
from support.feature_examples import LESSON, PROGRESS, example, wave

CONTEXT = Context(classes=5, samples=10)


def network(features: Tensor, weight: Tensor, name: str) -> Example:
    """A network by its last map [B, D, H, W] and its classifier's weight [C, D]."""
    classifier = nn.Linear(weight.shape[1], weight.shape[0]).double()
    classifier.weight.data.copy_(weight)
    return example(features, name=name, classifier=classifier)


def pair() -> tuple[Example, Example]:
    learner = network(wave(2, 3, 8, 8), wave(5, 3, step=0.73), "student")
    return learner, network(wave(2, 6, 4, 4, step=0.91), wave(5, 6, step=0.73, phase=1), "teacher")


def ask(head: CATKD, learner: Example, teacher: Example) -> Tensor:
    return head(learner.knowledge, teacher.knowledge, LESSON, PROGRESS)


def built(learner: Example, teacher: Example, pool: int = 2, normalise: bool = False) -> CATKD:
    head = CATKD(pool=pool, normalise=normalise)
    head.build(learner, teacher, CONTEXT)
    return head


@pytest.mark.parametrize(("shape", "pool"), [((2, 3, 4, 4), 2), ((1, 5, 8, 8), 4), ((3, 2, 6, 6), 1)])
def test_activation_maps_are_the_classifier_at_every_position_then_pooled(shape: tuple[int, ...], pool: int) -> None:
    features, weight = wave(*shape), wave(4, shape[1], step=0.73)
    maps, block = class_activation_maps(features, weight, pool), shape[2] // pool
    for b in range(shape[0]):
        for c in range(4):
            full = sum(weight[c, d] * features[b, d] for d in range(shape[1]))
            for i in range(pool):
                for j in range(pool):
                    cell = full[i * block : (i + 1) * block, j * block : (j + 1) * block]
                    assert maps[b, c, i, j].item() == pytest.approx(cell.mean().item(), abs=1e-12)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 2, 2), (1, 3, 4, 4)])
def test_the_loss_is_the_equation_written_out(shape: tuple[int, ...], normalise: bool) -> None:
    student, teacher = wave(*shape), wave(*shape, step=0.91)
    expected = 0.0
    maps = (student.flatten(0, 1).flatten(1).tolist(), teacher.flatten(0, 1).flatten(1).tolist())
    for one, other in zip(*maps, strict=True):
        lengths = [sum(v * v for v in values) ** 0.5 if normalise else 1.0 for values in (one, other)]
        expected += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(one, other, strict=True))
    assert catkd_loss(student, teacher, normalise=normalise).item() == pytest.approx(expected / prod(shape), rel=1e-12)


@pytest.mark.parametrize(
    ("pool", "normalise", "value"),
    [
        (2, False, 0.016307345309639162),
        (2, True, 0.4241381051284314),
        (4, False, 0.24527810506308478),
        (4, True, 0.11780600179937487),
    ],
)
def test_the_head_gives_what_the_authors_code_gives(pool: int, normalise: bool, value: float) -> None:
    # GzyAftermath/CAT-KD, commit 2657a680, mdistiller/distillers/CAT_KD.py, CAT_loss, on maps that a 1×1 convolution
    # with the classifier's weight and no bias makes, as in the repository's converted networks.
    learner, teacher = pair()
    assert ask(built(learner, teacher, pool, normalise), learner, teacher).item() == pytest.approx(value, rel=1e-9)


def test_normalised_maps_compare_directions_alone() -> None:
    maps = wave(2, 3, 2, 2)
    assert catkd_loss(7 * maps, maps, normalise=True).item() == pytest.approx(0, abs=1e-15)
    assert catkd_loss(-maps, maps, normalise=True).item() == pytest.approx(4 / 4)  # ‖2u‖² over four positions
    assert catkd_loss(maps + 3, maps, normalise=False).item() == pytest.approx(9)


def test_identical_networks_have_nothing_to_learn() -> None:
    learner, _ = pair()
    assert ask(built(learner, learner), learner, learner).item() == 0


def test_classifiers_are_read_as_they_stand_and_the_students_learns() -> None:
    learner, teacher = pair()
    head = built(learner, teacher)
    before = ask(head, learner, teacher)
    before.backward()
    assert learner.classifier.weight.grad.abs().sum() > 0
    assert teacher.classifier.weight.grad is None
    with torch.no_grad():
        teacher.classifier.weight.mul_(2)  # a peer that goes on training
    assert ask(head, learner, teacher).item() != pytest.approx(before.item())


def test_no_classifier_is_saved_or_trained_with_the_head() -> None:
    head = built(*pair())
    assert not list(head.parameters())
    assert not head.state_dict()


def test_networks_that_cannot_be_compared_are_refused_by_name() -> None:
    learner, teacher = pair()
    with pytest.raises(ValueError, match="student has 5 classes and other 7"):
        built(learner, network(wave(2, 6, 4, 4), wave(7, 6), "other"))
    odd = replace(learner, knowledge=replace(learner.knowledge, final_map=wave(2, 7, 3)), final_layer="block12")
    with pytest.raises(ValueError, match=r"student block12 gives 7 tokens \(2, 7, 3\): neither a square"):
        built(odd, teacher)


def test_the_map_before_pooling_is_read_and_not_the_last_stage() -> None:
    learner, teacher = pair()
    value = ask(built(learner, teacher), learner, teacher).item()
    other = wave(2, 3, 8, 8, phase=2)
    assert not torch.equal(other, learner.knowledge.stage(-1))
    raw = replace(learner, knowledge=replace(learner.knowledge, stages=(other,)))
    assert ask(built(raw, teacher), raw, teacher).item() == value
    pooled = replace(learner, knowledge=replace(learner.knowledge, final_map=other))
    assert ask(built(pooled, teacher), pooled, teacher).item() != pytest.approx(value)
