import torch

from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.snapshot import Snapshot
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def test_the_end_of_each_cycle_teaches_the_next():
    mode = Snapshot(cast(), cycles=3, temperature=2.0)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    taken, heard = [], []
    before = None
    for k in range(7):  # of seven steps in three cycles, the third is shorter: 3 + 3 + 1
        _, terms = step(mode, objective, batch(6, k), Progress(0, k, 1, 7))
        now = [parameter.clone() for parameter in mode.copy.parameters()]
        taken.append(before is not None and not all(map(torch.equal, now, before)))
        heard.append(bool(terms[1] > 0))
        before = now
        if taken[-1]:
            assert all(map(torch.equal, mode.copy.state_dict().values(), mode.learners[0].state_dict().values()))
    assert taken == [False, False, True, False, False, True, False]
    assert heard == [False, False, False, True, True, True, True]


def test_the_teacher_alone_is_softened():
    mode = Snapshot(cast(), cycles=2, temperature=2.0)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    step(mode, objective, batch(6, 0), Progress(0, 0, 1, 2))
    given = batch(6, 1)
    (lesson,) = mode(given, Progress(0, 1, 1, 2))
    with torch.no_grad():
        torch.testing.assert_close(lesson.teachers[0].logits, mode.copy(given["input"]) / 2)
    _, terms = step(mode, objective, given, Progress(0, 1, 1, 2))
    target, said = lesson.teachers[0].logits.softmax(1), lesson.learner.logits.detach().log_softmax(1)
    torch.testing.assert_close(terms[1], (target * (target.log() - said)).sum(1).mean())


def test_the_snapshot_and_whether_there_is_one_survive_a_checkpoint():
    mode = Snapshot(cast(), cycles=2, temperature=2.0)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    step(mode, objective, batch(6, 0), Progress(0, 0, 1, 2))
    other = Snapshot(cast(), cycles=2, temperature=2.0)
    assert other(batch(), Progress())[0].weight.sum() == 0
    other.load_state_dict(mode.state_dict())
    assert other(batch(), Progress())[0].weight.sum() == 6
    assert all(map(torch.equal, mode.copy.state_dict().values(), other.copy.state_dict().values()))
