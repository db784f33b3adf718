"""Whole runs on text: a class for each sentence, and a next token at each position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from kdlab.run.loggers import read_metrics
from kdlab.run.result import SCHEMA
from support.texts import reviews, write
from support.tiny_runs import Told, machine, train

NETWORKS = '''
from torch import nn


class Bag(nn.Module):
    """The class of a text from the mean of its words."""

    def __init__(self, vocabulary, classes, width):
        super().__init__()
        self.words, self.body = nn.Embedding(vocabulary, width), nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return self.classifier(self.body((self.words(input_ids) * mask).sum(1) / mask.sum(1)))


class Bigram(nn.Module):
    """The next token from the last."""

    def __init__(self, vocabulary, width):
        super().__init__()
        self.words, self.body = nn.Embedding(vocabulary, width), nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.classifier = nn.Linear(width, vocabulary)

    def forward(self, input_ids):
        return self.classifier(self.body(self.words(input_ids)))
'''


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "textnets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "conf" / "model").mkdir(parents=True)
    sizes = "vocabulary: ${data.vocabulary}\nwidth: 16\n"
    (tmp_path / "conf" / "model" / "sentence.yaml").write_text(
        "_target_: textnets.Bag\nclasses: ${data.classes}\n" + sizes
    )
    (tmp_path / "conf" / "model" / "bigram.yaml").write_text("_target_: textnets.Bigram\n" + sizes)
    with machine(tmp_path / "home"):
        yield tmp_path / "conf"


def ran(conf: Path, model: str, *arguments: str) -> Told:
    told = train(
        f"--config-dir={conf}", "allow=[textnets]", f"model={model}", f"teacher={model}", "teacher.model.width=32",
        "optimizer=adamw", "optimizer.lr=0.02", "teacher.optimizer=adamw", "teacher.optimizer.lr=0.02", "loss=kd",
        "trainer.max_epochs=6", "teacher.trainer.max_epochs=6", "trainer.batch_size=20", "logger=csv", *arguments,
        runs=conf.parent / "runs",
    )  # fmt: skip
    assert told.code == 0, told.err
    jsonschema.validate(told.result, json.loads(SCHEMA.read_text()))
    return told


def test_sentences_are_classified_by_a_student_and_its_teacher(conf: Path, tmp_path: Path) -> None:
    texts = write(tmp_path / "texts", "csv", train=reviews(200), validation=reviews(40, 1), test=reviews(60, 2))
    told = ran(conf, "sentence", "data=text", f"data.path={texts}", "data.classes=2", "data.vocabulary=200",
               "data.length=24", "data.augment.masking=0.05")  # fmt: skip
    for row in ("teacher", "alone", "student"):
        assert told.result[row]["test"]["last"]["accuracy"] > 0.8, row
        assert told.result[row]["test"]["last"]["matthews"] > 0.6, row
    assert told.result["primary"] == "accuracy"
    assert told.folder is not None
    assert (told.folder / "tokenizer.json").is_file(), "a student is nothing without its tokenizer"


def test_a_language_is_modelled_by_a_student_and_its_teacher(conf: Path, tmp_path: Path) -> None:
    texts = write(tmp_path / "texts", "parquet", train=reviews(300), validation=reviews(40, 1), test=reviews(60, 2))
    told = ran(conf, "bigram", "data=corpus", f"data.path={texts}", "data.tokenizer=characters", "data.vocabulary=32",
               "data.length=16", "task=language_modeling")  # fmt: skip
    found = told.result["student"]["test"]["last"]
    assert 1 < found["nats_per_token"] < 2.9, "below the logarithm of 24 characters, above nothing"
    assert found["bits_per_byte"] == pytest.approx(found["nats_per_token"] / 0.693147, rel=0.06), "a byte a character"
    assert found["perplexity"] == pytest.approx(2.718281828 ** found["nats_per_token"], rel=1e-4)
    assert (told.result["primary"], told.result["directions"]["nats_per_token"]) == ("nats_per_token", "min")
    assert 0 <= found["teacher_kl"] < 0.5
    assert told.folder is not None
    rows = read_metrics(told.folder / "metrics.csv")
    validated = [row["validation/nats_per_token"] for row in rows if "validation/nats_per_token" in row]
    assert len(validated) == 6
    assert validated[-1] == pytest.approx(told.result["student"]["validation"]["last"], rel=1e-6)
    assert found["agreement"] > 0.5
