"""Runs that are killed at a given step and resumed: each a command of its own, of a student with dropout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdlab.run.loggers import read_metrics

# Kills its own process, without a word, when the Distiller has made a given number of steps.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from kdlab.training.distiller import Distiller
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
        "_target_: support.toys.Net\nclasses: ${data.classes}\nchannels: ${data.channels}\n"
        "width: 1.0\ndropout: 0.3\ntaps: null\n"
    )
    return folder


def train(tmp_path: Path, home: Path, overrides: list[str], *, stop: int = -1) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "KDLAB_HOME": str(home), "STOP_AT": str(stop), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]), "PYTHONWARNINGS": "ignore",
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
          "alone=false", "allow=[support]", "trainer.progress=false", "trainer.log_every_n_steps=4"]  # fmt: skip
