"""Every run has a folder of its own, and all processes of one launch arrive at the same one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.tiny_runs import files, machine, train

QUICK = ("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=1", "data.subset=64",
         "trainer.batch_size=32", "logger=csv", "trainer.progress=false")  # fmt: skip


@pytest.fixture(autouse=True)
def job(tmp_path, monkeypatch):
    """A job of SLURM in which the commands run one after another."""
    for name in ("KDLAB_RUN", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "777")
    monkeypatch.setenv("SLURM_JOB_START_TIME", "86400")
    with machine(tmp_path / "home"):
        yield


def test_two_runs_in_one_job_keep_their_own_config_and_result(tmp_path):
    for rate in (0.1, 0.02):
        assert train(*QUICK, f"optimizer.lr={rate}", runs=tmp_path / "runs").code == 0
    made = sorted((tmp_path / "runs").iterdir())
    assert len(made) == 2
    rates = [yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] for folder in made]
    assert sorted(rates) == [0.02, 0.1]
    keys = {json.loads((folder / "result.json").read_text())["key"] for folder in made}
    assert len(keys) == 2
    for folder in made:
        header, *rows = (folder / "metrics.csv").read_text().splitlines()
        assert header.startswith("step,")
        assert len(rows) == 2  # of one epoch: training and validation


COMMAND = """
import os, sys
from kdlab.run.folder import new_folder, write_config
from kdlab.run.derive import compose_run
config = compose_run(sys.argv[1:])
print(flush=True)
input()
folder = new_folder(config)
write_config(folder, config)
print(folder)
"""


def raced(tmp_path: Path, count: int, environments: list[dict[str, str]], *overrides: str) -> list[tuple[str, str]]:
    """What so many processes tell on stdout and stderr that make their folders at the same moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, f"runs={tmp_path / 'runs'}", *QUICK, *overrides], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **environments[place % len(environments)]},
        )
        for place in range(count)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60) for process in processes]
    return [(out.strip(), err.strip().splitlines()[-1] if err.strip() else "") for out, err in told]


def test_processes_that_are_alone_get_a_folder_each_however_close_their_start(tmp_path):
    told = raced(tmp_path, 4, [{}])
    assert [err for _, err in told] == [""] * 4
    assert len({out for out, _ in told}) == 4


def test_ranks_of_one_launch_arrive_at_one_folder(tmp_path):
    launch = [{"SLURM_NTASKS": "4", "SLURM_STEP_ID": "3", "SLURM_PROCID": str(rank)} for rank in range(4)]
    told = raced(tmp_path, 4, launch, "trainer.devices=4", "trainer.accelerator=cpu")
    assert [err for _, err in told] == [""] * 4
    assert len({out for out, _ in told}) == 1


def ranks(monkeypatch, **environment: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def made_by(runs: Path, *overrides: str) -> Path:
    from kdlab.run.derive import compose_run
    from kdlab.run.folder import new_folder, write_config

    config = compose_run([*QUICK, f"runs={runs}", "trainer.devices=2", "trainer.accelerator=cpu", *overrides])
    folder = new_folder(config)
    write_config(folder, config)
    return folder


def test_steps_requeues_and_configs_of_one_job_have_a_folder_each(tmp_path, monkeypatch):
    ranks(monkeypatch, SLURM_NTASKS="2", SLURM_STEP_ID="0")
    found = [made_by(tmp_path), made_by(tmp_path, "optimizer.lr=0.02")]
    ranks(monkeypatch, SLURM_STEP_ID="1")
    found.append(made_by(tmp_path))
    ranks(monkeypatch, SLURM_RESTART_COUNT="1")
    found.append(made_by(tmp_path))
    assert len(set(found)) == 4
    assert all(folder.name.startswith("19700102-") for folder in found)  # the day the job started, on every rank


def test_a_launch_that_would_join_a_finished_run_is_told_what_to_type(tmp_path, monkeypatch):
    from kdlab.core.errors import UsageError

    monkeypatch.delenv("SLURM_JOB_ID")
    ranks(monkeypatch, WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none")
    folder = made_by(tmp_path)
    assert made_by(tmp_path) == folder  # the other rank
    (folder / "result.json").write_text("{}")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"is of an earlier launch.*name=NAME.*--rdzv-id") as refused:
        made_by(tmp_path)
    assert str(folder) in str(refused.value)
    assert files(tmp_path) == before
    assert made_by(tmp_path, "name=second") != folder
    ranks(monkeypatch, TORCHELASTIC_RUN_ID="third")
    assert made_by(tmp_path) != folder


def test_a_folder_that_holds_another_config_is_not_joined(tmp_path, monkeypatch):
    from kdlab.core.errors import UsageError

    ranks(monkeypatch, SLURM_NTASKS="2", SLURM_STEP_ID="0")
    (made_by(tmp_path) / "config.yaml").write_text("seed: 7\n")
    with pytest.raises(UsageError, match="is of an earlier launch"):
        made_by(tmp_path)


@pytest.mark.parametrize("tasks", ["1", "2"])
def test_a_link_at_the_name_that_a_run_would_take_is_not_followed(tmp_path, monkeypatch, tasks):
    from kdlab.core.errors import UsageError

    ranks(monkeypatch, SLURM_NTASKS=tasks, SLURM_STEP_ID="0")
    first = made_by(tmp_path / "runs")
    for file in first.iterdir():
        file.unlink()
    first.rmdir()
    (tmp_path / "elsewhere").mkdir()
    first.symlink_to(tmp_path / "elsewhere")
    if tasks == "1":
        assert made_by(tmp_path / "runs") != first
    else:
        with pytest.raises(UsageError, match="is a link"):
            made_by(tmp_path / "runs")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_run_of_one_process_in_a_job_of_several_tasks_trains_and_writes_as_ever(tmp_path, monkeypatch, rank):
    ranks(monkeypatch, SLURM_NTASKS="2", SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_JOB_NAME="work",
          SLURM_NODEID="0", SLURM_JOB_NODELIST="n1")  # fmt: skip
    folders = []
    for _ in range(2):
        told = train(*QUICK, runs=tmp_path / "runs")
        assert told.code == 0, told.err
        assert told.folder is not None
        assert {"metrics.csv", "result.json", "student.safetensors"} <= {file.name for file in told.folder.iterdir()}
        folders.append(told.folder)
    assert folders[0] != folders[1]
