"""One preflight: what cannot be is refused before anything slow begins, and each network is built once for it."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdlab
from kdlab.core.errors import UsageError
from kdlab.models.mobilenet import MobileNetV2
from kdlab.models.resnet import ResNet
from kdlab.run.derive import compose_run
from kdlab.run.execute import run
from kdlab.run.preflight import Preflight
from kdlab.study.spec_file import make_plan
from kdlab.study.trial import Distillation
from support.tiny_runs import machine

pytestmark = pytest.mark.usefixtures("_machine")

SHORT = ["logger=csv", "trainer.max_epochs=1", "teacher.trainer.max_epochs=1", "trainer.progress=false",
         "data.subset=128"]  # fmt: skip
PAIR = ["model=mobilenet", "teacher=resnet8", *SHORT]
CHAIN = ["experiment=chain/teacher_assistant", "model=mobilenet", "teacher.teacher=resnet14",
         "teacher.teacher.trainer.max_epochs=1", *SHORT]  # fmt: skip


@pytest.fixture
def _machine(tmp_path):
    with machine(tmp_path / "home"):
        yield


@pytest.fixture
def built(monkeypatch):
    """How often each kind of network was built."""
    count = Counter()
    for kind in (MobileNetV2, ResNet):
        monkeypatch.setattr(kind, "__init__", counted(kind.__init__, count))
    return count


def counted(make, count):
    def init(self, *arguments, **settings):
        count[f"{type(self).__name__}{settings.get('depth', '')}"] += 1
        make(self, *arguments, **settings)

    return init


def test_the_preflight_builds_the_teacher_and_the_student_once(built):
    Preflight().check(compose_run(PAIR))
    assert built == {"ResNet8": 1, "MobileNetV2": 1}


def test_the_preflight_builds_every_link_of_a_chain_once(built):
    Preflight().check(compose_run(CHAIN))
    assert built == {"ResNet14": 1, "ResNet8": 1, "MobileNetV2": 1}


def test_training_builds_a_teacher_once_to_train_it_and_once_to_teach(built, tmp_path):
    run(compose_run([*PAIR, "alone=false", f"runs={tmp_path}"]))
    assert built == {"ResNet8": 2, "MobileNetV2": 1}


def test_a_teacher_that_was_itself_taught_is_built_from_what_the_store_holds_of_it(built, tmp_path):
    settings = [*CHAIN, "alone=false", f"runs={tmp_path}"]
    run(compose_run(settings))
    assert built == {"ResNet14": 2, "ResNet8": 2, "MobileNetV2": 1}
    built.clear()
    run(compose_run([*settings, "seed=1"]))
    assert built == {"ResNet8": 1, "MobileNetV2": 1}  # its own teacher is not asked for again


def test_the_preflight_leaves_a_network_as_training_would_find_it():
    parts = Preflight().check(compose_run(PAIR))
    student, teacher = parts.mode.learners[0], parts.mode.teachers[0].network
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())


STUDY = {
    "name": "small",
    "overrides": [*PAIR, "loss=kd"],
    "space": {"loss.temperature": {"low": 1.0, "high": 8.0}, "model.width": {"choices": [0.1, 0.2, 0.3]},
              "optimizer": {"choices": ["sgd", "adamw"]}},
}  # fmt: skip


def check(**changes):
    made = make_plan({**STUDY, **changes})
    from kdlab.study.trial import _check

    return _check(made)


def test_a_study_builds_the_teacher_once_and_a_student_for_every_option(built):
    check()
    # Ranges at their low end with three widths and two optimizers, at their high end, and the published setting.
    assert built == {"ResNet8": 1, "MobileNetV2": 6}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": [*STUDY["overrides"], "trainer.accumulate=3"]}, r"^trainer\.accumulate=3 does not divide"),
        ({"overrides": [*STUDY["overrides"], "optimizer.nesterov=true", "optimizer.momentum=0"],
          "space": {"loss.temperature": {"low": 1.0, "high": 8.0}}}, r"^optimizer: Nesterov momentum requires"),
        ({"space": {"optimizer.momentum": {"low": 0.0, "high": 0.9}}, "overrides": [
            *STUDY["overrides"], "optimizer.nesterov=true"]}, r"^optimizer: Nesterov momentum requires"),
        ({"space": {"scheduler": {"choices": ["cosine", "one_cycle"]}}, "overrides": [
            *STUDY["overrides"], "teacher.optimizer.momentum=0", "teacher.optimizer.nesterov=true"]},
         r"^teacher\.optimizer: Nesterov"),
        ({"space": {"loss": {"choices": ["kd", "fitnet"]}}, "overrides": [*PAIR, "model.taps={stages: []}"]},
         r"^loss=fitnet needs"),
        ({"compare": {"loss": ["kd", "fitnet"]}, "space": {}, "overrides": [*PAIR, "model.taps={stages: []}"]},
         r"^compare fitnet: loss=fitnet needs"),
    ],
)  # fmt: skip
def test_a_study_refuses_what_any_of_its_options_cannot_be_before_its_first_trial(changes, said):
    with pytest.raises(UsageError, match=said):
        check(**changes)


def test_a_study_that_cannot_be_leaves_no_storage(tmp_path):
    plan = make_plan({**STUDY, "overrides": [*STUDY["overrides"], "trainer.accumulate=3"]})
    with pytest.raises(UsageError, match="accumulate"):
        Distillation().check(plan)
    assert not plan.folder.exists()


def loader():
    data = TensorDataset(torch.randn(32, 4), torch.arange(32) % 3)
    return DataLoader(data, batch_size=8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1, nesterov=True)},
         r"^optimizer cannot be stepped with its settings: ValueError: Nesterov momentum requires"),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters, betas=(0.9, 1.5))},
         r"^optimizer cannot be stepped with its settings: ValueError: Invalid beta"),
    ],
)  # fmt: skip
def test_distill_refuses_what_a_run_refuses(arguments, said):
    networks = [nn.Linear(4, 3) for _ in range(2)]
    with pytest.raises(UsageError, match=said):
        kdlab.distill(*networks, loader(), loss=kdlab.KD(4.0), epochs=1, **arguments)


def test_distill_refuses_a_student_that_cannot_learn():
    student = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(UsageError, match=r"nothing trains"):
        kdlab.distill(student, nn.Linear(4, 3), loader(), loss=kdlab.KD(4.0), epochs=1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=[0,1]", "trainer.batch_size=64"], r"^trainer\.devices=\[0, 1\]: there is no device"),
        (["teacher.trainer.accumulate=3"], r"^teacher\.trainer\.accumulate=3 does not divide teacher\.trainer\.batch"),
        (["name=a/b"], r"^name=a/b: expected a name that can be a folder's"),
        (["phases=[{epochs: 2, mode: offline}]", "mode=supervised", "loss=[]"], r"^loss=\[\]: expected a loss or more"),
    ],
)
def test_what_would_fail_late_or_elsewhere_is_refused(overrides, said, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=said):
        Preflight().check(compose_run([*PAIR, *overrides]))


def test_no_mode_of_a_curriculum_keeps_its_hooks():
    phases = "phases=[{epochs: 1, mode: dml}, {epochs: 1, mode: ema}]"
    parts = Preflight().check(compose_run([*PAIR, phases, "loss=[kd,at]", "loss.temperature=1", "loss.alpha=0.5"]))
    networks = [network for setup in parts.setups for network in setup.mode.learners]
    assert not any(module._forward_hooks for network in networks for module in network.modules())


def test_a_supervised_run_may_have_phases():
    parts = Preflight().check(compose_run([*PAIR, "mode=supervised", "phases=[{epochs: 2},{epochs: 1, train: body}]"]))
    assert [(phase.epochs, phase.train) for phase in parts.phases] == [(2, "all"), (1, "body")]


@pytest.mark.parametrize("given", ["model.classes={a: 1}", "teacher.model.channels=[1]"])
def test_a_network_that_cannot_be_built_is_refused(given):
    with pytest.raises(UsageError, match=rf"^{given.rpartition('.')[0]} cannot be built with its settings: \w+Error: "):
        Preflight().check(compose_run([*SHORT, "model=resnet8", "teacher=resnet8", given]))
