import pytest
import torch

from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.ps_kd import PSKD
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


@pytest.mark.parametrize(("epoch", "epochs", "alpha"), [(0, 300, 0.8 / 300), (149, 300, 0.4), (299, 300, 0.8)])
def test_alpha_rises_on_a_straight_line_to_its_last_value(epoch, epochs, alpha):
    assert PSKD(cast(), 0.8).alpha(Progress(epoch=epoch, epochs=epochs)) == pytest.approx(alpha, rel=1e-12)


def test_a_sample_that_was_not_seen_has_the_labels_alone():
    mode = PSKD(cast(), 0.8)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    given = batch(6)
    logits = mode.observed[0](given).logits.detach()
    loss, terms = step(mode, objective, given, Progress(0, 0, 2, 2), rate=0.0)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, given["target"]))
    assert terms[1] == 0


def test_the_gradient_is_that_of_cross_entropy_with_the_mixed_targets():
    mode = PSKD(cast(dtype=torch.float64), 0.8).double()
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    given, progress = batch(6, dtype=torch.float64), Progress(1, 1, 4, 4)
    past = mode.observed[0](given).logits.detach().softmax(1)
    step(mode, objective, given, Progress(0, 0, 4, 4), rate=5.0)
    said = mode.observed[0](given).logits
    alpha = 0.8 * 2 / 4
    mixed = (1 - alpha) * torch.nn.functional.one_hot(given["target"], 10).double() + alpha * past
    mean = torch.nn.functional.cross_entropy(said, mixed)
    by_hand = torch.autograd.grad(mean, list(mode.learners.parameters()))
    step(mode, objective, given, progress, rate=0.0)
    for parameter, gradient in zip(mode.learners.parameters(), by_hand, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)


def test_the_memory_holds_the_last_answer_by_place_and_survives_a_checkpoint():
    mode = PSKD(cast(), 0.8)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    for seed, first in ((1, 7), (2, 20), (3, 7)):
        given = batch(6, seed, first=first)
        said = mode.observed[0](given).logits.detach()
        step(mode, objective, given, Progress(0, 0, 4, 4))
        torch.testing.assert_close(mode.memory[first : first + 6], said)
    assert mode.filled.nonzero().flatten().tolist() == [*range(7, 13), *range(20, 26)]
    other = PSKD(cast(), 0.8)
    other.load_state_dict(mode.state_dict())
    assert torch.equal(other.memory, mode.memory)
    assert torch.equal(other.filled, mode.filled)


def test_labels_and_teacher_share_each_row():
    mode = PSKD(cast(), 0.5)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    step(mode, objective, batch(4, first=3), Progress(0, 0, 2, 2))
    (lesson,) = mode(batch(4, first=5), Progress(1, 1, 2, 2))
    assert lesson.weight.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert lesson.task.tolist() == [0.5, 0.5, 1.0, 1.0]
