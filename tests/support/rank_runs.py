"""Runs of several ranks: each a command of its own, on a network without batch normalisation."""

import os
import subprocess
import sys
from pathlib import Path

TINY = ["model=toy", "model@teacher.model=toy", "teacher.trainer.max_epochs=1", "trainer.max_epochs=2", "logger=csv",
        "alone=false", "allow=[support]", "trainer.progress=false", "trainer.log_every_n_steps=5",
        "trainer.accelerator=cpu", "trainer.precision=64-true"]  # fmt: skip


def train(folder: Path, home: Path, script: Path, overrides: list[str]) -> Path:
    """The folder of a run that a script trains in a process of its own, on however many ranks."""
    conf = folder / "conf" / "model"
    conf.mkdir(parents=True)
    # Without batch normalisation statistics of half a batch, two ranks do what one does.
    (conf / "toy.yaml").write_text(
        "_target_: support.toys.Plainest\nclasses: ${data.classes}\nchannels: ${data.channels}\n"
        "width: 1.0\ntaps: null\n"
    )
    environment = {
        **os.environ, "KDLAB_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }  # fmt: skip
    environment.pop("KDLAB_RUN", None)
    done = subprocess.run(
        [sys.executable, str(script), "--config-dir", str(folder / "conf"), *TINY, *overrides], cwd=folder,
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    return run
