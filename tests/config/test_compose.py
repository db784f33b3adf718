"""A config is composed, its dials are set, and a wrong one is refused in one line that says what would be right."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdlab.config.compose import conf_folder, groups
from kdlab.core.errors import UsageError
from support.composed import compose
from support.text_models import DATA, reads


def test_the_default_run_is_kd_on_digits():
    config = compose(["model=mobilenet", "loss=kd"])
    assert config == compose()
    assert config["names"] == {
        "model": "mobilenet", "mode": "offline", "data": "digits", "task": "classification", "teacher": "resnet",
        "loss": "kd",
    }  # fmt: skip
    kd = config["loss"]["heads"]["kd"]
    assert (kd["temperature"], kd["weight"], config["loss"]["task_weight"]) == (4.0, 0.9, 0.1)


def test_losses_multiply_their_task_weights():
    loss = compose(["loss=[kd,fitnet]", "loss.alpha=0.75"])["loss"]
    assert loss["task_weight"] == 0.25
    assert [head["weight"] for head in loss["heads"].values()] == [0.75, 100.0]
    assert compose(["loss=[kd,fitnet]", "loss.task_weight=2.0"])["loss"]["task_weight"] == 2.0


def test_kd_and_crd_make_a_tenth_of_labels_and_two_teachers_terms():
    loss = compose(["loss=[kd,crd]"])["loss"]
    assert (loss["task_weight"], loss["heads"]["kd"]["weight"], loss["heads"]["crd"]["weight"]) == (0.1, 0.9, 0.8)


def test_a_dial_that_two_losses_set_differently_is_the_users_to_set(tmp_path):
    (tmp_path / "loss").mkdir()
    text = (conf_folder() / "loss" / "soft_ce.yaml").read_text().replace("temperature: 4.0", "temperature: 2.0")
    (tmp_path / "loss" / "other.yaml").write_text(text.replace("soft_ce:", "other:"))
    with pytest.raises(UsageError, match=r"loss.temperature: the chosen losses disagree \(kd 4.0, other 2.0\); set"):
        compose(["loss=[kd,other]"], [tmp_path])
    heads = compose(["loss=[kd,other]", "loss.temperature=3"], [tmp_path])["loss"]["heads"]
    assert [head["temperature"] for head in heads.values()] == [3, 3]


def test_a_heads_own_key_wins_over_the_dial():
    heads = compose(["loss=[kd,soft_ce]", "loss.heads.kd.temperature=7", "loss.temperature=2"])["loss"]["heads"]
    assert (heads["kd"]["temperature"], heads["soft_ce"]["temperature"]) == (7, 2)


def test_command_line_overrides_touch_the_learner_and_not_the_teacher():
    config = compose(["teacher=resnet56", "optimizer.lr=0.3", "trainer.max_epochs=7", "seed=5", "model.width=0.5"])
    teacher = config["teacher"]
    assert (teacher["optimizer"]["lr"], teacher["trainer"]["max_epochs"], teacher["seed"]) == (0.1, 30, 0)
    assert teacher["model"]["depth"] == 56
    assert teacher["model"]["width"] == 1.0
    assert compose(["teacher.optimizer.lr=0.7"])["teacher"]["optimizer"]["lr"] == 0.7


def test_one_cycle_peaks_at_the_optimizers_rate_or_at_a_number():
    assert compose(["scheduler=one_cycle"])["scheduler"]["max_lr"] == "lr"
    assert compose(["scheduler=one_cycle", "scheduler.max_lr=0.3"])["scheduler"]["max_lr"] == 0.3
    for wrong in ("0", "rate"):
        with pytest.raises(UsageError, match=rf"^scheduler.max_lr={wrong}: expected a number above 0, or lr, the"):
            compose(["scheduler=one_cycle", f"scheduler.max_lr={wrong}"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=mobilnet", "model=mobilnet: no such option; did you mean mobilenet?"),
        ("teacher=resnet55", "teacher=resnet55: no such option; did you mean resnet56?"),
        ("loss=[kd,fitnett]", "loss=fitnett: no such option; did you mean fitnet?"),
        ("model.widht=0.5", "model.widht: model has no key widht; did you mean width?"),
        ("trainr.max_epochs=3", "trainr.max_epochs: there is no such key; did you mean trainer.max_epochs?"),
        ("loss.temperature=0", "loss.temperature=0: expected a number above 0"),
        ("loss.temperature=-1", "loss.temperature=-1: expected a number above 0"),
        ("loss.temperature=hot", "loss.temperature=hot: expected a number above 0"),
        ("loss.alpha=1.5", "loss.alpha=1.5: expected a number from 0 to 1"),
        ("loss.alpha=nan", "loss.alpha=nan: expected a finite number"),
        ("model.width=0", "model.width=0: expected a number above 0"),
        ("model.width=-0.5", "model.width=-0.5: expected a number above 0"),
        ("model.width=wide", "model.width=wide: expected a number, as in model.width=0.2"),
        ("trainer.max_epochs=-1", "trainer.max_epochs=-1: expected a whole number, 0 or more"),
        ("trainer.max_epochs=many", "trainer.max_epochs=many: expected a whole number, as in trainer.max_epochs=30"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5: expected a whole number, as in trainer.max_epochs=30"),
        ("trainer.precision=8", "trainer.precision=8: expected a word, as in trainer.precision=32-true"),
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1: expected a number above 0"),
        ("seed=-1", "seed=-1: expected a whole number, 0 or more"),
        ("~loss.heads", "~loss.heads cannot be removed; give it another value instead, loss.heads=VALUE"),
        ("~teacher", "~teacher cannot be removed; give it another value instead, teacher=VALUE"),
        ("seed=1,2", "a list of values in one key is a study: write it in a file for python -m kdlab.sweep"),
        ("model=resnet8,resnet20", "a list of values in one key is a study: write it in a file for python -m "
                                   "kdlab.sweep"),
        ("model=[resnet8,resnet20]", "model=[resnet8,resnet20]: expected one option"),
        ("teacher.optimizer=adm", "teacher.optimizer=adm: no such option; did you mean adam?"),
        ("teacher.teacher=resnet55", "teacher.teacher=resnet55: no such option; did you mean resnet56?"),
        ("data.path=/tmp/a=b", "data.path=/tmp/a=b: quote a value with such characters: "
                               "'data.path=\"/tmp/a=b\"'"),
        ("phases=[{epochs: 1}", "phases=[{epochs: 1}: expected KEY=VALUE, with matching brackets"),
        ("phases=[{epochs: 1, optimizer: adm}]", "phases.0.optimizer=adm: no such option; did you mean adam?"),
        ("trainer.max_steps=[1]", "trainer.max_steps=[1]: expected a whole number, 1 or more"),
        ("trainer.max_steps={a: 1}", "trainer.max_steps={'a': 1}: expected a whole number, 1 or more"),
        ("data.unlabelled=[1]", "data.unlabelled=[1]: expected a number, 0 or more, or a folder of pictures"),
        ("data.augment={crop: a}", "data.augment.crop=a: expected a whole number, as in data.augment.crop=0"),
        ("model.stages=[[1, 16, 1, 1], 3]", "model.stages.1=3: expected a list, as in model.stages.1=[1, 16, 1, 1]"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused_in_one_line(override, said):
    with pytest.raises(UsageError) as refused:
        compose([override])
    assert str(refused.value) == said


NEVER_NULL = ("seed", "keep", "allow", "runs", "alone", "model.width", "model.classes", "optimizer.lr", "loss.heads",
              "loss.heads.kd.weight", "loss.heads.kd.temperature", "teacher.seed", "trainer.max_epochs",
              "trainer.batch_size", "trainer.accumulate", "trainer.log_every_n_steps", "data.mean", "data.std",
              "data.size", "data.classes", "data.split_seed", "data.augment")  # fmt: skip


@pytest.mark.parametrize("key", NEVER_NULL)
def test_null_is_refused_where_the_yaml_has_a_value(key):
    with pytest.raises(UsageError, match=rf"^{key}=null: expected (a |true)"):
        compose([f"{key}=null"])


def test_null_is_taken_where_the_yaml_has_it_and_for_what_a_loss_can_do_without():
    given = ("trainer.gradient_clip=null", "loss.alpha=null", "data.subset=null", "teacher.classes=null", "name=null")
    assert compose(given) == compose()
    assert compose(["loss=dkd", "loss.heads.dkd.ramp=null"])["loss"]["heads"]["dkd"]["ramp"] is None


def test_alpha_is_refused_where_no_chosen_loss_reads_it():
    with pytest.raises(UsageError, match=r"^loss.alpha=0.5 has no effect: none of fitnet reads it$"):
        compose(["loss=fitnet", "loss.alpha=0.5"])


def test_the_users_own_folder_adds_options(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mine.Net\nclasses: ${data.classes}\nwidth: 1.0\n")
    assert "mine" in groups([tmp_path])["model"]
    assert compose(["model=mine"], [tmp_path])["model"] == {"_target_": "mine.Net", "classes": 10, "width": 1.0}
    with pytest.raises(UsageError, match="there is no such folder"):
        compose([], [tmp_path / "absent"])


def test_an_option_of_the_users_own_has_a_name_of_its_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "resnet8.yaml").write_text("_target_: mine.Net\n")
    with pytest.raises(UsageError) as refused:
        compose([], [tmp_path])
    assert str(refused.value) == (
        f"--config-dir {tmp_path}: kdlab already has a model/resnet8.yaml; give yours another name"
    )


def test_a_file_in_the_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert compose(["teacher.checkpoint=~/x.pt"])["teacher"]["checkpoint"] == "/home/ann/x.pt"


def test_a_phase_takes_the_names_of_options():
    (phase,) = compose(["phases=[{epochs: 1, optimizer: adam, scheduler: step, mode: dml}]", "loss=kd"])["phases"]
    assert phase["optimizer"] == compose(["optimizer=adam"])["optimizer"]
    assert phase["scheduler"]["milestones"] == [150, 180, 210]
    assert phase["mode"]["_target_"] == "kdlab.modes.dml.DML"


OPTIONS = [(group, option) for group, options in groups().items() for option in options if group != "experiment"]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_of_every_group_composes(group, option):
    text = group == "task" and "${data.vocabulary}" in (conf_folder() / group / f"{option}.yaml").read_text()
    data = DATA if text or (group == "model" and "vocabulary" in reads(option)) else ()
    assert compose([f"{group}={option}", *data])["names"]["model"]


TEXT_DATA = {"_target_": "mine.Text", "classes": 2, "vocabulary": 50, "length": 8, "validation": 0, "split_seed": 0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=bert_tiny"], "model=bert_tiny needs data.vocabulary, which data=digits does not have; type data="),
        (["teacher=gpt_tiny"], "teacher=gpt_tiny needs data.vocabulary, which data=digits does not have; type data="),
        (
            ["teacher=[resnet8,bag]"],
            "teacher.members.m1.model needs data.vocabulary, which data=digits does not have; ",
        ),
        (["model=lora"], "model.base needs data.vocabulary, which data=digits does not have; type data="),
        (["data=texts"], "model=mobilenet needs data.channels, which data=texts does not have; type data=cifar10 or "),
    ],
)
def test_a_network_for_other_data_is_refused_with_those_that_fit(tmp_path, given, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "texts.yaml").write_text(json.dumps(TEXT_DATA))
    with pytest.raises(UsageError) as refused:
        compose(given, [tmp_path])
    assert str(refused.value).startswith(said)
    assert ("data=texts" in str(refused.value)) == ("vocabulary" in said or given == ["data=texts"])
    assert compose(["model=bert_tiny", "teacher=bag", "data=texts"], [tmp_path])["model"]["vocabulary"] == 50


@pytest.mark.parametrize("where", ["model", "teacher.model", "teacher.members.m0.model"])
def test_the_network_within_one_is_an_option_or_a_class_of_its_own(where):
    lora = "teacher=[lora]" if "m0" in where else f"{where.removesuffix('.model')}=lora"
    config = compose([lora, f"{where}.base=bag", f"{where}.base.width=2", *DATA])
    base = compose(["model=bag", "model.width=2", *DATA])["model"]
    assert _at(config, where)["base"] == base
    config = compose([lora, f"{where}.base={{_target_: kdlab.models.bag.BagOfEmbeddings, classes: 2}}", *DATA])
    assert _at(config, where)["base"] == {"_target_": "kdlab.models.bag.BagOfEmbeddings", "classes": 2}
    with pytest.raises(UsageError, match=rf"{where}.base=nope: expected a group of keys"):
        compose([lora, f"{where}.base=nope", *DATA])


def _at(config, where):
    found = config
    for part in where.split("."):
        found = found[part]
    return found


def test_help_and_a_slip_of_the_keyboard_are_answered_without_torch():
    code = (
        "import sys; from kdlab.train import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as e: code = e.code\n"
        "assert not {'torch', 'lightning', 'datasets', 'sklearn'} & set(sys.modules), 'imported'\n"
        "sys.exit(code)"
    )
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (shown.returncode, time.perf_counter() - start < 5) == (0, True), shown.stderr
    for word in ("model=", "loss=", "mobilenet", "loss.temperature"):
        assert word in shown.stdout
    wrong = subprocess.run([sys.executable, "-c", code, "loss.alpha=2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "kdlab: loss.alpha=2: expected a number from 0 to 1\n"


def test_the_composed_config_is_plain_data():
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(entry) for key, entry in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (int, float, str, bool)

    assert plain(compose())
    assert Path(conf_folder() / "train.yaml").is_file()


def test_a_list_of_teachers_is_an_ensemble_whose_twins_have_seeds_of_their_own():
    members = compose(["teacher=[resnet8,resnet14,resnet8]", "teacher.members.m1.optimizer.lr=0.3"])["teacher"][
        "members"
    ]
    told = [(m["model"]["depth"], m["seed"], m["optimizer"]["lr"]) for m in members.values()]
    assert told == [(8, 0, 0.1), (14, 0, 0.3), (8, 1, 0.1)]


def test_an_assistant_has_a_teacher_and_dials_of_its_own():
    config = compose(["experiment=chain/teacher_assistant", "teacher.teacher=resnet56", "teacher.loss.temperature=2"])
    assistant = config["teacher"]
    assert (assistant["model"]["depth"], assistant["teacher"]["model"]["depth"]) == (8, 56)
    assert assistant["mode"]["_target_"] == "kdlab.modes.offline.Offline"
    assert assistant["loss"]["heads"]["kd"]["temperature"] == 2
    assert config["loss"]["heads"]["kd"]["temperature"] == 4.0
    assert assistant["loss"]["task_weight"] == 0.1


def test_a_teacher_with_a_teacher_learns_from_it_by_offline_kd_or_as_is_said():
    assistant = compose(["teacher=resnet20", "teacher.teacher=resnet110"])["teacher"]
    chain = compose(["experiment=chain/teacher_assistant", "teacher=resnet20", "teacher.teacher=resnet110"])["teacher"]
    assert assistant == chain
    assert (assistant["model"]["depth"], assistant["teacher"]["model"]["depth"]) == (20, 110)
    given = ["teacher.teacher=resnet8", "teacher.loss=[dkd,fitnet]", "teacher.mode=dml", "teacher.loss.temperature=3"]
    taught = compose(given)["teacher"]
    assert taught["mode"]["_target_"] == "kdlab.modes.dml.DML"
    assert [*taught["loss"]["heads"]] == ["dkd", "fitnet"]
    assert taught["loss"]["heads"]["dkd"]["temperature"] == 3
    other = compose(["experiment=chain/teacher_assistant", "teacher.loss=dkd", "teacher.optimizer=adam"])["teacher"]
    assert [*other["loss"]["heads"]] == ["dkd"]
    assert other["optimizer"]["_target_"] == "torch.optim.Adam"


def test_chains_are_of_any_length_and_members_of_an_ensemble_have_them_too():
    link = compose(["teacher.teacher.teacher=resnet20", "teacher.teacher=resnet32", "teacher=resnet44"])["teacher"]
    assert [link["model"]["depth"], link["teacher"]["model"]["depth"]] == [44, 32]
    assert link["teacher"]["teacher"]["model"]["depth"] == 20
    member = compose(["teacher=[resnet8,resnet14]", "teacher.members.m1.teacher=resnet20"])["teacher"]["members"]["m1"]
    assert (member["teacher"]["model"]["depth"], member["loss"]["heads"]["kd"]["temperature"]) == (20, 4.0)


def test_generations_are_students_in_a_row_the_first_of_them_taught_by_one_trained_alone():
    config = compose(["experiment=chain/born_again", "generations=3", "model.width=0.3", "seed=7"])
    links = []
    link = config["teacher"]
    while link:
        assert link["model"] == config["model"]
        links.append((link["seed"], link["loss"] and link["loss"]["heads"]["kd"]["weight"]))
        link = link["teacher"]
    assert links == [(10, 0.9), (9, 0.9), (8, None)]


def test_a_loss_can_be_asked_to_do_without_its_first_phase():
    assert compose(["loss=ft", "loss.heads.ft.first=null"])["loss"]["heads"]["ft"]["first"] is None
