"""A run from end to end: what it prints, what it leaves on disk, and that its numbers are what they say."""

import re
from multiprocessing import active_children
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from safetensors.torch import load_file

import kdlab
from kdlab.config.compose import compose
from kdlab.data.dataset import prepare
from kdlab.data.source import Digits
from kdlab.models.resnet import ResNet
from kdlab.run.derive import compose_run
from kdlab.run.execute import run
from kdlab.run.loggers import read_metrics
from kdlab.run.result import SCHEMA
from support.tiny_runs import TINY, Told, files, folders, machine, train

FIGURES = ("test", "validation", "parameters", "multiply_accumulates", "bytes", "epochs", "network")
"""What a row says that is not the time it took."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def first(place: Path) -> Told:
    with machine(place / "home"):
        return train(*TINY, "loss=kd", runs=place / "runs")


@pytest.fixture(scope="module")
def second(place: Path, first: Told) -> Told:
    with machine(place / "home"):
        return train(*TINY, "loss=kd", "seed=1", "alone=false", runs=place / "runs")


@pytest.fixture
def _machine(tmp_path: Path):
    with machine(tmp_path / "home"):
        yield


def predictions(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a part of the digits, normalised by hand, from the student that a folder holds."""
    described = yaml.safe_load((folder / "student.yaml").read_text())["input"]
    source = Digits()
    config = compose(["data=digits"]).data.plain()
    table = getattr(prepare(source, config).parts, part)
    pixels = table.inputs.float() / 255
    with torch.no_grad():
        return kdlab.load_student(folder)((pixels - described["mean"][0]) / described["std"][0]), table.labels


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def test_the_table_has_a_column_for_each_network_and_a_row_for_each_figure(first):
    assert first.code == 0
    for words in (
        "teacher", "student", "alone", "distilled", "test accuracy, last epoch",
        "test accuracy, best epoch by validation", "calibration error", "agreement with teacher", "parameters",
        "multiply-accumulates", "latency, one CPU thread, ms", "training time, s", "training samples / s",
    ):  # fmt: skip
        assert words in first.out
    row = next(line for line in first.out.splitlines() if "test accuracy, last epoch" in line)
    said = [float(number) for number in re.findall(r"\d\.\d{4}", row)]
    rows = (first.result[name]["test"]["last"]["accuracy"] for name in ("teacher", "alone", "student"))
    assert said == pytest.approx(list(rows), abs=5e-5)
    share = f"{first.result['gap_closed']['last']:.0%} at the last epoch"
    assert share in " ".join(first.out.split())
    assert str(first.folder) in first.out


def test_a_run_folder_holds_what_was_promised_and_nothing_else(first):
    checkpoints = {"checkpoints/last.ckpt", "checkpoints/previous.ckpt"}
    network = {"best-student.safetensors", *checkpoints, "metrics.csv", "student.safetensors"}
    waited = {f"{job}/{name}" for job in ("teacher", "alone") for name in network}
    assert set(files(first.folder)) == network | waited | {"config.yaml", "result.json", "student.yaml"}


def test_the_result_fits_its_schema(first):
    jsonschema.Draft202012Validator.check_schema(yaml.safe_load(SCHEMA.read_text()))
    jsonschema.validate(first.result, yaml.safe_load(SCHEMA.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**first.result, "best_test_epoch": 3}, yaml.safe_load(SCHEMA.read_text()))


def test_the_gap_closed_is_that_of_the_three_accuracies(first):
    for which in ("last", "best"):
        teacher, alone, student = (
            first.result[name]["test"][which]["accuracy"] for name in ("teacher", "alone", "student")
        )
        assert first.result["gap_closed"][which] == pytest.approx((student - alone) / (teacher - alone))


def test_metrics_csv_has_every_term_and_every_validation(first):
    header = (first.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == ["step", "epoch", "loss/task", "loss/kd", "loss/total", "lr", "validation/accuracy",
                      "validation/calibration_error", "validation/cross_entropy"]  # fmt: skip
    rows = read_metrics(first.folder / "metrics.csv")
    assert [(row["step"], row["epoch"]) for row in rows] == [(16, 1), (16, 1), (32, 2), (32, 2)]
    for training in rows[::2]:
        assert training["loss/total"] == pytest.approx(0.1 * training["loss/task"] + 0.9 * training["loss/kd"])
    scored = [row["validation/accuracy"] for row in rows[1::2]]
    said = first.result["student"]["validation"]
    assert (max(scored), scored[-1]) == (said["best"], said["last"])
    assert said["best_epoch"] == 1 + scored.index(max(scored))
    rate = yaml.safe_load((first.folder / "config.yaml").read_text())["optimizer"]["lr"]
    assert [row["lr"] for row in rows[::2]] == pytest.approx([rate / 2, 0.0])  # half a cosine


def test_samples_are_counted_one_by_one(first):
    for row in ("teacher", "alone", "student"):  # two epochs of 1000: not of 16 batches of 64
        assert first.result[row]["samples_per_second"] * first.result[row]["seconds"] == pytest.approx(2000)


@pytest.mark.parametrize(
    ("override", "steps", "says"),
    [("data.drop_last=false", 16, False), ("data.drop_last=true", 15, False), ("trainer.accumulate=16", 15, True)],
)
def test_a_last_batch_that_cannot_be_shared_is_left_out_and_the_run_says_so(tmp_path, override, steps, says):
    with machine(tmp_path / "home"):
        told = train(*TINY, "mode=supervised", "trainer.max_epochs=1", override, runs=tmp_path / "runs")
    assert read_metrics(told.folder / "metrics.csv")[-1]["step"] == steps
    message = (
        "kdlab: an epoch leaves out 40 samples: its last batch does not divide into 16 shares of two samples or "
        "more (devices times trainer.accumulate)"
    )
    assert (message in told.err.splitlines()) == says


def test_the_student_that_is_loaded_scores_what_the_result_says(first):
    logits, labels = predictions(first.folder, "test")
    assert logits.shape == (397, 10)
    test = first.result["student"]["test"]["last"]
    assert test["accuracy"] == pytest.approx(accuracy(logits, labels), abs=1e-6)
    assert test["cross_entropy"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-5)


def test_what_is_saved_is_the_student_and_nothing_of_the_teacher(first):
    saved = load_file(first.folder / "student.safetensors")
    student = ResNet(classes=10, channels=1, width=0.25, depth=8, filters=[16, 16, 32, 64])
    assert {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in student.state_dict().items()
    }
    assert first.result["student"]["bytes"] == (first.folder / "student.safetensors").stat().st_size
    described = (first.folder / "student.yaml").read_text()
    assert "teacher" not in described
    checkpoint = torch.load(first.folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert sorted(name.partition(".learners.0.")[2] for name in checkpoint["state_dict"]) == sorted(saved)
    trained = checkpoint["optimizer_states"][0]["param_groups"][0]["params"]
    assert len(trained) == len(list(student.parameters()))


def test_the_teacher_is_taken_from_the_store_the_second_time(place, first, second):
    assert first.out.count("not in the store") == 2
    assert "not in the store" not in second.out
    assert not (second.folder / "teacher").exists()
    assert second.result["teacher"]["weights_sha256"] == first.result["teacher"]["weights_sha256"]
    for key in ("test", "seconds", "parameters"):
        assert second.result["teacher"][key] == first.result["teacher"][key]
    assert second.result["alone"] is None
    assert second.result["gap_closed"] == {"last": None, "best": None}


def test_another_seed_is_another_student(first, second):
    ours, theirs = (load_file(told.folder / "student.safetensors") for told in (first, second))
    assert not torch.equal(ours["fc.weight"], theirs["fc.weight"])
    assert first.result["key"] != second.result["key"]


@pytest.mark.usefixtures("_machine")
def test_one_seed_gives_the_same_numbers_bit_for_bit(first, tmp_path):
    again = train(*TINY, "loss=kd", runs=tmp_path / "runs")
    for file in ("student.safetensors", "teacher/student.safetensors", "alone/student.safetensors", "metrics.csv"):
        assert (again.folder / file).read_bytes() == (first.folder / file).read_bytes()
    for row in ("teacher", "alone", "student"):
        assert {key: again.result[row][key] for key in FIGURES} == {key: first.result[row][key] for key in FIGURES}
    assert again.result["key"] == first.result["key"]
    assert again.result["gap_closed"] == first.result["gap_closed"]


@pytest.mark.usefixtures("_machine")
def test_a_supervised_run_is_the_teacher_of_whoever_asks_for_its_recipe(tmp_path):
    recipe = ("model=resnet8", "model.width=0.5", "trainer.max_epochs=2", "logger=csv")
    teacher = train("mode=supervised", *recipe, runs=tmp_path / "runs")
    assert (teacher.result["teacher"], teacher.result["alone"]) == (None, None)
    asked = train(*TINY, "alone=false", runs=tmp_path / "runs")
    assert "not in the store" not in asked.out
    stored = tmp_path / "home" / "store" / teacher.result["key"] / "weights.safetensors"
    ours, theirs = load_file(teacher.folder / "student.safetensors"), load_file(stored)
    assert {name: value.tolist() for name, value in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
    assert asked.result["teacher"]["test"] == teacher.result["student"]["test"]


@pytest.mark.usefixtures("_machine")
def test_a_supervised_run_is_the_student_alone_of_later_runs(tmp_path):
    own = ("model=resnet8", "model.width=0.25", "trainer.max_epochs=1", "logger=csv")
    alone = train("mode=supervised", *own, runs=tmp_path / "runs")
    distilled = train(*own, "teacher=resnet8", "teacher.trainer.max_epochs=1", "alone=false", runs=tmp_path / "runs")
    assert distilled.out.count("not in the store") == 1  # the teacher
    found = distilled.result["alone"]["test"]["last"]["accuracy"]
    assert found == alone.result["student"]["test"]["last"]["accuracy"]
    assert distilled.result["gap_closed"]["last"] is not None


@pytest.mark.usefixtures("_machine")
def test_an_option_that_has_no_effect_is_named_and_the_run_goes_on(tmp_path):
    told = train(*TINY, "trainer.max_epochs=0", "mode=supervised", "loss=kd", runs=tmp_path / "runs")
    assert told.code == 0
    assert [line for line in told.err.splitlines() if line.startswith("kdlab: ")] == [
        f"kdlab: {option} has no effect with mode=supervised"
        for option in ("teacher=resnet8", "teacher.model.width=0.5", "teacher.trainer.max_epochs=2", "loss=kd")
    ]


@pytest.mark.usefixtures("_machine")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_that_streams_leaves_no_process_behind(tmp_path):
    told = train("mode=supervised", "model=resnet8", "model.width=0.25", "trainer.max_epochs=1", "logger=csv",
                 "data.resident=false", "data.workers=1", runs=tmp_path / "runs")  # fmt: skip
    assert told.code == 0
    assert not active_children()


@pytest.mark.usefixtures("_machine")
def test_without_a_validation_part_the_last_epoch_is_all_there_is(tmp_path):
    told = train("mode=supervised", "model=resnet8", "model.width=0.25", "trainer.max_epochs=1", "logger=csv",
                 "data.validation=0", runs=tmp_path / "runs")  # fmt: skip
    assert (told.result["data"]["train"], told.result["data"]["validation"]) == (1400, 0)
    assert told.result["student"]["validation"] is None
    assert list(told.result["student"]["test"]) == ["last"]
    assert "by validation" not in told.out
    assert all("validation/accuracy" not in row for row in read_metrics(told.folder / "metrics.csv"))
    jsonschema.validate(told.result, yaml.safe_load(SCHEMA.read_text()))


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("keep", ["best", pytest.param("last", marks=pytest.mark.slow)])
def test_the_student_that_is_kept_is_the_one_that_was_asked_for(tmp_path, keep):
    # The second phase climbs the loss, so that the first epoch is the best on any machine.
    climb = "{epochs: 2, optimizer: {_target_: torch.optim.SGD, lr: 0.5, maximize: true}}"
    told = train(*TINY, "alone=false", "trainer.gradient_clip=1", f"keep={keep}", f"phases=[{{epochs: 1}}, {climb}]",
                 runs=tmp_path / "runs")  # fmt: skip
    row = told.result["student"]
    assert row["validation"]["best_epoch"] == 1
    assert row["validation"]["best"] > row["validation"]["last"]
    assert row["test"]["best"]["accuracy"] > row["test"]["last"]["accuracy"]
    assert accuracy(*predictions(told.folder, "validation")) == pytest.approx(row["validation"][keep])
    assert accuracy(*predictions(told.folder, "test")) == pytest.approx(row["test"][keep]["accuracy"])


@pytest.mark.usefixtures("_machine")
def test_a_run_is_named_after_what_it_is_and_none_is_overwritten(tmp_path):
    own = ("mode=supervised", "model=resnet8", "model.width=0.25", "trainer.max_epochs=0", "logger=csv")
    config = compose_run([*own, f"runs={tmp_path / 'runs'}"])
    first, second = run(config), run(config)
    for outcome in (first, second):
        assert re.fullmatch(r"\d{8}-resnet8-supervised-digits-seed0-[0-9a-f]{6}", outcome.folder.name)
    assert first.folder != second.folder
    assert len(folders(tmp_path / "runs")) == 2
    named = train(*own, "name=mine", "seed=3", runs=tmp_path / "runs")
    assert re.fullmatch(r"\d{8}-mine-[0-9a-f]{6}", named.folder.name)
    assert named.result["seeds"] == {"run": 3, "teachers": [], "split": 0}
