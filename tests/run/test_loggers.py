"""What a run tells W&B, read back from the file of an offline run; and metrics.csv, the ground truth beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml

from kdlab.config.schema import LoggerConfig
from kdlab.run.loggers import MetricsFile, read_metrics, wandb_run
from support.tiny_runs import NETWORKS, Told, machine, train
from support.wandb_file import Logged, read

# The second phase climbs the loss, so that the first epoch is the best on any machine.
CLIMB = ("trainer.gradient_clip=1", "teacher.trainer.max_epochs=1", "alone=false", "phases=[{epochs: 1},"
         "{epochs: 2, optimizer: {_target_: torch.optim.SGD, lr: 0.5, maximize: true}}]")  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("tracking")
    with machine(place / "home"):
        return train(*NETWORKS, *CLIMB, "logger.tags=[trial]", "logger.project=mine", "trainer.log_every_n_steps=10",
                     runs=place / "runs")  # fmt: skip


def logged(folder: Path) -> Logged:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read(file)


def test_a_dashboard_finds_the_run_by_project_group_job_name_and_tags(told):
    run = logged(told.folder).run
    assert (run.project, run.run_group, run.job_type) == ("mine", "resnet8-kd-digits-seed0", "offline")
    assert run.display_name == "resnet8-kd-digits-seed0"
    assert sorted(run.tags) == ["classification", "digits", "kd", "offline", "resnet8", "trial"]


def test_the_config_is_that_of_the_run_as_plain_data(told):
    config = yaml.safe_load((told.folder / "config.yaml").read_text())
    assert {key: value for key, value in logged(told.folder).config.items() if key != "_wandb"} == config
    assert config["loss"]["heads"]["kd"]["temperature"] == 4.0


def test_the_summary_holds_the_best_validation_value_of_every_metric(told):
    rows = [row for row in read_metrics(told.folder / "metrics.csv") if "validation/accuracy" in row]
    scored = [row["validation/accuracy"] for row in rows]
    assert max(scored) == scored[0] > scored[-1]
    summary = logged(told.folder).summary
    assert summary["validation/accuracy"] == {"max": pytest.approx(max(scored))}
    for name in ("cross_entropy", "calibration_error"):
        best = min(row[f"validation/{name}"] for row in rows)
        assert summary[f"validation/{name}"] == {"min": pytest.approx(best)}
    test = told.result["student"]["test"]["last"]
    assert {f"test/{name}": value for name, value in test.items()}.items() <= summary.items()


def test_the_history_has_every_row_of_metrics_csv_over_the_same_steps(told):
    seen = logged(told.folder)
    rows = read_metrics(told.folder / "metrics.csv")
    assert [row["step"] for row in rows if "loss/kd" in row] == [10, 16, 20, 30, 32, 40, 48]
    history = [{key: value for key, value in row.items() if not key.startswith("_")} for row in seen.history]
    assert [{"step": row.pop("trainer/global_step"), **row} for row in history] == rows
    for name in ("validation/accuracy", "*"):
        assert seen.metrics[name].step_metric == "trainer/global_step"


def test_a_run_ends_with_its_exit_code_and_every_network_is_a_run_of_its_own(told):
    student, teacher = logged(told.folder), logged(told.folder / "teacher")
    assert (student.exit_code, teacher.exit_code) == (0, 0)
    assert student.run.run_id == (told.folder / "wandb_id").read_text()
    assert student.run.run_id != teacher.run.run_id
    assert (teacher.run.job_type, teacher.run.run_group) == ("teacher", student.run.run_group)
    assert teacher.run.display_name == "resnet8-kd-digits-seed0-teacher"
    assert len(teacher.history) == 3
    assert wandb.run is None


def test_a_run_that_fails_is_ended_too_and_says_so(tmp_path):
    with machine(tmp_path / "home"):
        told = train(*NETWORKS, "mode=supervised", "trainer.max_epochs=1", "optimizer.lr=1e30", runs=tmp_path / "runs")
    assert told.code == 1
    assert logged(told.folder).exit_code == 1
    assert wandb.run is None


def test_nobody_is_asked_anything_where_nobody_is_logged_in(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "kdlab.train", *NETWORKS, "mode=supervised", "trainer.max_epochs=0", "runs=runs"],
        env={**kept, "HOME": str(tmp_path), "KDLAB_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert logged(folder).exit_code == 0


@pytest.mark.parametrize("where", ["login", "init"])
def test_a_run_without_its_dashboard_goes_on_offline_and_says_so_once(tmp_path, monkeypatch, capsys, where):
    begin = wandb.init
    waited = []

    def unreachable(**arguments):
        if arguments["mode"] == "offline":
            return begin(**arguments)
        waited.append(arguments["settings"].init_timeout)
        raise wandb.errors.CommError("connection refused\nwhile retrying")

    def refused(**_):
        raise wandb.errors.AuthenticationError("API key must have 40+ characters")

    monkeypatch.setattr(wandb, "login", refused if where == "login" else lambda **_: True)
    monkeypatch.setattr(wandb, "init", unreachable)
    with machine(tmp_path / "home"):
        monkeypatch.delenv("WANDB_MODE")
        settings = LoggerConfig(project="mine")
        for place in ("one", "two"):
            (folder := tmp_path / place).mkdir()
            with wandb_run(folder, settings, {}, name=place, tags=[], job="teacher", group=None, directions={}) as (
                logger,
                summary,
            ):
                logger.log_metrics({"loss": 2.5}, 1)
                summary["done"] = True
        wandb.teardown()  # all that was logged is written
    ends = [logged(tmp_path / place) for place in ("one", "two")]
    assert [(run.exit_code, run.summary["done"]) for run in ends] == [(0, True)] * 2
    why = "connection refused" if where == "init" else "API key must have 40+ characters"
    assert capsys.readouterr().err == f"kdlab: W&B continues offline, upload later with wandb sync: {why}\n"
    assert waited == ([15] if where == "init" else [])


def test_metrics_csv_has_its_columns_from_the_start_and_a_row_at_once(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task", "validation/accuracy"])
    file.log_metrics({"epoch": 0.5, "loss/task": 2.5, "unknown": 1.0}, 10)
    assert file.file.read_text().splitlines() == ["step,epoch,loss/task,validation/accuracy", "10,0.5,2.5,"]
    file.log_metrics({"epoch": 1.0, "validation/accuracy": 0.25}, 20)
    assert read_metrics(file.file) == [
        {"step": 10, "epoch": 0.5, "loss/task": 2.5}, {"step": 20, "epoch": 1.0, "validation/accuracy": 0.25},
    ]  # fmt: skip


def test_a_resumed_run_drops_the_rows_it_will_write_again(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task"])
    file.forget_after(0)
    assert not file.file.exists()
    for step in (5, 10, 15, 20):
        file.log_metrics({"epoch": step / 10, "loss/task": float(step)}, step)
    MetricsFile(file.file, ["loss/task"]).forget_after(10)
    assert [row["step"] for row in read_metrics(file.file)] == [5, 10]
    file.log_metrics({"epoch": 1.5, "loss/task": 0.0}, 15)
    assert [row["loss/task"] for row in read_metrics(file.file)] == [5, 10, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_row_that_was_cut_off_by_a_crash_is_dropped_with_those_after_it(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task"])
    file.log_metrics({"epoch": 0.5, "loss/task": 1.25}, 5)
    with file.file.open("a") as stream:
        stream.write("1")
    file.forget_after(5)
    assert read_metrics(file.file) == [{"step": 5, "epoch": 0.5, "loss/task": 1.25}]


ROWS = [{"step": 5, "epoch": 0.5, "loss/task": 1.25}, {"step": 10, "epoch": 1.0, "loss/task": 0.5},
        {"step": 10, "epoch": 1.0, "validation/accuracy": 0.75}]  # fmt: skip
HEADER = b"step,epoch,loss/task,validation/accuracy\n"
LINES = [b"5,0.5,1.25,\n", b"10,1.0,0.5,\n", b"10,1.0,,0.75\n"]
WHOLE = HEADER + b"".join(LINES)
DAMAGED = {
    "empty": (b"", []),
    "a header alone": (HEADER, ROWS[:0]),
    "half a header": (HEADER[:9], ROWS[:0]),
    "no header": (b"".join(LINES), ROWS),
    "a header of zeros": (b"\0" * len(HEADER) + b"\n" + b"".join(LINES), ROWS),
    "garbage in the middle": (HEADER + LINES[0] + b"garbage\n" + LINES[1] + LINES[2], ROWS),
    "another number of cells": (HEADER + LINES[0] + b"7,0.5\n7,1,2,3,4\n" + LINES[1] + LINES[2], ROWS),
    "words for numbers": (HEADER + LINES[0] + b"seven,0.5,1,\n7,0.5,one,\n" + LINES[1] + LINES[2], ROWS),
    "zeros in the middle": (HEADER + LINES[0] + b"\0" * 512 + LINES[1] + LINES[2], [ROWS[0], ROWS[2]]),
    "zeros at the end": (WHOLE + b"\0" * 4096, ROWS),
    "blank lines": (HEADER + b"\n" + LINES[0] + b"\r\n\n" + LINES[1] + LINES[2], ROWS),
    "not UTF-8": (HEADER + LINES[0] + b"\xff\xfe\x80,1,2,3\n" + LINES[1] + LINES[2], ROWS),
    "digits of another script": (HEADER + LINES[0] + "٧,0.5,1,\n".encode() + LINES[1] + LINES[2], ROWS),
    "the wrong order": (HEADER + LINES[1] + LINES[2] + LINES[0], ROWS),
    "cut within a number": (WHOLE[:-2], ROWS[:2]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_metrics_csv_keeps_what_can_be_read_and_is_written_anew(tmp_path, damage):
    damaged, kept = DAMAGED[damage]
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task", "validation/accuracy"])
    file.file.write_bytes(damaged)
    if b"step," in damaged:
        assert sorted(read_metrics(file.file), key=lambda row: row["step"]) == kept  # as reports do
    file.forget_after(10)
    assert file.file.read_bytes().replace(b"\r", b"").startswith(HEADER)
    assert read_metrics(file.file) == kept
    file.log_metrics({"epoch": 1.5, "loss/task": 0.25}, 15)
    assert read_metrics(file.file) == [*kept, {"step": 15, "epoch": 1.5, "loss/task": 0.25}]


def test_a_metrics_csv_that_was_killed_before_its_header_gets_one(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task"])
    file.file.touch()
    file.log_metrics({"epoch": 0.5, "loss/task": 1.0}, 5)
    assert read_metrics(file.file) == [{"step": 5, "epoch": 0.5, "loss/task": 1.0}]


def test_a_whole_metrics_csv_stays_byte_for_byte_what_it_was(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss/task", "validation/accuracy"])
    for row in ROWS:
        file.log_metrics({key: value for key, value in row.items() if key != "step"}, row["step"])
    before = file.file.read_bytes()
    file.forget_after(10)
    assert file.file.read_bytes() == before


def test_names_of_any_letters_and_commas_survive_a_resume(tmp_path):
    """A head or a peer may be called so, and with it a column."""
    columns = ["loss/größe", "loss/a,b"]
    made = MetricsFile(tmp_path / "metrics.csv", columns)
    made.log_metrics({"epoch": 1.0, "loss/größe": 0.5, "loss/a,b": 0.25}, 10)
    made.log_metrics({"epoch": 2.0, "loss/größe": 0.4, "loss/a,b": 0.2}, 20)
    made.forget_after(10)
    assert read_metrics(made.file) == [{"step": 10, "epoch": 1.0, "loss/größe": 0.5, "loss/a,b": 0.25}]
