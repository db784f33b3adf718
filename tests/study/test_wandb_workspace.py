"""The W&B workspace of a study: every parameter, the trade-off, importances, curves; and nobody is asked to log in."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdlab.core.errors import UsageError
from kdlab.study.spec_file import make_plan, read_plan
from kdlab.study.wandb_workspace import main, workspace

KD = Path(__file__).parents[2] / "sweeps" / "kd.yaml"

needs_package = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces")


def sent(plan):
    """What W&B would be sent: the panels by section, and the rest."""
    view = json.loads(workspace(plan, "me", "kdlab")._to_model().model_dump_json(by_alias=True))
    section = view["spec"]["section"]
    return {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}, section, view


@needs_package
def test_the_default_study_has_a_panel_for_every_question():
    panels, _, view = sent(read_plan(KD))
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "kdlab", "kd")
    # Line plots are called differently by different versions of wandb-workspaces.
    renamed = {"Run History Channel Plot": "Run History Line Plot"}
    kinds = {
        name: [renamed.get(panel["viewType"], panel["viewType"]) for panel in found] for name, found in panels.items()
    }
    assert kinds == {
        "Parameters": ["Scatter Plot"] * 3 + ["Parameter Importance"],
        "Trade-off": ["Scatter Plot"],
        "Parallel coordinates": ["Parallel Coordinates Plot"],
        "Learning curves": ["Run History Line Plot"] * 2,
    }


@needs_package
def test_panels_read_what_runs_log():
    panels, _, _ = sent(read_plan(KD))
    temperature, *_, importance = panels["Parameters"]
    assert temperature["config"]["xAxis"] == "config:loss.value.temperature"
    assert temperature["config"]["yAxis"] == "summary:validation/accuracy"
    assert temperature["config"]["xAxisLogScale"] is True
    assert importance["config"]["targetKey"] == "validation/accuracy"
    assert panels["Trade-off"][0]["config"]["xAxis"] == "summary:student/multiply_accumulates"
    columns = panels["Parallel coordinates"][0]["config"]["columns"]
    assert [column["accessor"] for column in columns] == [
        "config:loss.value.temperature", "config:loss.value.alpha", "config:model.value.width",
        "summary:student/multiply_accumulates", "summary:validation/accuracy",
    ]  # fmt: skip
    assert [column["log"] for column in columns[:3]] == [True, False, False]
    assert panels["Learning curves"][0]["config"]["metrics"] == ["validation/accuracy"]


@needs_package
def test_only_the_trials_of_the_study_are_shown():
    _, section, _ = sent(read_plan(KD, ["name=mine"]))
    filters = section["runSets"][0]["filters"]["filters"]
    assert [(one["key"]["name"], one["value"]) for one in filters] == [("group", "mine"), ("jobType", "trial")]


@needs_package
def test_an_option_of_a_group_is_read_by_its_name_or_its_class():
    space = {"model": {"choices": ["mobilenet", "resnet8"]}, "optimizer": {"choices": ["sgd", "adamw"]}}
    panels, _, _ = sent(make_plan({"name": "kd", "overrides": ["loss=kd"], "space": space}))
    read = [panel["config"]["xAxis"] for panel in panels["Parameters"][:2]]
    assert read == ["config:names.value.model", "config:optimizer.value._target_"]
    assert "Trade-off" not in panels


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("kdlab.study.wandb_workspace.import_module", missing)
    with pytest.raises(UsageError, match=r"pip install 'kdlab\[dashboard\]'"):
        workspace(read_plan(KD), "me", "kdlab")
    assert main([str(KD)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def missing(name):
    raise ModuleNotFoundError(name)


def test_without_a_login_nothing_is_saved_and_one_line_says_why(monkeypatch, capsys):
    monkeypatch.setattr("kdlab.study.wandb_workspace.import_module", lambda name: None)
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    assert main([str(KD)]) == 2
    said = capsys.readouterr().err
    assert "wandb login" in said
    assert said.count("\n") == 1


def test_a_study_is_its_file_or_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kdlab.study.wandb_workspace.save", lambda plan, entity: f"{plan.name} of {entity}")
    (tmp_path / "study.yaml").write_text("name: mine\nspace: {loss.alpha: {low: 0.0, high: 1.0}}\n")
    assert main([str(tmp_path), "--entity", "me"]) == 0
    assert "mine of me" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere.yaml")]) == 2
    assert "no such study" in capsys.readouterr().err
