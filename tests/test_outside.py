"""What lives outside kdlab works as what lies within: a user's own package, and the networks of transformers."""

from pathlib import Path

import pytest
import torch
import yaml

import kdlab
from support.tiny_runs import Told, machine, train

PACKAGE = '''
import hashlib

import torch
from torch import nn

from kdlab import Head, Mode, Lesson, Edge
from kdlab.data.pictures import PictureSource
from kdlab.data.table import Table


class Stripes(PictureSource):
    """Pictures of stripes, upright or lying: two classes that any network tells apart."""

    def __init__(self, count, size=8, channels=1):
        labels = torch.arange(count) % 2
        upright = torch.zeros(size, size, dtype=torch.uint8)
        upright[:, ::2] = 255
        images = torch.stack([upright.T if label else upright for label in labels])[:, None]
        noise = torch.randint(0, 90, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        table = Table((images // 2 + noise).repeat(1, channels, 1, 1), labels)
        half = torch.arange(count // 2)
        super().__init__(table.take(half), None, table.take(half + count // 2), ("upright", "lying"), channels, size,
                         hashlib.sha256(str(count).encode()).hexdigest())


class Net(nn.Sequential):
    def __init__(self, classes, width):
        super().__init__(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, classes))


class Distance(Head):
    """The mean squared distance of logits."""

    kind, paper, compares = "response", "none", "logits"
    seen = []

    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, learner, teacher, lesson, progress):
        self.seen.append(self.power)
        return (learner.logits - teacher.logits).abs().pow(self.power).mean(1)


class Patient(Mode):
    """A student that hears its teacher from the second epoch on."""

    def __init__(self, cast, silent):
        super().__init__(cast.learners())
        self.frozen, self.silent = cast.teachers, silent

    @property
    def teachers(self):
        return self.frozen

    @property
    def edges(self):
        return (Edge(0, 0, "student-0"),)

    def source(self, edge):
        return self.frozen[0]

    def lessons(self, batch, progress):
        said = self.frozen[0](batch)
        weight = torch.full((1, len(batch["target"])), float(progress.epoch >= self.silent))
        return [Lesson(self.observed[0](batch), (said,), batch["target"], batch["index"], weight)]
'''

CONFIGS = {
    "data/stripes": {"_target_": "mypackage.Stripes", "count": 96, "classes": 2, "channels": 1, "size": 8,
                     "mean": [0.5], "std": [0.5], "validation": 8, "split_seed": 0, "augment": {}, "views": {}},
    "model/mine": {"_target_": "mypackage.Net", "classes": "${data.classes}", "width": 4},
    "loss/distance": {"heads": {"distance": {"_target_": "mypackage.Distance", "weight": 0.5, "task_weight": 1.0,
                                             "power": 2}}},
    "mode/patient": {"_target_": "mypackage.Patient", "silent": 1},
}  # fmt: skip


def write(folder: Path, configs: dict[str, object]) -> Path:
    for name, content in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("outside")
    (place / "mypackage").mkdir()
    (place / "mypackage" / "__init__.py").write_text(PACKAGE)
    with pytest.MonkeyPatch.context() as patch, machine(place / "home"):
        patch.syspath_prepend(place)
        yield train("model=mine", "--config-dir", str(write(place / "conf", CONFIGS)), "allow=[mypackage]",
                    "data=stripes", "teacher=mine", "teacher.model.width=8", "loss=distance",
                    "loss.heads.distance.power=3", "mode=patient",
                    "trainer.max_epochs=2", "teacher.trainer.max_epochs=2", "trainer.batch_size=8",
                    "teacher.trainer.batch_size=8", "alone=false", "logger=csv", runs=place / "runs")  # fmt: skip


def test_a_users_head_mode_model_and_data_set_make_a_run(told: Told):
    assert told.code == 0, told.err
    result = told.result
    assert result["names"] == {"model": "mine", "mode": "patient", "data": "stripes", "task": "classification",
                               "teacher": "mine", "loss": "distance"}  # fmt: skip
    assert (result["data"]["train"], result["data"]["validation"], result["data"]["test"]) == (40, 8, 48)
    assert result["student"]["test"]["last"]["accuracy"] > 0.9
    header, first, *_ = (told.folder / "metrics.csv").read_text().splitlines()
    assert "loss/distance" in header
    assert dict(zip(header.split(","), first.split(","), strict=True))["loss/distance"] == "0.0"  # silent at first
    rows = kdlab.run.loggers.read_metrics(told.folder / "metrics.csv")
    assert [row["loss/distance"] > 0 for row in rows if "loss/distance" in row] == [False, True]
    import mypackage

    assert set(mypackage.Distance.seen) == {3}


def test_a_users_student_is_loaded_in_one_line(told: Told):
    student = kdlab.load_student(told.folder, allow=["mypackage"])
    assert type(student).__name__ == "Net"
    assert student(torch.zeros(3, 1, 8, 8)).shape == (3, 2)


def test_a_users_package_is_refused_where_it_is_not_allowed(told: Told, tmp_path):
    said = train("--config-dir", str(told.folder.parents[1] / "conf"), "model=mine", "logger=csv", runs=tmp_path)
    assert said.code == 2
    assert said.err.endswith("; allow your own with allow=[mypackage]\n")
    assert not list(tmp_path.iterdir())


TRANSFORMERS = {
    "model/vit": {
        "_target_": "transformers.ViTForImageClassification",
        "config": {"_target_": "transformers.ViTConfig", "hidden_size": 16, "num_hidden_layers": 3,
                   "num_attention_heads": 2, "intermediate_size": 32, "image_size": "${data.size}", "patch_size": 4,
                   "num_channels": "${data.channels}", "num_labels": "${data.classes}"},
    },
    "model/hf_resnet": {
        "_target_": "transformers.ResNetForImageClassification",
        "config": {"_target_": "transformers.ResNetConfig", "embedding_size": 8, "hidden_sizes": [8, 16],
                   "depths": [1, 1], "layer_type": "basic", "num_channels": "${data.channels}",
                   "num_labels": "${data.classes}"},
    },
}  # fmt: skip


@pytest.mark.parametrize(("student", "teacher"), [("hf_resnet", "vit"), ("vit", "hf_resnet")])
def test_networks_of_transformers_are_teachers_and_students(tmp_path, student, teacher):
    with machine(tmp_path / "home"):
        told = train("--config-dir", str(write(tmp_path / "conf", TRANSFORMERS)), f"model={student}",
                     f"teacher={teacher}", "loss=[kd,fitnet]", "trainer.max_epochs=1", "teacher.trainer.max_epochs=1",
                     "data.size=16", "data.subset=320", "alone=false", "logger=csv",
                     runs=tmp_path / "runs")  # fmt: skip
        assert told.code == 0, told.err
        row = kdlab.run.loggers.read_metrics(told.folder / "metrics.csv")[0]
        assert row["loss/kd"] > 0
        assert row["loss/fitnet"] > 0
        loaded = kdlab.load_student(told.folder)
    assert type(loaded).__name__ == TRANSFORMERS[f"model/{student}"]["_target_"].split(".")[1]
    assert loaded(torch.zeros(2, 1, 16, 16)).logits.shape == (2, 10)
    assert sum(value.numel() for value in loaded.parameters()) == told.result["student"]["parameters"]
