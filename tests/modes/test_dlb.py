import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from kdlab.core.knowledge import Progress, shares
from kdlab.heads.response.kd import KD
from kdlab.modes.dlb import DLB
from kdlab.training.objective import Counts, Term
from support.school import batch, cast, step, taught
from support.toys import Plainest


def lesson_plan():
    mode = DLB(cast())
    return mode, taught(mode, Term("kd", lambda: KD(3.0), 1.0))


def test_the_first_batch_has_the_labels_alone():
    mode, objective = lesson_plan()
    given = batch(6)
    logits = mode.observed[0](given).logits.detach()
    loss, terms = step(mode, objective, given, Progress())
    torch.testing.assert_close(loss, cross_entropy(logits, given["target"]))
    assert terms[1] == 0


def test_half_of_the_next_batch_is_the_half_before_taught_by_what_was_said_then():
    mode, objective = lesson_plan()
    first, second, third = (batch(6, seed, first=6 * seed) for seed in (1, 2, 3))
    step(mode, objective, first, Progress())
    before = mode.logits.clone()
    for previous, present in ((first, second), (second, third)):
        # Two passes, each with its own batch statistics: Meta-knowledge-Lab/DLB dlb.py:75 and :82.
        whole = torch.cat([mode.observed[0](half).logits.detach() for half in (present, previous)])
        task = cross_entropy(whole, torch.cat((present["target"], previous["target"])))
        teacher, student = (before / 3).softmax(1), (whole[6:] / 3).log_softmax(1)
        loss, terms = step(mode, objective, present, Progress())
        torch.testing.assert_close(terms[0], task)
        torch.testing.assert_close(terms[1], 9 * kl_div(student, teacher, reduction="batchmean"))
        torch.testing.assert_close(loss, terms.sum())
        torch.testing.assert_close(mode.logits, whole[:6])
        before = mode.logits.clone()


def test_each_half_is_a_mean_over_its_own_labels():
    mode, objective = lesson_plan()
    first, second = batch(6, 1, first=0), batch(6, 2, first=20)
    second["target"][1:] = -1
    step(mode, objective, first, Progress())
    said = [mode.observed[0](half).logits.detach() for half in (second, first)]
    new, again = cross_entropy(said[0][:1], second["target"][:1]), cross_entropy(said[1], first["target"])
    _, terms = objective(mode(second, Progress()), Counts(6.0, torch.tensor(1.0)), Progress())
    torch.testing.assert_close(terms[0], (new + again) / 2)


def test_the_repeated_half_brings_its_own_labels_and_places():
    mode, objective = lesson_plan()
    first, second = batch(4, 1, first=0), batch(4, 2, first=20)
    step(mode, objective, first, Progress())
    new, again = mode(second, Progress())
    assert (new.index.tolist(), again.index.tolist()) == ([20, 21, 22, 23], [0, 1, 2, 3])
    assert torch.equal(again.target, first["target"])
    assert (new.teachers, len(again.teachers)) == ((), 1)
    assert (len(new.learner.logits), len(again.learner.logits), again.learner.rows.tolist()) == (4, 4, [0, 1, 2, 3])


def test_the_repeated_half_may_be_shown_in_another_view():
    mode = DLB(cast(), view="again")
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    first, second = ({**batch(4, seed), "views": {"again": batch(4, seed + 10)}} for seed in (1, 2))
    step(mode, objective, first, Progress())
    assert torch.equal(mode.input, first["views"]["again"]["input"])
    lessons = mode(second, Progress())
    repeated = mode.observed[0](first["views"]["again"]).logits
    torch.testing.assert_close(lessons[1].learner.logits, repeated)
    assert lessons[0].views == {}


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)])
@pytest.mark.parametrize("parts", [1, 2])
def test_halves_of_two_sizes_are_one_mean_over_all_their_samples(sizes, parts):
    # As the authors' cross-entropy over both halves joined, and their batchmean over the repeated one.
    mode = DLB(cast(Plainest))  # without batch statistics, so that parts say what the whole says
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    first, second = (batch(size, seed, first=10 * seed) for seed, size in enumerate(sizes, start=1))

    def terms(given):
        size, total = len(given["index"]), torch.zeros(2)
        for part in shares(given, parts):
            counts = Counts(float(size), torch.tensor(float(size)), 1 / parts)
            total = total + objective(mode(part, Progress()), counts, Progress())[1]
        mode.after_step(Progress())
        return total

    terms(first)
    before, said = mode.logits, [mode.observed[0](half).logits.detach() for half in (second, first)]
    task = cross_entropy(torch.cat(said), torch.cat((second["target"], first["target"])))
    kd = 9 * kl_div((said[1] / 3).log_softmax(1), (before / 3).softmax(1), reduction="batchmean")
    resumed = DLB(cast(Plainest))
    resumed.load_state_dict(mode.state_dict())
    torch.testing.assert_close(terms(second), torch.stack((task, kd)))
    mode = resumed
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0))
    torch.testing.assert_close(terms(second), torch.stack((task, kd)))


def test_parts_of_a_batch_meet_the_same_parts_of_the_batch_before():
    mode, objective = lesson_plan()
    first, second = (batch(6, seed, first=6 * seed) for seed in (1, 2))
    for given in (first, second):
        places = []
        for start in (0, 3):
            part = {key: value[start : start + 3] for key, value in given.items()}
            lessons = mode(part, Progress())
            places.append(lessons[1].index.tolist())
            objective(lessons, Counts(6.0, 6.0, 0.5), Progress())
        mode.after_step(Progress())
    assert places == [[6, 7, 8], [9, 10, 11]]


def test_the_half_before_survives_a_checkpoint_whatever_its_size():
    mode, objective = lesson_plan()
    state = DLB(cast()).state_dict()
    step(mode, objective, batch(6), Progress())
    other = DLB(cast())
    other.load_state_dict(mode.state_dict())
    for name in ("input", "target", "index", "logits"):
        assert torch.equal(getattr(other, name), getattr(mode, name))
        assert getattr(other, name).dtype == getattr(mode, name).dtype
    mode.load_state_dict(state)
    assert len(mode.logits) == 0
