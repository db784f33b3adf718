"""A row is whatever the task reads: here a token of a padded sentence, from a network with named inputs."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

import kdlab
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Context, Progress, shares
from kdlab.heads.relation.rkd import RKD
from kdlab.heads.response.kd import KD
from kdlab.modes.dlb import DLB
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Offline
from kdlab.modes.ps_kd import PSKD
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.training.objective import Counts, Objective, Term
from support.tokens import TAGS, Tagger, Tagging, tagged

LENGTHS = [6, 1, 3, 5]
TOKENS = sum(LENGTHS)


def made(*terms, mode=Offline):
    torch.manual_seed(0)
    student, teacher, task, batch = Tagger(), Tagger(16), Tagging(TAGS), tagged(LENGTHS)
    frozen = Teacher("teacher", teacher, find_taps(teacher, batch["input"]), task)
    context = Context(TAGS, len(LENGTHS))
    cast = Cast(lambda place=0: Observed("student", student, find_taps(student, batch["input"]), task), (frozen,),
                context, batch)  # fmt: skip
    built = mode(cast)
    objective = Objective(built, task, terms, 0.5, context)
    objective.refuse_impossible(built)
    objective.build(built, batch, 0)
    return built, objective, student, teacher, task


def by_hand(student, teacher, batch):
    """Token by token, without padding: 0.5 · cross-entropy + 0.5 · KD at T 2, each the mean over tokens."""
    total = torch.zeros(())
    for row, length in enumerate(LENGTHS):
        one = {name: value[row : row + 1] for name, value in batch["input"].items()}
        ours, theirs = student(**one)["logits"][0, :length], teacher(**one)["logits"][0, :length]
        total = total + 0.5 * cross_entropy(ours, batch["target"][row, :length], reduction="sum")
        total = total + 0.5 * 4 * kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction="sum")
    return total / TOKENS


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_padding_is_in_no_mean_and_parts_of_other_lengths_add_up_to_the_whole(parts):
    mode, objective, student, teacher, task = made(Term("kd", lambda: KD(2.0), 0.5))
    batch = tagged(LENGTHS)
    losses = []
    for part in shares(batch, parts):
        counts = Counts(TOKENS, TOKENS, len(part["index"]) / len(LENGTHS))
        losses.append(objective(mode(task.by_row(part), Progress()), counts, Progress())[0])
    torch.testing.assert_close(sum(losses), by_hand(student, teacher, batch))


def test_a_row_knows_its_sample_and_an_embedding_has_a_row_for_each():
    mode, *_, task = made(Term("rkd", lambda: RKD(25.0, 50.0), 1.0))
    (lesson,) = mode(task.by_row(tagged(LENGTHS)), Progress())
    assert lesson.learner.rows.tolist() == [0] * 6 + [1] + [2] * 3 + [3] * 5
    assert lesson.learner.vector().shape == (TOKENS, 8)
    assert lesson.teachers[0].vector().shape == (TOKENS, 16)
    assert lesson.target.shape == (TOKENS,)


@pytest.mark.parametrize(("name", "mode"), [("PSKD", partial(PSKD, last_alpha=0.8)), ("DLB", DLB)])
def test_a_mode_that_remembers_a_prediction_for_each_sample_is_refused(name, mode):
    with pytest.raises(UsageError, match=f"mode {name} .* one prediction for each sample"):
        made(Term("kd", lambda: KD(2.0), 0.5), mode=mode)


def test_distill_trains_on_named_inputs_and_judges_by_token():
    batches = [tagged([6, 2, 4], seed) for seed in range(6)]
    torch.manual_seed(0)
    teacher, student = Tagger(16), Tagger()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    _, result = kdlab.distill(
        student, teacher, batches, batches, loss=KD(temperature=2.0), task=Tagging(TAGS), epochs=2, accelerator="cpu"
    )
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    right = tokens = 0
    for batch in batches:
        named = student(**batch["input"])["logits"].argmax(2) == batch["target"]
        right += int((named & batch["input"]["mask"].bool()).sum())
        tokens += int(batch["input"]["mask"].sum())
    assert tokens == 72
    assert result["last"]["accuracy"] == pytest.approx(right / tokens, abs=1e-6)
