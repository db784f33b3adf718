"""What a mode proposes holds until the user says something else."""

import pytest

from kdlab.core.errors import UsageError
from support.composed import compose


def kd(*overrides):
    loss = compose(["mode=dml", *overrides])["loss"]
    head = loss["heads"]["kd"]
    return head["temperature"], head["weight"], loss["task_weight"]


def test_dml_proposes_what_its_paper_has():
    assert kd() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("loss=kd", (4.0, 0.9, 0.1)),
        ("loss.temperature=3", (3, 1.0, 1.0)),
        ("loss.alpha=0.5", (1.0, 0.5, 0.5)),
        ("loss.heads.kd.weight=2.0", (1.0, 2.0, 1.0)),
        ("loss.heads.kd.temperature=5.0", (5.0, 1.0, 1.0)),
        ("loss.task_weight=0.3", (1.0, 1.0, 0.3)),
    ],
)
def test_an_explicit_loss_key_or_dial_wins(override, values):
    assert kd(override) == values


def test_a_mode_may_propose_losses():
    byot = compose(["mode=byot"])["loss"]["heads"]
    assert [*byot] == ["kd", "fitnet"]
    assert (byot["kd"]["weight"], byot["kd"]["temperature"], byot["fitnet"]["weight"]) == (0.3, 3.0, 0.03)
    assert [*compose(["mode=byot", "loss=kd"])["loss"]["heads"]] == ["kd"]


def test_a_schedule_that_belongs_to_a_mode_is_not_that_of_the_student_alone():
    config = compose(["mode=snapshot", "mode.cycles=5"])
    assert config["mode"]["scheduler"]["T_0"] == "steps/5"
    assert config["scheduler"] == compose()["scheduler"]
    assert compose(["mode=snapshot", "mode.scheduler.T_0=40"])["mode"]["scheduler"]["T_0"] == 40


def test_an_experiment_wins_over_all_proposals():
    assert compose(["mode=dml", "experiment=cifar100/vgg13_vgg8"])["loss"]["heads"]["kd"]["temperature"] == 4.0


def test_proposals_are_no_part_of_the_run():
    assert "proposes" not in compose(["mode=dml"])["mode"]


def test_peers_are_counted_or_named():
    assert compose(["mode=dml", "mode.peers=3"])["mode"]["peers"] == 3
    mode = compose(["mode=dml", "mode.peers=[resnet8,wrn_16_1]", "mode.peers.peer2.width=0.5"])["mode"]
    assert [peer["depth"] for peer in mode["peers"].values()] == [8, 16]
    assert mode["peers"]["peer2"]["width"] == 0.5
    assert compose(["mode=cotrain", "teacher=resnet8"])["mode"]["peers"]["teacher"]["depth"] == 8
    with pytest.raises(UsageError, match=r"^mode.peers.peer1=resnet9: no such option"):
        compose(["mode=dml", "mode.peers=[resnet9]"])


def test_a_peer_may_have_an_optimizer_of_its_own():
    overrides = ["mode=dml", "+optimizer@mode.optimizers.peer1=adamw", "mode.optimizers.peer1.lr=0.003"]
    mode = compose(overrides)["mode"]
    assert mode["optimizers"]["peer1"]["_target_"] == "torch.optim.AdamW"
    assert mode["optimizers"]["peer1"]["lr"] == 0.003


def test_modes_of_phases_propose_what_they_agree_on():
    alike = compose(["phases=[{epochs: 2, mode: dml}, {epochs: 1, mode: ema}]"])
    assert (alike["loss"]["heads"]["kd"]["temperature"], alike["loss"]["task_weight"]) == (1.0, 1.0)
    assert alike["names"]["mode"] == "dml+ema"
    with pytest.raises(UsageError, match=r"^phases: dml and offline were published with other settings of loss\.heads"):
        compose(["phases=[{epochs: 2, mode: dml}, {epochs: 1}]"])
    chosen = compose(["phases=[{epochs: 2, mode: dml}, {epochs: 1}]", "loss=kd"])
    assert chosen["loss"]["heads"]["kd"]["temperature"] == 4.0
    assert chosen["names"]["mode"] == "dml+offline"
