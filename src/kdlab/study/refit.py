"""The end of a study: its best settings and the published ones are trained anew with other seeds, and tested.

Trials were compared on validation, with the study's seeds; the best of many is partly the luckiest. So the refits
take seeds that no trial had, and the test part is read here for the first time. `final.json` holds
- `metric`, `direction`, `seeds`;
- `settings`: for each, `name`, `arm`, `params`, `trial` (its number in the search, or null), `against` (the setting
  it is compared with, or null), and per seed, in the order of `seeds`: `test` ({metric: [..]}), `alone` (the same for
  the student trained with labels alone), `folders`; `parameters`, `multiply_accumulates`; `teacher` ({metric: value});
- `comparisons`: for each setting with an `against`: `setting`, `against`, `differences` by seed, `mean`, `interval`
  (95 %, Student's t over seeds, of this comparison alone; null for one seed), `p` of the paired t test, `corrected`
  for the number of comparisons by Holm, `better`: true, false, or null where that is not below 0.05;
- `unbeaten`: the published settings that no trial beat on validation;
- `missing`: the settings of which a seed did not finish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kdlab.core.comparison import Comparison, compare, format_mean, sentence
from kdlab.core.statistics import mean
from kdlab.core.terminal import PlainTable
from kdlab.study.search_space import by_key, published, written
from kdlab.study.spec import Arm, Plan, feasible

VERSION = 2


@dataclass(frozen=True)
class Refit:
    """A setting to be trained anew. The fields are those of `settings` above."""

    name: str
    arm: str | None
    params: Mapping[str, Any]
    trial: int | None
    against: str | None
    overrides: tuple[str, ...]


def choose(plan: Plan, studies: Mapping[str | None, Study]) -> list[Refit]:
    """What is refitted: the best of each arm, or its whole front; and the published setting, if wanted.

    Args:
        plan: the study.
        studies: the Optuna study of each arm, by its option.
    """
    found: dict[str, Refit] = {}
    final, plain = plan.settings.final, plan.arms[0]
    for arm in plan.arms:
        for trial in _winners(plan, studies[arm.option]):
            name = arm.option or "best"
            against = plain.option if arm is not plain else None
            if final.of == "front":
                name, against = f"{arm.option or ''} trial {trial.number}".strip(), None
            if final.default:
                default = _published(plan, arm, trial)
                found[default.name] = default
                against = default.name
                if default.params == trial.params:
                    continue
            found[name] = Refit(name, arm.option, trial.params, trial.number, against, _overrides(arm, trial.params))
    return list(found.values())


def seeds(plan: Plan) -> list[int]:
    """The seeds of the refits: the first that no trial had."""
    first = plan.seed + plan.settings.seeds
    return list(range(first, first + plan.settings.final.seeds))


def summarise(plan: Plan, refits: Sequence[Refit], trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The content of final.json.

    Args:
        plan: the study.
        refits: the settings to refit.
        trials: of NAME/final, whose attribute `result` holds a result.json.
    """
    settings, wanted = [], []
    for refit in refits:
        done = {
            trial.user_attrs["seed"]: trial
            for trial in trials
            if trial.state == TrialState.COMPLETE and is_of(refit, trial)
        }
        if all(seed in done for seed in seeds(plan)):
            wanted.append(refit)
            settings.append(_setting(refit, [done[seed] for seed in seeds(plan)]))
    metric = plan.curve.removeprefix("validation.")
    tests: dict[str | None, dict[int, float]] = {
        setting["name"]: dict(zip(seeds(plan), setting["test"][metric], strict=True)) for setting in settings
    }
    found = compare(
        [
            (refit.name, refit.against, tests[refit.name], tests[refit.against])
            for refit in wanted
            if refit.against is not None and refit.against in tests
        ]
    )
    rivals = {refit.against for refit in refits}
    return {
        "version": VERSION,
        "name": plan.name,
        "metric": metric,
        "direction": plan.objectives[plan.curve],
        "seeds": seeds(plan),
        "settings": settings,
        "comparisons": [_described(one, plan.objectives[plan.curve][:3]) for one in found],
        "unbeaten": [refit.name for refit in wanted if refit.trial is None and refit.name not in rivals],
        "missing": [refit.name for refit in refits if refit not in wanted],
    }


def verdict(final: Mapping[str, Any]) -> list[str]:
    """The result of the study, a sentence for each comparison, and what is missing."""
    compared, metric = final["comparisons"], f"{final['metric']} on test"
    sentences = [
        sentence(one["setting"], one["against"], mean(one["differences"]), one["corrected"], len(compared),
                 final["direction"][:3], metric)
        for one in compared
    ]  # fmt: skip
    sentences += [f"{name}: the search found nothing better than the published setting." for name in final["unbeaten"]]
    if final["missing"]:
        missing = ", ".join(final["missing"])
        sentences.append(f"{missing}: left out, because not every seed finished; the same command tries again.")
    return sentences or ["Nothing is compared; final.default=true also refits the published setting."]


def table(final: Mapping[str, Any]) -> PlainTable:
    """Settings, their parameters, and test values as mean over seeds ± its 95 % interval."""
    metric = final["metric"]
    title = f"{final['name']}: {metric} on test over seeds {final['seeds']}, ± 95 % interval"
    table = PlainTable(title)
    for column in ("setting", "distilled", "alone", "multiply-\naccumulates", "parameters found"):
        table.add_column(column, justify="left" if column.startswith(("set", "param")) else "right", overflow="fold")
    for setting in final["settings"]:
        params = "\n".join(f"{name} {_short(value)}" for name, value in setting["params"].items())
        alone = (setting["alone"] or {}).get(metric)
        cost = f"{setting['multiply_accumulates']:,}"
        table.add_row(setting["name"], format_mean(setting["test"][metric]), format_mean(alone or ()), cost, params)
    return table


def attributes(refit: Refit, seed: int) -> dict[str, Any]:
    """The user attributes of the trial that refits a setting with a seed."""
    described = asdict(refit)
    return {"setting": refit.name, "seed": seed, **{key: described[key] for key in ("arm", "params", "overrides")}}


def is_of(refit: Refit, trial: FrozenTrial) -> bool:
    """Whether a trial of NAME/final refits a setting; the best of a continued study may be another."""
    return bool(trial.user_attrs["setting"] == refit.name and trial.user_attrs["params"] == dict(refit.params))


def _winners(plan: Plan, study: Study) -> list[FrozenTrial]:
    signs = [1 if direction == "minimize" else -1 for direction in plan.objectives.values()]
    first = list(plan.objectives).index(plan.curve)
    order = sorted(range(len(signs)), key=lambda place: place != first)
    complete = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if feasible(trial)]
    ranked = sorted(complete, key=lambda trial: [signs[place] * trial.values[place] for place in order])
    if plan.settings.final.of == "best":
        return ranked[:1]
    front = {trial.number for trial in study.best_trials}
    return [trial for trial in ranked if trial.number in front]


def _published(plan: Plan, arm: Arm, winner: FrozenTrial) -> Refit:
    kept = {key: value for key, value in by_key(winner.params).items() if key in plan.settings.final.same}
    params = published(arm.space, kept, arm.overrides, plan.folders)
    given, usual = by_key(params), by_key(arm.default)
    moved = [f"{key}={_short(value)}" for key, value in kept.items() if key in given and usual.get(key) != value]
    name = ", ".join([f"{arm.option} default" if arm.option else "default", *moved])
    return Refit(name, arm.option, params, None, None, _overrides(arm, params))


def _overrides(arm: Arm, params: Mapping[str, Any]) -> tuple[str, ...]:
    return (*arm.overrides, *written(params))


def _setting(refit: Refit, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    results = [trial.user_attrs["result"] for trial in trials]
    described = {key: value for key, value in asdict(refit).items() if key != "overrides"}
    first = results[0]
    return {
        **described,
        "test": _columns([result["test"] for result in results]),
        "alone": _columns([result["alone"] for result in results]) if all(r["alone"] for r in results) else None,
        "teacher": first["teacher"],
        "parameters": first["parameters"],
        "multiply_accumulates": first["multiply_accumulates"],
        "folders": [trial.user_attrs["folder"] for trial in trials],
    }


def _described(one: Comparison, direction: str) -> dict[str, Any]:
    found = one.paired
    return {
        "setting": one.label,
        "against": one.against,
        "differences": list(found.differences),
        "mean": found.mean.value,
        "interval": found.mean.interval and list(found.mean.interval),
        "p": found.p,
        "corrected": one.p_holm,
        "better": one.better(direction),
    }


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The metrics that every row has: one that became NaN is left out of its own."""
    return {name: [row[name] for row in rows] for name in rows[0] if all(name in row for row in rows)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def of_result(result: Mapping[str, Any], keep: str) -> dict[str, Any]:
    """What a refit's trial stores of its result.json: test rows of the epoch that the run keeps."""
    student = result["student"]
    rows = {name: result[name] and result[name]["test"].get("last") for name in ("teacher", "alone")}
    costs = {key: student[key] for key in ("parameters", "multiply_accumulates")}
    return {"test": student["test"].get(keep, student["test"]["last"]), **rows, **costs}
