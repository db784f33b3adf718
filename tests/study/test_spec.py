"""A study is read whole, and a wrong one is refused in one line that says what would be right."""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

from kdlab.core.errors import UsageError
from kdlab.study.search_space import suggest, written
from kdlab.study.spec import make_sampler
from kdlab.study.spec_file import make_plan, read_plan

SWEEPS = Path(__file__).parents[2] / "sweeps"
KD = {"name": "kd", "overrides": ["loss=kd"], "space": {"loss.temperature": {"low": 1.0, "high": 8.0}}}


def space(**given):
    return {**KD, "space": {key.replace("__", "."): value for key, value in given.items()}}


def test_the_published_setting_is_tried_first_and_written_points_take_the_rest_from_it():
    wide = {"loss.temperature": {"low": 1.0, "high": 8.0}, "model.width": {"choices": [0.2, 0.4]}}
    plan = make_plan({**KD, "space": wide, "first": [{"model.width": 0.4}]})
    assert plan.arms[0].first == (
        {"loss.temperature": 4.0, "model.width": 0.2},
        {"loss.temperature": 4.0, "model.width": 0.4},
    )


def test_an_override_of_the_study_moves_its_published_setting():
    plan = make_plan({**KD, "overrides": ["loss=dist", "loss.temperature=2"]})
    assert plan.arms[0].default == {"loss.temperature": 2}


CHOICE = {
    "optimizer": {"choices": ["sgd", "adamw"]},
    "optimizer.lr": [
        {"low": 0.01, "high": 0.5, "log": True, "when": {"optimizer": "sgd"}},
        {"low": 0.0001, "high": 0.01, "log": True, "when": {"optimizer": "adamw"}},
    ],
    "optimizer.momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": "sgd"}},
}


def test_a_key_is_there_only_beside_the_choice_it_belongs_to():
    plan = make_plan({**KD, "space": CHOICE, "first": [{"optimizer": "adamw"}]})
    arm = plan.arms[0]
    assert arm.first[1] == {"optimizer": "adamw", "optimizer.lr@adamw": 0.001}
    assert list(arm.default) == ["optimizer", "optimizer.lr@sgd", "optimizer.momentum"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        point = suggest(study.ask(), arm.space)
        own = ["optimizer.lr@sgd", "optimizer.momentum"] if point["optimizer"] == "sgd" else ["optimizer.lr@adamw"]
        assert list(point) == ["optimizer", *own]
        config = plan.compose([*arm.overrides, *written(point)])
        assert config.optimizer["lr"] == point[own[0]]


NESTED = {
    "optimizer": CHOICE["optimizer"],
    "scheduler": [
        {"choices": ["cosine", "constant"], "when": {"optimizer": "sgd"}},
        {"choices": ["cosine", "one_cycle"], "when": {"optimizer": "adamw"}},
    ],
    "scheduler.pct_start": {"low": 0.1, "high": 0.5, "when": {"scheduler": "one_cycle"}},
    "loss.alpha": {"low": 0.0, "high": 1.0, "when": {"scheduler": ["constant", "one_cycle"]}},
}


def test_a_choice_that_itself_belongs_to_a_choice_may_have_keys_of_its_own():
    first = [{"optimizer": "adamw", "scheduler": "one_cycle", "scheduler.pct_start": 0.2}]
    plan = make_plan({**KD, "space": NESTED, "first": first})
    arm = plan.arms[0]
    assert arm.default == {"optimizer": "sgd", "scheduler@sgd": "cosine"}
    assert arm.first[1] == {
        "optimizer": "adamw", "scheduler@adamw": "one_cycle", "scheduler.pct_start": 0.2, "loss.alpha": 0.9
    }  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(study.ask(), arm.space) for _ in range(40)]
    assert {tuple(point) for point in points if "constant" in point.values()} == {
        ("optimizer", "scheduler@sgd", "loss.alpha")
    }
    assert {tuple(point) for point in points if "one_cycle" in point.values()} == {
        ("optimizer", "scheduler@adamw", "scheduler.pct_start", "loss.alpha")
    }
    assert all(len(point) == 2 for point in points if "cosine" in point.values())


def test_a_key_beside_a_choice_of_a_choice_is_looked_for_in_its_config():
    space = {**NESTED, "scheduler.pct_strat": {"low": 0.1, "high": 0.5, "when": {"scheduler": "one_cycle"}}}
    with pytest.raises(UsageError, match="did you mean pct_start"):
        make_plan({**KD, "space": space})


def test_compared_losses_search_what_their_own_files_declare():
    plan = make_plan({**KD, "space": {}, "compare": {"loss": ["kd", "dkd"]}})
    assert {arm.option: dict(arm.default) for arm in plan.arms} == {
        "kd": {"loss.heads.kd.weight": 0.9, "loss.temperature": 4.0},
        "dkd": {"loss.heads.dkd.weight": 1.0, "loss.heads.dkd.nontarget_weight": 8.0, "loss.temperature": 4.0},
    }
    assert [plan.titled(arm) for arm in plan.arms] == ["kd/kd", "kd/dkd"]


def test_whole_bounds_make_a_whole_number_and_points_make_a_real_one():
    plan = make_plan(space(trainer__max_epochs={"low": 10, "high": 60}, loss__temperature={"low": 1.0, "high": 8.0}))
    kinds = [type(dimension.distribution).__name__ for dimension in plan.arms[0].space]
    assert kinds == ["IntDistribution", "FloatDistribution"]


def test_costs_go_by_their_short_names_and_constraints_are_in_parts_of_their_bound():
    objectives = {"validation.accuracy": "maximize", "latency_ms": "minimize"}
    plan = make_plan({**KD, "objectives": objectives, "constraints": ["parameters <= 200", "latency_ms >= 2"]})
    assert list(plan.objectives) == ["validation.accuracy", "student.latency_ms"]
    assert [constraint.metric for constraint in plan.constraints] == ["student.parameters", "student.latency_ms"]
    assert plan.constraints[0].violation(300) == 0.5
    assert plan.constraints[1].violation(3) == -0.5


def test_each_trial_draws_with_a_seed_of_its_own_except_where_a_sequence_must_be_one():
    def drawn(target, seed, number):
        study = optuna.create_study(sampler=make_sampler({"_target_": target}, seed, number))
        return study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).params["x"]

    tpe = "optuna.samplers.TPESampler"
    assert drawn(tpe, 0, 3) == drawn(tpe, 0, 3)
    assert len({drawn(tpe, seed, number) for seed in (0, 1) for number in (0, 1)}) == 4


WRONG = {
    "space: expected a key to search": {**KD, "space": {}},
    "loss.temprature: loss has no key temprature; did you mean temperature?": space(
        loss__temprature={"low": 1.0, "high": 2.0}
    ),
    "low 4.0 is not below high 2.0": space(loss__temperature={"low": 4.0, "high": 2.0}),
    "the published 4.0, which is always tried first, is not among 1.0 to 2.0": space(
        loss__temperature={"low": 1.0, "high": 2.0}
    ),
    "loss.temperature=0.0: expected a number above 0": space(loss__temperature={"low": 0.0, "high": 8.0}),
    "YAML reads 1e-3 as a word": space(optimizer__lr={"low": "1e-3", "high": 1.0}),
    "space.model: resnet9 is not an option; did you mean": space(model={"choices": ["mobilenet", "resnet9"]}),
    "space.loss.temperature.hihg: not a key of a range; did you mean high?": space(
        loss__temperature={"low": 1.0, "hihg": 2.0}
    ),
    "no choice above it has this name": space(loss__temperature={"low": 1.0, "high": 8.0, "when": {"loss": "kd"}}),
    "expected one of sgd, adamw": {
        **KD, "space": {"optimizer": CHOICE["optimizer"], "optimizer.lr": {**CHOICE["optimizer.lr"][0],
                                                                         "when": {"optimizer": "adam"}}}},
    "no key momentum": {**KD, "space": {"optimizer": CHOICE["optimizer"],
                                        "optimizer.momentum": {"low": 0.5, "high": 0.95}}},
    "no run writes latency; did you mean latency_ms?": {**KD, "objectives": {"validation.accuracy": "maximize",
                                                               "latency": "minimize"}},
    "a study reads only validation": {**KD, "objectives": {"test.accuracy": "maximize"}},
    "expected at least one on the validation part": {**KD, "objectives": {"parameters": "minimize"}},
    "expected maximize or minimize": {**KD, "objectives": {"validation.accuracy": "max"}},
    "expected METRIC <= NUMBER": {**KD, "constraints": ["parameters < 3"]},
    "Optuna's pruners support one objective, but there are 2": {
        **KD, "objectives": {"validation.accuracy": "maximize", "parameters": "minimize"},
        "pruner": {"_target_": "optuna.pruners.MedianPruner"}},
    "is defined in json, which is not allowed": {
        **KD, "sampler": {"_target_": "optuna.samplers._tpe.sampler.json.dumps"}},
    "sampler.seed: the sampler takes the study's seed": {
        **KD, "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 1}},
    "grace=2: expected a share": {**KD, "pruner": {"_target_": "kdlab.study.pruner.DominatedPruner", "grace": 2}},
    "bugdet: there is no such key; did you mean budget?": {**KD, "bugdet": {"trials": 3}},
    "budget.trails: there is no such key; did you mean trials?": {**KD, "budget": {"trails": 3}},
    "budget.trials=0: expected a whole number, 1 or more": {**KD, "budget": {"trials": 0}},
    "final.same: model.width is not in the space": {**KD, "final": {"same": ["model.width"]}},
    "first: loss.alpha is not in the space": {**KD, "first": [{"loss.alpha": 0.5}]},
    "first: loss.temperature=9 is not among 1.0 to 8.0": {**KD, "first": [{"loss.temperature": 9}]},
    "compare.loss: kdd is not an option; did you mean": {**KD, "compare": {"loss": ["kd", "kdd"]}},
    "data.validation=0: a study selects by validation": {**KD, "overrides": ["loss=kd", "data.validation=0"]},
    "trainer.devices=2: a study trains each trial on one device": {
        **KD, "overrides": ["loss=kd", "trainer.devices=2"]},
    "objectives.student.seconds: kdlab.study.pruner.DominatedPruner prunes by one validation metric": {
        **KD, "objectives": {"seconds": "minimize", "validation.accuracy": "maximize"},
        "pruner": {"_target_": "kdlab.study.pruner.DominatedPruner"}},
    "objectives.validation.calibration_error: kdlab.study.pruner.DominatedPruner prunes by one validation metric": {
        **KD, "objectives": {"validation.accuracy": "maximize", "validation.calibration_error": "minimize"},
        "pruner": {"_target_": "kdlab.study.pruner.DominatedPruner"}},
    "pruner=median: expected a class, {_target_: optuna.pruners.MedianPruner}": {**KD, "pruner": "median"},
    "final.same=model.width: expected a list of keys": {**KD, "final": {"same": "model.width"}},
    "final.default=nowhere: expected true or false": {**KD, "final": {"default": "nowhere"}},
    "storage=3: expected a file": {**KD, "storage": 3},
    "first.0=4.0: expected keys of the space": {**KD, "first": [4.0]},
    "objectives.3=3: expected a word": {**KD, "objectives": {3: "maximize"}},
}  # fmt: skip


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_study_is_refused_in_one_line(said):
    with pytest.raises(UsageError) as refused:
        make_plan(WRONG[said])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_study_is_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(WRONG["expected METRIC <= NUMBER"]))
    code = (
        "import sys; from kdlab.sweep import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "study.yaml"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "KDLAB_HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("kdlab: constraints: parameters < 3")
    assert time.perf_counter() - start < 30  # two seconds on a machine with nothing else to do
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def test_a_key_of_the_command_line_is_the_studys_or_else_its_runs(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({key: KD[key] for key in ("overrides", "space")}))
    plan = read_plan(tmp_path / "mine.yaml", ["workers=3", "budget.trials=7", "trainer.max_epochs=2"])
    assert plan.name == "mine"
    assert (plan.settings.workers, plan.settings.budget.plain()) == (3, {"trials": 7})
    assert plan.compose(plan.arms[0].overrides).trainer.max_epochs == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workers.x=3", "workers.x=3: workers is a single value; expected workers=VALUE"),
        ("name.x=2", "name.x=2: name is a single value; expected name=VALUE"),
        ("space={a: [", "space={a: [: not valid YAML: "),
        ("budget.trials={a: [", "budget.trials={a: [: not valid YAML: "),
        ("pruner=median", "pruner=median: expected a class"),
        ("pruner.grace=0.2", "pruner._target_=None: expected the path of a class"),
        ("final.same=model.width", "final.same=model.width: expected a list of keys"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**KD, "name": "mine", "workers": 2}))
    with pytest.raises(UsageError) as refused:
        read_plan(tmp_path / "mine.yaml", [override])
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


LONG = {"methods"}  # of every loss, which takes seconds


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=[pytest.mark.slow] if file.stem in LONG else [])
        for file in sorted(SWEEPS.glob("*.yaml"))
        if "rows" not in yaml.safe_load(file.read_text())  # a table, see tests/test_table.py
    ],
)
def test_every_study_that_ships_is_right(file):
    plan = read_plan(file)
    assert plan.name == file.stem
    assert all(arm.first[0] == arm.default for arm in plan.arms)


@pytest.mark.parametrize("given", [{"overrides": 5}, {"first": 3}, {"space": 5}, {"first": [5]}])
def test_keys_of_another_shape_are_refused_in_a_line(given, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"space": {"loss.alpha": {"low": 0.1, "high": 0.9}}, **given}))
    with pytest.raises(UsageError, match=f"^{next(iter(given))}"):
        read_plan(tmp_path / "study.yaml")
