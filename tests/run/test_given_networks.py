"""Networks that a user already has: a folder of transformers as teacher, its layers as a student's first weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kdlab
from support.texts import reviews, write
from support.tiny_runs import Told, machine, train

pytest.importorskip("transformers")

VOCABULARY, LENGTH = 160, 16


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    write(tmp_path / "texts", "csv", train=reviews(120), validation=reviews(30, 1), test=reviews(30, 2))
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(3)
    sizes = BertConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                       intermediate_size=64, max_position_embeddings=LENGTH, num_labels=2)  # fmt: skip
    BertForSequenceClassification(sizes).save_pretrained(tmp_path / "own")
    with machine(tmp_path / "home"):
        yield tmp_path


def ran(place: Path, *arguments: str) -> Told:
    return train(
        "data=text", f"data.path={place / 'texts'}", "data.classes=2", f"data.vocabulary={VOCABULARY}",
        f"data.length={LENGTH}", "model=bert_tiny", "model.hidden=16", "trainer.max_epochs=1", "logger=csv",
        "teacher=pretrained_classifier", f"teacher.model.path={place / 'own'}", *arguments, runs=place / "runs",
    )  # fmt: skip


def test_a_folder_teaches_as_it_is(place):
    told = ran(place)
    assert told.code == 0, told.err
    rows = told.result
    assert rows["teacher"]["seconds"] is None, "nothing trained it"
    assert rows["teacher"]["parameters"] == sum(
        value.numel() for value in kdlab.models.pretrained.classifier(
            path=str(place / "own"), classes=2, vocabulary=VOCABULARY, length=LENGTH).parameters()
    )  # fmt: skip
    assert "agreement" in rows["student"]["test"]["last"]


def test_a_folder_is_trained_on_the_data_where_asked(place):
    told = ran(place, "teacher.fine_tune=true", "teacher.trainer.max_epochs=1", "alone=false")
    assert told.code == 0, told.err
    assert told.result["teacher"]["seconds"] > 0


def test_other_weights_in_the_folder_make_another_run(place):
    first = ran(place, "alone=false").result["key"]
    assert ran(place, "alone=false").result["key"] == first
    from safetensors.torch import load_file, save_file

    weights = load_file(place / "own" / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, place / "own" / "model.safetensors", {"format": "pt"})
    assert ran(place, "alone=false").result["key"] != first


def test_a_student_starts_from_layers_of_its_teacher_and_the_student_alone_does_not(place):
    told = ran(place, "model.from_teacher=[1,3]", "model.dropout=0.0", "optimizer=sgd", "optimizer.lr=1e-30")
    assert told.code == 0, told.err
    student = kdlab.load_student(told.folder).state_dict()
    teacher = kdlab.models.pretrained.classifier(
        path=str(place / "own"), classes=2, vocabulary=VOCABULARY, length=LENGTH
    ).state_dict()
    same = [name for name in student if torch.equal(student[name], teacher[name])]
    inside = "bert.encoder.layer.0.attention.self.query.weight"
    assert "bert.embeddings.word_embeddings.weight" in same
    assert torch.equal(student[inside], teacher[inside.replace("layer.0", "layer.1")])
    result = told.result
    assert result["student"]["test"]["last"] != result["alone"]["test"]["last"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model.from_teacher=[0,9]"], "model.from_teacher=[0, 9]: expected 2 layers, one for each of the student's"),
        (["model.from_teacher=[0,1]", "model.hidden=32"], "expected the same shape"),
        (["model.from_teacher=[0,1]", "mode=dml"], "model.from_teacher=[0, 1] needs a frozen teacher"),
        (["teacher.model.new_classifier=true", "teacher.fine_tune=true"],
         "teacher.fine_tune=true: only a teacher from a folder"),
        (["data.vocabulary=200"], "knows 160 tokens, but the data has 200"),
        (["data.length=64"], "reads 16 tokens at most; type data.length=16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(place, given, said):
    told = ran(place, *given)
    assert told.code == 2
    assert said in told.err
    assert told.err.count("\n") == 1
