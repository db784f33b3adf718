"""What data propose for a run over them holds until the user says something else."""

import pytest
import yaml

from kdlab.config.compose import compose

PROPOSES = {
    "model": "resnet14",
    "teacher.model": "resnet32",
    "optimizer": "adamw",
    "scheduler": "warmup_linear",
    "optimizer.lr": 5.0e-4,
    "trainer.max_epochs": 3,
}


@pytest.fixture
def told(tmp_path):
    """Composes a run over digits that propose other networks and another training."""
    (tmp_path / "data").mkdir()
    body = {"defaults": ["digits"], "proposes": PROPOSES}
    (tmp_path / "data" / "letters.yaml").write_text(yaml.safe_dump(body))
    return lambda *overrides: compose(["data=letters", *overrides], [tmp_path])


def trains(run):
    """The parts of a recipe that the data propose."""
    return run.optimizer["_target_"].split(".")[-1], run.optimizer["lr"], run.trainer.max_epochs


def test_what_data_propose_holds_for_student_and_teacher(told):
    config = told()
    assert (config.model["depth"], config.teacher.model["depth"]) == (14, 32)
    assert trains(config) == trains(config.teacher) == ("AdamW", 5.0e-4, 3)
    assert config.scheduler["pct_start"] == config.teacher.scheduler["pct_start"] == 0.1
    assert "proposes" not in config.data.plain()


def test_it_holds_for_every_teacher_of_several_and_of_a_chain(told):
    members = told("teacher=[resnet20,resnet56]").teacher.members.values()
    assert [(member.model["depth"], *trains(member)) for member in members] == [
        (20, "AdamW", 5.0e-4, 3),
        (56, "AdamW", 5.0e-4, 3),
    ]
    chain = told("teacher=resnet20", "teacher.teacher=resnet110").teacher
    assert (chain.model["depth"], chain.teacher.model["depth"]) == (20, 110)
    assert trains(chain) == trains(chain.teacher) == ("AdamW", 5.0e-4, 3)


def test_an_option_wins_over_all_that_is_proposed_for_its_group(told):
    config = told("optimizer=sgd", "model=resnet8", "teacher=vgg8")
    assert trains(config) == ("SGD", 0.1, 3)
    assert trains(config.teacher) == ("AdamW", 5.0e-4, 3)
    assert (config.model["depth"], config.teacher.model["_target_"].split(".")[-1]) == (8, "VGG")


def test_a_key_wins_over_its_value_alone(told):
    config = told("optimizer.lr=0.01", "teacher.trainer.max_epochs=7")
    assert trains(config) == ("AdamW", 0.01, 3)
    assert trains(config.teacher) == ("AdamW", 5.0e-4, 7)


def test_a_mode_still_proposes_its_own(told):
    assert told("mode=dml").loss.heads["kd"].weight == 1.0
    assert told("mode=snapshot").mode.scheduler["_target_"].endswith("CosineAnnealingWarmRestarts")


def test_an_experiment_wins(told):
    teacher = told("experiment=chain/ensemble").teacher
    assert (teacher.model["depth"], *trains(teacher)) == (8, "AdamW", 5.0e-4, 3)


def test_data_that_propose_nothing_change_nothing():
    assert trains(compose([])) == ("SGD", 0.1, 30)


@pytest.fixture
def dialled(tmp_path):
    """Composes a run over digits that propose a temperature."""
    (tmp_path / "data").mkdir()
    body = {"defaults": ["digits"], "proposes": {"loss.temperature": 1.5, "loss.alpha": 0.3}}
    (tmp_path / "data" / "letters.yaml").write_text(yaml.safe_dump(body))
    return lambda *overrides: compose(["data=letters", *overrides], [tmp_path]).loss.heads


def test_a_proposed_dial_holds_for_the_losses_that_read_it(dialled):
    assert dialled()["kd"].options["temperature"] == 1.5
    assert dialled("loss=[kd,fitnet]")["kd"].options["temperature"] == 1.5
    assert dialled("loss=fitnet").keys() == {"fitnet"}
    assert dialled("loss.temperature=2")["kd"].options["temperature"] == 2
    assert dialled("loss.heads.kd.temperature=3.0")["kd"].options["temperature"] == 3.0
    assert (dialled()["kd"].weight, dialled("mode=ema")["kd"].weight) == (0.3, 1.0)
    assert dialled("mode=dlb")["kd"].options["temperature"] == 3.0, "as the mode was published"
