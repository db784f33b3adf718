"""Models of language against their definitions, and classification against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.text import Perplexity

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.tasks.classification import FEW, Classification
from kdlab.tasks.language_modeling import LanguageModeling

V = 11


def batch(samples: int = 3, length: int = 5, seed: int = 0) -> tuple[Batch, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (samples, length + 1), generator=draw)
    place = torch.arange(samples)
    made: Batch = {"input": {"input_ids": ids[:, :-1]}, "target": ids[:, 1:], "index": place, "view": place,
                   "bytes": torch.full((samples,), 2.0 * length)}  # fmt: skip
    return made, torch.randn(samples, length, V, generator=draw)


def test_without_padding_rows_are_a_view_of_the_logits() -> None:
    given, logits = batch()
    rows, samples = LanguageModeling(V).read({"logits": logits}, given)
    assert rows.data_ptr() == logits.data_ptr()
    assert rows.shape == (15, V)
    assert samples.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert torch.equal(rows[7], logits[1, 2])
    assert LanguageModeling(V).targets(given)[7] == given["target"][1, 2]


def test_padding_makes_no_rows() -> None:
    given, logits = batch()
    given["input"]["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    task = LanguageModeling(V)
    rows, samples = task.read(logits, given)
    assert samples.tolist() == [0] * 5 + [1] + [2] * 2
    assert torch.equal(rows, torch.cat([logits[0], logits[1, :1], logits[2, :2]]))
    assert torch.equal(task.laid_out(logits, given), rows)
    assert len(task.targets(given)) == 8


def test_targets_that_are_by_row_already_change_nothing() -> None:
    given, logits = batch()
    task = LanguageModeling(V)
    assert torch.equal(task.read(logits, task.by_row(given))[0], task.read(logits, given)[0])


def test_metrics_of_a_stream_are_those_of_the_whole() -> None:
    task = LanguageModeling(V)
    metrics, perplexity = task.metrics(), Perplexity(ignore_index=-1)
    nats, tokens, length = 0.0, 0, 0.0
    for seed, samples in enumerate((3, 1, 4)):
        given, logits = batch(samples, seed=seed)
        given["target"][0, 0] = -1
        metrics.update(task.read(logits, given)[0], task.targets(given), **task.beside(given))
        perplexity.update(logits, given["target"])
        nats += float(cross_entropy(logits.flatten(0, 1), given["target"].flatten(), reduction="sum", ignore_index=-1))
        tokens += 5 * samples - 1
        length += 10 * samples
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["nats_per_token"] == pytest.approx(nats / tokens, rel=1e-6)
    assert found["perplexity"] == pytest.approx(float(perplexity.compute()), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / length, rel=1e-6)
    assert found.keys() | task.comparisons().keys() == task.titles.keys() == task.directions.keys()
    metrics.reset()
    given, logits = batch()
    metrics.update(task.read(logits, given)[0], task.targets(given))
    assert metrics.compute().keys() == {"nats_per_token", "perplexity"}, "no bytes, no bits per byte"


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary() -> None:
    task = LanguageModeling(V)
    given, logits = batch()
    metrics = task.metrics()
    metrics.update(task.read(torch.zeros_like(logits), given)[0], task.targets(given))
    assert float(metrics.compute()["nats_per_token"]) == pytest.approx(math.log(V))
    assert float(metrics.compute()["perplexity"]) == pytest.approx(V)
    assert task.better(1.0, 2.0)


@pytest.mark.parametrize("shape", [(3, V), (3, 4, V), (5, 3, V)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \[3, 5, V\], one row per token"):
        LanguageModeling(V).read(torch.zeros(shape), batch()[0])


def test_a_language_model_under_classification_is_told_its_task() -> None:
    with pytest.raises(UsageError, match="type task=language_modeling"):
        Classification(V).read(batch()[1], batch()[0])


def test_f1_and_matthews_of_few_classes_are_those_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(1)
    metrics, seen, said = Classification(3).metrics(), [], []
    for _ in range(4):
        logits, target = torch.randn(20, 3, generator=draw), torch.randint(-1, 3, (20,), generator=draw)
        target[:10] = 0
        metrics.update(logits, target)
        seen += target[target >= 0].tolist()
        said += logits[target >= 0].argmax(1).tolist()
    found = metrics.compute()
    assert float(found["f1"]) == pytest.approx(f1_score(seen, said, average="macro"))
    assert float(found["matthews"]) == pytest.approx(matthews_corrcoef(seen, said), abs=1e-6)


def test_many_classes_are_measured_as_before() -> None:
    assert set(Classification(FEW + 1).metrics()) == {"accuracy", "cross_entropy", "calibration_error"}
    assert Classification.primary == "accuracy"
    assert Classification.titles.keys() == Classification.directions.keys()
