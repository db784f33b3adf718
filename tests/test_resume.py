"""A run that was killed at any step and resumed ends with the numbers of a run that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdlab.tracking import read_metrics

# Kills its own process, without a word, when the Distiller has made a given number of steps.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from kdlab.distiller import Distiller
step, stop = Distiller.training_step, int(os.environ["STOP_AT"])
def training_step(self, batch, batch_idx):
    if self.steps == stop and "teacher" not in os.environ.get("STOP_NAME", ""):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
if stop >= 0:
    Distiller.training_step = training_step
from kdlab.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def conf(tmp_path):
    """A student with dropout, so that the random state matters."""
    folder = tmp_path / "conf"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "toy.yaml").write_text(
        "_target_: toys.Net\nclasses: ${data.classes}\nchannels: ${data.channels}\n"
        "width: 1.0\ndropout: 0.3\ntaps: null\n"
    )
    return folder


def train(tmp_path: Path, home: Path, overrides: list[str], *, stop: int = -1) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "KDLAB_HOME": str(home), "STOP_AT": str(stop), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", KILLED, *overrides], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def numbers(run: Path) -> dict[str, object]:
    result = json.loads((run / "result.json").read_text())
    rows = read_metrics(run / "metrics.csv")
    return {
        "test": result["student"]["test"], "validation": result["student"]["validation"],
        "weights": {k: v.tolist() for k, v in load_file(run / "student.safetensors").items()}, "rows": rows,
    }  # fmt: skip


COMMON = ["model=toy", "model@teacher.model=toy", "teacher.trainer.max_epochs=1", "trainer.max_epochs=3", "logger=csv",
          "alone=false", "allow=[toys]", "trainer.progress=false", "trainer.log_every_n_steps=4"]  # fmt: skip

CASES = {
    "at the first step": (0, []),
    "within an epoch": (20, []),
    "at an epoch's last step": (29, []),
    "at an epoch's first step": (30, []),
    "between two checkpoints within an epoch": (24, ["trainer.checkpoint_every_n_steps=7"]),
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
    resumed = train(killed, home, [f"resume={run}"])
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
