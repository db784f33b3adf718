"""What is refitted, and what is said of it: the best against the published setting, seed by seed."""

from dataclasses import replace

import optuna
import pytest

from kdlab.study.refit import choose, summarise, table, verdict
from kdlab.study.spec_file import make_plan

COST = "student.multiply_accumulates"
KD = {
    "name": "kd",
    "overrides": ["loss=kd"],
    "space": {"loss.temperature": {"low": 1.0, "high": 8.0}, "model.width": {"choices": [0.1, 0.2, 0.4]}},
    "objectives": {"validation.accuracy": "maximize", COST: "minimize"},
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


METHODS = {"name": "methods", "compare": {"loss": ["kd", "dkd", "dist"]}, "final": {"default": False}}


def searched(plan, *accuracies):
    """The finished study of each arm: its published point with one accuracy, and another point with another."""
    studies = {}
    for arm, values in zip(plan.arms, accuracies, strict=True):
        studies[arm.option] = study = optuna.create_study(direction="maximize")
        distributions = {dimension.name: dimension.distribution for dimension in arm.space}
        moved = {**arm.default, "loss.temperature": 2.0}
        for point, value in zip((arm.default, moved), values, strict=True):
            study.add_trial(optuna.create_trial(params=dict(point), distributions=distributions, value=value))
    return studies


def test_every_method_meets_plain_kd_also_where_its_best_setting_is_the_published_one():
    plan = make_plan(METHODS)
    refits = choose(plan, searched(plan, (0.9, 0.8), (0.9, 0.8), (0.8, 0.9)))
    assert [(refit.name, refit.trial, refit.against) for refit in refits] == [
        ("kd", 0, None), ("dkd", 0, "kd"), ("dist", 1, "kd")
    ]  # fmt: skip
    final = summarise(plan, refits, [final_trial(refit, seed, 0.9) for refit in refits for seed in range(1, 6)])
    assert [(one["setting"], one["against"]) for one in final["comparisons"]] == [("dkd", "kd"), ("dist", "kd")]
    assert len(verdict(final)) == 2


def test_of_compared_methods_every_point_of_a_front_is_refitted():
    plan = make_plan({**METHODS, "final": {"of": "front", "default": False}})
    studies = searched(plan, (0.9, 0.9), (0.9, 0.8), (0.8, 0.9))
    assert [(refit.name, refit.against) for refit in choose(plan, studies)] == [
        ("kd trial 0", None), ("kd trial 1", None), ("dkd trial 0", None), ("dist trial 1", None)
    ]  # fmt: skip


FAMILIES = {
    "model": {"choices": ["mobilenet", "resnet8"]},
    "model.width": [
        {"low": 0.1, "high": 0.3, "when": {"model": "mobilenet"}},
        {"low": 0.2, "high": 0.4, "when": {"model": "resnet8"}},
    ],
    "optimizer": {"choices": ["sgd", "adamw"]},
    "optimizer.momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": "sgd"}},
    "optimizer.lr": {"low": 0.0001, "high": 0.5, "log": True},
}


@pytest.mark.parametrize(
    ("same", "name", "params"),
    [
        (["model.width"], "default, model.width=0.4", {"model": "mobilenet", "model.width@mobilenet": 0.4,
         "optimizer": "sgd", "optimizer.momentum": 0.9, "optimizer.lr": 0.1}),
        (["model"], "default, model=resnet8", {"model": "resnet8", "model.width@resnet8": 1.0,
         "optimizer": "sgd", "optimizer.momentum": 0.9, "optimizer.lr": 0.1}),
        (["model", "model.width", "optimizer"], "default, model=resnet8, model.width=0.4, optimizer=adamw",
         {"model": "resnet8", "model.width@resnet8": 0.4, "optimizer": "adamw", "optimizer.lr": 0.001}),
    ],
)  # fmt: skip
def test_what_is_kept_the_same_takes_along_what_is_published_beside_it(same, name, params):
    plan = make_plan({"name": "families", "overrides": ["loss=kd"], "space": FAMILIES, "final": {"same": same}})
    best = {"model": "resnet8", "model.width@resnet8": 0.4, "optimizer": "adamw", "optimizer.lr": 0.01}
    distributions = {d.name: d.distribution for d in plan.arms[0].space if d.name in best}
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.create_trial(params=best, distributions=distributions, value=0.9))
    default, found = choose(plan, {None: study})
    assert (default.name, dict(default.params)) == (name, params)
    assert (found.name, found.against) == ("best", name)


def test_where_the_published_setting_is_the_best_it_alone_is_refitted_and_that_is_said():
    plan = make_plan(KD)
    found = choose(plan, {None: study_of(plan, (4.0, 0.2, 0.9, 50), (2.0, 0.2, 0.8, 50))})
    assert [refit.name for refit in found] == ["default"]
    final = summarise(plan, found, [final_trial(refit, seed, 0.9) for refit in found for seed in range(1, 6)])
    assert verdict(final) == ["default: the search found nothing better than the published setting."]


def test_where_nothing_is_refitted_beside_the_best_nothing_is_said_of_the_published_setting():
    plan = make_plan({**KD, "final": {"default": False}})
    refits = choose(plan, {None: study_of(plan, *TRIALS)})
    final = summarise(plan, refits, [final_trial(refit, seed, 0.9) for refit in refits for seed in range(1, 6)])
    assert verdict(final) == ["Nothing is compared; final.default=true also refits the published setting."]


@pytest.mark.parametrize(
    ("comparisons", "better", "said"),
    [
        (
            1,
            True,
            "trial 1 is better than default: accuracy on test +0.0300 on average over 5 seeds, "
            "95 % interval +0.0104 to +0.0496.",
        ),
        (3, True, "+0.0496 uncorrected; t test, Holm-corrected for 3 comparisons: p 0.0397."),
        (4, None, "+0.0496 uncorrected; t test, Holm-corrected for 4 comparisons: p 0.0529."),
    ],
)
def test_several_comparisons_are_corrected_for_their_number_and_that_is_said(comparisons, better, said):
    # Differences of 1 to 5 by 1/100: t = 3 / (√2.5 / √5) = 4.243, p 0.013236; times 3 it is 0.0397, times 4 0.0529.
    plan = make_plan(KD)
    default, best = choose(plan, {None: study_of(plan, *TRIALS)})
    others = [replace(best, name=f"trial {place}") for place in range(1, comparisons + 1)]
    trials = [final_trial(default, seed, 0.9) for seed in range(1, 6)]
    trials += [final_trial(other, seed, 0.9 + seed / 100) for other in others for seed in range(1, 6)]
    final = summarise(plan, [default, *others], trials)
    assert [one["better"] for one in final["comparisons"]] == [better] * comparisons
    words = verdict(final)
    assert len(words) == comparisons
    assert words[0].endswith(said)


def final_trial(refit, seed, accuracy, metric="accuracy"):
    row = {metric: accuracy}
    result = {"test": row, "alone": row, "teacher": row, "parameters": 7, "multiply_accumulates": 9}
    described = {"setting": refit.name, "params": dict(refit.params), "seed": seed, "folder": f"final/{seed}"}
    return optuna.create_trial(value=accuracy, user_attrs={**described, "result": result})


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.01, 0.02, 0.01, 0.03, 0.02), "best is better than default"),
        ((-0.01, -0.02, -0.01, -0.03, -0.02), "best is worse than default"),
        ((-0.01, 0.02, -0.01, 0.01, 0.0), "best does not differ significantly from default"),
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
    assert final["comparisons"] == final["unbeaten"] == []
    assert verdict(final) == ["best: left out, because not every seed finished; the same command tries again."]


def test_less_is_better_where_the_study_says_so():
    plan = make_plan({**KD, "objectives": {"validation.cross_entropy": "minimize", COST: "minimize"}})
    default, best = choose(plan, {None: study_of(plan, (4.0, 0.2, 0.8, 50), (2.0, 0.2, 0.5, 50))})
    trials = [final_trial(refit, seed, value + seed / 100, "cross_entropy")
              for refit, value in ((default, 0.8), (best, 0.5)) for seed in range(1, 6)]  # fmt: skip
    final = summarise(plan, [default, best], trials)
    assert [one["better"] for one in final["comparisons"]] == [True]
    assert verdict(final)[0].startswith("best is better than default: cross_entropy on test −0.3000")
