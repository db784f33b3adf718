"""A user's own data: a torch Dataset of classes or of real values, and a Data class, from the command line."""

from pathlib import Path

import pytest
import torch
import yaml

import kdlab
from support.tiny_runs import machine, train

PACKAGE = '''
import hashlib

import torch
from torch import nn
from torch.utils.data import Dataset

from kdlab.data.data import Data, DataTarget

WEIGHTS = torch.tensor([[1.0], [-2.0], [0.5]])


class Points(Dataset):
    """Points in space; which side of a plane they lie on, or how far from it."""

    def __init__(self, count, seed=0, far=False, named=False):
        self.points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
        distance = self.points @ WEIGHTS
        self.answers = distance if far else (distance[:, 0] > 0).long()
        self.named = named

    def __len__(self):
        return len(self.points)

    def __getitem__(self, place):
        point = self.points[place]
        return ({"point": point} if self.named else point), self.answers[place]


class Flipped(Points):
    """Says other targets in a list than it yields."""

    def __init__(self, count, seed=0, noisy=False):
        super().__init__(count, seed)
        self.targets, self.noisy = self.answers, noisy

    def __getitem__(self, place):
        point, target = super().__getitem__(place)
        return point + torch.randn(3) * self.noisy, 1 - target


class Uneven(Points):
    """Inputs of two lengths."""

    def __getitem__(self, place):
        point, target = super().__getitem__(place)
        return point[: 2 + place % 2], target


class Net(nn.Module):
    def __init__(self, outputs, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.ReLU())
        self.classifier = nn.Linear(width, outputs)

    def forward(self, point):
        return self.classifier(self.body(point))


class Walk(Data, DataTarget):
    """Data of no table: batches made on the spot, 40 to train on, 8 to test."""

    def __init__(self, slope, classes, validation=0):
        self.slope = slope

    @classmethod
    def example(cls, settings, samples=2):
        return cls._made(samples, 0, settings["slope"])

    @classmethod
    def outputs(cls, settings):
        return settings["classes"]

    @staticmethod
    def _made(samples, first, slope):
        index = torch.arange(first, first + samples)
        point = torch.stack([index.sin(), index.cos(), (slope * index).sin()], 1)
        return {"input": point, "target": (point @ WEIGHTS > 0).long()[:, 0], "index": index,
                "view": torch.zeros_like(index)}

    @property
    def fingerprint(self):
        return hashlib.sha256(f"walk {self.slope}".encode()).hexdigest()

    @property
    def sizes(self):
        return {"train": 320, "validation": 0, "test": 64}

    @property
    def classes(self):
        return ("below", "above")

    def steps_per_epoch(self, batch_size, shares=1):
        return 320 // batch_size

    def train_loader(self, batch_size, seed, rank=0, world=1, device="cpu", views=(), accumulate=1):
        return Loader([self._made(batch_size, first, self.slope) for first in range(0, 320, batch_size)])

    def eval_loader(self, part, batch_size, rank=0, world=1, device="cpu"):
        return Loader([self._made(32, first, self.slope) for first in (320, 352)])


class Loader(list):
    drawn = 0

    def set_epoch(self, epoch):
        pass

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]

    def close(self):
        pass
'''

CONFIGS = {
    "model/net": {"_target_": "ownpackage.Net", "outputs": "${data.classes}", "width": 8},
    "data/walk": {"_target_": "ownpackage.Walk", "slope": 3.0, "classes": 2, "validation": 0},
}
SHORT = ("model=net", "teacher=net", "teacher.model.width=32", "allow=[ownpackage]", "logger=csv",
         "trainer.max_epochs=8", "teacher.trainer.max_epochs=8", "trainer.batch_size=32",
         "optimizer.lr=0.1")  # fmt: skip
POINTS = ("data=dataset", "data.train._target_=ownpackage.Points", "+data.train.count=640", "data.classes=2",
          "data.test._target_=ownpackage.Points", "+data.test.count=200", "+data.test.seed=1")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "ownpackage").mkdir()
    (folder / "ownpackage" / "__init__.py").write_text(PACKAGE)
    for name, content in CONFIGS.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch, machine(folder / "home"):
        patch.syspath_prepend(folder)
        yield folder


def run(place: Path, *arguments: str):
    return train(*SHORT, "--config-dir", str(place / "conf"), *arguments, runs=place / "runs")


@pytest.mark.parametrize("named", ["false", "true"], ids=["a tensor", "a mapping"])
def test_a_torch_data_set_of_classes_makes_a_run(place, named):
    told = run(place, *POINTS, f"+data.train.named={named}", f"+data.test.named={named}", "loss=[kd,rkd]")
    assert told.code == 0, told.err
    rows = told.result
    assert (rows["data"]["train"], rows["data"]["validation"], rows["data"]["test"]) == (576, 64, 200)
    assert rows["student"]["test"]["last"]["accuracy"] > 0.9
    assert rows["student"]["multiply_accumulates"] == 3 * 8 + 8 * 2
    assert kdlab.load_student(told.folder, allow=["ownpackage"])(torch.zeros(4, 3)).shape == (4, 2)


def test_a_torch_data_set_of_real_values_is_learned_by_regression(place):
    told = run(place, *POINTS, "data.classes=1", "+data.train.far=true", "+data.test.far=true", "task=regression",
               "loss=logit_mse", "optimizer.lr=0.01", "teacher.optimizer.lr=0.01", "data.unlabelled=100")  # fmt: skip
    assert told.code == 0, told.err
    rows = told.result
    assert rows["primary"] == "mean_squared_error"
    student = kdlab.load_student(told.folder, allow=["ownpackage"])
    import ownpackage

    test = ownpackage.Points(200, 1, far=True)
    with torch.no_grad():
        by_hand = float((student(test.points) - test.answers).square().mean())
    assert rows["student"]["test"]["last"]["mean_squared_error"] == pytest.approx(by_hand, rel=1e-5)
    assert by_hand < 0.3 * float(test.answers.square().mean())
    assert rows["teacher"]["test"]["last"].keys() == {"mean_squared_error", "mean_absolute_error"}
    assert "teacher_squared_distance" in rows["student"]["test"]["last"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["task=regression", "data.classes=1"],
         "loss=kd compares probabilities, and the outputs of Regression are real values; type loss=logit_mse, or a "
         "loss on features"),
        (["data.train._target_=null"], "data.train is not set; type data.train._target_=PACKAGE.CLASS allow=[PACKAGE]"),
        (["+data.train.far=true", "+data.test.far=true", "data.classes=3", "task=regression", "loss=logit_mse"],
         "data.classes=3, but a target has 1 values; type data.classes=1"),
        (["data.classes=5"], "data.classes=5, but the training targets go up to 1; type data.classes=2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(place, given, said):
    told = run(place, *POINTS, *given)
    assert told.code == 2
    assert said in told.err
    assert told.err.count("\n") == 1


def test_a_data_class_of_ones_own_makes_a_run(place):
    told = run(place, "data=walk", "loss=kd")
    assert told.code == 0, told.err
    rows = told.result
    assert (rows["data"]["train"], rows["data"]["validation"], rows["data"]["test"]) == (320, 0, 64)
    assert rows["student"]["validation"] is None
    assert rows["student"]["test"]["last"]["accuracy"] > 0.9


def test_without_a_test_set_a_tenth_of_the_training_samples_is_held_out(place):
    told = run(place, *POINTS[:4], "alone=false", "trainer.max_epochs=1", "teacher.trainer.max_epochs=1")
    assert told.code == 0, told.err
    data = told.result["data"]
    assert (data["train"], data["validation"], data["test"]) == (518, 58, 64)


def test_a_target_is_what_a_sample_yields_not_what_a_list_says(place):
    import ownpackage

    from kdlab.data.torch_dataset import TorchDataset

    samples = ownpackage.Flipped(40)
    source = TorchDataset(samples, test=ownpackage.Flipped(10))
    assert torch.equal(source.train.labels, 1 - samples.answers)
    assert torch.equal(TorchDataset(ownpackage.Points(40), test=samples).train.labels, ownpackage.Points(40).answers)


def test_random_numbers_of_a_data_set_differ_by_seed_and_rank_and_are_the_same_again(place):
    import ownpackage

    from kdlab.data.dataset import prepare
    from kdlab.data.torch_dataset import TorchDataset

    source = TorchDataset(ownpackage.Flipped(40, noisy=True), test=ownpackage.Flipped(10))
    data = prepare(source, {"validation": 0, "split_seed": 0, "workers": 1, "classes": 2})

    def noise(seed, rank=0):
        loader = data.train_loader(40, seed, rank, world=2)
        (batch,) = loader
        loader.close()
        return dict(zip(batch["index"].tolist(), batch["input"] - source.train.inputs.samples.points[batch["index"]],
                        strict=True))  # fmt: skip

    first, again, other, second = noise(0), noise(0), noise(1), noise(0, rank=1)
    assert all(torch.equal(first[place], again[place]) for place in first)
    assert not torch.equal(torch.stack([*first.values()]), torch.stack([*other.values()]))
    assert not torch.equal(torch.stack([*first.values()]), torch.stack([*second.values()]))


def test_inputs_of_several_shapes_are_refused_in_a_line(place):
    told = run(place, "data=dataset", "data.train._target_=ownpackage.Uneven", "+data.train.count=640",
               "data.classes=2")  # fmt: skip
    assert told.code == 2
    assert "data: one input is [2], another [3]; expected one shape" in told.err
