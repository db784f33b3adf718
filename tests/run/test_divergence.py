"""A run that diverges ends in one line, whichever update it was, and leaves no network in the store."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchmetrics import Metric

import kdlab
from kdlab.heads.response.kd import KD
from kdlab.models.resnet import ResNet
from kdlab.networks.weights import load_checkpoint
from kdlab.run.evaluation import judge
from kdlab.run.store import Store
from kdlab.tasks.classification import Classification
from kdlab.training.loss_buffer import DivergedError, refuse_broken_weights
from support.tiny_runs import NETWORKS, machine, train

ONE_STEP = (*NETWORKS, "trainer.max_epochs=1", "trainer.max_steps=1", "teacher.trainer.max_epochs=1", "alone=false",
            "logger=csv")  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lr=1e25"], "logits of student last became NaN or infinite"),  # finite weights, too large to use
        (["optimizer.lr=1e25", "trainer.max_steps=2"], "became NaN or infinite at step 2"),
        (["teacher.trainer.max_steps=1", "teacher.optimizer.lr=1e30"], "became NaN or infinite"),
    ],
    ids=["the last update", "the next loss", "the teacher's last update"],
)
def test_a_run_that_diverges_at_its_last_update_has_no_result(tmp_path, overrides, words):
    with machine(tmp_path / "home"):
        told = train(*ONE_STEP, *overrides, runs=tmp_path / "runs")
        assert told.code == 1
        assert words in told.err.splitlines()[-1]
        assert "optimizer.lr" in told.err
        assert not (told.folder / "result.json").exists()
        for entry in Store().root.glob("*/result.json"):  # only the teacher, where it is whole
            json.loads(entry.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert len(list(Store().root.glob("*/result.json"))) == (0 if "teacher" in overrides[0] else 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_broken_value_of_a_weight_is_found(value):
    weights = [torch.ones(3), torch.tensor(4), torch.empty(0), torch.full((2, 2), 6e4, dtype=torch.float16)]
    refuse_broken_weights(weights, 7, 0.7)
    weights[0][1] = value
    with pytest.raises(DivergedError, match=r"at step 7, in epoch 0\.70"):
        refuse_broken_weights(weights, 7, 0.7)


def test_a_teacher_whose_weights_hold_nan_is_refused_before_anything_trains(tmp_path):
    network = ResNet(classes=10, channels=1, depth=8, width=0.5, filters=[16, 16, 32, 64])
    network.state_dict()["fc.bias"][3] = float("nan")
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    with machine(tmp_path / "home"):
        checkpoint = f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}"
        told = train(*ONE_STEP, checkpoint, runs=tmp_path / "runs")
    assert (told.code, told.folder) == (2, None)
    assert "fc.bias holds NaN" in told.err


class Undefined(Metric):
    """A metric of a class that has no samples."""

    def update(self, logits, targets):
        pass

    def compute(self):
        return torch.tensor(float("nan"))


def test_a_metric_that_is_nan_is_left_out_unless_a_student_is_judged_by_it(monkeypatch):
    task = Classification(2)
    known = task.metrics()
    known.add_metrics({"recall": Undefined()})
    monkeypatch.setattr(task, "metrics", lambda: known)
    batch = {"input": torch.eye(2), "target": torch.tensor([0, 1])}
    found = judge(task, {"student": lambda batch: batch["input"]}, [batch])["student"]
    assert found["accuracy"] == 1.0
    assert "recall" not in found
    task.primary = "recall"
    with pytest.raises(DivergedError, match="test recall of student became NaN"):
        judge(task, {"student": lambda batch: batch["input"]}, [batch])


def test_an_infinite_buffer_is_no_divergence_and_no_bad_teacher(tmp_path):
    """The mask of a causal network is minus infinity above its diagonal."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))

        def forward(self, input):
            return self.linear(input)

    network = Masked()
    save_file(network.state_dict(), tmp_path / "masked.safetensors")
    load_checkpoint(tmp_path / "masked.safetensors", Masked())
    batches = [{"input": torch.eye(2), "target": torch.tensor([0, 1])}] * 2
    _, result = kdlab.distill(Masked(), network, batches, batches, loss=KD(4.0), epochs=1, accelerator="cpu")
    assert 0 <= result["last"]["accuracy"] <= 1
