"""A run is typed: what the YAML files hold fits the schema, whole, and what does not is refused in one line."""

import pytest
import yaml
from pydantic import ValidationError

from kdlab.config.compose import compose, groups
from kdlab.config.schema import DataConfig, Phase, RunConfig, TeacherConfig
from kdlab.config.settings import parse
from kdlab.core.errors import UsageError
from kdlab.study.schema import StudyConfig

OPTIONS = [f"{group}={option}" for group in ("loss", "mode", "data", "trainer", "logger", "teacher", "scheduler")
           for option in groups()[group]]  # fmt: skip


@pytest.mark.parametrize("override", OPTIONS)
def test_a_composed_run_is_what_its_config_yaml_holds(override):
    config = compose([override] if override != "data=images" else [override, "data.classes=3"])
    assert parse(RunConfig, yaml.safe_load(yaml.safe_dump(config.plain()))) == config


def test_a_run_is_read_by_attribute_and_never_changed():
    config = compose(["teacher=[resnet8,vgg8]", "phases=[{epochs: 3}]"])
    first, second = config.teachers
    assert isinstance(first, TeacherConfig)
    assert (first.model["depth"], second.seed, config.phases) == (8, 0, (Phase(epochs=3),))
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    assert config.replace(seed=3).seed == 3
    assert config.seed == 0


def test_what_a_source_takes_besides_is_kept_for_it():
    data = parse(DataConfig, {"_target_": "mine.Data", "classes": 2, "folder": "x"})
    assert (data.component, data.options) == ({"_target_": "mine.Data", "folder": "x"}, {"folder": "x"})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("trainer.max_epochs", "ten", "trainer.max_epochs=ten: expected a whole number"),
        ("trainer.epochs", 3, "trainer.epochs: there is no such key; did you mean max_epochs?"),
        ("loss.heads.kd.first", {"epochs": 3, "prepare": 3}, "loss.heads.kd.first.prepare=3: expected true or false"),
        ("loss.heads.kd.ramp_shape", "cubic", "loss.heads.kd.ramp_shape=cubic: expected linear, from_zero or sigmoid"),
        ("phases", [{"epoch": 3}], "phases.0.epoch: there is no such key; did you mean epochs?"),
        ("phases", [{"heads": ["kd"]}], "phases.0.epochs is missing; expected phases.0.epochs=VALUE"),
        ("teacher.seed", None, "teacher.seed=null: expected a whole number"),
        ("mode", "dml", "mode=dml: expected a group of keys"),
        ("keep", "first", "keep=first: expected last or best"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(path, value, said):
    plain = compose().plain()
    *where, last = path.split(".")
    within = plain
    for part in where:
        within = within[part]
    within[last] = value
    with pytest.raises(UsageError) as refused:
        parse(RunConfig, plain)
    assert str(refused.value) == said


def test_a_study_has_defaults_of_its_own():
    study = parse(StudyConfig, {"name": "mine", "budget": {"trials": 3}})
    assert (study.budget.trials, study.budget.seconds, study.final.seeds, study.final.of) == (3, None, 5, "best")
