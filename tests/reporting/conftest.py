"""Runs and a study to report on, written rather than trained."""

import pytest
from optuna.trial import TrialState

from support.reports import ALONE, TEACHER
from support.written_runs import WrittenStudy, write_run


@pytest.fixture
def five(tmp_path):
    """Five seeds, each one test sample in a hundred better than the one before: by 1 to 5 % than the student alone."""
    for seed in range(1, 6):
        write_run(tmp_path / "runs" / f"run{seed}", seed, (0.90 + seed / 100, 0.92), ALONE, TEACHER)
    return tmp_path / "runs"


@pytest.fixture
def study(tmp_path):
    """Six trials: the published, a cheap one, the best, one beaten, one pruned, one that breaks a constraint."""
    written = WrittenStudy(tmp_path / "kd")
    written.add(4.0, 0.2, [0.5, 0.8, 0.90])
    written.add(2.0, 0.1, [0.4, 0.6, 0.85])
    written.add(8.0, 0.2, [0.5, 0.8, 0.93])
    written.add(3.0, 0.2, [0.4, 0.7, 0.88])
    written.add(1.0, 0.2, [0.2], state=TrialState.PRUNED, reason="pruned after epoch 1 of 3")
    written.add(9.0, 0.1, [0.5, 0.8, 0.99], violation=0.5)
    written.add(5.0, 0.1, [], state=TrialState.FAIL, reason="<script>alert(1)</script>", retries=0)
    return tmp_path / "kd"
