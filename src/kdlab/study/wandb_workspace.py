"""`python -m kdlab.study.wandb_workspace STUDY`: a W&B workspace for the trials of a study.

STUDY is its YAML, or its folder. The workspace shows accuracy over every parameter and over cost, parallel
coordinates, importances and learning curves of the runs in the study's group. Building it needs only the
package wandb-workspaces; saving it needs a login.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from kdlab.core.errors import UsageError, one_line
from kdlab.study.search_space import Dimension
from kdlab.study.spec import Plan

MOST = 200
"""The most trials in a chart; W&B shows ten by default."""

CHOSEN = ("model", "loss", "mode", "teacher", "data", "task")
"""The groups of the config whose option is in a run's config under `names`."""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, or 2 for what the user must change."""
    parser = argparse.ArgumentParser(
        prog="python -m kdlab.study.wandb_workspace", description="A W&B workspace for a study."
    )
    parser.add_argument("study", type=Path, help="a YAML file, as in sweeps/, or the folder of a study")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as given to kdlab.sweep")
    parser.add_argument("--entity", help="owner of the project; by default yours")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, help="a folder of your own configs")
    given = parser.parse_args(arguments)
    from kdlab.study.spec_file import read_plan

    file = given.study / "study.yaml" if given.study.is_dir() else given.study
    print(f"The workspace is at {save(read_plan(file, given.overrides, given.config_dir), given.entity)}")
    return 0


def save(plan: Plan, entity: str | None = None) -> str:
    """Saves the workspace of a study as a view of its runs' project; returns the URL.

    Raises:
        UsageError: where the package is missing, the user is not logged in, or W&B refuses it.
    """
    _package()
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UsageError("not logged in to W&B, so the workspace cannot be saved; type wandb login")
    logger = plan.compose(plan.arms[0].overrides).logger
    try:
        owner = entity or logger.entity or wandb.Api().default_entity
        if owner:
            return str(workspace(plan, owner, logger.project).save().url)
    except (wandb.Error, OSError) as error:
        raise UsageError(f"W&B refused the workspace: {' '.join(str(error).split())}") from error
    raise UsageError("W&B has no default entity for you; type --entity NAME")


def workspace(plan: Plan, entity: str, project: str) -> Any:
    """The workspace of a study, a `wandb_workspaces.workspaces.Workspace`.

    Args:
        plan: the study.
        entity, project: of its runs.

    Raises:
        UsageError: where the package is missing.
    """
    ws, wr = _package()
    value = _logged(plan.curve)
    costs = [metric for metric in plan.objectives if metric != plan.curve]
    space = {dimension.key: dimension for arm in plan.arms for dimension in arm.space}
    result = wr.SummaryMetric(value)
    over = [
        wr.ScatterPlot(title=f"{value} over {key}", x=wr.Config(_config(key)), y=result, log_x=_log(dimension))
        for key, dimension in space.items()
    ]
    trade = [
        wr.ScatterPlot(title=f"{value} over {_logged(cost)}", x=wr.SummaryMetric(_logged(cost)), y=result)
        for cost in costs
    ]
    column = wr.ParallelCoordinatesPlotColumn
    columns = [
        *(column(wr.Config(_config(key)), display_name=key, log=_log(found)) for key, found in space.items()),
        *(column(wr.SummaryMetric(_logged(cost)), display_name=_logged(cost)) for cost in costs),
        column(result, display_name=value),
    ]
    sections = [
        ("Parameters", [*over, wr.ParameterImportancePlot(with_respect_to=value)]),
        ("Trade-off", trade),
        ("Parallel coordinates", [wr.ParallelCoordinatesPlot(title=f"{plan.name}: {value}", columns=columns)]),
        ("Learning curves", [
            wr.LinePlot(title=name, x="epoch", y=[name], max_runs_to_show=MOST) for name in (value, "loss/total")
        ]),
    ]  # fmt: skip
    return ws.Workspace(
        entity=entity,
        project=project,
        name=plan.name,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections if panels],
        settings=ws.WorkspaceSettings(max_runs=MOST),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == plan.name, ws.Metric("JobType") == "trial"),
            order=[ws.Ordering(ws.Summary(value), ascending=plan.objectives[plan.curve] == "minimize")],
            pinned_columns=[f"summary:{value}", *(f"config:{_config(key)}" for key in space)],
        ),
    )


def _package() -> tuple[ModuleType, ModuleType]:
    """wandb-workspaces: its workspaces and its panels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it was written for an older pydantic
            return import_module("wandb_workspaces.workspaces"), import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise UsageError("the dashboard needs wandb-workspaces; pip install 'kdlab[dashboard]'") from error


def _logged(metric: str) -> str:
    """A metric of a study by its name in W&B, where a point would mean nesting: validation/accuracy."""
    return metric.replace(".", "/")


def _config(key: str) -> str:
    """The key of a run's config that a key of the space sets; for an option of a group, its name or its class."""
    if "." in key:
        return key
    return f"names.{key}" if key in CHOSEN else f"{key}._target_"


def _log(dimension: Dimension) -> bool:
    found = dimension.distribution
    return isinstance(found, (FloatDistribution, IntDistribution)) and found.log


if __name__ == "__main__":
    raise SystemExit(main())
