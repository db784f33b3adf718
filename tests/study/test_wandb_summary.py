"""What a study shows on W&B in the end is what its report says."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from kdlab.study.results import SearchResults
from kdlab.study.storage import stored
from kdlab.study.wandb_summary import publish
from support.written_runs import WrittenStudy


@pytest.fixture
def board(monkeypatch):
    """The figures and the summary that a W&B run is given."""
    given = SimpleNamespace(figures={}, summary={})

    @contextmanager
    def run(folder, settings, config, **about):
        yield SimpleNamespace(experiment=SimpleNamespace(log=given.figures.update)), given.summary

    monkeypatch.setattr("kdlab.study.wandb_summary.wandb_run", run)
    return given


def test_importances_are_of_what_tells_good_trials_from_the_rest_as_on_the_report_page(tmp_path, board):
    # Only a high temperature makes a trial good; the worst of all differ from the others by their width.
    written = WrittenStudy(tmp_path / "kd", cost=False)
    written.study.set_user_attr("plan", {})
    for place in range(60):
        temperature, width = 1.0 + place % 12, (0.1, 0.2)[place % 2]
        good = temperature > 10
        written.add(temperature, width, [0.9 + place / 1e4 if good else 0.2 + width])
    objectives = {"validation.accuracy": "maximize"}
    plan = SimpleNamespace(
        name="kd", folder=tmp_path / "kd", storage=str(tmp_path / "kd" / "journal.log"), objectives=objectives,
        curve="validation.accuracy",
    )  # fmt: skip
    publish(plan, {"tags": []}, None)
    shown = dict(board.figures["importances"].table.data)
    with stored(tmp_path / "kd") as (study,):
        assert shown == SearchResults.of(study).importances()
    assert shown["loss.temperature"] > shown["model.width"]
