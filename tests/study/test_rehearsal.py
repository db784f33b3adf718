"""A sampler or pruner that cannot work is refused in a line before the first trial, and the others work."""

import importlib.util

import pytest

from kdlab.core.errors import UsageError
from kdlab.study.spec import make_pruner
from kdlab.study.spec_file import make_plan
from support.study_command import Command, accounted

KD = {"name": "kd", "overrides": ["loss=kd"],
      "space": {"loss.temperature": {"low": 1.0, "high": 8.0}, "loss.alpha": {"low": 0.0, "high": 1.0}}}  # fmt: skip
TWO = {"validation.accuracy": "maximize", "student.parameters": "minimize"}
CMAES = importlib.util.find_spec("cmaes") is not None


def component(name, **settings):
    return {"_target_": name if "." in name else f"optuna.samplers.{name}", **settings}


@pytest.mark.parametrize(
    ("sampler", "objectives"),
    [
        (component("BruteForceSampler"), None),
        (component("GridSampler", search_space={"loss.temperature": [1.0, 2.0]}), None),
        (component("GridSampler"), None),
        (component("PartialFixedSampler", fixed_params={}, base_sampler=component("RandomSampler")), None),
        (component("CmaEsSampler"), TWO if CMAES else None),
        (component("NSGAIISampler", population_size=1), None),
        (component("TPESampler", n_startup_trials="many"), None),
    ],
    ids=lambda given: str(given)[:60],
)
def test_a_sampler_that_cannot_work_is_refused_in_a_line(sampler, objectives):
    with pytest.raises(UsageError) as found:
        make_plan({**KD, "sampler": sampler, **({"objectives": objectives} if objectives else {})})
    assert str(found.value).startswith("sampler")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "pruner",
    [
        component("optuna.pruners.ThresholdPruner"),
        component("optuna.pruners.ThresholdPruner", lower="low"),
        component("optuna.pruners.PatientPruner"),
        component("optuna.pruners.PatientPruner", wrapped_pruner="median", patience=1),
        component("optuna.pruners.PercentilePruner", percentile=500.0),
        component("optuna.pruners.HyperbandPruner", min_resource=0),
    ],
    ids=lambda given: str(given)[:70],
)
def test_a_pruner_that_cannot_work_is_refused_in_a_line(pruner):
    with pytest.raises(UsageError) as found:
        make_plan({**KD, "pruner": pruner})
    assert str(found.value).startswith("pruner")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler",
                                  "GPSampler", *(["CmaEsSampler"] if CMAES else [])])  # fmt: skip
@pytest.mark.parametrize("objectives", [{"validation.accuracy": "maximize"}, TWO], ids=["one", "two"])
def test_the_other_samplers_are_taken(name, objectives):
    if name == "CmaEsSampler" and objectives is TWO:
        pytest.skip("CMA-ES has one objective")
    assert make_plan({**KD, "sampler": component(name), "objectives": objectives}).name == "kd"


PRUNERS = [
    component("optuna.pruners.MedianPruner"),
    component("optuna.pruners.HyperbandPruner"),
    component("optuna.pruners.SuccessiveHalvingPruner"),
    component("optuna.pruners.ThresholdPruner", lower=0.1),
    component("optuna.pruners.WilcoxonPruner"),
    component("optuna.pruners.PatientPruner", wrapped_pruner=component("optuna.pruners.MedianPruner"), patience=1),
    component("optuna.pruners.PatientPruner", wrapped_pruner=None, patience=1),
]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda given: str(given)[:70])
def test_the_other_pruners_are_taken(pruner):
    assert make_plan({**KD, "pruner": pruner}).name == "kd"
    assert make_pruner(pruner) is not None


def test_a_study_of_a_pruner_within_another_comes_to_its_end(tmp_path):
    study = Command(tmp_path, pruner=PRUNERS[5], budget={"trials": 4})
    study.run()
    accounted(study.trials(), 4)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workers=100000", "workers=100000: expected a number up to 1024"),
        ("hang_seconds=1e400", "hang_seconds=1e400: expected a number up to 1000000000"),
        ("hang_seconds=.inf", "hang_seconds=inf: expected a number up to 1000000000"),
        ("hang_seconds=.nan", "hang_seconds=nan: expected a number up to 1000000000"),
        ("budget.trials=" + "9" * 5000, "not valid YAML"),
        ("budget.trials=" + "9" * 50, "expected a number up to 1000000"),
        ("seed=" + "9" * 50, "expected a number up to 4294967295"),
        ("name=../../x", "name=../../x: expected a name that can be a folder's"),
        ("name=..", "name=..: expected a name that can be a folder's"),
        ("name=", "name"),
        ('name="a\\nb"', "name=a b: expected a name that can be a folder's"),
        ('name="a\\0b"', "name=a\\x00b: expected a name that can be a folder's"),
        ("name=" + "x" * 300, "expected a name that can be a folder's"),
    ],
    ids=lambda given: given[:30],
)
def test_impossible_numbers_and_names_are_refused_in_a_line(tmp_path, monkeypatch, capsys, override, said):
    from kdlab.sweep import main

    Command(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["study.yaml", override]) == 2
    told = capsys.readouterr().err
    assert told.startswith("kdlab: ")
    assert said in told
    assert told.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]
