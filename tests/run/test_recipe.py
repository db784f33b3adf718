"""A recipe holds all that decides a trained network and nothing else; a teacher's own teacher is resolved first."""

from pathlib import Path

import pytest

from kdlab.config.schema import HeadConfig
from kdlab.data.dataset import prepare
from kdlab.data.source import Digits
from kdlab.networks.weights import hash_file
from kdlab.run.derive import alone_run, compose_run, teacher_run
from kdlab.run.execute import run
from kdlab.run.recipe import key_of, recipe_of
from kdlab.run.store import Store
from support.tiny_runs import TINY, machine


def key(*overrides: str, fingerprint: str = "data", checkpoints: dict[str, str] | None = None) -> str:
    return key_of(recipe_of(compose_run([*TINY, *overrides]), fingerprint, checkpoints))


DECISIVE = [
    "model.width=0.3", "model=resnet14", "optimizer.lr=0.06", "optimizer.weight_decay=0.1", "optimizer=adam",
    "scheduler=step", "trainer.max_epochs=3", "trainer.max_steps=4", "trainer.batch_size=32", "trainer.accumulate=2",
    "trainer.precision=bf16-mixed", "trainer.gradient_clip=1", "seed=1", "loss=fitnet", "loss.temperature=5",
    "loss.alpha=0.8", "loss.task_weight=2", "keep=best", "mode=supervised", "phases=[{epochs: 2}]",
    "data.drop_last=true", "data.augment.rotation=5", "data.augment.randaugment={operations: 1, magnitude: 5}",
    "data.mean=[0.5]", "teacher.seed=1", "teacher.model.width=1", "teacher=vgg8",
    "teacher.optimizer.lr=0.06", "teacher.trainer.max_epochs=3", "teacher.trainer.batch_size=32", "teacher.mean=[0.5]",
    "teacher.size=16", "+data.views.strong={rotation: 20}", "model.taps={classifier: fc}",
    "teacher.model.taps={classifier: fc}",
]  # fmt: skip

INDIFFERENT = [
    "logger=wandb", "name=other", "runs=elsewhere", "trainer.log_every_n_steps=7", "trainer.progress=false",
    "trainer.checkpoint_every_n_steps=3", "trainer.devices=2", "trainer=ddp", "trainer.accelerator=cpu", "alone=false",
    "data.workers=3", "data.resident=false", "allow=[mine]", "model.width=0.25", "teacher.model.width=0.50",
]  # fmt: skip


def test_every_decisive_thing_makes_another_key():
    keys = {overrides: key(overrides) for overrides in DECISIVE}
    assert len({key(), *keys.values()}) == 1 + len(DECISIVE)
    assert key(fingerprint="other data") != key()


@pytest.mark.parametrize("override", INDIFFERENT)
def test_what_decides_nothing_leaves_the_key_as_it_is(override):
    assert key(override) == key()


def test_a_setting_that_came_later_and_is_not_used_leaves_the_keys_of_older_recipes_as_they_are():
    config = compose_run(TINY)
    augment = {name: value for name, value in config.data.augment.items() if name != "randaugment"}
    older = config.replace(data=config.data.replace(augment=augment))
    assert key_of(recipe_of(older, "data")) == key_of(recipe_of(config, "data"))


def test_views_and_taps_that_supervised_training_does_not_read_leave_its_keys_as_they_are():
    plain = compose_run(TINY)
    read = compose_run([*TINY, "+data.views.strong={rotation: 20}", "model.taps={classifier: fc}",
                    "teacher.model.taps={classifier: fc}"])  # fmt: skip
    assert key_of(recipe_of(read, "data")) != key_of(recipe_of(plain, "data"))
    for waited in (alone_run, lambda config: teacher_run(config, config.teacher)):
        recipes = [recipe_of(waited(config), "data") for config in (plain, read)]
        assert key_of(recipes[0]) == key_of(recipes[1])


def test_taps_that_a_models_own_file_names_are_no_part_of_a_supervised_networks_key():
    own = ("mode=supervised", "model=wrn_16_2")
    assert key(*own) == key(*own, "model.taps=null") == key(*own, "model.taps.stages=[block2]")
    assert key("model=wrn_16_2", "loss=at") != key("model=wrn_16_2", "loss=at", "model.taps=null")


def test_the_order_of_keys_and_the_way_a_number_is_written_do_not_matter():
    recipe = recipe_of(compose_run(TINY), "data")
    shuffled = {name: recipe[name] for name in reversed(recipe)}
    shuffled["model"] = {name: recipe["model"][name] for name in reversed(recipe["model"])}
    assert key_of(shuffled) == key_of(recipe)
    assert key("model.width=1") == key("model.width=1.0")
    assert key("loss.temperature=4") == key("loss.temperature=4.0") == key()


def test_the_key_is_a_fixed_function_of_the_recipe():
    # By sha256sum, of {"a":[1,null,true],"b":"\\u00e9"}.
    assert (
        key_of({"b": "é", "a": [1, None, True]}) == "8fe5149205aa9a0cac85780e565ce3b64d9daf3bc6915870d52c2be3626a8c02"
    )


def test_other_weights_in_a_checkpoint_are_another_teacher():
    files = [{"teacher.pt": "hash one"}, {"teacher.pt": "hash two"}, {"moved.pt": "hash one"}]
    one, two = (key("teacher.checkpoint=teacher.pt", checkpoints=known) for known in files[:2])
    assert one != two
    assert key("teacher.checkpoint=moved.pt", checkpoints=files[2]) == one
    assert key("teacher.checkpoint=teacher.pt", "teacher.optimizer.lr=9", checkpoints=files[0]) == one
    assert key() not in (one, two)


def test_the_split_is_part_of_the_fingerprint():
    data = compose_run(TINY).data.plain()
    prints = {
        prepare(Digits(), {**data, **change}).fingerprint
        for change in ({}, {"split_seed": 1}, {"validation": 300}, {"subset": 500}, {"validation": 0})
    }
    assert len(prints) == 5
    assert prepare(Digits(), {**data, "workers": 2, "resident": False}).fingerprint in prints


def test_a_student_alone_and_a_teacher_are_supervised_runs_like_any_other():
    config = compose_run(TINY)
    own = ("mode=supervised", "model=resnet8", "trainer.max_epochs=2")
    teacher = recipe_of(teacher_run(config, config.teacher), "data")
    assert key_of(teacher) == key(*own, "model.width=0.5")
    assert key_of(recipe_of(alone_run(config), "data")) == key(*own, "model.width=0.25")


@pytest.fixture
def _machine(tmp_path: Path):
    with machine(tmp_path / "home"):
        yield


@pytest.mark.usefixtures("_machine")
def test_a_teacher_with_a_teacher_of_its_own_is_trained_after_it(tmp_path, capsys):
    config = compose_run(
        [*TINY, "trainer.max_epochs=1", "teacher.trainer.max_epochs=1", "alone=false", f"runs={tmp_path}"]
    )
    grand = config.teacher.replace(model={**config.teacher.model, "width": 1.0}, seed=5)
    assistant = config.teacher.replace(mode=config.mode, loss=config.loss, teacher=grand)
    chained = config.replace(teacher=assistant)
    outcome = run(chained)
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "not in the store" in line]
    assert said == ["teacher", "teacher-teacher"]
    fingerprint = outcome.result["data"]["fingerprint"]
    runs = [teacher_run(teacher_run(chained, assistant), grand), teacher_run(chained, assistant), chained]
    keys = [key_of(recipe_of(run, fingerprint)) for run in runs]
    found = [path.parent.name for path in sorted(Store().root.glob("*/result.json"), key=written)]
    assert found == keys  # depth first
    assert keys[1] != key_of(recipe_of(teacher_run(config, config.teacher), fingerprint))
    assert outcome.result["teacher"]["weights_sha256"] == hash_file(Store().root / keys[1] / "weights.safetensors")
    run(chained.replace(seed=3))
    assert "not in the store" not in capsys.readouterr().out


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize(
    ("overrides", "network"),
    [
        (["experiment=chain/ensemble", "teacher.mode.peers=1"], "kdlab.models.ensemble.Ensemble"),
        (
            ["experiment=chain/teacher_assistant", "loss@teacher.loss=[simkd]", "teacher.teacher=resnet8",
             "teacher.teacher.trainer.max_epochs=1"],
            "kdlab.heads.feature.simkd.SimKDStudent",
        ),
    ],
)  # fmt: skip
def test_what_a_teachers_own_training_made_of_its_model_teaches_as_one_network(tmp_path, overrides, network):
    short = ["trainer.max_epochs=1", "teacher.trainer.max_epochs=1", "alone=false", f"runs={tmp_path}"]
    outcome = run(compose_run([*TINY, *overrides, *short]))
    teacher = outcome.result["teacher"]
    assert teacher["network"]["_target_"] == network
    assert teacher["parameters"] > outcome.result["student"]["parameters"]
    assert outcome.result["student"]["test"]["last"]["agreement"] <= 1


def test_a_run_that_another_waits_for_has_names_of_its_own():
    config = compose_run(["experiment=chain/teacher_assistant", "model=mobilenet", "loss=dkd"])
    alone, teacher = alone_run(config).names, teacher_run(config, config.teacher).names
    assert (alone.model, alone.mode, alone.loss, alone.teacher) == ("mobilenet", "supervised", "", None)
    assert (teacher.model, teacher.mode, teacher.loss, teacher.teacher) == (
        "resnet", "offline", "kd", "resnet"
    )  # fmt: skip


def written(file: Path) -> int:
    return file.stat().st_mtime_ns


def test_an_argument_of_a_class_that_is_null_is_not_one_that_is_absent():
    config = compose_run(TINY)
    kd = config.loss.heads["kd"]

    def with_null(**more):
        head = HeadConfig(**{**kd.plain(), **more})
        return key_of(recipe_of(config.replace(loss=config.loss.replace(heads={"kd": head})), "data"))

    assert with_null(margin=None) != with_null()
    assert with_null(ramp=None) == with_null(ramp=0) == with_null(ramp=0, ramp_shape="sigmoid") == with_null()
    assert with_null(ramp=3) != with_null(ramp=3, ramp_shape="sigmoid")


def test_phases_of_labels_alone_are_kept():
    short = compose_run([*TINY, "mode=supervised", "phases=[{epochs: 3},{epochs: 2, optimizer: {lr: 0.01}}]"])
    assert [phase.epochs for phase in short.phases] == [3, 2]
    assert key("mode=supervised") != key_of(recipe_of(short, "data"))
