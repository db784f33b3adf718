"""What is refitted, and what is said of it: the best against the published setting, seed by seed."""

import optuna
import pytest

from kdlab.finals import choose, compare, summarise, table, verdict
from kdlab.study_file import make_plan

KD = {
    "name": "kd",
    "overrides": ["loss=kd"],
    "space": {"loss.temperature": {"low": 1.0, "high": 8.0}, "model.width": {"choices": [0.1, 0.2, 0.4]}},
    "objectives": {"validation.accuracy": "maximize", "student.multiply_accumulates": "minimize"},
    "constraints": ["student.parameters <= 100"],
}


def study_of(plan, *trials, arm=0):
    """A finished study of (temperature, width, accuracy, cost) trials."""
    study = optuna.create_study(directions=list(plan.objectives.values()))
    for temperature, width, accuracy, cost in trials:
        dimensions = {dimension.name: dimension.distribution for dimension in plan.arms[arm].space}
        params = {"loss.temperature": temperature, "model.width": width}
        trial = optuna.create_trial(
            params=params, distributions=dimensions, values=[accuracy, cost],
            system_attrs={"constraints:student.parameters <= 100": (cost - 100) / 100},
        )  # fmt: skip
        study.add_trial(trial)
    return study


TRIALS = [(4.0, 0.2, 0.8, 50), (2.0, 0.1, 0.7, 20), (2.5, 0.2, 0.9, 50), (3.0, 0.4, 0.99, 150), (6.0, 0.2, 0.6, 50)]


def test_the_best_feasible_trial_meets_the_published_setting_at_its_own_width():
    plan = make_plan({**KD, "final": {"same": ["model.width"], "seeds": 3}})
    trials = [*TRIALS, (7.0, 0.1, 0.95, 20)]
    found = choose(plan, {None: study_of(plan, *trials)})
    assert [(refit.name, dict(refit.params), refit.trial, refit.against) for refit in found] == [
        ("default, model.width=0.1", {"loss.temperature": 4.0, "model.width": 0.1}, None, None),
        ("best", {"loss.temperature": 7.0, "model.width": 0.1}, 5, "default, model.width=0.1"),
    ]
    assert found[1].overrides == ("loss=kd", "loss.temperature=7.0", "model.width=0.1")


def test_a_whole_front_can_be_refitted():
    plan = make_plan({**KD, "final": {"of": "front", "default": False}})
    found = choose(plan, {None: study_of(plan, *TRIALS)})
    assert [refit.name for refit in found] == ["trial 2", "trial 1"]


def test_where_the_published_setting_is_the_best_it_alone_is_refitted_and_that_is_said():
    plan = make_plan(KD)
    found = choose(plan, {None: study_of(plan, (4.0, 0.2, 0.9, 50), (2.0, 0.2, 0.8, 50))})
    assert [refit.name for refit in found] == ["default"]
    final = summarise(plan, found, [final_trial(refit, seed, 0.9) for refit in found for seed in range(1, 6)])
    assert verdict(final) == ["The search found nothing that is not published already: the default is its own best."]


def final_trial(refit, seed, accuracy):
    row = {"accuracy": accuracy}
    result = {"test": row, "alone": row, "teacher": row, "parameters": 7, "multiply_accumulates": 9}
    described = {"setting": refit.name, "params": dict(refit.params), "seed": seed, "folder": f"final/{seed}"}
    return optuna.create_trial(value=accuracy, user_attrs={**described, "result": result})


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.01, 0.02, 0.01, 0.03, 0.02), "best is better than default"),
        ((-0.01, -0.02, -0.01, -0.03, -0.02), "best is worse than default"),
        ((-0.01, 0.02, -0.01, 0.01, 0.0), "best is not shown to differ from default"),
    ],
)
def test_the_verdict_follows_the_interval(gains, said):
    plan = make_plan(KD)
    default, best = refits = choose(plan, {None: study_of(plan, *TRIALS)})
    trials = [final_trial(default, seed, 0.9) for seed in range(1, 6)]
    trials += [final_trial(best, seed, 0.9 + gain) for seed, gain in zip(range(1, 6), gains, strict=True)]
    final = summarise(plan, refits, trials)
    assert verdict(final)[0].startswith(said)
    assert final["comparisons"][0]["mean"] == pytest.approx(sum(gains) / 5)
    assert final["comparisons"][0]["differences"] == pytest.approx(gains)
    assert table(final).row_count == 2


def test_a_setting_whose_seeds_are_not_all_there_is_named_and_left_out():
    plan = make_plan(KD)
    refits = choose(plan, {None: study_of(plan, *TRIALS)})
    trials = [final_trial(refits[0], seed, 0.9) for seed in range(1, 6)]
    final = summarise(plan, refits, [*trials, final_trial(refits[1], 1, 0.9)])
    assert [setting["name"] for setting in final["settings"]] == ["default"]
    assert final["missing"] == ["best"]
    assert final["comparisons"] == []


def test_less_is_better_where_the_study_says_so():
    plan = make_plan({**KD, "objectives": {"validation.cross_entropy": "minimize"}})
    assert compare(plan, [0.1, 0.2, 0.1], [0.5, 0.5, 0.5])["better"] is True
