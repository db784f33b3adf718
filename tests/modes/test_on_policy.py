"""Agarwal et al. 2024: the student writes, the teacher marks what follows the prompt, and no label touches it."""

import shutil

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Context, Progress, shares
from kdlab.heads.response.reverse_kl import ReverseKL
from kdlab.modes.on_policy import OnPolicy
from kdlab.training.objective import Counts, Objective, Term
from support.language import LENGTH, TASK, VOCABULARY, Bigram, blocks, school
from support.texts import reviews, write
from support.tiny_runs import machine, train

P = 4


def policy(cast=None, *, seed=0, **options):
    cast = cast or school()
    torch.manual_seed(seed)
    return OnPolicy(cast, **{"prompt": P, "share": 1.0, "temperature": 1.0} | options)


def at(step):
    return Progress(0, step, 1, 1000)


def test_the_student_continues_the_prompts_to_the_end_of_their_blocks():
    batch, mode = blocks(), policy()
    drawn = mode.drawn(batch, at(0))
    ids = drawn["input"]["input_ids"]
    assert ids.shape == (6, LENGTH)
    assert ids[:, :P].equal(batch["input"]["input_ids"][:, :P])
    assert not ids[:, P:].equal(batch["input"]["input_ids"][:, P:])
    assert drawn["index"].equal(batch["index"])


def test_what_it_writes_is_drawn_from_its_own_probabilities():
    mode = policy()
    network = mode.observed[0].network
    tokens = torch.zeros(VOCABULARY, VOCABULARY)
    for step in range(40):
        batch = blocks(50, step, first=50 * step)
        text = mode.drawn(batch, at(step))["input"]["input_ids"]
        for before, token in zip(text[:, P - 1 : -1].flatten(), text[:, P:].flatten(), strict=True):
            tokens[before, token] += 1
    expected = network(torch.arange(VOCABULARY)).softmax(1).detach()
    often = tokens.sum(1) > 200
    seen = tokens[often] / tokens[often].sum(1, keepdim=True)
    error = (expected[often] * (1 - expected[often]) / tokens[often].sum(1, keepdim=True)).sqrt()
    assert often.sum() >= 6
    assert ((seen - expected[often]).abs() < 5 * error + 1e-3).all()


@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_is_the_mean_over_what_follows_the_prompts(parts):
    cast = school()
    mode = policy(cast)
    objective = Objective(mode, TASK, [Term("reverse_kl", lambda: ReverseKL(1.0), 1.0)], 1.0, Context(VOCABULARY, 40))
    objective.build(mode, blocks(2), 0)
    drawn = mode.drawn(blocks(), at(0))
    target = TASK.targets(drawn)
    assert target.shape == (6 * (LENGTH - P + 1),)
    assert not TASK.labelled(target).any()
    found = torch.zeros(2)
    for part in shares(drawn, parts):
        counts = Counts(float(len(target)), 1.0, 1 / parts)
        found += objective(mode(TASK.by_row(part), at(0)), counts, at(0))[1]
    total, rows = 0.0, 0
    for text in drawn["input"]["input_ids"]:
        ours, theirs = (
            network(text[None])[0].log_softmax(1).detach()
            for network in (mode.observed[0].network, cast.teachers[0].network)
        )
        for place in range(P - 1, LENGTH):  # the last prompt token predicts the first of its own
            total += float((ours[place].exp() * (ours[place] - theirs[place])).sum())
            rows += 1
    assert found[0] == 0, "no cross-entropy on its own text"
    assert float(found[1]) == pytest.approx(total / rows, rel=1e-4)


def test_a_share_of_the_steps_is_its_own_and_the_others_are_the_given_text():
    batch = blocks()
    assert all(policy(share=0.0).drawn(batch, at(step)) is batch for step in range(50))
    mode = policy(share=0.3)
    given = sum(mode.drawn(batch, at(step)) is batch for step in range(1000))
    assert 640 < given < 760, "700 of 1000, within four deviations"
    (lesson,) = policy(share=0.0)(TASK.by_row(batch), at(0))
    assert lesson.target.tolist() == batch["target"].flatten().tolist()


def test_another_seed_and_another_epoch_write_another_text():
    batch = blocks()
    texts = [policy(seed=seed).drawn(batch, at(0))["input"]["input_ids"] for seed in (0, 0, 1)]
    later = policy().drawn({**batch, "view": batch["view"] + 1}, at(9))["input"]["input_ids"]
    assert texts[0].equal(texts[1])
    assert not texts[0].equal(texts[2])
    assert not texts[0].equal(later)


def test_a_text_is_kept_for_as_many_steps_as_asked_also_over_a_checkpoint():
    mode = policy(every=3)
    texts = []
    for step in range(7):
        if step == 4:  # within the second three
            state, mode = mode.state_dict(), policy(every=3)
            mode.load_state_dict(state)
        texts.append(mode.drawn(blocks(6, step, first=6 * step), at(step)))
    first = [int(drawn["index"][0]) for drawn in texts]
    assert first == [0, 0, 0, 18, 18, 18, 36]
    for step, drawn in enumerate(texts):
        kept = texts[step // 3 * 3]
        assert drawn["input"]["input_ids"].equal(kept["input"]["input_ids"])
    empty = policy(every=3)
    empty.load_state_dict(policy(every=3).state_dict())
    assert len(empty.text) == 0


def test_only_what_can_be_continued_is_taken():
    with pytest.raises(UsageError, match=r"mode\.prompt=11: expected 1 to 10"):
        policy(prompt=11)
    cast = school()
    padded = {"input_ids": cast.batch["input"]["input_ids"], "attention_mask": torch.ones(2, LENGTH)}
    for batch in ({**cast.batch, "input": padded}, {**cast.batch, "input": torch.rand(2, 1, 8, 8)},
                  {**cast.batch, "target": torch.zeros(2, dtype=torch.long)}):  # fmt: skip
        changed = type(cast)(cast.learners, cast.teachers, cast.context, batch)
        with pytest.raises(UsageError, match="mode=on_policy continues blocks of running text; type data="):
            policy(changed)


def test_a_wide_prompt_leaves_one_row_for_each_text():
    drawn = policy(prompt=LENGTH).drawn(blocks(), at(0))
    assert TASK.targets(drawn).shape == (6,)


def test_several_teachers_mark_together():
    cast = school(None, Bigram(), Bigram())
    (lesson,) = policy(cast)(TASK.by_row(policy(cast).drawn(blocks(), at(0))), at(0))
    assert len(lesson.teachers[-1].members) == 2


RUN = ("model=gpt_tiny", "model.hidden=16", "model.dropout=0.1", "teacher=gpt_tiny", "teacher.model.hidden=24",
       "data=corpus", "data.tokenizer=characters", "data.vocabulary=32", "data.length=16", "task=language_modeling",
       "trainer.batch_size=20", "trainer.max_epochs=2", "teacher.trainer.max_epochs=1", "optimizer=adamw",
       "optimizer.lr=0.01", "teacher.optimizer=adamw", "teacher.optimizer.lr=0.01", "mode.prompt=5", "logger=csv",
       "trainer.accelerator=cpu")  # fmt: skip


@pytest.fixture
def given(tmp_path):
    texts = write(tmp_path / "texts", "jsonl", train=reviews(120), validation=reviews(20, 1), test=reviews(20, 2))
    with machine(tmp_path / "home"):
        yield (*RUN, f"data.path={texts}")


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(given, tmp_path):
    every = 7  # more than the steps from a checkpoint to the next
    told = train(*given, "mode=on_policy", f"mode.every={every}", "alone=false", "trainer.checkpoint_every_n_steps=5",
                 runs=tmp_path / "runs")  # fmt: skip
    assert told.code == 0, told.err
    run = tmp_path / "again"
    shutil.copytree(told.folder, run)
    (run / "result.json").unlink()
    (run / "student.safetensors").unlink()
    (run / "checkpoints" / "last.ckpt").unlink()
    before = torch.load(run / "checkpoints" / "previous.ckpt", weights_only=True)
    (text,) = (value for name, value in before["state_dict"].items() if name.endswith(".text"))
    assert text.shape == (20, 17), "in the midst of the steps that a text is kept for"
    from kdlab.train import main

    assert main([f"resume={run}"]) == 0
    assert (run / "student.safetensors").read_bytes() == (told.folder / "student.safetensors").read_bytes()
    assert (run / "metrics.csv").read_bytes() == (told.folder / "metrics.csv").read_bytes()


def test_a_run_ends_with_the_student_alone_beside_it(given, tmp_path):
    told = train(*given, "mode=on_policy", runs=tmp_path / "runs")
    assert told.code == 0, told.err
    config = (told.folder / "config.yaml").read_text()
    assert "kdlab.heads.response.jsd.JSD" in config
    assert told.result["alone"]["test"]["last"]["nats_per_token"] > 0
    assert told.result["student"]["test"]["last"]["nats_per_token"] < 3.4, "below the logarithm of 32"


def test_classification_is_refused_in_a_line(tmp_path):
    with machine(tmp_path / "home"):
        told = train("mode=on_policy", runs=tmp_path / "runs")
    assert told.code == 2
    (line,) = told.err.splitlines()
    assert "mode=on_policy continues blocks of running text" in line


def test_no_view_of_its_own_text_has_a_target():
    batch = blocks()
    drawn = policy(share=1.0).drawn({**batch, "views": {"again": batch}}, at(0))
    assert drawn["target"].unique().tolist() == drawn["views"]["again"]["target"].unique().tolist() == [-1]
    assert drawn["views"]["again"]["input"]["input_ids"].equal(drawn["input"]["input_ids"])


def test_a_new_phase_begins_with_a_text_of_its_own():
    mode = policy(every=4)
    first = mode.drawn(blocks(), at(1))["input"]["input_ids"]
    assert mode.drawn(blocks(6, 1, first=6), at(2))["input"]["input_ids"].equal(first)
    mode.begin_epoch(at(0))
    assert not mode.drawn(blocks(6, 1, first=6), at(2))["input"]["input_ids"].equal(first)
