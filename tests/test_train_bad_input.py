"""What bad input gets: one line that names the key, the value and what would be right; and nothing is lost."""

import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdlab.models.resnet import ResNet
from kdlab.run.loggers import read_metrics
from kdlab.training.checkpoint_io import CheckpointFiles
from support.tiny_runs import TINY, files, hears_ctrl_c, machine, train

NO_FOLDER = "expected a name that can be a folder's: without /, not starting with a dot, of 150 bytes at most"


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a checkpoint of each kind, and with data sets of each kind."""
    place = tmp_path_factory.mktemp("bad")
    fine = ResNet(classes=10, channels=1, width=0.5, depth=8, filters=[16, 16, 32, 64])
    torch.save(fine.state_dict(), place / "fine.pt")
    save_file(fine.state_dict(), place / "fine.safetensors")
    for name in ("fine.pt", "fine.safetensors"):
        whole = (place / name).read_bytes()
        (place / f"truncated{Path(name).suffix}").write_bytes(whole[: len(whole) // 2])
    (place / "empty.pt").write_bytes(b"")
    (place / "text.pt").write_text("hello world")
    (place / "code.pt").write_bytes(pickle.dumps(Code()))
    torch.save({"state_dict": Code()}, place / "code_within.pt")
    torch.save(fine, place / "module.pt")
    torch.save([1, 2, 3], place / "list.pt")
    seven = ResNet(classes=7, channels=1, width=0.5, depth=8, filters=[16, 16, 32, 64])
    torch.save(seven.state_dict(), place / "seven.pt")
    (place / "nothing").mkdir()
    pictures(place / "one", cat=2)
    pictures(place / "hollow", cat=2, dog=0)
    pictures(place / "pets", cat=12, dog=12)
    with machine(place / "home"):
        yield place


class Code:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def pictures(folder: Path, **classes: int) -> None:
    random = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def refused(place: Path, *arguments: str) -> str:
    """The one line that a command line gets, once it is sure that nothing was written and nothing ran."""
    before = files(place)
    told = train(*(argument.replace("PLACE", str(place)) for argument in arguments), runs=place / "runs")
    assert told.code == 2
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("kdlab: ")
    assert files(place) == before
    return line.removeprefix("kdlab: ").replace(str(place), "PLACE")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model=mobilnet", "model=mobilnet: no such option; did you mean mobilenet?"),
        ("optimizer=null", "optimizer=None: no such option; available: adam, adamw, sgd"),
        ("model.widht=0.5", "model.widht: model has no key widht; did you mean width?"),
        ("model", "model: expected KEY=VALUE, such as model=resnet20"),
        ("--nope", "unrecognized arguments: --nope; --help lists all options"),
        ("loss.temperature=0", "loss.temperature=0: expected a number above 0"),
        ("loss.heads.kd.temperature=-2", "loss.heads.kd.temperature=-2: expected a number above 0"),
        ("model.width=0", "model.width=0: expected a number above 0"),
        ("teacher.model.width=-1", "teacher.model.width=-1: expected a number above 0"),
        ("loss.alpha=1.1", "loss.alpha=1.1: expected a number from 0 to 1"),
        ("loss.alpha=nan", "loss.alpha=nan: expected a finite number"),
        ("seed=one", "seed=one: expected a whole number, as in seed=0"),
        ("name=3", f"name=3: {NO_FOLDER}"),
        ("trainer.max_epochs=-1", "trainer.max_epochs=-1: expected a whole number, 0 or more"),
        ("phases=[{epochs: -1}]", "phases.0.epochs=-1: expected a whole number, 0 or more"),
        ("phases=3", "phases=3: expected a list of groups of keys, [{epochs: 10}]"),
        ("trainer.accelerator=tup", "trainer.accelerator=tup: expected auto or cpu or gpu or cuda or mps"),
        ("trainer.devices=0", "trainer.devices=0: expected auto or 1 or more"),
        ("trainer.strategy=dpp", "trainer.strategy=dpp: expected auto or ddp"),
        ("trainer.accumulate=3", "trainer.accumulate=3 does not divide trainer.batch_size=64 into equal parts"),
        ("model.depth=7", "model: depth=7: expected 6n + 2 layers, such as 8, 14, 20, 26 or 32"),
        ("model.classes=7", "model has 7 outputs, but this data needs 10"),
        ("teacher.model.classes=7", "teacher.model has 7 outputs, but this data needs 10"),
        ("data.classes=7", "data.classes=7, but the data set has 10; type data.classes=10"),
        ("data.mean=[a]", "data.mean.0=a: expected a number, as in data.mean.0=0.3056"),
        ("teacher.std=[0]", "teacher.std=[0.0]: expected numbers above 0"),
        ("trainer.accelerator=gpu", "trainer.accelerator=gpu, but torch sees no such device; leave it auto"),
        ("data.subset=9999", "data.subset=9999: expected null or 1 to 1000, the number of samples"),
        ("scheduler.T_max=soon", "scheduler.T_max=soon: expected a whole number, 1 or more, or steps, epochs, or a "
                                 "fraction of them, steps/4"),
        ("loss=[]", "loss=[]: expected a loss or more, such as loss=kd; for labels alone type mode=supervised"),
        ("seed=null", "seed=null: expected a whole number, as in seed=0"),
        ("allow=[3]", "allow=[3]: expected a list of words"),
        ("phases=[{epochs: null}]", "phases.0.epochs=null: expected a whole number, 0 or more"),
        ("phases=[{epochs: 1, heads: 3}]", "phases.0.heads=3: expected a list of chosen losses, such as [kd]"),
        ("phases=[{epochs: 1, heads: kd}]", "phases.0.heads=kd: expected a list of chosen losses, such as [kd]"),
        ("phases=[{epochs: 1, heads: [3]}]", "phases.0.heads.0=3: expected a list of chosen losses, such as [kd]"),
        ("phases=[{epochs: 1, heads: [kd], train: head}]", "phases.0.train=head: nothing trains, as kd has nothing to "
                                                           "learn; type all"),
        ("phases=[{epochs: 1, optimizer: {_target_: torch.optim.LBFGS}}]",
         "phases.0.optimizer cannot be stepped with its settings: TypeError: LBFGS.step() missing 1 required "
         "positional argument: 'closure'"),
        ("optimizer={lr: 1}", "optimizer={'lr': 1}: no such option; available: adam, adamw, sgd"),
        ("task.classes=7", "task.classes=7, but the data has 10 classes; leave it out"),
        ("teacher.classes=[a, b]", "teacher.classes=[\"a\", \"b\"]: a teacher without teacher.checkpoint is trained on "
                                   "this run's data as they are; leave it out"),
        ("teacher.size=16", "teacher.size=16: a teacher without teacher.checkpoint is trained on this run's data as "
                            "they are; leave it out"),
        ("name=../../x", f"name=../../x: {NO_FOLDER}"),
        ("name=..", f"name=..: {NO_FOLDER}"),
        ("trainer.max_epochs=2147483648", "trainer.max_epochs=2147483648: expected 100000 at most"),
        ("phases=[{epochs: 2147483648}]", "phases.0.epochs=2147483648: expected 100000 at most"),
        ("generations=100000", "generations=100000: expected 30 at most"),
        ("seed=9223372036854775808", "seed=9223372036854775808: expected 9223372036854775807 at most"),
        ("seed=-1", "seed=-1: expected a whole number, 0 or more"),
        ("trainer.batch_size=1000000000000000000",
         "trainer.batch_size=1000000000000000000: expected 2147483647 at most"),
        ("model.width=100000", "model.width=100000: expected 1000 at most"),
        ("teacher.model.depth=6000002", "teacher.model.depth=6000002: expected 10000 at most"),
        ("data.size=-1", "data.size=-1: expected a whole number, 1 or more"),
        ("data.size=100000", "data.size=100000: expected 10000 at most"),
        ("optimizer.lr=1e400", "optimizer.lr=inf: expected a finite number"),
        ("loss.heads.kd.weight=null", "loss.heads.kd.weight=null: expected a number, 0 or more"),
        ('phases=[{epochs: 1, task_weight: "3"}]', "phases.0.task_weight=3: expected 0 or more"),
        ("phases=[{epochs: 1, mode: {_target_: kdlab.modes.dml.DML, peers: 1, nope: 3}}]",
         "phases.0.mode: kdlab.modes.dml.DML does not fit its settings: DML.__init__() got an unexpected keyword "
         "argument 'nope'"),
        ("phases=[{epochs: 1, mode: {_target_: kdlab.modes.dml.DML, peers: 1, optimizers: {peer1: "
         "{_target_: torch.optim.Adam, betas: [0.9, 2]}}}}]",
         "phases.0.mode.optimizers.peer1: Invalid beta parameter at index 1: 2"),
        ("teacher.mode=dml", "teacher.loss=[]: expected a loss or more, such as teacher.loss=kd; for labels alone type "
                             "teacher.mode=supervised"),
        ("data.unlabelled=[1]", "data.unlabelled=[1]: expected a number, 0 or more, or a folder of pictures"),
        ("resume=PLACE/absent",
         "resume=PLACE/absent: not a run folder; expected one with a config.yaml, as below runs/"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_one_line_and_leaves_no_trace(place, argument, said):
    alone = argument.startswith("resume")
    line = refused(place, *(() if alone else TINY), argument) if not alone else resume(place, argument)
    assert line == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optimizer.nesterov=true", "optimizer.momentum=0"),
         "optimizer: Nesterov momentum requires a momentum and zero dampening"),
        (("teacher.optimizer.nesterov=true", "teacher.optimizer.momentum=0"),
         "teacher.optimizer: Nesterov momentum requires a momentum and zero dampening"),
        (("optimizer=adam", "optimizer.betas=[0.9, 1.5]"), "optimizer: Invalid beta parameter at index 1: 1.5"),
        (("optimizer=adam", "optimizer.betas=[0.9]"),
         "optimizer cannot be stepped with its settings: IndexError: list index out of range"),
        (("mode=dml", "+optimizer@mode.optimizers.peer1=adam", "mode.optimizers.peer1.betas=[0.9, 2]"),
         "mode.optimizers.peer1: Invalid beta parameter at index 1: 2"),
        (("scheduler=one_cycle", "scheduler.pct_start=1.0"),
         "scheduler cannot be stepped with its settings: ZeroDivisionError: float division by zero"),
        (("scheduler=one_cycle", "scheduler.total_steps=1"),
         "scheduler cannot be stepped with its settings: ValueError: Tried to step 2 times. "
         "The specified number of total steps is 1"),
        (("trainer.devices=[]",),
         "trainer.devices=[]: expected auto, a number, or a list of indices such as [0,1]"),
        (("loss=ab", "loss.heads.ab.first={epochs:2,optimizer:adamm}"),
         "loss.heads.ab.first.optimizer=adamm: no such option; did you mean adam?"),
        (("teacher.teacher=resnet8", "teacher.teacher.checkpoint=PLACE/absent"),
         "teacher.teacher.checkpoint=PLACE/absent: there is no such file"),
        (("teacher.checkpoint=PLACE/fine.pt", f"teacher.classes=[{','.join(10 * ['null'])}]"),
         f"teacher.classes=[{', '.join(10 * ['None'])}]: expected 10 entries, for each class of the data the teacher's "
         "class from 0 to 9 that means the same, or null"),
        (("scheduler=step", "scheduler.milestones=[a]"),
         "scheduler.milestones.0=a: expected a whole number, as in scheduler.milestones.0=150"),
        (("trainer=ddp", "trainer.devices=2", "trainer.batch_size=63"),
         "trainer.batch_size=63 does not divide over 2 devices; 62 does"),
        (("mode.weights=3", "mode.combine=separate"),
         "mode.weights=3: expected 1 numbers, 0 or more, in a list, and mode.combine=separate"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused_before_a_teacher_is_trained(place, arguments, said):
    assert refused(place, *TINY, *arguments) == said


ENSEMBLE = ("model=resnet8", "model.width=0.25", "teacher=[resnet8,resnet8]", "logger=csv")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("teacher.members.m1.model.depth=7", "teacher.members.m1.model: depth=7: expected 6n + 2 layers"),
        ("teacher.members.m1.model.classes=7", "teacher.members.m1.model has 7 outputs, but this data needs 10"),
        ("teacher.members.m1.trainer.accumulate=3", "teacher.members.m1.trainer.accumulate=3 does not divide"),
        ("teacher.members.m1.checkpoint=PLACE/absent", "teacher.members.m1.checkpoint=PLACE/absent: there is no such"),
        ("teacher.members.m1.checkpoint=PLACE/empty.pt", "teacher.members.m1.checkpoint=PLACE/empty.pt: the file is"),
        ("teacher.members.m1.optimizer._target_=os.system", "teacher.members.m1.optimizer._target_=os.system is not"),
    ],
)  # fmt: skip
def test_a_member_of_an_ensemble_is_named(place, argument, said):
    assert refused(place, *ENSEMBLE, argument).startswith(said)


def test_a_network_that_no_memory_holds_is_refused_at_once(place):
    assert refused(place, *TINY, "model.width=1000").startswith("model takes 284 GiB, and this machine has ")
    assert refused(place, *TINY, "teacher.model.width=1000").startswith("teacher.model takes 284 GiB, and this ")


ENDLESS = {
    "5 000 digits": ("seed=" + 5000 * "9", "seed=99999999999999999999...9999999999: expected shorter numbers"),
    "lists, 1 000 deep": ("phases=" + 1000 * "[" + 1000 * "]",
                          "phases=[[[[[[[[[[[[[[[[[[[[...]]]]]]]]]]: expected fewer levels of brackets"),
    "10 MB": ("name=" + 10_000_000 * "x",
              "name=" + 35 * "x" + "...: expected 100000 characters at most, got 10000005"),
    "a name with a line of its own": ("name=a\nb", "'name=a\\nb': expected no control characters such as '\\n'"),
    "a name with NUL": ("name=a\0b", "'name=a\\x00b': expected no control characters such as '\\x00'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_a_value_beyond_reason_is_one_short_line(place, case):
    argument, said = ENDLESS[case]
    assert refused(place, *TINY, argument) == said


def test_a_name_of_a_config_file_that_is_no_name_is_refused(place, tmp_path):
    for number, name in enumerate(("../../up", "a\nb", "", 150 * "long")):
        (tmp_path / f"{number}" / "experiment").mkdir(parents=True)
        head = {"_target_": "kdlab.heads.response.kd.KD", "temperature": 4.0}
        text = f"# @package _global_\nloss: {{heads: {{{json.dumps(name)}: {json.dumps(head)}}}}}\n"
        (tmp_path / f"{number}" / "experiment" / "x.yaml").write_text(text)
        said = refused(place, *TINY, "experiment=x", f"--config-dir={tmp_path / f'{number}'}")
        assert said.startswith(f"loss.heads: {json.dumps(name)}: expected a name that can be a folder's")


def test_a_hundred_thousand_overrides_are_refused(place):
    assert refused(place, *["seed=1"] * 100_000) == "expected 1000 overrides at most, got 100001"


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        (["mode=dml", "generations=2"], ["generations=2 has no effect with mode=dml"]),
        (["teacher=resnet8", "teacher.loss=kd"],
         ["teacher.loss=kd has no effect without a teacher.mode that distils, such as teacher.mode=tf_kd, or a "
          "teacher.teacher"]),
        (["mode=cotrain", "teacher=resnet8", "teacher.model.width=0.5", "teacher.optimizer.lr=3"],
         ["teacher.optimizer.lr=3 has no effect with mode=cotrain"]),
        (["mode=supervised", "loss.temperature=3", "model@teacher.model=resnet8"],
         ["loss.temperature=3 has no effect with mode=supervised",
          "model@teacher.model=resnet8 has no effect with mode=supervised"]),
        (["teacher.teacher=resnet8", "teacher.loss.temperature=3", "loss.alpha=0.5"], []),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_said(arguments, notes):
    from kdlab.config.compose import compose
    from kdlab.run.derive import drop_unused, unused_overrides

    assert unused_overrides(arguments, drop_unused(compose(arguments))) == notes


def test_the_option_of_an_optimizer_may_stand_in_the_first_phase_of_a_loss():
    from kdlab.run.derive import compose_run

    first = compose_run(["loss=ab", "loss.heads.ab.first={epochs:2,optimizer:adamw}"]).loss.heads["ab"].first
    assert first is not None
    assert first.optimizer is not None
    assert first.optimizer["_target_"] == "torch.optim.AdamW"


@pytest.mark.parametrize(("scheduler", "epochs"), [("one_cycle", 0), ("one_cycle", 1), ("cyclic", 1), ("step", 2)])
def test_a_schedule_that_can_be_is_not_refused(scheduler, epochs):
    from kdlab.run.derive import compose_run
    from kdlab.run.preflight import Preflight

    short = "phases=[{epochs: 1, scheduler: {_target_: torch.optim.lr_scheduler.ConstantLR}}]"
    for given in (f"scheduler={scheduler}", short):
        Preflight().check(compose_run([*TINY, f"trainer.max_epochs={epochs}", given]))


def test_a_home_that_cannot_be_written_is_refused(place, monkeypatch):
    monkeypatch.setenv("KDLAB_HOME", str(place / "text.pt" / "below"))
    said = refused(place, *TINY)
    assert said == "KDLAB_HOME=PLACE/text.pt/below: not writable (Not a directory)"


@pytest.fixture(scope="module")
def stopped(place) -> Path:
    """The folder of a run that has a checkpoint, and no result."""
    told = train(*TINY, "mode=supervised", "trainer.max_steps=4", runs=place / "stopped")
    assert told.folder is not None, told.err
    (told.folder / "result.json").unlink()
    return told.folder


@pytest.mark.parametrize("damage", ["truncated", "code", "text"])
def test_a_run_whose_checkpoint_cannot_be_read_is_not_resumed_and_runs_no_code(place, stopped, tmp_path, damage):
    shutil.copytree(stopped, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    what = "is damaged, or was written by another version of kdlab"
    if damage == "code":
        CheckpointFiles().save_checkpoint({"kdlab": {"steps": 3}, "more": Code()}, last)
        what = "carries code, or is not a checkpoint of kdlab"
    else:
        last.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"hello world")
    assert resume(place, f"resume={tmp_path / 'run'}") == f"{last} {what}; delete it to train from the start"
    assert not Path("pwned").exists()


@pytest.mark.parametrize("end", [0.0, 0.5, 0.9, "\ntrainer:", "\nnames:", "\nnames:\n  mo"])
def test_a_run_whose_config_is_cut_short_is_not_resumed(place, stopped, tmp_path, end):
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    file.write_text(text[: int(end * len(text))] if isinstance(end, float) else text.partition(end)[0] + end)
    assert resume(place, f"resume={tmp_path / 'run'}") == (
        f"resume={tmp_path / 'run'}: {file} is damaged, or of another version; start a new run"
    )


def resume(place: Path, argument: str) -> str:
    from kdlab.train import main

    with pytest.MonkeyPatch.context() as patch:
        told = []
        patch.setattr("builtins.print", lambda text, **_: told.append(text))
        assert main([argument.replace("PLACE", str(place))]) == 2
    return told[0].removeprefix("kdlab: ").replace(str(place), "PLACE")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("absent.pt", "there is no such file"),
        ("nothing", "there is no such file"),
        ("empty.pt", "the file is truncated or not a checkpoint"),
        ("text.pt", "the file is truncated or not a checkpoint"),
        ("truncated.pt", "the file is truncated or not a checkpoint"),
        ("truncated.safetensors", "the file is truncated or not a checkpoint"),
        ("list.pt", "expected a state dict, names and tensors, as network.state_dict() gives it"),
        ("code.pt", "the file carries code, not weights alone; save the state dict with safetensors instead"),
        ("code_within.pt", "the file carries code, not weights alone; save the state dict with safetensors instead"),
        ("module.pt", "the file carries code, not weights alone; save the state dict with safetensors instead"),
        ("seven.pt", "its fc.bias is (7,), but ResNet has (10,); expected weights of the same architecture and "
                     "number of classes"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_used_is_refused(place, file, said):
    assert refused(place, *TINY, f"teacher.checkpoint=PLACE/{file}") == f"teacher.checkpoint=PLACE/{file}: {said}"
    assert not Path("pwned").exists()


def test_a_checkpoint_of_another_architecture_is_refused_with_both(place):
    said = refused(place, *TINY, "teacher=vgg8", "teacher.checkpoint=PLACE/fine.pt")
    assert said.startswith("teacher.checkpoint=PLACE/fine.pt: its fc.weight is (10, 32), but VGG has (10, ")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("null", " is not set: type data.path=DIR, a folder with one folder of pictures for each class"),
        ("absent", "=PLACE/absent does not exist; expected a folder with one folder of pictures for each class"),
        ("fine.pt", "=PLACE/fine.pt is a file; expected a folder with one folder of pictures for each class"),
        ("nothing", ": PLACE/nothing holds no class folders; expected one folder of pictures for each class"),
        ("one", ": PLACE/one holds only one class folder, cat; expected one folder of pictures for each class"),
    ],
)  # fmt: skip
def test_a_data_folder_that_cannot_be_used_is_refused(place, folder, said):
    path = folder if folder == "null" else f"PLACE/{folder}"
    assert refused(place, *TINY, "data=images", f"data.path={path}") == f"data.path{said}"


def test_a_number_of_classes_that_is_not_the_folders_is_refused_with_what_to_type(place):
    said = refused(place, *TINY, "data=images", "data.path=PLACE/pets")
    assert said == "data.classes=None, but PLACE/pets holds 2; type data.classes=2"


def test_a_class_folder_without_pictures_is_refused(place):
    said = refused(place, *TINY, "data=images", "data.path=PLACE/hollow", "data.classes=2")
    assert said.startswith("data.path: PLACE/hollow/dog holds no picture (.png, .jpg, ")


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        ("model.taps={stages: [layer9]}", "model.taps: tap 'layer9' is neither MODULE nor MODULE:input of ResNet; "
                                          "did you mean layer3 or layer2 or layer1"),
        ("teacher.model.taps={stages: [layer9]}", "teacher.model.taps: tap 'layer9' is neither MODULE nor "),
        ("model.taps={classifier: [fc]}", "model.taps={'classifier': ['fc']}: expected names of layers, {stages: "),
        ("model.taps={stages: layer1}", "model.taps={'stages': 'layer1'}: expected names of layers, {stages: [NAME"),
        ("model.taps=[layer1]", "model.taps=['layer1']: expected names of layers, {stages: [NAME, ...], classifier: N"),
    ],
)  # fmt: skip
def test_a_tap_that_is_not_there_is_refused_with_those_nearest_to_it(place, tap, said):
    assert refused(place, *TINY, tap).startswith(said)


def test_a_network_that_cannot_see_the_data_is_refused_with_their_shape(place):
    for key in ("model", "teacher.model"):
        said = refused(place, *TINY, f"{key}.channels=3")
        assert said.startswith(f"{key} does not take batches of [2, 1, 8, 8]: ")


ATTACKS = ("os.system", "torch.os.system", "torch.hub.load", "kdlab.run.store.os.system", "subprocess.Popen",
           "builtins.eval", "kdlab.heads.head.os.system", "torch.load")  # fmt: skip


@pytest.mark.parametrize("group", ["model", "teacher.model", "loss.heads.kd", "mode", "task", "data", "optimizer",
                                   "scheduler", "teacher.optimizer", "teacher.scheduler"])  # fmt: skip
def test_no_target_runs_a_command(place, group, monkeypatch):
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it ran"))
    assert refused(place, *TINY, f"{group}._target_=os.system").startswith(f"{group}._target_=os.system is not in an ")


@pytest.mark.parametrize("target", ATTACKS)
def test_no_way_around_the_allowed_packages(place, target, monkeypatch):
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it ran"))
    for key in ("model", "+model.inner"):
        said = refused(place, *TINY, f"{key}._target_={target}", f"+{key.lstrip('+')}.command=touch")
        assert said.startswith(f"{key.lstrip('+')}._target_={target}")


BEFORE_LIGHTNING = {
    "a typo": ("model.widht=0.5", False),
    "a checkpoint that carries code": ("teacher.checkpoint=PLACE/code.pt", True),
    "a schedule that cannot be": ("scheduler.T_max=0.5", False),
    "settings that an optimizer refuses": ("teacher.optimizer.momentum=0 teacher.optimizer.nesterov=true", True),
    "an optimizer that is none": ("teacher.optimizer._target_=os.system", True),
}


@pytest.mark.parametrize(("argument", "torch_too"), BEFORE_LIGHTNING.values(), ids=BEFORE_LIGHTNING)
def test_a_refusal_takes_less_than_five_seconds_and_no_lightning(place, argument, torch_too):
    code = (
        "import sys; from kdlab.train import main; code = main(sys.argv[1:])\n"
        "print('lightning' in sys.modules, 'torch' in sys.modules); sys.exit(code)"
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run([sys.executable, "-c", code, *TINY, *argument.replace("PLACE", str(place)).split()],
                          capture_output=True, text=True, check=False)  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (told.returncode, told.stdout) == (2, f"False {torch_too}\n")
    assert len(told.stderr.splitlines()) == 1
    assert "Traceback" not in told.stderr
    # Of processor time, as the machine may be busy with other tests.
    assert used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime < 5


IMAGES = ("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=1", "trainer.batch_size=4",
          "logger=csv", "data=images", "data.classes=2", "data.size=8", "data.validation=4", "data.augment.crop=0",
          "data.workers=0")  # fmt: skip


@pytest.fixture
def damaged(place, tmp_path):
    """Twelve pictures of each of two classes, two of which cannot be decoded."""
    shutil.copytree(place / "pets", tmp_path / "pets")
    for name in ("cat/3.png", "dog/5.png"):
        whole = (tmp_path / "pets" / name).read_bytes()
        (tmp_path / "pets" / name).write_bytes(whole[:60])
    return tmp_path / "pets"


@pytest.mark.parametrize("resident", ["auto", "false"])
def test_damaged_pictures_stop_a_run_and_one_is_named_and_all_are_counted(place, damaged, resident):
    said = refused(place, *IMAGES, f"data.path={damaged}", f"data.resident={resident}")
    assert f"{damaged}/cat/3.png cannot be decoded" in said
    assert "1 more" in said
    assert said.endswith("repair or remove it, or type data.on_corrupt=skip")


def test_damaged_pictures_are_left_out_where_asked(place, damaged):
    with pytest.warns(UserWarning, match=r"2 damaged pictures are left out, the first: .*cat/3\.png cannot be decoded"):
        told = train(*IMAGES, f"data.path={damaged}", "data.on_corrupt=skip", runs=place / "runs")
    assert told.code == 0
    sizes = told.result["data"]
    assert sum(sizes[part] for part in ("train", "validation", "test")) == 22


BROKEN = '''
import torch
from kdlab import Head

class Broken(Head):
    """A loss that becomes NaN at some step."""
    kind, paper, compares = "relation", "none", "nothing"

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, learner, teacher, lesson, progress):
        return learner.logits.mean() * (float("nan") if progress.step + 1 >= self.step else 1.0)
'''


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """The command line's words for a loss of the user's own that breaks at step 20, in the second epoch of 16 steps."""
    (tmp_path / "loss").mkdir()
    (tmp_path / "broken_loss.py").write_text(BROKEN)
    text = "heads:\n  broken:\n    _target_: broken_loss.Broken\n    weight: 1.0\n    task_weight: 1.0\n    step: 20\n"
    (tmp_path / "loss" / "broken.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return (f"--config-dir={tmp_path}", "allow=[broken_loss]", "loss=[kd,broken]", "alone=false", *TINY)


@pytest.mark.parametrize(("every", "good"), [("null", 16), ("3", 18)])
def test_a_loss_that_turns_nan_stops_the_run_at_the_last_good_checkpoint(place, broken, every, good):
    told = train(*broken, f"trainer.checkpoint_every_n_steps={every}", runs=place / "runs")
    assert told.code == 1
    last = told.folder / "checkpoints" / "last.ckpt"
    assert told.err.splitlines()[-1] == (
        f"kdlab: loss/broken became NaN or infinite at step 20, in epoch 1.25; the last good checkpoint is {last}. "
        "Try a lower optimizer.lr or trainer.gradient_clip=1"
    )
    assert "Traceback" not in told.err
    saved = torch.load(last, weights_only=True)
    assert saved["kdlab"]["steps"] == good
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert not (told.folder / "result.json").exists()
    assert [row["step"] for row in read_metrics(told.folder / "metrics.csv")] == [16, 16]


def test_a_learning_rate_beyond_reason_names_the_term_it_broke(place):
    told = train(*TINY, "mode=supervised", "optimizer.lr=1e30", runs=place / "runs")
    assert told.code == 1
    said = r"kdlab: loss/task became NaN or infinite at step \d+, in epoch 0\.\d+; no epoch had finished\. "
    assert re.match(said, told.err.splitlines()[-1])


LONG = ("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=20", "logger=csv", "keep=best")


def interrupted(runs: Path, checkpoint: str, *arguments: str) -> Path:
    """The folder of a run that was sent Ctrl-C once it had written a checkpoint."""
    process = subprocess.Popen([sys.executable, "-m", "kdlab.train", *arguments, f"runs={runs}"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=hears_ctrl_c)  # fmt: skip
    while not list(runs.glob(f"*/{checkpoint}")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    (folder,) = runs.iterdir()
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"kdlab: stopped; resume with python -m kdlab.train resume={folder}"
    assert "Traceback" not in err
    assert not (folder / "result.json").exists()
    return folder


def test_ctrl_c_leaves_a_run_that_can_be_resumed(place, tmp_path):
    folder = interrupted(tmp_path, "checkpoints/last.ckpt", *LONG)
    assert resumed(folder) == 0
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [16.0 * epoch for epoch in range(1, 21)]
    assert json.loads((folder / "result.json").read_text())["student"]["epochs"] == 20
    before = files(folder)
    assert resume(place, f"resume={folder}") == f"resume={folder}: that run is complete; its numbers are in " + str(
        folder / "result.json"
    )
    assert files(folder) == before


@pytest.mark.slow
def test_ctrl_c_while_its_teacher_is_trained_leaves_a_run_that_goes_on_with_the_teacher(tmp_path):
    with machine(tmp_path / "home"):
        folder = interrupted(tmp_path / "runs", "teacher/checkpoints/last.ckpt", *TINY, "alone=false",
                             "teacher.trainer.max_epochs=20")  # fmt: skip
        stopped = len(read_metrics(folder / "teacher" / "metrics.csv"))
        assert resumed(folder) == 0
    rows = read_metrics(folder / "teacher" / "metrics.csv")
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [16.0 * epoch for epoch in range(1, 21)]
    assert stopped < len(rows)
    assert json.loads((folder / "result.json").read_text())["teacher"]["epochs"] == 20


def resumed(folder: Path) -> int:
    from kdlab.train import main

    return main([f"resume={folder}"])
