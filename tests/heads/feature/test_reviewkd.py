from math import ceil, floor

import pytest
import torch
from torch import Tensor

from kdlab.core.knowledge import Context, Example, Knowledge
from kdlab.heads.feature.reviewkd import ReviewKD, context_loss
from support.feature_examples import LESSON, PROGRESS, fill, wave

CONTEXT = Context(classes=5, samples=10)


def example(stages: list[Tensor], embedding: Tensor, name: str, before: list[Tensor | None] | None = None) -> Example:
    knowledge = Knowledge(wave(len(embedding), 5), embedding, tuple(stages), tuple(before or [None] * len(stages)))
    return Example(knowledge, layers=tuple(f"layer{i}" for i in range(1, len(stages) + 1)), name=name)


def ask(head: ReviewKD, learner: Example, teacher: Example) -> Tensor:
    return head(learner.knowledge, teacher.knowledge, LESSON, PROGRESS)


def built(learner: Example, teacher: Example, width: int = 512) -> ReviewKD:
    head = ReviewKD(width=width)
    head.build(learner, teacher, CONTEXT)
    for fusion in head.double().fusions:
        fill(fusion)
    return head


def small_pair(before: list[Tensor | None] | None = None) -> tuple[Example, Example]:
    learner = example([wave(3, 3, 8, 8), wave(3, 5, 4, 4, phase=1)], wave(3, 6, phase=2), "student")
    shallow, deep = wave(3, 4, 16, 16, step=0.91), wave(3, 7, 4, 4, step=0.91, phase=1)
    return learner, example([shallow, deep], wave(3, 9, step=0.91, phase=2), "teacher", before)


def mean_of_bin(image: Tensor, level: int, row: int, column: int) -> float:
    height, width = image.shape
    rows = range(floor(row * height / level), ceil((row + 1) * height / level))
    columns = range(floor(column * width / level), ceil((column + 1) * width / level))
    return sum(float(image[i, j]) for i in rows for j in columns) / (len(rows) * len(columns))


def written_out(reviewed: Tensor, target: Tensor) -> float:
    batch, channels, height, width = reviewed.shape
    difference = reviewed - target
    value, weight, weights = float((difference**2).sum()) / difference.numel(), 1.0, 1.0
    for level in [level for level in (4, 2, 1) if level < min(height, width)]:
        weight /= 2
        weights += weight
        bins = [
            mean_of_bin(difference[b, d], level, i, j) ** 2
            for b in range(batch)
            for d in range(channels)
            for i in range(level)
            for j in range(level)
        ]
        value += weight * sum(bins) / len(bins)
    return value / weights


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 4, 4), (2, 2, 2, 2), (3, 2, 1, 1), (2, 2, 5, 3), (2, 1, 7, 7)])
def test_context_loss_is_the_equation_written_out(shape: tuple[int, ...]) -> None:
    reviewed, target = wave(*shape), wave(*shape, step=0.91, phase=1)
    assert context_loss(reviewed, target).item() == pytest.approx(written_out(reviewed, target), rel=1e-12)


def test_a_constant_difference_costs_its_square_at_every_level() -> None:
    target = wave(2, 3, 8, 8)
    assert context_loss(target + 3, target).item() == pytest.approx(9.0)
    assert context_loss(target, target).item() == 0.0


def test_a_difference_that_averages_out_costs_only_at_full_size() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).reshape(1, 1, 2, 2)
    assert context_loss(board, torch.zeros_like(board)).item() == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(
    ("shape", "start", "value"),
    [
        ((2, 4, 8, 8), 0.0, 0.621250244169824),
        ((2, 6, 4, 4), 1.0, 0.6685776632476802),
        ((2, 6, 1, 1), 2.0, 0.9587465927356252),
    ],
)
def test_context_loss_gives_what_the_authors_code_gives(shape: tuple[int, ...], start: float, value: float) -> None:
    # dvlab-research/ReviewKD, commit 6607308a, CIFAR-100/model/reviewkd.py, hcl
    ours, theirs = wave(*shape, phase=start), wave(*shape, step=0.91, phase=start)
    assert context_loss(ours, theirs).item() == pytest.approx(value, rel=1e-12)


def test_the_whole_review_gives_what_the_authors_code_gives() -> None:
    # As above, class ReviewKD with the shapes of these maps, every fusion filled as here.
    learner, teacher = small_pair()
    assert ask(built(learner, teacher), learner, teacher).item() == pytest.approx(1.371777907853497, rel=1e-9)


def test_the_teacher_speaks_before_its_activation_where_it_has_one() -> None:
    learner, teacher = small_pair()
    _, other = small_pair(before=[None, wave(3, 7, 4, 4, step=0.91, phase=1) - 1])
    head = built(learner, teacher)
    deep = head.pairs[-1][1]
    with_map, with_preactivation = ask(head, learner, teacher), ask(head, learner, other)
    assert other.knowledge.preactivation(deep).min() < teacher.knowledge.stage(deep).min()
    assert with_map.item() != pytest.approx(with_preactivation.item())


def test_the_order_of_the_batch_does_not_matter() -> None:
    learner, teacher = small_pair()
    head, order = built(learner, teacher), torch.tensor([2, 0, 1])

    def shuffled(example: Example) -> Example:
        return Example(example.knowledge._map(lambda value: value[order]))

    value = ask(head, learner, teacher).item()
    assert ask(head, shuffled(learner), shuffled(teacher)).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("width", "expected"), [(4, 4), (512, 6)])
def test_fusions_are_as_wide_as_the_embedding_and_no_wider_than_the_setting(width: int, expected: int) -> None:
    head = built(*small_pair(), width=width)
    assert [fusion.narrow[0].out_channels for fusion in head.fusions] == [expected] * 3
    assert [fusion.attention is None for fusion in head.fusions] == [False, False, True]


def test_a_training_batch_of_one_is_refused_and_one_in_evaluation_is_not() -> None:
    learner, teacher = small_pair()
    head = built(learner, teacher)
    alone = [Example(side.knowledge._map(lambda value: value[:1])) for side in (learner, teacher)]
    with pytest.raises(ValueError, match="2 samples or more"):
        ask(head, *alone)
    assert ask(head.eval(), *alone).isfinite()


def test_embeddings_that_are_not_one_per_sample_are_refused() -> None:
    learner, teacher = small_pair()
    text = example([wave(3, 16, 4)], wave(12, 4), "decoder")
    with pytest.raises(ValueError, match=r"decoder gives 12 for 3 samples, \(12, 4\) with decoder layer1"):
        ReviewKD(width=512).build(text, teacher, CONTEXT)
    with pytest.raises(ValueError, match="decoder gives 12"):
        ReviewKD(width=512).build(learner, text, CONTEXT)
