"""A report of a study: its front, its charts, and its refits compared on test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from optuna.trial import TrialState

from kdlab.study.results import SearchResults
from kdlab.study.storage import stored
from support.reports import refused, reported, text
from support.written_runs import WrittenStudy, write_final


def search_of(folder):
    with stored(folder) as (found, *_):
        search = SearchResults.of(found)
        return search, search.trials, search.front


def test_the_front_leaves_out_beaten_pruned_and_infeasible_trials(study):
    search, trials, front = search_of(study)
    assert [trial.number for trial in front] == [1, 2]
    assert search.best.number == 2
    assert search.counts() == {"complete": 5, "pruned": 1, "failed": 1}
    assert search.value(trials[4]) == 0.2


def test_a_trial_that_was_tried_again_counts_once(tmp_path):
    written = WrittenStudy(tmp_path / "kd")
    written.add(5.0, 0.1, [], state=TrialState.FAIL, reason="killed")
    written.add(5.0, 0.1, [0.5, 0.6, 0.7], retry_of=0, retries=1)
    search, trials, _ = search_of(tmp_path / "kd")
    assert [trial.number for trial in trials] == [1]
    assert search.counts() == {"complete": 1}


def test_a_study_shows_front_history_importances_slices_coordinates_and_curves(study, capsys):
    printed, page = reported(capsys, study)
    assert "7 trials: 5 complete, 1 pruned, 1 failed." in printed
    assert "Best by validation accuracy: trial 2 with 0.9300, temperature 8, width 0.2." in " ".join(printed.split())
    for name in (
        "validation accuracy against student.multiply_accumulates", "history", "importances of the parameters",
        "validation accuracy against loss.temperature", "validation accuracy against model.width",
        "parallel coordinates", "learning curves",
    ):  # fmt: skip
        name = name.replace("student.multiply_accumulates", "multiply-accumulates")
        assert f'aria-label="{name}"' in page
    assert "the teacher and the student alone are not marked" in text(page)
    assert "pruned after epoch 1 of 3" in page


def test_refits_are_compared_on_test_and_marked_beside_the_front(study, capsys):
    # Differences best − default 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; t(2) is 4.303, so −0.0048 to 0.0448.
    final = {
        "default": (None, {1: (0.90, 0.85), 2: (0.91, 0.86), 3: (0.92, 0.87)}),
        "best": ("default", {1: (0.91, 0.85), 2: (0.93, 0.86), 3: (0.95, 0.87)}),
    }
    write_final(study, final)
    printed, page = reported(capsys, study)
    words = " ".join(printed.split())
    assert "best does not differ significantly from default: +0.0200 on average over 3 seeds" in words
    assert "−0.0048 to +0.0448" in words
    assert "default is better than alone: +0.0500" in words
    chart = re.search(
        r'<svg[^>]*aria-label="validation accuracy against multiply-accumulates".*?</svg></figure>', page, re.S
    )[0]
    assert "student alone: 0.9000, 10,000" in chart
    assert "teacher: 0.9900, 500,000" in chart


def test_refits_that_did_not_come_to_their_end_are_named_also_where_none_did(study, capsys):
    (study / "final.json").write_text('{"settings": [], "missing": ["default", "best"]}')
    printed, page = reported(capsys, study)
    for name in ("default", "best"):
        assert f"{name}: left out, because not every seed finished" in printed
        assert f"{name}: left out, because not every seed finished" in text(page)


def test_options_that_are_compared_have_a_table_and_a_part_each(tmp_path, capsys):
    for arm in ("kd", "dkd"):
        written = WrittenStudy(tmp_path / "methods", arm)
        for width, accuracy in ((0.1, 0.8), (0.2, 0.9)):
            written.add(4.0, width, [accuracy / 2, accuracy])
    printed, page = reported(capsys, tmp_path / "methods")
    assert "Searches" in printed
    assert page.count("<summary>dkd: 2 trials") == page.count("<summary>kd: 2 trials") == 1


def test_a_study_with_one_objective_lists_its_best_trials(tmp_path, capsys):
    written = WrittenStudy(tmp_path / "one", cost=False)
    for temperature, accuracy in ((2.0, 0.8), (4.0, 0.9)):
        written.add(temperature, 0.1, [accuracy / 2, accuracy])
    page = text(reported(capsys, tmp_path / "one")[1])
    assert page.index("Best trials") < page.rindex("0.9000") < page.rindex("0.8000")


def test_a_study_without_trials_or_storage_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "kd", "storage": None}))
    assert "does not exist" in refused(capsys, tmp_path)


def test_a_study_is_read_as_the_sweep_leaves_it(tmp_path, capsys):
    space = {"loss.temperature": {"low": 1.0, "high": 16.0, "log": True}}
    described = {"overrides": ["loss=kd"], "space": space, "budget": {"trials": 4}, "final": {"seeds": 0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described))
    sweep = [sys.executable, str(Path(__file__).parents[1] / "support" / "analytic_study.py"), "mine.yaml"]
    environment = {**os.environ, "KDLAB_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run(sweep, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    printed, page = reported(capsys, tmp_path / "runs" / "mine")
    assert "4 trials: 4 complete." in printed
    # The stand-in objective: 1 − 0.01 |T − 5| − 0.02 / 0.2, of which the published T 4 is 0.89.
    assert "trial 0: validation accuracy 0.8900, multiply-accumulates 2,000; temperature 4" in page
