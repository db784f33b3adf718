"""Kim and Rush 2016: the student's training text is what the teacher wrote, once, and alone it is trained on labels."""

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Context, Progress, samples_of
from kdlab.heads.response.kd import KD
from kdlab.modes.sequence_level import SequenceLevel
from kdlab.run.loggers import read_metrics
from kdlab.training.objective import Objective, Term
from support.language import LENGTH, TASK, VOCABULARY, Bigram, blocks, school
from support.texts import reviews, write
from support.tiny_runs import machine, train

P = 4
WHOLE = blocks(10)


@pytest.fixture(autouse=True)
def home(tmp_path):
    with machine(tmp_path / "home"):
        yield tmp_path / "home"


def begun(cast=None, *, seed=0, **options):
    """A mode that has read, or written, its text; and how often a teacher was asked for that."""
    cast = cast or school()
    torch.manual_seed(seed)
    mode = SequenceLevel(cast, P, **options)
    asked = []
    forward = cast.teachers[0].network.forward
    cast.teachers[0].network.forward = lambda input_ids: (asked.append(1), forward(input_ids))[1]
    mode.begin(lambda: [samples_of(WHOLE, 0, 7), samples_of(WHOLE, 7, 10)])
    return mode, len(asked)


def texts(mode):
    drawn = mode.drawn(WHOLE, Progress())
    return torch.cat([drawn["input"]["input_ids"], drawn["target"][:, -1:]], 1)


def test_the_text_is_the_most_probable_continuation_of_each_prompt():
    cast = school()
    text = texts(begun(cast)[0])
    best = Bigram.forward(cast.teachers[0].network, torch.arange(VOCABULARY))
    for row, block in zip(text, WHOLE["input"]["input_ids"], strict=True):
        by_hand = block[:P].tolist()
        while len(by_hand) <= LENGTH:
            by_hand.append(int(best[by_hand[-1]].argmax()))
        assert row.tolist() == by_hand


def test_a_batch_in_any_order_holds_the_texts_of_its_samples_with_their_next_tokens_as_labels():
    mode, _ = begun()
    whole, some = texts(mode), torch.tensor([8, 0, 3])
    drawn = mode.drawn({**WHOLE, "index": some, "view": some * 0}, Progress())
    assert drawn["input"]["input_ids"].equal(whole[some, :-1])
    assert drawn["target"].equal(whole[some, 1:])
    assert TASK.labelled(TASK.targets(drawn)).all()


def test_a_text_is_written_once_and_again_where_anything_that_decides_it_differs(home):
    first, asked = begun()
    again, none = begun()
    assert (asked > 0, none) == (True, 0)
    assert texts(first).equal(texts(again))
    others = [{"temperature": 1.0}, {"temperature": 2.0}, {"temperature": 1.0, "seed": 1}]
    torch.manual_seed(9)
    assert all(begun(**other)[1] for other in others)
    assert begun(school(None, Bigram(16)))[1]
    assert len(list((home / "written").glob("*.safetensors"))) == 5
    assert not begun(seed=1)[1], "a greedy text needs no seed"


def test_a_sampled_text_depends_on_the_seed_alone():
    found = [texts(begun(temperature=1.0, seed=seed)[0]) for seed in (0, 0, 1)]
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])
    assert found[0][:, :P].equal(WHOLE["input"]["input_ids"][:, :P])


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_file_is_written_again(home, damage):
    whole = texts(begun()[0])
    (file,) = (home / "written").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content[:50] if damage == "truncated" else content)
    mode, asked = begun()
    assert asked
    assert texts(mode).equal(whole)


def test_a_home_that_cannot_be_written_to_is_named(home):
    home.mkdir()
    (home / "written").write_text("a file")
    with pytest.raises(UsageError, match=f"written texts cannot be kept in {home / 'written'} .*KDLAB_HOME"):
        begun()


@pytest.mark.parametrize("heads", [0, 1])
def test_a_teacher_runs_in_a_step_only_where_a_loss_compares(heads):
    cast = school()
    mode, _ = begun(cast)
    asked = []
    forward = cast.teachers[0].network.forward
    cast.teachers[0].network.forward = lambda input_ids: (asked.append(1), forward(input_ids))[1]
    objective = Objective(mode, TASK, [Term("kd", lambda: KD(1.0), 1.0)] * heads, 1.0, Context(VOCABULARY, 40))
    objective.build(mode, blocks(2), 0)
    asked.clear()
    (lesson,) = mode(TASK.by_row(mode.drawn(WHOLE, Progress())), Progress())
    assert (len(asked), len(lesson.teachers)) == (heads, heads)


RUN = ("model=gpt_tiny", "model.hidden=16", "teacher=gpt_tiny", "teacher.model.hidden=24", "data=corpus",
       "data.tokenizer=characters", "data.vocabulary=32", "data.length=16", "task=language_modeling",
       "trainer.batch_size=20", "trainer.max_epochs=2", "teacher.trainer.max_epochs=2", "optimizer=adamw",
       "optimizer.lr=0.01", "teacher.optimizer=adamw", "teacher.optimizer.lr=0.01", "mode=sequence_level",
       "mode.prompt=5", "logger=csv", "trainer.accelerator=cpu")  # fmt: skip


def test_a_run_without_a_loss_distils_and_one_with_a_loss_reads_the_same_text(tmp_path, home):
    data = write(tmp_path / "texts", "jsonl", train=reviews(120), validation=reviews(20, 1), test=reviews(20, 2))
    told = [train(*RUN, f"data.path={data}", *more, runs=tmp_path / "runs") for more in ((), ("loss=kd",), ("seed=1",))]
    assert [each.code for each in told] == [0, 0, 0], told
    assert ["texts of 17 tokens" in each.out for each in told] == [True, False, False]
    result = told[0].result
    figures = [result[row]["test"]["last"]["nats_per_token"] for row in ("teacher", "alone", "student")]
    assert 0 < figures[1] != figures[2], "the student alone learnt the given text"
    plain, mixed = (read_metrics(each.folder / "metrics.csv") for each in told[:2])
    assert not any(row.get("loss/kd") for row in plain)
    assert any(row.get("loss/kd") for row in mixed)
    # The teacher's own text is easier than that of people.
    last = [row["loss/task"] for row in plain if row.get("loss/task")][-1]
    assert last < figures[2]
    assert len(list((home / "written").glob("*.safetensors"))) == 1


def test_losses_stay_needed_where_a_mode_has_nothing_else_to_teach_with(tmp_path):
    told = train("loss=[]", runs=tmp_path / "runs")
    assert told.code == 2
    assert "loss=[]: expected a loss or more, such as loss=kd" in told.err
