"""What a mode proposes holds until the user says something else."""

import pytest

from kdlab.config.compose import conf_folder, groups
from kdlab.config.overlay import set_by
from kdlab.core.errors import UsageError
from support.composed import compose

MODES = [mode for mode in groups()["mode"] if mode != "supervised"]


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
    # ArchipLab-LinfengZhang/pytorch-self-distillation-final train.py:18-31, at eda2f2b: 0.3 at T 3, without T².
    assert byot["kd"]["weight"] * byot["kd"]["temperature"] ** 2 == pytest.approx(0.3)
    assert byot["fitnet"]["weight"] == 0.03
    assert [*compose(["mode=byot", "loss=kd"])["loss"]["heads"]] == ["kd"]


def test_a_schedule_that_belongs_to_a_mode_is_not_that_of_the_student_alone():
    config = compose(["mode=snapshot", "mode.cycles=5"])
    assert config["mode"]["scheduler"]["T_0"] == "steps/5"
    assert config["scheduler"] == compose()["scheduler"]
    assert compose(["mode=snapshot", "mode.scheduler.T_0=40"])["mode"]["scheduler"]["T_0"] == 40


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("overlay", ["protocol", "vgg13_vgg8", "resnet32x4_shufflenet_v1"])
def test_an_experiment_that_says_nothing_of_the_loss_leaves_a_modes_settings_as_published(overlay, mode):
    plain, pinned = compose([f"mode={mode}"]), compose([f"mode={mode}", f"experiment=cifar100/{overlay}"])
    assert pinned["loss"] == plain["loss"]
    assert pinned["mode"].keys() == plain["mode"].keys()
    assert (pinned["trainer"]["max_epochs"], pinned["scheduler"]["gamma"]) == (240, 0.1)


@pytest.mark.parametrize("mode", MODES)
def test_an_experiment_that_sets_the_loss_wins_over_what_a_mode_proposes_for_it(mode):
    # sunshangquan/logit-standardization-KD: T 2, weight 9, 0.1 of the labels.
    loss = compose([f"mode={mode}", "experiment=cifar100/lskd"])["loss"]
    assert ([*loss["heads"]], loss["temperature"], loss["task_weight"]) == (["kd"], 2.0, 0.1)
    assert (loss["heads"]["kd"]["weight"], loss["heads"]["kd"]["ramp"]) == (9.0, None)
    assert [*compose([f"mode={mode}", "experiment=cifar100/mlkd"])["loss"]["heads"]] == ["mlkd"]


def test_an_experiment_wins_by_the_keys_that_it_sets_and_by_no_others(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "heavy.yaml").write_text("# @package _global_\nloss: {heads: {kd: {weight: 2.0}}}\n")
    (tmp_path / "experiment" / "tuned.yaml").write_text(
        "# @package _global_\ndefaults: [cifar100/protocol]\nloss: {tuned: {kd: {weight: 3.0}, dkd: {ramp: 1}}}\n"
    )
    (tmp_path / "experiment" / "warm.yaml").write_text(
        "# @package _global_\nloss: {published: {kd: {temperature: 2.5, alpha: 0.9}}}\n"
    )
    found = {}
    for name in ("heavy", "tuned", "warm"):
        loss = compose(["mode=dml", f"experiment={name}"], [tmp_path])["loss"]
        found[name] = (loss["heads"]["kd"]["temperature"], loss["heads"]["kd"]["weight"], loss["task_weight"])
    assert found == {"heavy": (1.0, 2.0, 1.0), "tuned": (1.0, 3.0, 1.0), "warm": (2.5, 1.0, 1.0)}


def test_what_an_overlay_sets_is_its_own_and_that_of_the_overlays_it_lists():
    found = set_by(["cifar100/reviewkd_vgg13_mobilenet_half"], [conf_folder()])
    groups_chosen = {"data", "optimizer", "scheduler", "optimizer@teacher.optimizer", "loss", "model"}
    assert groups_chosen <= {*found}
    assert {"optimizer.lr", "optimizer.nesterov", "trainer.max_epochs", "loss.heads.dkd.nontarget_weight"} <= {*found}
    assert not {"loss.heads.kd.weight", "loss.temperature", "mode", "_self_"} & {*found}


def test_phases_of_several_modes_keep_what_the_modes_agree_on_under_an_experiment():
    phases = "phases=[{epochs: 2, mode: dml}, {epochs: 1, mode: cotrain}]"
    with pytest.raises(UsageError, match=r"^phases: dml and cotrain were published with different settings of loss"):
        compose(["experiment=cifar100/protocol", phases])
    alike = "phases=[{epochs: 2, mode: dml}, {epochs: 1, mode: snapshot}]"
    pinned = compose(["experiment=cifar100/protocol", alike])["loss"]
    assert pinned == compose([alike])["loss"]
    assert (pinned["temperature"], pinned["heads"]["kd"]["weight"], pinned["task_weight"]) == (1.0, 1.0, 1.0)
    chosen = compose(["experiment=cifar100/lskd", phases])["loss"]
    assert (chosen["temperature"], chosen["heads"]["kd"]["weight"]) == (2.0, 9.0)


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
    with pytest.raises(UsageError, match=r"^phases: dml and offline were published with different settings of loss"):
        compose(["phases=[{epochs: 2, mode: dml}, {epochs: 1}]"])
    chosen = compose(["phases=[{epochs: 2, mode: dml}, {epochs: 1}]", "loss=kd"])
    assert chosen["loss"]["heads"]["kd"]["temperature"] == 4.0
    assert chosen["names"]["mode"] == "dml+offline"


def test_modes_that_propose_different_losses_are_phases_of_one_run_once_the_user_chooses_the_loss():
    phases = "phases=[{epochs:1,mode:offline},{epochs:1,mode:byot}]"
    with pytest.raises(UsageError, match="published with different settings of loss"):
        compose([phases])
    assert [*compose([phases, "loss=kd"])["loss"]["heads"]] == ["kd"]
