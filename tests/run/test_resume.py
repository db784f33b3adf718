"""A run that was killed at any step and resumed ends with the numbers of a run that was not."""

import contextlib
import io
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from kdlab.training.distiller import Distiller
from support import tiny_runs
from support.killed_runs import COMMON, numbers, only_run, train
from support.tiny_runs import TINY, Told, machine

CASES = {
    "at the first step": (0, []),
    "within an epoch": (20, []),
    "at an epoch's last, smaller batch": (31, []),
    "at an epoch's first step": (32, []),
    "with only an epoch's last, smaller batch to go": (32, ["trainer.checkpoint_every_n_steps=31"]),
    "between two checkpoints within an epoch": (24, ["trainer.checkpoint_every_n_steps=7"]),
    "in the second part of the data": (12, ["phases=[{epochs: 1, part: {label: [0, 1, 2]}, among: [0, 1, 2]}, "
                                            "{epochs: 2, part: {label: [3, 4]}}]"]),
    "in the second phase": (20, ["loss=[kd,fitnet]", "loss.heads.fitnet.weight=1",
                                 "+loss.heads.fitnet.first={epochs:1,train:body,stays:true}"]),
}  # fmt: skip


@pytest.mark.parametrize("case", [*CASES][1:2] + [pytest.param(c, marks=pytest.mark.slow) for c in CASES
                                                  if c != "within an epoch"])  # fmt: skip
def test_a_killed_and_resumed_run_ends_with_the_numbers_of_one_that_was_not(case, tmp_path, conf):
    stop, extra = CASES[case]
    home = tmp_path / "home"
    overrides = ["--config-dir", str(conf), *COMMON, *extra]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    uninterrupted = train(whole, home, overrides)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    died = train(killed, home, overrides, stop=stop)
    assert died.returncode == -signal.SIGKILL
    run = only_run(killed)
    assert not (run / "result.json").exists()
    resumed = train(killed, home, [f"resume={run}", "allow=[support]"])
    assert resumed.returncode == 0, resumed.stderr
    assert only_run(killed) == run
    assert numbers(run) == numbers(only_run(whole))


def test_a_complete_run_is_not_resumed_and_other_keys_are_not_mixed_in(tmp_path):
    from kdlab.train import main

    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    assert main([f"resume={run}"]) == 2
    (run / "config.yaml").write_text("seed: 0\n")
    assert main([f"resume={run}", "seed=3"]) == 2
    (run / "result.json").write_text("{}")
    assert main([f"resume={run}"]) == 2


PRECISIONS = {
    "float32": ["mode=supervised"], "float64": ["mode=supervised", "trainer.precision=64-true"],
    "losses beside bfloat16": ["loss=[kd,fitnet]", "trainer.precision=bf16-true"],
}  # fmt: skip


@pytest.fixture(params=PRECISIONS.values(), ids=PRECISIONS)
def ended(request, tmp_path: Path) -> Path:
    """The folder of a run of two epochs that has ended, with a checkpoint of each."""
    with machine(tmp_path / "home"):
        told = tiny_runs.train(*TINY, "alone=false", "trainer.accelerator=cpu", *request.param, runs=tmp_path / "runs")
    assert told.folder is not None, told.err
    return told.folder


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("distilled")
    with machine(place / "home"):
        return tiny_runs.train(*TINY, "alone=false", runs=place / "runs")


def stopped(folder: Path, place: Path) -> Path:
    """A copy of a run that lacks only its end."""
    shutil.copytree(folder, place / "run")
    (place / "run" / "result.json").unlink()
    return place / "run"


def resume(folder: Path) -> tuple[int, str]:
    """The exit code, and what was said on stderr."""
    from kdlab.train import main

    err = io.StringIO()
    place = folder.parent if folder.name == "run" else folder.parents[1]
    with machine(place / "home"), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        return main([f"resume={folder}"]), err.getvalue()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return found


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_leads_to_the_same_weights(ended, tmp_path):
    run = stopped(ended, tmp_path)
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    code, said = resume(run)
    assert code == 0, said
    previous = last.with_name("previous.ckpt")
    assert [line for line in said.splitlines() if "kdlab:" in line] == [
        f"kdlab: {last} is damaged; continuing from {previous}"
    ]
    whole, resumed = weights(ended), weights(run)
    assert whole.keys() == resumed.keys()
    assert all(value.equal(resumed[name]) and value.dtype == resumed[name].dtype for name, value in whole.items())
    assert (run / "student.safetensors").read_bytes() == (ended / "student.safetensors").read_bytes()
    assert (run / "metrics.csv").read_bytes() == (ended / "metrics.csv").read_bytes()


@pytest.mark.parametrize("killed", ["before the teacher's second epoch", "after its checkpoint was moved"])
def test_a_teacher_goes_on_from_what_is_whole_of_its_checkpoints(distilled, tmp_path, killed):
    run = stopped(distilled.folder, tmp_path)
    shutil.rmtree(run / "checkpoints")
    last = run / "teacher" / "checkpoints" / "last.ckpt"
    left = run / "teacher" / "checkpoints" / ".last.ckpt.0123.writing"
    left.write_bytes(last.read_bytes()[:1000])
    if killed == "after its checkpoint was moved":
        last.unlink()
    else:
        last.write_bytes(b"")
    code, said = resume(run)
    assert code == 0, said
    assert ("is damaged; continuing from" in said) == (killed == "before the teacher's second epoch")
    for name in ("student.safetensors", "teacher/student.safetensors"):
        assert (run / name).read_bytes() == (distilled.folder / name).read_bytes()
    assert not left.exists()


@pytest.mark.parametrize(
    ("key", "value", "was"),
    [("optimizer.lr", 0.02, "0.1"), ("seed", 1, "0"), ("model.width", 0.5, "0.25"), ("trainer.max_epochs", 9, "2")],
)
def test_a_config_that_was_changed_is_refused_before_anything_is_trained_by_it(distilled, tmp_path, key, value, was):
    run = stopped(distilled.folder, tmp_path)
    edit(run, key, value)
    code, said = resume(run)
    assert code == 2
    assert said == (
        f"kdlab: {run / 'config.yaml'} is not what {run / 'checkpoints' / 'last.ckpt'} was trained by, one of the two "
        f"was changed: {key} was {was} and is {value}; undo that, or start a new run\n"
    )
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("weights.safetensors"))


def edit(run: Path, key: str, value: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    *groups, name = key.split(".")
    place = config
    for group in groups:
        place = place[group]
    assert name in place
    place[name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def test_what_decides_nothing_may_be_edited_before_a_run_is_resumed(distilled, tmp_path):
    run = stopped(distilled.folder, tmp_path)
    for key, value in {"trainer.progress": False, "name": "other", "runs": "elsewhere",
                       "trainer.checkpoint_every_n_steps": 5}.items():  # fmt: skip
        edit(run, key, value)
    code, said = resume(run)
    assert code == 0, said
    assert (run / "student.safetensors").read_bytes() == (distilled.folder / "student.safetensors").read_bytes()


def test_the_checkpoints_of_another_network_are_refused(distilled, tmp_path):
    run = stopped(distilled.folder, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(distilled.folder / "teacher" / "checkpoints", run / "checkpoints")
    code, said = resume(run)
    assert code == 2
    assert "one of the two was changed: model.width was 0.5 and is 0.25; undo that, or start a new run" in said


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b"step,epo", b"\xff garbage\n\n"])
def test_a_damaged_metrics_csv_does_not_keep_a_run_from_going_on(distilled, tmp_path, damage):
    run = stopped(distilled.folder, tmp_path)
    (run / "metrics.csv").write_bytes(damage)
    (run / "checkpoints" / "last.ckpt").unlink()  # it goes on with the second epoch
    code, said = resume(run)
    assert code == 0, said
    header, *rows = (distilled.folder / "metrics.csv").read_text().splitlines()
    assert (run / "metrics.csv").read_text().splitlines() == [header, *rows[2:]]


def test_a_run_stopped_between_the_last_step_of_an_epoch_and_its_validation_validates_it(
    distilled, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    arguments = [*TINY, "alone=false", "trainer.checkpoint_every_n_steps=16"]
    with machine(tmp_path / "home"):
        shutil.copytree(distilled.folder.parents[1] / "home", tmp_path / "home")  # with its teacher
        with monkeypatch.context() as patch:
            patch.setattr(Distiller, "validation_step", interrupted)
            told = tiny_runs.train(*arguments, runs=tmp_path / "runs")
    assert told.code == 130
    code, said = resume(told.folder)
    assert code == 0, said
    assert (told.folder / "metrics.csv").read_text() == (distilled.folder / "metrics.csv").read_text()


def test_damaged_weights_of_the_best_epoch_are_said_in_a_line(distilled, tmp_path):
    run = stopped(distilled.folder, tmp_path)
    (run / "best-student.safetensors").write_bytes(b"\0" * 99)
    code, said = resume(run)
    assert code == 2
    assert said.splitlines()[-1] == (
        f"kdlab: {run / 'best-student.safetensors'} is damaged; delete {run / 'checkpoints'} to train from the start"
    )
