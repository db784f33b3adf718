"""A study run as commands in a folder, by processes of their own, and what its storage must hold in the end."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import yaml
from optuna.trial import TrialState

from kdlab.study.storage import stored
from support.tiny_runs import hears_ctrl_c

ANALYTIC = [sys.executable, str(Path(__file__).parent / "analytic_study.py")]
STUDY = {
    "overrides": ["loss=kd"],
    "space": {"loss.temperature": {"low": 1.0, "high": 16.0, "log": True}, "loss.alpha": {"low": 0.0, "high": 1.0}},
    "budget": {"trials": 6},
    "final": {"seeds": 0},
}


class Command:
    """The study of a folder, run as commands. `environment` says what goes wrong in its trials."""

    def __init__(self, folder, **changes):
        self.folder, self.home = folder, folder / "runs" / "study"
        (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))

    def launch(self, *arguments, **environment):
        known = {**os.environ, "KDLAB_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            arguments, cwd=self.folder, env=known, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=hears_ctrl_c,
        )  # fmt: skip

    def start(self, *overrides, command=ANALYTIC, **environment):
        return self.launch(*command, "study.yaml", *overrides, **environment)

    def run(self, *overrides, code=0, **given):
        process = self.start(*overrides, **given)
        said = process.communicate(timeout=280)[0]
        assert process.returncode == code, said
        return said

    def trials(self, storage=None, name="study"):
        with stored(self.home, storage) as studies:
            return next(study for study in studies if study.study_name == name).get_trials()

    def wait_for(self, holds, seconds=60):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.02)

    def executed(self):
        file = self.home / "executed"
        return Counter(file.read_text().split()) if file.is_file() else Counter()


def accounted(trials, budget):
    """Every trial of the budget came to its end once, itself or as the repetition of one that failed."""
    ends = Counter()
    for trial in trials:
        assert trial.state.is_finished()
        root = trial
        while "retry_of" in root.user_attrs:
            root = trials[root.user_attrs["retry_of"]]
            assert root.state == TrialState.FAIL
            assert root.user_attrs["reason"]
        ends[root.number] += trial.state != TrialState.FAIL
    originals = [trial.number for trial in trials if "retry_of" not in trial.user_attrs]
    assert len(originals) == budget
    assert ends == dict.fromkeys(originals, 1)
