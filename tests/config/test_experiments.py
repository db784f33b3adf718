"""Overlays compose to the protocols of the papers, one file for each pair of networks and not for each method on it."""

import pytest
import yaml

from kdlab.config.compose import conf_folder, groups
from kdlab.core.errors import UsageError
from support.composed import compose

OVERLAYS = groups()["experiment"]

# Teacher, student, the student's learning rate (Tian et al. 2020), and dkd's weight of the classes other than the
# target (megvii-research/mdistiller, configs/cifar100/dkd at e8c5bb3).
PAIRS = {
    "A": ("resnet32x4", "resnet8x4", 0.05, 8.0),
    "B": ("wrn_40_2", "wrn_16_2", 0.05, 6.0),
    "C": ("wrn_40_2", "wrn_40_1", 0.05, 6.0),
    "D": ("resnet56", "resnet20", 0.05, 2.0),
    "E": ("resnet110", "resnet32", 0.05, 2.0),
    "F": ("vgg13", "vgg8", 0.05, 6.0),
    "G": ("resnet32x4", "shufflenet_v1", 0.01, 8.0),
    "H": ("resnet32x4", "shufflenet_v2", 0.01, 8.0),
    "I": ("vgg13", "mobilenet_half", 0.01, 6.0),
    "J": ("resnet50", "mobilenet_half", 0.01, 8.0),
}
pairs = pytest.mark.parametrize("pair", PAIRS)


def of(pair: str, method: str = "") -> str:
    return "experiment=cifar100/" + "_".join(part for part in (method, *PAIRS[pair][:2]) if part)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_composes(overlay):
    assert compose([f"experiment={overlay}"])["names"]["model"]


@pairs
def test_a_pair_pins_the_protocol_for_both_networks(pair):
    teacher, student, rate, _ = PAIRS[pair]
    config = compose([of(pair)])
    assert config["names"] == {
        "model": student, "teacher": teacher, "data": "cifar100", "loss": "kd", "mode": "offline",
        "task": "classification",
    }  # fmt: skip
    assert config["data"]["validation"] == 0
    for run, its_rate in ((config, rate), (config["teacher"], 0.05)):
        assert run["optimizer"] == {
            "_target_": "torch.optim.SGD", "lr": its_rate, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False,
        }  # fmt: skip
        assert (run["scheduler"]["milestones"], run["scheduler"]["gamma"]) == ([150, 180, 210], 0.1)
        assert (run["trainer"]["max_epochs"], run["trainer"]["batch_size"]) == (240, 64)


@pairs
def test_dkd_and_rld_take_the_weight_of_their_pair(pair):
    heads = compose([of(pair), "loss=[dkd,rld]"])["loss"]["heads"]
    assert heads["dkd"]["nontarget_weight"] == heads["rld"]["correlation_weight"] == PAIRS[pair][3]


@pytest.mark.parametrize(
    ("pair", "weight", "rate"),
    [("A", 5.0, 0.1), ("B", 5.0, 0.1), ("C", 5.0, 0.1), ("D", 0.6, 0.1), ("E", 1.0, 0.1), ("G", 5.0, 0.02),
     ("H", 8.0, 0.02)],
)  # fmt: skip
def test_reviewkd_trains_as_its_authors_script_does(pair, weight, rate):
    # dvlab-research/ReviewKD, CIFAR-100/script/reviewKD.sh and train.py at 6607308.
    config = compose([of(pair, "reviewkd")])
    assert config["loss"]["heads"]["reviewkd"]["weight"] == weight
    head = config["loss"]["heads"]["reviewkd"]
    assert (head["ramp"], head["ramp_shape"]) == (20, "from_zero")  # train.py:224 at 49015fb, epoch / 20 from 0
    assert (config["optimizer"]["lr"], config["optimizer"]["nesterov"]) == (rate, True)
    assert (config["trainer"]["batch_size"], config["trainer"]["max_epochs"]) == (128, 240)
    assert config["teacher"]["trainer"]["batch_size"] == 64


@pytest.mark.parametrize(
    ("pair", "rate", "epochs"),
    [*((pair, 0.025, 240) for pair in "ABCDEF"), ("G", 0.01, 480), ("H", 0.01, 480), ("I", 0.0025, 480),
     ("J", 0.0025, 480)],
)  # fmt: skip
def test_mlkd_trains_each_pair_as_its_authors_configs_do(pair, rate, epochs):
    # Jin-Ying/Multi-Level-Logit-Distillation, configs/cifar100/ours/*.yaml:12-13 at 5ee473f and 6327e73.
    config = compose([of(pair, "mlkd")])
    assert (config["optimizer"]["lr"], config["trainer"]["max_epochs"]) == (rate, epochs)
    assert (config["teacher"]["optimizer"]["lr"], config["teacher"]["trainer"]["max_epochs"]) == (0.05, 240)
    assert config["scheduler"]["milestones"] == [150, 180, 210]
    assert config["data"]["views"] == {"strong": {"randaugment": {"operations": 2, "magnitude": None}}}
    assert (config["loss"]["task_weight"], config["loss"]["heads"]["mlkd"]["weight"]) == (0.1, 0.9)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_paraphraser_of_ft_has_a_rate_of_its_own(pair):
    # HobbitLong/RepDistiller, helper/pretrain.py:21-26 at b2487ab: 0.01 where the student is a ResNet or a WRN, else
    # the student's rate: 0.05 for vgg8, 0.01 for MobileNet and ShuffleNet.
    first = compose([of(pair, "ft")])["loss"]["heads"]["ft"]["first"]
    assert first["optimizer"] == {"lr": 0.05 if pair == "F" else 0.01}


@pytest.mark.parametrize(
    ("pair", "weight", "pool", "normalise"),
    [("A", 15.0, 2, False), ("B", 12.0, 2, False), ("C", 1.5, 2, False), ("D", 0.7, 2, False), ("E", 1.8, 2, False),
     ("F", 4.5, 2, False), ("G", 600.0, 4, True), ("H", 600.0, 4, True), ("I", 15.0, 2, True), ("J", 40.0, 2, True)],
)  # fmt: skip
def test_catkd_takes_the_settings_of_its_authors_configs(pair, weight, pool, normalise):
    # GzyAftermath/CAT-KD, configs/cifar100/CAT_KD at 2657a68.
    head = compose([of(pair, "catkd")])["loss"]["heads"]["catkd"]
    assert (head["weight"], head["pool"], head["normalise"]) == (weight, pool, normalise)


def test_logit_standardisation_is_an_overlay_on_kd():
    loss = compose([of("F", "lskd")])["loss"]
    kd = loss["heads"]["kd"]
    assert (kd["standardize"], kd["temperature"], kd["weight"], loss["task_weight"]) == (True, 2.0, 9.0, 0.1)
    assert compose([of("F", "lskd"), "loss.temperature=3"])["loss"]["heads"]["kd"]["temperature"] == 3


@pytest.mark.parametrize("loss", groups()["loss"])
def test_any_loss_may_stand_before_a_pair(loss):
    config = compose([of("D", loss)])
    assert (config["names"]["loss"], config["names"]["model"]) == (loss, "resnet20")


def test_two_losses_share_a_pair_and_what_the_user_types_wins():
    config = compose([of("D"), "loss=[kd,dkd]", "loss.heads.dkd.nontarget_weight=5", "trainer.batch_size=32"])
    assert config["loss"]["heads"]["dkd"]["nontarget_weight"] == 5
    assert (config["trainer"]["batch_size"], config["trainer"]["max_epochs"]) == (32, 240)
    assert "tuned" not in config["loss"]


def test_a_loss_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"^experiment=cifar100/dkdd_vgg13_vgg8: no such option; did you mean cifar"):
        compose(["experiment=cifar100/dkdd_vgg13_vgg8"])


@pytest.mark.parametrize(
    "file", [conf_folder() / "experiment" / f"{name}.yaml" for name in OVERLAYS], ids=lambda f: f.stem
)
def test_what_is_tuned_are_settings_of_that_loss(file):
    tuned = (yaml.safe_load(file.read_text()).get("loss") or {}).get("tuned", {})
    for name, settings in tuned.items():
        assert settings.keys() <= compose([f"loss={name}"])["loss"]["heads"][name].keys()


@pytest.mark.parametrize(
    ("pair", "alone", "kd", "crd", "dkd"),
    [("A", 72.50, 73.33, 75.51, 76.32), ("B", 73.26, 74.92, 75.48, 76.24), ("C", 71.98, 73.54, 74.14, 74.81),
     ("D", 69.06, 70.66, 71.16, 71.97), ("E", 71.14, 73.08, 73.48, 74.11), ("F", 70.36, 72.98, 73.94, 74.68),
     ("G", 70.50, 74.07, 75.11, 76.45), ("H", 71.82, 74.45, 75.65, 77.07), ("I", 64.60, 67.37, 69.73, 69.71),
     ("J", 64.60, 67.35, 69.11, 70.35)],
)  # fmt: skip
def test_a_pair_states_the_published_results_by_their_epoch(pair, alone, kd, crd, dkd):
    teacher, student, *_ = PAIRS[pair]
    text = (conf_folder() / "experiment" / "cifar100" / f"{teacher}_{student}.yaml").read_text().replace("\n#", "")
    last, best = (text.split("defaults:")[0].split(epoch)[1] for epoch in ("last epoch:", "best test epoch:"))
    assert f"student alone {alone:.2f}" in text
    assert f"kd {kd:.2f}" in last.split("best test")[0]
    assert f"crd {crd:.2f}" in last.split("best test")[0]
    assert f"dkd {dkd:.2f}" in best
