"""Adds to a finished study on Weights & Biases: the tags `best` and `failed`, and a summary run with its figures.

Each trial has written its own run by then, in the study's group; see `kdlab.study.trial`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kdlab.config.schema import LoggerConfig, RunConfig
from kdlab.config.settings import parse
from kdlab.run.loggers import wandb_run
from kdlab.study.progress import best
from kdlab.study.results import SearchResults
from kdlab.study.spec import Plan
from kdlab.study.storage import open_storage, studies_of

Row = dict[str, Any]


def publish(plan: Plan, logger: LoggerConfig, final: Mapping[str, Any] | None) -> dict[str, int]:
    """Adds tags and the summary run, once per number of finished trials, which it returns.

    Args:
        plan: the study.
        logger: the settings of W&B.
        final: the content of final.json, if there is one.
    """
    with closing(open_storage(plan.storage)) as storage:

        def once() -> dict[str, int]:
            return _publish(plan, logger, final, studies_of(storage, plan.name))

        return storage.exclusively(once)


def _publish(
    plan: Plan, logger: LoggerConfig, final: Mapping[str, Any] | None, studies: Sequence[Study]
) -> dict[str, int]:
    searches = [study for study in studies if "plan" in study.user_attrs]
    finished = sum(trial.state.is_finished() for study in studies for trial in study.trials)
    if searches[0].user_attrs.get("published") == finished:
        return {"finished": finished}
    for study in searches:
        winner = best(study.trials, study.user_attrs)
        for trial in study.trials:
            if trial.state == TrialState.FAIL:
                _tag(plan, trial, "failed")
            elif winner is not None and trial.number == winner.number:
                _tag(plan, trial, "best")
    _summarise(plan, logger, searches, final)
    searches[0].set_user_attr("published", finished)
    return {"finished": finished}


def rows(study: Study) -> list[Row]:
    """A row for each finished trial: number, state, the values of all its metrics, its parameters."""
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    metrics = list(dict.fromkeys(name for trial in study.trials for name in trial.user_attrs.get("metrics", {})))
    return [
        {
            "study": study.study_name,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            **{name: trial.user_attrs.get("metrics", {}).get(name) for name in metrics},
            **{name: trial.params.get(name) for name in names},
        }
        for trial in study.trials
        if trial.state.is_finished()
    ]


def summary(metrics: Mapping[str, float]) -> dict[str, float]:
    """A trial's metrics as W&B shows them: `kept/NAME` on validation, of the epoch that counts, and `student/NAME`."""
    return {
        name.replace("validation.", "kept/").replace("student.", "student/"): found for name, found in metrics.items()
    }


def _tag(plan: Plan, trial: FrozenTrial, tag: str) -> None:
    """Reopens a trial's run, if it has one, to add a tag."""
    folder = plan.folder / trial.user_attrs.get("folder", "none")
    if not (folder / "wandb_id").is_file():
        return
    config = parse(RunConfig, yaml.safe_load((folder / "config.yaml").read_text()))
    run = wandb_run(
        folder, config.logger, config.plain(), name=config.name or "", job="trial", group=plan.name, directions={},
        tags=[tag, *(name for name in config.names.plain().values() if name)], failed=tag == "failed",
    )  # fmt: skip
    with run as (_, extra):
        extra |= summary(trial.user_attrs.get("metrics", {}))


def _summarise(plan: Plan, settings: LoggerConfig, studies: Sequence[Study], final: Mapping[str, Any] | None) -> None:
    import wandb

    config = {"name": plan.name, "study": studies[0].user_attrs["plan"]}
    table = [row for study in studies for row in rows(study)]
    columns: list[Any] = list(dict.fromkeys(name for row in table for name in row))
    trials = wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in table])
    figures: Row = {"trials": trials}
    if len(plan.objectives) > 1:
        other = next(metric for metric in plan.objectives if metric != plan.curve)
        figures["front"] = wandb.plot.scatter(trials, other, plan.curve, title=f"{plan.curve} over {other}")
    for study in studies:
        found = [[name, share] for name, share in SearchResults.of(study).importances().items()]
        name = "importances" if len(studies) == 1 else f"importances of {study.user_attrs['arm']}"
        weights = wandb.Table(columns=["parameter", "importance"], data=found)
        figures[name] = wandb.plot.bar(weights, "parameter", "importance", title=name)
    known: Row = {f"best/{study.study_name}/{key}": value for study in studies for key, value in _best(study)}
    known |= {
        f"trials/{state}": sum(row["state"] == state for row in table) for state in ("complete", "pruned", "fail")
    }
    if final is not None:
        known["final"] = dict(final)
    run = wandb_run(
        plan.folder, settings, config, name=plan.name, tags=["study"], job="study", group=plan.name, directions={}
    )
    with run as (logger, extra):
        logger.experiment.log(figures)
        extra |= known


def _best(study: Study) -> list[tuple[str, Any]]:
    winner = best(study.trials, study.user_attrs)
    if winner is None:
        return []
    return [*summary(winner.user_attrs["metrics"]).items(), *winner.params.items(), ("trial", winner.number)]
