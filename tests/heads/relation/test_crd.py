from math import exp, log

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.relation import crd
from kdlab.heads.relation.crd import CRD, crd_loss, crd_scores, draw_negatives, log_partition
from support.relation_examples import CONTEXT, PROGRESS, as_identity, example, knows, lesson, wave


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def made(learner=None, teacher=None, context=CONTEXT, negatives=5, temperature=0.07):
    head = CRD(dim=4, negatives=negatives, momentum=0.5, nce_temperature=temperature)
    learner = wave(3, 4) if learner is None else learner
    teacher = wave(3, 4, step=0.9) if teacher is None else teacher
    head.build(example(learner), example(teacher), context)
    return head.double()


def sorted_classes(labels):
    labels = torch.tensor(labels)
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    return labels, order, (sizes.cumsum(0) - sizes)[labels], sizes[labels]


# ---- the equation


def naive_nce(embedding, bank, places, temperature, partition):
    noise = (places.shape[1] - 1) / len(bank)
    total = 0.0
    for row, chosen in zip(embedding, places, strict=True):
        for position, place in enumerate(chosen):
            probability = exp(float(row @ bank[place]) / temperature) / partition
            true = probability / (probability + noise)
            total -= log(true if position == 0 else 1 - true)
    return total / len(embedding)


@pytest.mark.parametrize(("rows", "count", "temperature"), [(3, 5, 0.07), (1, 1, 0.5), (4, 20, 1.0)])
def test_loss_is_noise_contrastive_estimation(rows, count, temperature):
    embedding, bank = unit(wave(rows, 4)), unit(wave(9, 4, step=0.83))
    places = torch.arange(rows * (1 + count)).reshape(rows, -1) * 7 % 9
    scores = crd_scores(embedding, bank, places, temperature)
    partition = torch.tensor(2.5, dtype=torch.float64)
    expected = naive_nce(embedding, bank, places, temperature, exp(2.5))
    assert crd_loss(scores, partition, len(bank)).item() == pytest.approx(expected, rel=1e-9)


def test_the_partition_makes_the_mean_probability_one_over_the_samples():
    scores = 30 * wave(3, 6)
    partition = log_partition(scores, 50)
    assert (scores - partition).exp().mean().item() == pytest.approx(1 / 50)


def test_gradient_is_that_of_the_equation():
    embedding, bank = unit(wave(3, 4)).requires_grad_(), unit(wave(9, 4, step=0.83))
    places = torch.arange(18).reshape(3, 6) * 7 % 9
    scores = crd_scores(embedding, bank, places, 0.07)
    partition = log_partition(scores.detach(), 9)
    crd_loss(scores, partition, 9).backward()
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for row in range(3):
        for position, place in enumerate(places[row]):
            odds = (embedding[row].detach() @ bank[place]) / 0.07 - partition - log(5 / 9)
            chance = 1 / (1 + torch.exp(-odds))
            expected[row] += (chance - float(position == 0)) * bank[place] / 0.07 / 3
    torch.testing.assert_close(embedding.grad, expected)


def test_scores_of_any_size_are_finite():
    scores = torch.tensor([[1000.0, -1000.0, 1000.0], [-1000.0, 1000.0, 0.0]], requires_grad=True)
    loss = crd_loss(scores, log_partition(scores.detach(), 7), 7)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


# ---- the negatives


def test_no_negative_is_of_the_samples_own_class():
    labels, order, start, size = sorted_classes([2, 0, 1, 1, 0, 2, 2, 3, 0, 1, 2, 2])
    negatives = draw_negatives(order, start, size, 40)
    assert (labels[negatives] != labels[:, None]).all()


@pytest.mark.parametrize("count", [1, 4, 7])
def test_no_negative_comes_twice_where_there_are_enough(count):
    _, order, start, size = sorted_classes([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    for _ in range(20):
        negatives = draw_negatives(order, start, size, count)
        assert all(len(row.unique()) == count for row in negatives)


def test_negatives_come_equally_often_where_there_are_too_few():
    labels, order, start, size = sorted_classes([0, 0, 1, 1, 1])
    negatives = draw_negatives(order, start, size, 8)
    for row, label in zip(negatives, labels, strict=True):
        times = torch.bincount(row, minlength=5)[labels != label]
        assert set(times.tolist()) <= ({2, 3} if label == 0 else {4})


def test_all_samples_of_other_classes_are_equally_likely():
    torch.manual_seed(0)
    labels, order, start, size = sorted_classes([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4])
    times = torch.zeros(11, 11)
    for _ in range(4000):
        times.scatter_add_(1, draw_negatives(order, start, size, 5), torch.ones(11, 5))
    expected = 4000 * 5 / (11 - size[:, None])
    others = labels[:, None] != labels
    deviation = (times - expected).abs() / expected.sqrt()
    assert deviation[others].max() < 5
    assert (times[~others] == 0).all()


def test_an_unlabelled_sample_is_a_class_of_its_own():
    head = made(context=Context(classes=2, samples=6, labels=torch.tensor([0, -1, 1, 0, -1, 1])))
    negatives = draw_negatives(head.order, head.start, head.size, 5)
    assert set(negatives[1].tolist()) == {0, 2, 3, 4, 5}
    assert set(negatives[4].tolist()) == {0, 1, 2, 3, 5}
    assert set(negatives[0].tolist()) == {1, 2, 4, 5}


def test_a_set_of_one_class_is_refused():
    with pytest.raises(ValueError, match="all 3 training samples are of class 7"):
        made(context=Context(classes=9, samples=3, labels=torch.full((3,), 7)))


# ---- the banks


def test_two_steps_equal_the_published_code(monkeypatch):
    # HobbitLong/RepDistiller, crd/memory.py of 97c4c00 and crd/criterion.py of 1fb2343, given the same banks,
    # embeddings and negatives. It adds 1e-7 to a probability.
    head = made()
    as_identity(head.learner_projection, head.teacher_projection)
    head.learner_bank.copy_(unit(wave(12, 4, step=0.83)))
    head.teacher_bank.copy_(unit(wave(12, 4, step=0.89, phase=1)))
    negatives = torch.tensor([[5, 6, 7, 8, 9], [0, 1, 2, 3, 11], [0, 2, 4, 6, 7]])
    monkeypatch.setattr(crd, "draw_negatives", lambda *given: negatives)
    losses = []
    for step in range(2):
        learner, teacher = knows(wave(3, 4, phase=step)), knows(wave(3, 4, step=0.41, phase=1 + step))
        losses.append(head(learner, teacher, lesson(learner, torch.tensor([1, 4, 10])), PROGRESS).item())
    assert losses == pytest.approx([32.20096343274547, 28.684150446883283], rel=1e-6)
    assert head.partitions.exp().tolist() == pytest.approx([742837.8852020841, 16290.802110926339], rel=1e-6)
    weight = wave(12, 4, step=0.97)
    assert (head.learner_bank * weight).sum().item() == pytest.approx(-0.1394598219167763, rel=1e-6)
    assert (head.teacher_bank * weight).sum().item() == pytest.approx(2.9483064320781893, rel=1e-6)


def test_only_the_batch_is_written_and_halfway():
    head = made()
    as_identity(head.learner_projection, head.teacher_projection)
    before = head.learner_bank.clone()
    learner, index = knows(wave(3, 4)), torch.tensor([2, 9, 5])
    head(learner, knows(wave(3, 4, step=0.9)), lesson(learner, index), PROGRESS)
    torch.testing.assert_close(head.learner_bank[index], unit(before[index] / 2 + unit(learner.vector()) / 2))
    others = torch.tensor([0, 1, 3, 4, 6, 7, 8, 10, 11])
    assert torch.equal(head.learner_bank[others], before[others])


def test_the_backward_pass_reads_the_banks_as_they_were(monkeypatch):
    head = made()
    negatives = torch.tensor([[5, 6, 7, 8, 9], [0, 1, 2, 3, 11], [0, 2, 4, 6, 7]])
    monkeypatch.setattr(crd, "draw_negatives", lambda *given: negatives)
    index = torch.tensor([1, 4, 10])
    bank, places = head.teacher_bank.clone(), torch.cat([index[:, None], negatives], 1)
    rows = wave(3, 4).requires_grad_()
    head(knows(rows), knows(wave(3, 4, step=0.9)), lesson(knows(rows), index), PROGRESS).backward()
    again = wave(3, 4).requires_grad_()
    scores = crd_scores(unit(head.learner_projection(again)), bank, places, 0.07)
    crd_loss(scores, log_partition(scores.detach(), 12), 12).backward()
    torch.testing.assert_close(rows.grad, again.grad)


def test_nothing_is_written_in_eval_mode():
    head = made().eval()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    learner = knows(wave(3, 4))
    assert head(learner, knows(wave(3, 4, step=0.9)), lesson(learner), PROGRESS).isfinite()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_the_partition_of_the_first_batch_stays():
    head = made()
    learner = knows(wave(3, 4))
    head(learner, knows(wave(3, 4, step=0.9)), lesson(learner), PROGRESS)
    first = head.partitions.clone()
    head(knows(-wave(3, 4)), knows(wave(3, 4, step=2.0)), lesson(learner), PROGRESS)
    assert bool(head.filled)
    assert torch.equal(head.partitions, first)


def test_banks_and_partitions_are_saved_and_the_order_of_the_data_is_not():
    saved = set(made().state_dict())
    assert {"learner_bank", "teacher_bank", "partitions", "filled"} <= saved
    assert not {"order", "start", "size"} & saved


def test_a_row_is_looked_up_by_the_sample_it_belongs_to():
    head = made()
    before = head.teacher_bank.clone()
    learner = knows(wave(3, 4))
    object.__setattr__(learner, "rows", torch.tensor([2, 0, 1]))
    head(learner, knows(wave(3, 4, step=0.9)), lesson(learner, torch.tensor([7, 8, 3])), PROGRESS)
    written = (head.teacher_bank != before).any(dim=1).nonzero().flatten()
    assert written.tolist() == [3, 7, 8]
    as_identity(head.learner_projection)
    head.momentum = 0.0
    head(learner, knows(wave(3, 4, step=0.9)), lesson(learner, torch.tensor([7, 8, 3])), PROGRESS)
    torch.testing.assert_close(head.learner_bank[[3, 7, 8]], unit(learner.vector()))
