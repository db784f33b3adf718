"""Gu et al. 2024: the gradient is that of reverse KL over whole texts, with less variance."""

import itertools

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Context, Progress
from kdlab.heads.response.reverse_kl import ReverseKL
from kdlab.modes.minillm import MiniLLM, to_come
from kdlab.training.objective import Counts, Objective, Term
from support.language import LENGTH, TASK, VOCABULARY, Bigram, blocks, school


def mode(cast=None, **options):
    cast = cast or school()
    torch.manual_seed(0)
    given = {"prompt": LENGTH - 1, "share": 1.0, "temperature": 1.0, "teacher_share": 0.2, "normalise": False}
    return MiniLLM(cast, **given | options)


def test_rewards_to_come_are_those_of_the_later_steps():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert to_come(rewards, normalise=False).tolist() == [[6.0, 4.0, 0.0]]
    assert to_come(rewards, normalise=True).tolist() == [[3.0, 4.0, 0.0]]


def whole_text_gradient(student, teacher, last):
    """∇ KL(q ‖ p) over all texts of two tokens that can follow the last token of the prompt, by enumeration."""
    table, target = student(torch.arange(VOCABULARY)).log_softmax(1), teacher(torch.arange(VOCABULARY)).log_softmax(1)
    total = torch.zeros(())
    for first, second in itertools.product(range(VOCABULARY), repeat=2):
        ours = table[last, first] + table[first, second]
        total = total + ours.exp() * (ours - target[last, first] - target[first, second]).detach()
        total = total + ours.exp() * (ours - ours.detach())  # the score, whose mean is 0
    return torch.autograd.grad(total, student.classifier.weight)[0]


def published_gradient(student, teacher, last, share):
    """Equations 6 to 8 for the same texts, summed over all that the two can write together."""
    q, p = (network(torch.arange(VOCABULARY)).log_softmax(1) for network in (student, teacher))
    mixed, p = (share * p.exp() + (1 - share) * q.exp()).detach(), p.detach()
    importance, reward = q.detach().exp() / mixed, p - q.detach()
    divergence = (q.exp() * (q - p)).sum(1)
    total = torch.zeros(())
    for one, two in itertools.product(range(VOCABULARY), repeat=2):
        single = importance[last, one] * divergence[last] + importance[one, two] * divergence[one]
        later = -importance[last, one] * reward[one, two] * q[last, one]
        total = total + mixed[last, one] * mixed[one, two] * (single + later)
    return torch.autograd.grad(total, student.classifier.weight)[0]


def test_without_a_teacher_that_writes_the_published_gradient_is_that_of_reverse_kl_over_whole_texts():
    cast = school()
    student, teacher = cast.learners().network, cast.teachers[0].network
    torch.testing.assert_close(published_gradient(student, teacher, 3, 0.0), whole_text_gradient(student, teacher, 3))


@pytest.mark.parametrize("teacher_share", [0.0, 0.2])
def test_the_gradient_of_many_texts_is_the_published_one(teacher_share):
    cast = school()
    policy = mode(cast, prompt=LENGTH - 1, teacher_share=teacher_share)
    objective = Objective(policy, TASK, [Term("reverse_kl", lambda: ReverseKL(1.0), 1.0)], 1.0, Context(VOCABULARY, 40))
    objective.build(policy, blocks(2), 0)
    texts = 20000
    given = blocks(texts)
    given["input"]["input_ids"][:, LENGTH - 2] = 3
    drawn = policy.drawn(given, Progress())
    rows = len(TASK.targets(drawn))
    assert rows == 2 * texts
    loss, _ = objective(policy(TASK.by_row(drawn), Progress()), Counts(float(rows), float(rows)), Progress())
    student = policy.observed[0].network
    (found,) = torch.autograd.grad(loss, student.classifier.weight)
    expected = published_gradient(student, cast.teachers[0].network, 3, teacher_share) / 2  # the mean over two steps
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_tokens_are_drawn_from_the_mixture_and_weighted_back():
    policy = mode(prompt=4)
    drawn = policy.drawn(blocks(50), Progress())
    (lesson,) = policy(TASK.by_row(drawn), Progress())
    token = TASK.targets(drawn)[:, None]
    q, p = (said.logits.softmax(1).gather(1, token)[:, 0] for said in (lesson.learner, lesson.teachers[0]))
    torch.testing.assert_close(lesson.weight[0], (q / (0.2 * p + 0.8 * q)).detach(), rtol=1e-4, atol=1e-5)
    assert lesson.weight.max() <= 1.25 + 1e-4


def test_given_text_is_learnt_from_its_labels():
    policy, batch = mode(share=0.0), blocks()
    (lesson,) = policy(TASK.by_row(policy.drawn(batch, Progress())), Progress())
    assert lesson.target.tolist() == batch["target"].flatten().tolist()
    assert (lesson.task, lesson.weight) == (1.0, None)


def test_several_teachers_are_refused():
    with pytest.raises(UsageError, match="mode=minillm has one teacher, not 2; type mode=on_policy"):
        mode(school(None, Bigram(), Bigram()))
