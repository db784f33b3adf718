"""A curriculum of modes: the same networks go from one mode to the next, and each phase trains what it speaks of."""

import signal
from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from kdlab.config.compose import compose
from kdlab.core.errors import UsageError
from kdlab.data.dataset import prepare
from kdlab.data.source import Digits
from kdlab.modes.dml import DML
from kdlab.modes.ema import EMA
from kdlab.run.builder import assemble
from kdlab.run.derive import compose_run
from kdlab.training.distiller import Distiller
from support.killed_runs import COMMON, numbers, only_run, train

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated", "ignore:.*in eval mode at the start")

TINY = ["model=resnet8", "model.width=0.125", "logger=csv", "data.subset=256", "trainer.accelerator=cpu"]


def put_together(phases, *overrides):
    return assemble(compose_run([*TINY, f"phases={phases}", *overrides]), samples=256)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_phase_may_change_the_settings_of_whichever_optimizer_the_run_has(name):
    # HobbitLong/RepDistiller, helper/pretrain.py:24 at b2487ab: 0.01, and all else as in training.
    parts = put_together("null", f"optimizer={name}", "loss=ft", "optimizer.weight_decay=0.25")
    run = compose([*TINY, f"optimizer={name}", "optimizer.weight_decay=0.25"]).optimizer
    assert [phase.optimizer for phase in parts.phases] == [{**run, "lr": 0.01}, None]
    parts = put_together("null", f"optimizer={name}", "loss=ft", "loss.heads.ft.first.optimizer.lr=0.5")
    assert parts.phases[0].optimizer["lr"] == 0.5
    whole = "+optimizer@loss.heads.ft.first.optimizer=adam"
    assert (
        put_together("null", f"optimizer={name}", "loss=ft", whole).phases[0].optimizer
        == compose(["optimizer=adam"]).optimizer
    )
    (phase,) = put_together("[{epochs:1,optimizer:{lr:0.125}}]", f"optimizer={name}").phases
    assert (phase.optimizer["_target_"], phase.optimizer["lr"]) == (run["_target_"], 0.125)


def test_modes_follow_each_other_on_the_same_networks():
    parts = put_together("[{epochs:1,mode:dml},{epochs:2,mode:ema},{epochs:1,mode:dml}]")
    first, second, third = parts.setups
    assert first is third
    assert (type(first.mode), type(second.mode)) == (DML, EMA)
    assert first.mode.learners[0] is second.mode.learners[0]
    assert [*parts.networks] == ["student", "peer1", "ensemble"]
    config = compose([*TINY])
    distiller = Distiller(
        parts, 4, lambda parameters, _: SGD(parameters, lr=0.1), lambda made, *_: (ConstantLR(made, 1.0), "step")
    )
    student, peer = first.mode.learners
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 0:
                trained = {id(p) for group in module.optimizers().param_groups for p in group["params"]}
                seen.append((type(module.mode), weights(student), weights(peer), weights(second.mode.copy), trained))

    data = prepare(Digits(), config.data.plain())
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=4, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1, callbacks=[Watch()],
        **settings,
    )  # fmt: skip
    trainer.fit(distiller, data.train_loader(64, 0, views=parts.views), data.eval_loader("validation", 64))
    assert [kind for kind, *_ in seen] == [DML, EMA, EMA, DML]
    _, students, peers, copies, trained = zip(*seen, strict=True)
    assert torch.equal(copies[1], students[1])
    assert not torch.equal(copies[2], students[2])
    assert all(not torch.equal(one, other) for one, other in pairwise(students))
    assert torch.equal(peers[1], peers[3])
    assert not torch.equal(peers[0], peers[1])
    assert not torch.equal(peers[3], weights(peer))
    both, alone = {id(p) for p in (*student.parameters(), *peer.parameters())}, {id(p) for p in student.parameters()}
    assert trained == (both, alone, alone, both)


def test_a_loss_speaks_in_the_modes_of_its_phases_and_is_refused_in_others():
    phases = "[{{epochs:1,mode:dml,heads:[fitnet]}},{{epochs:1,mode:tf_kd,heads:[{}]}}]"
    parts = put_together(phases.format("kd"), "loss=[kd,fitnet]")
    assert [setup.objective.names for setup in parts.setups] == [("task", "fitnet"), ("task", "kd")]
    with pytest.raises(UsageError, match=r"^loss=fitnet needs the teacher's stages, which this run does not provide$"):
        put_together(phases.format("fitnet"), "loss=[kd,fitnet]")


def test_a_phase_has_the_schedule_of_its_mode():
    parts = put_together("[{epochs:1,mode:dml},{epochs:2,mode:snapshot}]")
    assert [phase.scheduler and phase.scheduler["T_0"] for phase in parts.phases] == [None, "steps/4"]


@pytest.mark.parametrize(
    ("phases", "overrides", "said"),
    [
        ("[{epochs:1,mode:dmll}]", (), r"^mode=dmll: no such option; did you mean dml\?$"),
        (
            "[{epochs:1,mode:dml},{epochs:1,mode:ema}]",
            ("trainer.compile=true",),
            r"^trainer.compile=true: compiled networks",
        ),
    ],
)
def test_a_curriculum_is_checked_before_training(phases, overrides, said):
    with pytest.raises(UsageError, match=said):
        put_together(phases, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [20, 40])
def test_a_curriculum_that_was_killed_goes_on_exactly(stop, tmp_path, conf):
    phases = "phases=[{epochs:1,mode:dml},{epochs:2,mode:ema,heads:[kd]}]"
    overrides = ["--config-dir", str(conf), *COMMON, "loss=[kd,fitnet]", phases]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    uninterrupted = train(whole, tmp_path / "home", overrides)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    assert train(killed, tmp_path / "home", overrides, stop=stop).returncode == -signal.SIGKILL
    run = only_run(killed)
    resumed = train(killed, tmp_path / "home", [f"resume={run}", "allow=[support]"])
    assert resumed.returncode == 0, resumed.stderr
    assert numbers(run) == numbers(only_run(whole))


def test_branches_of_one_mode_are_not_the_peers_of_another():
    parts = put_together("[{epochs:1,mode:dml},{epochs:1,mode:one}]", "loss=kd")
    student, peer = parts.setups[0].mode.learners
    assert not {*student.parameters()} & {*peer.parameters()}
    assert [learner.name for learner in parts.mode.observed] == ["student", "branch1", "branch2"]
