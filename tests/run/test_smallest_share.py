"""Parts of a batch with a single sample, or none: refused before the teacher is trained, or trained as they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdlab
from kdlab.core.errors import UsageError
from kdlab.core.rng import random_state
from kdlab.heads.relation.rkd import RKD
from kdlab.run.derive import compose_run
from kdlab.run.preflight import Preflight
from kdlab.run.smallest_share import smallest_share
from kdlab.study.spec_file import make_plan
from kdlab.study.trial import _check
from support.tiny_runs import TINY, files, machine, train


@pytest.fixture(autouse=True)
def _machine(tmp_path):
    with machine(tmp_path / "home"):
        yield


@pytest.mark.parametrize("loss", ["rkd", "sp", "pkt", "cc"])
@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("trainer.batch_size=1", "trainer.batch_size=1"),
        ("trainer.accumulate=64", "trainer.accumulate=64"),
        ("data.subset=1", "data.subset=1"),
    ],
)
def test_a_relation_of_one_row_is_refused_before_anything_is_written(loss, given, key, tmp_path):
    refused(tmp_path, [f"loss={loss}", given], f"kdlab: {key} leaves a single sample in a part of a batch: {loss}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.subset=1", "model=vgg8"], "data.subset=1 leaves a single sample in a part of a batch: Expected more"),
        (["trainer.batch_size=1", "model=vgg8"], "trainer.batch_size=1 leaves a single sample"),
        (["trainer.batch_size=8", "trainer.accumulate=8", "model=vgg8"], "trainer.accumulate=8 leaves a single sample"),
        (["teacher=vgg8", "teacher.trainer.batch_size=1"], "teacher.trainer.batch_size=1 leaves a single sample"),
        (["data.subset=1", "mode=one"], "data.subset=1 leaves a single sample"),
        (["data.subset=1", "mode=dlb", "model=vgg8"], "data.subset=1 leaves a single sample"),
        (["data.subset=1", "mode=ema", "loss=pkt"], "data.subset=1 leaves a single sample"),
        (["data.subset=10", "trainer.accumulate=16"], "trainer.accumulate=16 leaves some of a batch's 16 parts"),
        (["data.subset=1", "data.augment.mixup=0.2"], "data.subset=1 leaves a single sample in a batch, and data.aug"),
        (["trainer.batch_size=1", "data.augment.cutmix=1"], "trainer.batch_size=1 leaves a single sample in a batch"),
        (["data.subset=1", "loss=crd"], "crd contrasts samples of different classes"),
        (["phases=[{epochs: 1}, {epochs: 1, mode: dml}]", "loss=rkd", "trainer.batch_size=1"], "trainer.batch_size=1"),
    ],
)  # fmt: skip
def test_what_one_sample_cannot_train_is_refused_before_anything_is_written(given, said, tmp_path):
    refused(tmp_path, given, f"kdlab: {said}")


def refused(place, given, said):
    before = files(place)
    told = train(*TINY, *given, runs=place / "runs")
    (line,) = told.err.splitlines()
    assert (told.code, told.out) == (2, "")
    assert line.startswith(said)
    assert set(files(place)) == set(before)


@pytest.fixture
def pair(tmp_path):
    """A data set of two pictures to train on, one of each class, and two to select by and two to test."""
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pair" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "0.png")
    return ["data=images", f"data.path={tmp_path}/pair", "data.classes=2", "data.size=8", "data.channels=1",
            "data.mean=[0.5]", "data.std=[0.5]", "data.augment={}", "data.validation=1"]  # fmt: skip


def test_a_data_set_found_to_be_too_small_is_refused_before_a_network_is_trained(pair, tmp_path):
    for given, said in (
        (["loss=rkd", "trainer.accumulate=2"], "kdlab: trainer.accumulate=2 leaves a single sample"),
        (["trainer.accumulate=4"], "kdlab: trainer.accumulate=4 leaves some of a batch's 4 parts without a sample"),
    ):
        told = train(*TINY, *pair, *given, runs=tmp_path / "runs")
        (line,) = told.err.splitlines()
        assert (told.code, told.out, told.folder) == (2, "", None)
        assert line.startswith(said)
        assert not (tmp_path / "home" / "store").exists()
    assert train(*TINY, *pair, "loss=rkd", runs=tmp_path / "runs").code == 0


def test_a_study_is_refused_where_its_data_are_too_few(pair):
    study = {"overrides": [*TINY, *pair, "loss=rkd", "trainer.accumulate=2"],
             "space": {"optimizer.lr": {"low": 0.01, "high": 0.1}}}  # fmt: skip
    with pytest.raises(UsageError, match=r"^trainer\.accumulate=2 leaves a single sample"):
        _check(make_plan({"name": "few", **study}))


def test_one_sample_trains_what_it_can(tmp_path):
    told = train(*TINY, "loss=kd", "data.subset=1", runs=tmp_path / "runs")
    assert told.code == 0
    assert told.result["data"]["train"] == 1


def test_trying_a_single_sample_leaves_random_state_and_parts_alone():
    def weights(*given):
        torch.manual_seed(7)
        parts = Preflight().check(compose_run([*TINY, "loss=crd", *given]))
        return parts.mode.state_dict() | parts.objective.state_dict(), random_state()["torch"]

    (normal, before), (tried, after) = weights(), weights("trainer.batch_size=1")
    assert torch.equal(before, after)
    assert normal.keys() == tried.keys()
    assert all(torch.equal(normal[name], tried[name]) for name in normal)
    assert not any(value for name, value in tried.items() if name.endswith(("num_batches_tracked", "filled")))


@pytest.mark.parametrize(
    ("batch", "samples", "ranks", "accumulate", "share"),
    [
        (64, None, 1, 1, 64),
        (64, 1000, 2, 4, 8),
        (64, 10, 1, 16, 0),
        (64, 3, 2, 1, 1),
        (64, 7, 2, 2, 1),
        (6, 5, 1, 2, 2),
    ],
)
def test_the_smallest_share_is_that_of_the_loader(batch, samples, ranks, accumulate, share):
    trainer = compose_run(TINY).trainer.replace(batch_size=batch, accumulate=accumulate)
    assert smallest_share(trainer, samples, ranks) == share


def networks():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), nn.Linear(4, 3)


def perceptron():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def loader(samples, **settings):
    data = TensorDataset(torch.randn(samples, 4), torch.arange(samples) % 3)
    return DataLoader(data, **{"batch_size": 8, **settings})


@pytest.mark.parametrize(
    "batches", [loader(33), loader(1), loader(4, batch_size=1), list(loader(9)), loader(33, shuffle=True)]
)
def test_distill_refuses_a_single_sample_that_it_would_come_to_later(batches):
    student, teacher = networks()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(UsageError, match=r"^train: a batch has a single sample: Expected more than 1 value"):
        kdlab.distill(student, teacher, batches, loss=kdlab.KD(4.0), epochs=1)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert not any(module._forward_hooks for module in student.modules())
    with pytest.raises(UsageError, match=r"^train: a batch has a single sample: rkd compares"):
        kdlab.distill(*(perceptron() for _ in range(2)), batches, loss=RKD(25.0, 50.0), epochs=1)


def test_distill_trains_where_no_single_sample_comes():
    for batches, settings in ((loader(33, drop_last=True), {}), (loader(33), {"limit_train_batches": 2})):
        kdlab.distill(*networks(), batches, loss=kdlab.KD(4.0), epochs=1, accelerator="cpu", **settings)


def test_distill_trains_on_single_samples_where_it_can():
    kdlab.distill(nn.Linear(4, 3), nn.Linear(4, 3), loader(9), loss=kdlab.KD(4.0), epochs=1, accelerator="cpu")
